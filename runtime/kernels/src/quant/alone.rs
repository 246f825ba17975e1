//! Integer convolution of groups of one channel: up to four rows of the image become one line of words, so that one product of words does
//! four cells of a column of the kernel; the cells beside it are shifts of the line.
//!
//! A kernel of one row takes four neighbours of a row for that. A line serves as many rows of the result as its four rows reach.

use std::ops::Range;

use lathe_artifact::abi::Worker;
use lathe_artifact::layout::PackedIntegerConv;

use super::conv::{Channel, Conv};
use super::dense::copy;
use super::planes::{Axis, Source};
use crate::simd::{Dots, LANES, Simd};

/// Rows of the image, or cells of a row, in a word.
const DEPTH: usize = PackedIntegerConv::DEPTH;
/// Most rows of the result that are computed together.
pub(super) const TOGETHER: usize = 4;
/// Columns of the result that are computed at a time.
const COLUMNS: usize = 2048;
/// Rows of the result in a unit of work.
const BAND: usize = 32;
/// Words that are read beyond the last of a line: whole vectors of a stride of two.
const SLACK: usize = 3 * LANES;

/// How the lines of some rows of the result lie in memory: the words of the weights, the lines, and a row of padding.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    pub axes: [Axis; 2],
    /// Whether words are of neighbours in a row.
    pub along: bool,
    /// Number of lines.
    pub lines: usize,
    /// Words of weights for a row of the result.
    pub words: usize,
    /// Words of a line.
    length: usize,
    /// Bytes of the row of padding, or of the padded row that a line is made of.
    row: usize,
    /// Rows of the result that the lines serve.
    pub rows: usize,
}

impl Lines {
    /// `None` where sizes overflow.
    pub fn of(axes: [Axis; 2]) -> Option<Self> {
        let [rows, columns] = axes;
        let along = rows.kernel == 1;
        let groups = |axis: Axis| axis.kernel.div_ceil(DEPTH);
        let width = columns.output.min(COLUMNS);
        let steps = width.saturating_sub(1).checked_mul(columns.stride)?;
        let (lines, words, last) = if along {
            (1, groups(columns), (groups(columns) - 1).checked_mul(DEPTH)?)
        } else {
            (groups(rows), groups(rows).checked_mul(columns.kernel)?, columns.kernel - 1)
        };
        let length = steps.checked_add(last.checked_mul(columns.dilation)?)?.checked_add(1 + SLACK)?;
        let row = match along {
            true => length.checked_add((DEPTH - 1).checked_mul(columns.dilation)?)?,
            false => columns.input,
        };
        let spare = lines * DEPTH - rows.kernel;
        let served = if along || rows.dilation > 1 { 1 } else { 1 + spare / rows.stride };
        let rows = [1, 1, 2, 2, TOGETHER][served.min(TOGETHER)];
        let lines = Self { axes, along, lines, words, length, row: row.checked_add(LANES)?, rows };
        lines.len().map(|_| lines)
    }

    /// Words of all that is in memory.
    fn len(&self) -> Option<usize> {
        let weights = self.words.checked_mul(TOGETHER)?;
        let lines = self.lines.checked_mul(self.length)?;
        weights.checked_add(lines)?.checked_add(self.row.div_ceil(4))
    }

    /// Elements of the memory.
    pub fn room(&self) -> usize {
        self.len().unwrap_or(usize::MAX)
    }
}

/// A convolution with a worker's memory.
pub(super) struct Alone<'a> {
    pub conv: &'a Conv<'a>,
    pub lines: Lines,
    /// [`Lines::room`] words.
    pub memory: *mut u32,
}

/// Some columns of some rows of a map of the result.
#[derive(Clone)]
struct Part {
    /// The image's plane.
    x: *const u8,
    channel: usize,
    /// The result's map.
    y: *mut u8,
    columns: Range<usize>,
}

