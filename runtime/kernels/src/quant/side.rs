//! Integer convolution of groups of one channel where rows are short: lanes run along 16 channels instead of along a row.
//!
//! The channels of a pixel come to lie side by side, and the words of four rows are made of them as in [`super::alone`].

use lathe_artifact::abi::{SCRATCH_BYTES, Worker};
use lathe_artifact::layout::PackedIntegerConv;

use super::alone::{Lines, TOGETHER};
use super::conv::Conv;
use crate::simd::{Dots, LANES, Simd};

/// Rows in a word.
const DEPTH: usize = PackedIntegerConv::DEPTH;
/// Columns of the result up to which a row counts as short.
const SHORT: usize = 16;

/// A convolution with a worker's memory.
pub(super) struct Side<'a> {
    pub conv: &'a Conv<'a>,
    pub lines: Lines,
    /// [`Side::room`] bytes, aligned to 64.
    pub memory: *mut u8,
}

/// Words of four bytes moved up by `count` (0 to 3), so that the highest bytes of those above come in.
#[inline(always)]
fn moved<S: Simd>(simd: S, own: S::I, above: S::I, count: usize) -> S::I {
    match count {
        1 => {
            let over = simd.int_and(simd.int_shr::<24>(above), simd.int_splat(0xff));
            simd.int_or(simd.int_shl::<8>(own), over)
        }
        2 => {
            let over = simd.int_and(simd.int_shr::<16>(above), simd.int_splat(0xffff));
            simd.int_or(simd.int_shl::<16>(own), over)
        }
        3 => {
            let over = simd.int_and(simd.int_shr::<8>(above), simd.int_splat(0xff_ffff));
            simd.int_or(simd.int_shl::<24>(own), over)
        }
        _ => own,
    }
}

/// Sizes of what is in memory, one part after another.
#[derive(Clone, Copy)]
struct Parts {
    /// Padded columns.
    width: usize,
    /// Bytes of pixels, `[rows and one of padding][width][16]`.
    pixels: usize,
    /// Bytes of lines, `[lines][width][16]` words.
    lines: usize,
    /// Bytes of weights, `[words][4][16]` words.
    weights: usize,
    /// Bytes of results, `[4][columns][16]` of up to 4 bytes.
    results: usize,
}

/// 16 channels of an image: the first, and how many are there.
#[derive(Clone, Copy)]
struct Block {
    image: usize,
    first: usize,
    count: usize,
}

