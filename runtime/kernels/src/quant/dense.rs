//! Integer convolution of groups of more than one channel: blocks of 12 output channels times panels of 32 neighbouring pixels of the
//! [planes](super::planes), which are read where they lie.
//!
//! Pixels count along the rows of a plane, which are longer than those of the result: what lies between is computed and left out.

use lathe_artifact::abi::Worker;
use lathe_artifact::layout::PackedIntegerConv;

use super::conv::{Channel, Conv};
use super::planes::Planes;
use super::result::Bytes;
use super::tile::{PANEL, ROWS};
use crate::simd::{Dots, LANES, Simd};

const _: () = assert!(ROWS == PackedIntegerConv::ROWS);
/// Blocks of output channels of a unit of work.
const CHUNK: usize = 4;
/// Vectors of a panel.
const VECTORS: usize = PANEL / LANES;

/// A convolution with its image in planes.
pub(super) struct Dense<'a> {
    pub conv: &'a Conv<'a>,
    pub planes: Planes,
    /// [`Planes::taps`].
    pub taps: Vec<usize>,
}

/// Pixels of one panel of a group of an image.
#[derive(Clone, Copy)]
struct Block {
    image: usize,
    group: usize,
    /// Row and column of the first pixel.
    row: usize,
    column: usize,
    /// Pixels, at most a panel.
    count: usize,
}

impl Dense<'_> {
    /// The worker's share: some output channels of panels.
    ///
    /// # Safety
    /// The contract of the builtin's row; the planes are filled.
    #[inline(always)]
    pub unsafe fn compute<D: Dots>(&self, dots: D, worker: &Worker) {
        let [rows, columns] = self.planes.axes;
        if rows.output == 0 || columns.output == 0 {
            return;
        }
        let Conv { batch, groups, group_pieces: blocks, .. } = *self.conv;
        let width = self.planes.width;
        let pixels = (rows.output - 1) * width + columns.output;
        let panels = pixels.div_ceil(PANEL);
        let chunks = blocks.div_ceil(CHUNK).max(1);
        let units = panels * chunks;
        // What is larger is read once.
        let by_chunks = blocks * ROWS > pixels;
        for unit in worker.share(batch * groups * units, 1) {
            let (map, within) = (unit / units, unit % units);
            let (panel, chunk) = match by_chunks {
                true => (within % panels, within / panels),
                false => (within / chunks, within % chunks),
            };
            let (image, group, first) = (map / groups, map % groups, panel * PANEL);
            let (row, column, count) = (first / width, first % width, PANEL.min(pixels - first));
            let block = Block { image, group, row, column, count };
            // SAFETY: pixels and channels are there.
            unsafe {
                let from = self.planes.group(map).add(first);
                let runs = Runs::of(self, block);
                let totals = self.totals(dots, from);
                for piece in blocks * chunk / chunks..blocks * (chunk + 1) / chunks {
                    self.tile(dots, (block, &runs), piece, from, &totals);
                }
            }
        }
    }

    /// The sums of the pixels themselves, where they count.
    ///
    /// # Safety
    /// The pixels are there.
    #[inline(always)]
    unsafe fn totals<D: Dots>(&self, dots: D, from: *const u32) -> [<D::S as Simd>::I; VECTORS] {
        let simd = dots.simd();
        let mut totals = [simd.int_splat(0); VECTORS];
        if !self.conv.weights_shifted {
            return totals;
        }
        let ones = simd.int_splat(0x0101_0101);
        for four in 0..self.planes.depth() {
            for &tap in &self.taps {
                // SAFETY: the caller's promise.
                let columns = unsafe { columns(simd, from.add(four * self.planes.step() + tap)) };
                for (total, columns) in totals.iter_mut().zip(columns) {
                    *total = dots.dot(*total, columns, ones);
                }
            }
        }
        totals
    }

    /// A block of output channels of a panel.
    ///
    /// # Safety
    /// The channels and pixels are there.
    #[inline(always)]
    unsafe fn tile<D: Dots>(
        &self,
        dots: D,
        (block, runs): (Block, &Runs),
        piece: usize,
        from: *const u32,
        totals: &[<D::S as Simd>::I; VECTORS],
    ) {
        let Conv { group_pieces, piece_bytes, outs, .. } = *self.conv;
        let first = block.group * outs + piece * ROWS;
        let channels = first..(first + ROWS).min((block.group + 1) * outs);
        let piece = block.group * group_pieces + piece;
        let wide = const { <D::S as Simd>::REGISTERS >= 32 };
        let mut row = 0;
        while row < channels.len() {
            // SAFETY: the rows lie in the block, whose rows beyond the last channel are 0.
            unsafe {
                let weights = self.conv.args.w.add(piece * piece_bytes + row * 4);
                let at = (block, runs, channels.start + row, channels.len() - row);
                row += match channels.len() - row {
                    9.. if wide => self.rows::<D, 12>(dots, weights, from, totals, at),
                    5.. if wide => self.rows::<D, 8>(dots, weights, from, totals, at),
                    _ if wide => self.rows::<D, 4>(dots, weights, from, totals, at),
                    _ => self.rows::<D, 2>(dots, weights, from, totals, at),
                };
            }
        }
    }

    /// `R` rows of a block, of which `count` at most count; `R`.
    ///
    /// # Safety
    /// As [`Dense::tile`].
    #[inline(always)]
    unsafe fn rows<D: Dots, const R: usize>(
        &self,
        dots: D,
        mut weights: *const u8,
        from: *const u32,
        totals: &[<D::S as Simd>::I; VECTORS],
        (block, runs, channel, count): (Block, &Runs, usize, usize),
    ) -> usize {
        let simd = dots.simd();
        let mut sums = [[simd.int_splat(0); VECTORS]; R];
        // SAFETY: the caller's promise; a word of weights for each of 12 rows at each step.
        unsafe {
            for four in 0..self.planes.depth() {
                let from = from.add(four * self.planes.step());
                for &tap in &self.taps {
                    let columns = columns(simd, from.add(tap));
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let four = simd.int_splat(weights.add(4 * row).cast::<i32>().read_unaligned());
                        for (sum, columns) in sums.iter_mut().zip(columns) {
                            *sum = dots.dot(*sum, columns, four);
                        }
                    }
                    weights = weights.wrapping_add(4 * ROWS);
                }
            }
            for (row, sums) in sums.into_iter().enumerate().take(count) {
                self.finish(simd, block, channel + row, sums, totals, runs);
            }
        }
        R
    }

    /// The results of a channel's sums, given the sums of the pixels alone.
    ///
    /// # Safety
    /// The channel and the block are there.
    #[inline(always)]
    unsafe fn finish<S: Simd>(
        &self,
        simd: S,
        block: Block,
        channel: usize,
        sums: [S::I; VECTORS],
        totals: &[S::I; VECTORS],
        runs: &Runs,
    ) {
        let mut out: Bytes = [0; 4 * PANEL];
        let results = &self.conv.results;
        let bytes = results.element_bytes();
        let plane = self.planes.axes[0].output * self.planes.axes[1].output;
        let map = (block.image * self.conv.layout.out_channels + channel) * plane;
        // SAFETY: the caller's promise.
        unsafe {
            let Channel { added, zero, scale } = *self.conv.channels.get_unchecked(channel);
            let (added, zero, scale) = (simd.int_splat(added), simd.int_splat(zero), simd.splat(scale));
            let whole = runs.list[0].1 == PANEL;
            let to = self.conv.args.y.wrapping_add((map + runs.list[0].2) * bytes);
            let to = if whole { to } else { out.as_mut_ptr() };
            for (vector, (sum, total)) in sums.into_iter().zip(totals).enumerate() {
                let mut sum = simd.int_add(sum, added);
                if self.conv.weights_shifted {
                    sum = simd.int_sub(sum, simd.int_mul(zero, *total));
                }
                results.vector(simd, sum, scale, to.add(vector * LANES * bytes));
            }
            if whole {
                return;
            }
            for &(lane, count, to) in &runs.list[..runs.count] {
                let (from, to) = (out.as_ptr().add(lane * bytes), self.conv.args.y.add((map + to) * bytes));
                copy(from, to, count * bytes);
            }
        }
    }
}