impl Alone<'_> {
    /// The worker's share.
    ///
    /// # Safety
    /// The contract of the builtin's row; there is room for the lines.
    #[inline(always)]
    pub unsafe fn compute<D: Dots>(&self, dots: D, worker: &Worker) {
        let [rows, columns] = self.lines.axes;
        let Conv { batch, layout, outs, .. } = *self.conv;
        let maps = layout.out_channels;
        let (bands, chunks) = (rows.output.div_ceil(BAND), columns.output.div_ceil(COLUMNS));
        let bytes = self.conv.results.element_bytes();
        if !self.lines.along {
            let zero = self.conv.x_zero as u8 ^ self.conv.flip;
            // SAFETY: the row of padding has room.
            unsafe { self.row().write_bytes(zero, self.lines.row) };
        }
        let mut there = None;
        for unit in worker.share(batch * maps * bands * chunks, 1) {
            let (index, chunk) = (unit / chunks, unit % chunks);
            let (map, band) = (index / bands, index % bands);
            let (image, channel) = (map / maps, map % maps);
            // SAFETY: map and rows are there.
            unsafe {
                let plane = image * self.conv.groups + channel / outs;
                let part = Part {
                    x: self.conv.args.x.add(plane * rows.input * columns.input),
                    channel,
                    y: self.conv.args.y.add(map * rows.output * columns.output * bytes),
                    columns: chunk * COLUMNS..columns.output.min((chunk + 1) * COLUMNS),
                };
                if there != Some(channel) {
                    self.weights(channel);
                    there = Some(channel);
                }
                let mut row = band * BAND;
                let end = rows.output.min(row + BAND);
                while row < end {
                    self.fill(dots.simd(), &part, row);
                    row += match (self.lines.rows, end - row) {
                        (4, 4..) => self.rows::<D, 4>(dots, &part, row),
                        (2.., 2..) => self.rows::<D, 2>(dots, &part, row),
                        _ => self.rows::<D, 1>(dots, &part, row),
                    };
                }
            }
        }
    }

    /// The words of the weights: `[words][4]`, those of the same word for each row that a line serves side by side.
    #[inline(always)]
    fn words(&self) -> *mut u32 {
        self.memory
    }

    /// The lines.
    #[inline(always)]
    fn line(&self, line: usize) -> *mut u32 {
        self.memory.wrapping_add(self.lines.words * TOGETHER + line * self.lines.length)
    }

    /// The row of padding, or the padded row.
    #[inline(always)]
    fn row(&self) -> *mut u8 {
        self.line(self.lines.lines).cast()
    }

    /// Puts the weights of a channel into words, for a further row of the result moved down by the stride.
    ///
    /// # Safety
    /// The channel is there.
    #[inline(always)]
    unsafe fn weights(&self, channel: usize) {
        let Lines { axes: [rows, columns], words, .. } = self.lines;
        // SAFETY: words of the channel; those of the memory have room.
        unsafe {
            let from = self.conv.args.w.add(channel * self.conv.piece_bytes).cast::<u32>();
            let word = |index: usize| u32::from_le(from.add(index).read_unaligned());
            for index in 0..words {
                let to = self.words().add(index * TOGETHER);
                for served in 0..self.lines.rows {
                    // Bytes from this word's line on, those that the line before pushes over among them.
                    let moved = served * rows.stride * 8;
                    let over =
                        if index >= columns.kernel { u64::from(word(index - columns.kernel)) } else { 0 };
                    let both = u64::from(word(index)) << 32 | over;
                    *to.add(served) = ((both << moved >> 32) as u32).to_le();
                }
            }
        }
    }

    /// Makes the lines for the rows of the result from `row` on.
    ///
    /// # Safety
    /// The row is there.
    #[inline(always)]
    unsafe fn fill<S: Simd>(&self, simd: S, part: &Part, row: usize) {
        let [rows, columns] = self.lines.axes;
        let conv = self.conv;
        let flip = u32::from_ne_bytes([conv.flip; DEPTH]);
        let zero = u32::from_ne_bytes([conv.x_zero as u8; DEPTH]);
        let start = (part.columns.start * columns.stride) as isize - columns.pad;
        let first = (row * rows.stride) as isize - rows.pad;
        let plane = rows.input * columns.input;
        // SAFETY: rows of the image, and the row of padding, which is as long and a vector longer.
        unsafe {
            let end = conv.args.x.add(conv.batch * conv.groups * plane);
            let image_row = |row: isize| match usize::try_from(row) {
                Ok(row) if row < rows.input => Some(part.x.add(row * columns.input)),
                _ => None,
            };
            if self.lines.along {
                self.along(simd, image_row(first), start);
                return;
            }
            for line in 0..self.lines.lines {
                let mut reach = self.lines.row;
                let mut lanes = [self.row().cast_const(); DEPTH];
                for (index, lane) in lanes.iter_mut().enumerate() {
                    if let Some(row) = image_row(first + ((line * DEPTH + index) * rows.dilation) as isize) {
                        *lane = row;
                        reach = reach.min(end as usize - row as usize);
                    }
                }
                let source = Source {
                    lanes,
                    reach,
                    size: columns.input,
                    step: 1,
                    flip,
                    mask: u32::MAX,
                    padding: zero,
                };
                source.line::<S, true>(simd, start, self.line(line), self.lines.length - SLACK);
            }
        }
    }

    /// Makes the line of a row's neighbours.
    ///
    /// # Safety
    /// The row is one of the image; `None` is padding.
    #[inline(always)]
    unsafe fn along<S: Simd>(&self, simd: S, row: Option<*const u8>, start: isize) {
        let columns = self.lines.axes[1];
        let zero = self.conv.x_zero as u8 ^ self.conv.flip;
        let before = if start < 0 { start.unsigned_abs().min(self.lines.row) } else { 0 };
        let first = (start + before as isize) as usize;
        let inside = match row {
            Some(_) => columns.input.saturating_sub(first).min(self.lines.row - before),
            None => 0,
        };
        // SAFETY: places of the padded row, cells of the row of the image.
        unsafe {
            let to = self.row();
            to.write_bytes(zero, before);
            if let Some(row) = row {
                std::ptr::copy_nonoverlapping(row.wrapping_add(first), to.add(before), inside);
            }
            to.add(before + inside).write_bytes(zero, self.lines.row - before - inside);
            let lane = |index: usize| to.add(index * columns.dilation).cast_const();
            let source = Source {
                lanes: [lane(0), lane(1), lane(2), lane(3)],
                // The last lane begins `3 * dilation` behind the first.
                reach: self.lines.length,
                size: self.lines.length,
                step: 1,
                flip: u32::from_ne_bytes([self.conv.flip; DEPTH]),
                mask: u32::MAX,
                padding: 0,
            };
            source.line::<S, true>(simd, 0, self.line(0), self.lines.length - SLACK);
        }
    }

    /// `R` rows of the result; `R`.
    ///
    /// # Safety
    /// The lines are made for them.
    #[inline(always)]
    unsafe fn rows<D: Dots, const R: usize>(&self, dots: D, part: &Part, row: usize) -> usize {
        // SAFETY: as the caller promises.
        unsafe {
            match self.lines.axes[1].stride {
                1 => self.vectors::<D, R, 1>(dots, part, row),
                2 => self.vectors::<D, R, 2>(dots, part, row),
                _ => self.vectors::<D, R, 0>(dots, part, row),
            }
        }
        R
    }

    /// `R` rows of the result, 16 columns at a time, of a stride of `STEP`, where it is not 0.
    ///
    /// # Safety
    /// As [`Alone::rows`].
    #[inline(always)]
    unsafe fn vectors<D: Dots, const R: usize, const STEP: usize>(&self, dots: D, part: &Part, row: usize) {
        let simd = dots.simd();
        let width = self.lines.axes[1].output;
        let results = &self.conv.results;
        let bytes = results.element_bytes();
        // SAFETY: the caller's promise.
        unsafe {
            let Channel { added, zero, scale } = *self.conv.channels.get_unchecked(part.channel);
            let (added, zero, scale) = (simd.int_splat(added), simd.int_splat(zero), simd.splat(scale));
            for column in (0..part.columns.len()).step_by(LANES) {
                let mut sums = [added; R];
                for word in 0..self.lines.words {
                    let four = self.word::<D::S, STEP>(simd, word, column);
                    for (served, sum) in sums.iter_mut().enumerate() {
                        let weights = simd.int_splat(*self.words().add(word * TOGETHER + served) as i32);
                        *sum = dots.dot(*sum, four, weights);
                    }
                }
                if self.conv.weights_shifted {
                    let totals = self.totals::<D, R, STEP>(dots, column);
                    for (sum, total) in sums.iter_mut().zip(totals) {
                        *sum = simd.int_sub(*sum, simd.int_mul(zero, total));
                    }
                }
                let count = LANES.min(part.columns.len() - column);
                for (served, sum) in sums.into_iter().enumerate() {
                    let to = part.y.add(((row + served) * width + part.columns.start + column) * bytes);
                    if count == LANES {
                        results.vector(simd, sum, scale, to);
                        continue;
                    }
                    let mut out = [0_u8; 4 * LANES];
                    results.vector(simd, sum, scale, out.as_mut_ptr());
                    copy(out.as_ptr(), to, count * bytes);
                }
            }
        }
    }

    /// The sums of the pixels themselves.
    ///
    /// # Safety
    /// As [`Alone::vectors`].
    #[inline(always)]
    unsafe fn totals<D: Dots, const R: usize, const STEP: usize>(
        &self,
        dots: D,
        column: usize,
    ) -> [<D::S as Simd>::I; R] {
        let simd = dots.simd();
        let mut totals = [simd.int_splat(0); R];
        for word in 0..self.lines.words {
            // SAFETY: the caller's promise.
            let four = unsafe { self.word::<D::S, STEP>(simd, word, column) };
            for (served, total) in totals.iter_mut().enumerate() {
                *total = dots.dot(*total, four, simd.int_splat(self.lines.ones(word, served)));
            }
        }
        totals
    }

    /// The words of 16 columns of the result for a word of the weights.
    ///
    /// # Safety
    /// The columns are there, or at most 15 behind them.
    #[inline(always)]
    unsafe fn word<S: Simd, const STEP: usize>(&self, simd: S, word: usize, column: usize) -> S::I {
        let columns = self.lines.axes[1];
        let (line, shift) = match self.lines.along {
            true => (0, word * DEPTH * columns.dilation),
            false => (word / columns.kernel, word % columns.kernel * columns.dilation),
        };
        // SAFETY: lines go on for whole vectors behind the last word that a column reads.
        unsafe {
            let from = self.line(line).cast_const().add(shift + column * columns.stride).cast::<f32>();
            match STEP {
                1 => simd.bits(simd.load(from)),
                2 => simd.bits(simd.even(simd.load(from), simd.load(from.add(LANES)))),
                _ => {
                    let mut lanes = [0.0; LANES];
                    let there = LANES.min(self.lines.axes[1].output.min(COLUMNS).saturating_sub(column));
                    for (lane, to) in lanes.iter_mut().enumerate().take(there) {
                        *to = *from.add(lane * columns.stride);
                    }
                    simd.bits(simd.from_array(lanes))
                }
            }
        }
    }
}

impl Lines {
    /// A word of ones where a word of weights has cells of the kernel, for row `served` of the result.
    #[inline(always)]
    pub fn ones(&self, word: usize, served: usize) -> i32 {
        let mut ones = [0_u8; DEPTH];
        for (index, one) in ones.iter_mut().enumerate() {
            *one = self.is_cell(word, served, index).into();
        }
        i32::from_le_bytes(ones)
    }

    /// Whether a byte of a word of weights is a cell of the kernel, for row `served` of the result.
    #[inline(always)]
    fn is_cell(&self, word: usize, served: usize, index: usize) -> bool {
        let [rows, columns] = self.axes;
        if self.along {
            return word * DEPTH + index < columns.kernel;
        }
        let row = (word / columns.kernel * DEPTH + index).checked_sub(served.saturating_mul(rows.stride));
        row.is_some_and(|row| row < rows.kernel)
    }
}