impl Side<'_> {
    /// Bytes of memory; `None` where rows are long, channels few, or memory is not enough.
    pub fn room(conv: &Conv<'_>, lines: &Lines) -> Option<usize> {
        let short = lines.axes[1].output <= SHORT && conv.outs == 1 && conv.groups >= LANES;
        if lines.along || !short {
            return None;
        }
        let parts = Parts::of(lines)?;
        let room =
            parts.pixels.checked_add(parts.lines)?.checked_add(parts.weights)?.checked_add(parts.results)?;
        (room <= SCRATCH_BYTES).then_some(room)
    }

    /// The worker's share.
    ///
    /// # Safety
    /// The contract of the builtin's row; there is memory.
    #[inline(always)]
    pub unsafe fn compute<D: Dots>(&self, dots: D, worker: &Worker) {
        let Conv { batch, groups, x_zero, .. } = *self.conv;
        let Some(parts) = Parts::of(&self.lines) else { return };
        let blocks = groups.div_ceil(LANES);
        // SAFETY: the pixels have their size; padding stays between them.
        unsafe { self.memory.write_bytes(x_zero as u8, parts.pixels) };
        let [rows, _] = self.lines.axes;
        for unit in worker.share(batch * blocks, 1) {
            let first = unit % blocks * LANES;
            let block = Block { image: unit / blocks, first, count: LANES.min(groups - first) };
            // SAFETY: the channels are there.
            unsafe {
                self.gather(parts, block);
                self.weights(dots.simd(), parts, block);
                let mut row = 0;
                while row < rows.output {
                    self.fill(dots.simd(), parts, row);
                    row += match (self.lines.rows, rows.output - row) {
                        (4, 4..) => self.rows::<D, 4>(dots, parts, block, row),
                        (2.., 2..) => self.rows::<D, 2>(dots, parts, block, row),
                        _ => self.rows::<D, 1>(dots, parts, block, row),
                    };
                }
            }
        }
    }

    #[inline(always)]
    fn lines(&self, parts: Parts) -> *mut f32 {
        self.memory.wrapping_add(parts.pixels).cast()
    }

    #[inline(always)]
    fn words(&self, parts: Parts) -> *mut u32 {
        self.memory.wrapping_add(parts.pixels + parts.lines).cast()
    }

    #[inline(always)]
    fn results(&self, parts: Parts) -> *mut u8 {
        self.memory.wrapping_add(parts.pixels + parts.lines + parts.weights)
    }

    /// Puts the pixels of the channels side by side.
    ///
    /// # Safety
    /// The channels are there.
    #[inline(always)]
    unsafe fn gather(&self, parts: Parts, block: Block) {
        let [rows, columns] = self.lines.axes;
        let size = rows.input * columns.input;
        let first = columns.pad.max(0) as usize;
        // The column of the image that comes first.
        let from = columns.pad.min(0).unsigned_abs();
        let count = columns.input.saturating_sub(from).min(parts.width.saturating_sub(first));
        for lane in 0..block.count {
            // SAFETY: columns of the image, places of the pixels.
            unsafe {
                let plane = block.image * self.conv.groups + block.first + lane;
                let x = self.conv.args.x.add(plane * size).wrapping_add(from);
                let to = self.memory.wrapping_add(first * LANES + lane);
                for row in 0..rows.input {
                    for column in 0..count {
                        let byte = *x.add(row * columns.input + column) ^ self.conv.flip;
                        *to.add((row * parts.width + column) * LANES) = byte;
                    }
                }
            }
        }
    }

    /// Puts the weights of the channels side by side, for a further row of the result moved down by the stride.
    ///
    /// # Safety
    /// The channels are there.
    #[inline(always)]
    unsafe fn weights<S: Simd>(&self, simd: S, parts: Parts, block: Block) {
        let Lines { axes: [rows, columns], words, rows: served, .. } = self.lines;
        let to = self.words(parts);
        let place = |word: usize, served: usize| (word * TOGETHER + served) * LANES;
        // SAFETY: words of the channels; those of the memory have room.
        unsafe {
            for lane in 0..block.count {
                let from = self.conv.args.w.add((block.first + lane) * self.conv.piece_bytes).cast::<u32>();
                for word in 0..words {
                    *to.add(place(word, 0) + lane) = from.add(word).read_unaligned();
                }
            }
            for served in 1..served {
                for word in 0..words {
                    let own = simd.bits(simd.load(to.add(place(word, 0)).cast()));
                    let above = match word.checked_sub(columns.kernel) {
                        Some(above) => simd.bits(simd.load(to.add(place(above, 0)).cast())),
                        None => simd.int_splat(0),
                    };
                    let moved = moved(simd, own, above, served * rows.stride);
                    simd.store(to.add(place(word, served)).cast(), simd.from_bits(moved));
                }
            }
        }
    }

    /// Makes the lines for the rows of the result from `row` on.
    ///
    /// # Safety
    /// The row is there.
    #[inline(always)]
    unsafe fn fill<S: Simd>(&self, simd: S, parts: Parts, row: usize) {
        let [rows, _] = self.lines.axes;
        let first = (row * rows.stride) as isize - rows.pad;
        for line in 0..self.lines.lines {
            let mut lanes = [self.memory.cast_const(); DEPTH];
            for (index, lane) in lanes.iter_mut().enumerate() {
                let at = first + ((line * DEPTH + index) * rows.dilation) as isize;
                // The row behind the last is padding.
                let at = usize::try_from(at).map_or(rows.input, |at| at.min(rows.input));
                *lane = lane.wrapping_add(at * parts.width * LANES);
            }
            for column in 0..parts.width {
                // SAFETY: pixels of the column, words of the line.
                unsafe {
                    let words = simd.load_four(lanes.map(
                        #[inline(always)]
                        |lane| lane.add(column * LANES),
                    ));
                    simd.store(
                        self.lines(parts).add((line * parts.width + column) * LANES),
                        simd.from_bits(words),
                    );
                }
            }
        }
    }

    /// `R` rows of the result; `R`.
    ///
    /// # Safety
    /// The lines are made for them.
    #[inline(always)]
    unsafe fn rows<D: Dots, const R: usize>(&self, dots: D, parts: Parts, block: Block, row: usize) -> usize {
        let simd = dots.simd();
        let columns = self.lines.axes[1];
        let bytes = self.conv.results.element_bytes();
        let (mut added, mut zeros, mut scales) = ([0_i32; LANES], [0_i32; LANES], [0_f32; LANES]);
        for lane in 0..block.count {
            if let Some(channel) = self.conv.channels.get(block.first + lane) {
                (added[lane], zeros[lane], scales[lane]) = (channel.added, channel.zero, channel.scale);
            }
        }
        // SAFETY: 16 lanes each; words of the lines and of the weights; results have room.
        unsafe {
            let added = simd.bits(simd.load(added.as_ptr().cast()));
            let zeros = simd.bits(simd.load(zeros.as_ptr().cast()));
            let scales = simd.from_array(scales);
            for column in 0..columns.output {
                let mut sums = [added; R];
                let mut totals = [simd.int_splat(0); R];
                for word in 0..self.lines.words {
                    let (line, cell) = (word / columns.kernel, word % columns.kernel);
                    let at = column * columns.stride + cell * columns.dilation;
                    let four = self.lines(parts).add((line * parts.width + at) * LANES);
                    let four = simd.bits(simd.load(four));
                    for served in 0..R {
                        let weights = self.words(parts).add((word * TOGETHER + served) * LANES);
                        sums[served] = dots.dot(sums[served], four, simd.bits(simd.load(weights.cast())));
                        if self.conv.weights_shifted {
                            let ones = simd.int_splat(self.lines.ones(word, served));
                            totals[served] = dots.dot(totals[served], four, ones);
                        }
                    }
                }
                for served in 0..R {
                    let mut sum = sums[served];
                    if self.conv.weights_shifted {
                        sum = simd.int_sub(sum, simd.int_mul(zeros, totals[served]));
                    }
                    let to = self.results(parts).add((served * columns.output + column) * LANES * bytes);
                    self.conv.results.vector(simd, sum, scales, to);
                }
            }
            self.scatter(parts, block, row, R * columns.output);
        }
        R
    }

    /// Puts `count` results of each channel where they belong, from row `row` on.
    ///
    /// # Safety
    /// They are there.
    #[inline(always)]
    unsafe fn scatter(&self, parts: Parts, block: Block, row: usize, count: usize) {
        let [rows, columns] = self.lines.axes;
        let plane = rows.output * columns.output;
        let from = self.results(parts).cast_const();
        for lane in 0..block.count {
            let map = block.image * self.conv.groups + block.first + lane;
            let first = map * plane + row * columns.output;
            // SAFETY: the caller's promise.
            unsafe {
                if self.conv.results.element_bytes() == 1 {
                    let to = self.conv.args.y.add(first);
                    for index in 0..count {
                        *to.add(index) = *from.add(index * LANES + lane);
                    }
                } else {
                    let to = self.conv.args.y.cast::<u32>().add(first);
                    for index in 0..count {
                        to.add(index).write_unaligned(*from.cast::<u32>().add(index * LANES + lane));
                    }
                }
            }
        }
    }
}

impl Parts {
    /// `None` where sizes overflow.
    fn of(lines: &Lines) -> Option<Self> {
        let [rows, columns] = lines.axes;
        let steps = columns.output.saturating_sub(1).checked_mul(columns.stride)?;
        let reach = (columns.kernel - 1).checked_mul(columns.dilation)?;
        let width = steps.checked_add(reach)?.checked_add(1)?;
        let line = width.checked_mul(LANES)?;
        Some(Self {
            width,
            pixels: rows.input.checked_add(1)?.checked_mul(line)?.checked_next_multiple_of(64)?,
            lines: lines.lines.checked_mul(line)?.checked_mul(4)?,
            weights: lines.words.checked_mul(4 * TOGETHER * LANES)?,
            results: columns.output.checked_mul(4 * TOGETHER * LANES)?,
        })
    }
}