/// The words of a panel's pixels.
///
/// # Safety
/// 32 words are readable.
#[inline(always)]
unsafe fn columns<S: Simd>(simd: S, from: *const u32) -> [S::I; VECTORS] {
    let mut columns = [simd.int_splat(0); VECTORS];
    for (vector, columns) in columns.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *columns = simd.bits(unsafe { simd.load(from.add(vector * LANES).cast()) });
    }
    columns
}

/// What of a panel belongs to the result: its first lane, its length, and its first place in a map.
struct Runs {
    list: [(usize, usize, usize); PANEL],
    count: usize,
}

impl Runs {
    #[inline(always)]
    fn of(dense: &Dense<'_>, block: Block) -> Self {
        let (width, own) = (dense.planes.width, dense.planes.axes[1].output);
        let mut runs = Self { list: [(0, block.count, block.row * own + block.column); PANEL], count: 1 };
        if width == own {
            return runs;
        }
        runs.count = 0;
        let (mut lane, mut row, mut column) = (0, block.row, block.column);
        while lane < block.count {
            let left = (width - column).min(block.count - lane);
            if column < own {
                runs.list[runs.count] = (lane, left.min(own - column), row * own + column);
                runs.count += 1;
            }
            lane += left;
            (row, column) = (row + 1, 0);
        }
        // A panel that begins and ends between two rows.
        if runs.count == 0 {
            runs.list[0].1 = 0;
        }
        runs
    }
}

/// Copies a few bytes, by two overlapping pieces where they are enough.
///
/// # Safety
/// `from` is readable and `to` writable for `count` bytes.
#[inline(always)]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: pieces end where the bytes end.
    unsafe {
        match count {
            PANEL => to.cast::<[u8; PANEL]>().write(from.cast::<[u8; PANEL]>().read()),
            16..PANEL => ends::<16>(from, to, count),
            8..16 => ends::<8>(from, to, count),
            4..8 => ends::<4>(from, to, count),
            0..4 => (0..count).for_each(
                #[inline(always)]
                |index| *to.add(index) = *from.add(index),
            ),
            _ => std::ptr::copy_nonoverlapping(from, to, count),
        }
    }
}

/// The first and the last `N` bytes.
///
/// # Safety
/// As [`copy`], `count` at least `N`.
#[inline(always)]
unsafe fn ends<const N: usize>(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        to.cast::<[u8; N]>().write(from.cast::<[u8; N]>().read());
        to.add(count - N).cast::<[u8; N]>().write(from.add(count - N).cast::<[u8; N]>().read());
    }
}
