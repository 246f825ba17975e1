//! `ConvInteger`: rows of weights times panels of 32 neighbouring pixels of the [planes](super::planes).
//!
//! Pixels count along the rows of a plane, which are longer than those of the result: what lies between is computed and left out.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;
use lathe_artifact::layout::IntegerRows;

use super::planes::Planes;
use super::result::{Bytes, Results};
use super::tile::{PANEL, ROWS, Tile, column_sums};
use crate::kernel::{Buffer, Kernel};
use crate::matmul::sizes;
use crate::simd::{Dots, LANES, Simd, WithDots};

/// Products of bytes whose sum is exact as f32 and as what [`Simd::to_int`] takes.
const MOST_FLOAT_TAPS: usize = (1 << 21) / (255 * 128);
/// Output channels of a share of the work.
const CHUNK: usize = 4 * ROWS;

/// The convolution, checked.
struct Conv<'a> {
    args: &'a args::ConvInteger,
    planes: Planes,
    /// [`Planes::taps`].
    taps: Vec<usize>,
    results: Results,
    layout: IntegerRows,
    batch: usize,
    groups: usize,
    /// Output channels of a group.
    outs: usize,
    /// Input channels of a group.
    ins: usize,
    w_zeros: usize,
    /// Turns the bytes of `x` into u8.
    flip: u8,
    /// The zero point of `x` as u8.
    x_zero: i32,
    /// Whether a zero point of the packed weights is not 0.
    weights_shifted: bool,
}

impl Kernel for args::ConvInteger {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        // SAFETY: the caller's promise is the same.
        let Some(conv) = (unsafe { Conv::of(self) }) else { return Status::Internal };
        if self.phase == 0 {
            if self.planes.is_null() {
                return Status::Internal;
            }
            // The padding's byte is the zero point as it is stored.
            let zero = conv.x_zero as u8 ^ conv.flip;
            // SAFETY: as above.
            return unsafe { conv.planes.fill(self, conv.batch, zero, worker) };
        }
        let panel = conv.layout.row_bytes() * PANEL;
        let Some(mut buffer) = Buffer::new(worker, panel / 4) else { return Status::OutOfMemory };
        simd.with_dots(Work { conv: &conv, worker, panel: buffer.pointer().cast() });
        Status::Ok
    }
}

struct Work<'a> {
    conv: &'a Conv<'a>,
    worker: &'a Worker,
    panel: *mut u8,
}

impl WithDots for Work<'_> {
    #[inline(always)]
    fn with<D: Dots>(self, dots: D) {
        // SAFETY: the operands are as the builtin's row says; there is room for a panel.
        unsafe { self.conv.compute(dots, self.worker, self.panel) }
    }
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

impl<'a> Conv<'a> {
    /// `None` where the arguments break the builtin's contract.
    ///
    /// # Safety
    /// The contract of the builtin's row.
    #[inline(always)]
    unsafe fn of(args: &'a args::ConvInteger) -> Option<Self> {
        let planes = Planes::of(args)?;
        let [batch, out_channels, groups, w_zeros, scales] =
            sizes([args.batch, args.out_channels, args.groups, args.w_zeros, args.scales])?;
        let fits = |count: usize| matches!(count, 0 | 1) || count == out_channels;
        let whole =
            groups > 0 && out_channels.is_multiple_of(groups) && planes.channels.is_multiple_of(groups);
        if !whole || !fits(w_zeros) || !fits(scales) {
            return None;
        }
        let ins = planes.channels / groups;
        let k = planes.axes.iter().try_fold(ins, |k, axis| k.checked_mul(axis.kernel))?;
        // SAFETY: the caller's promise.
        let results = unsafe { Results::of(args.to, (args.scale, scales), args.y_zero, args.bias)? };
        let flip = if args.x_signed != 0 { 0x80 } else { 0 };
        // SAFETY: as above.
        let x_zero = if args.x_zero.is_null() { 0 } else { unsafe { *args.x_zero } };
        let mut conv = Self {
            args,
            taps: if args.phase == 0 { Vec::new() } else { planes.taps() },
            planes,
            results,
            layout: IntegerRows { rows: out_channels, k },
            batch,
            groups,
            outs: out_channels / groups,
            ins,
            w_zeros,
            flip,
            x_zero: i32::from(x_zero ^ flip),
            weights_shifted: false,
        };
        // SAFETY: as above.
        conv.weights_shifted = (0..w_zeros.max(1)).any(|channel| unsafe { conv.w_zero(channel) } != 0);
        Some(conv)
    }

    /// The zero point of a channel's weights, as they are packed.
    ///
    /// # Safety
    /// The channel is there.
    #[inline(always)]
    unsafe fn w_zero(&self, channel: usize) -> i32 {
        let unsigned = self.args.w_unsigned != 0;
        if self.w_zeros == 0 {
            return if unsigned { -128 } else { 0 };
        }
        // SAFETY: the caller's promise.
        unsafe {
            let at = self.args.w_zero.add(if self.w_zeros > 1 { channel } else { 0 });
            if unsigned { i32::from(*at) - 128 } else { i32::from(*at.cast::<i8>()) }
        }
    }

    /// The worker's share: some output channels of panels.
    ///
    /// # Safety
    /// The contract of the builtin's row; `panel` has room for one.
    #[inline(always)]
    unsafe fn compute<D: Dots>(&self, dots: D, worker: &Worker, panel: *mut u8) {
        let [rows, columns] = self.planes.axes;
        if rows.output == 0 || columns.output == 0 {
            return;
        }
        let width = self.planes.width;
        let pixels = (rows.output - 1) * width + columns.output;
        let blocks = pixels.div_ceil(PANEL);
        if self.outs == 1 {
            for map in worker.share(self.batch * self.groups, 1) {
                let (image, group) = (map / self.groups, map % self.groups);
                // SAFETY: the channel is there.
                unsafe { self.alone(dots.simd(), image, group, pixels) };
            }
            return;
        }
        let chunks = self.outs.div_ceil(CHUNK);
        let mut there = None;
        let mut sums = [0; PANEL];
        for unit in worker.share(self.batch * self.groups * blocks * chunks, 1) {
            let (index, chunk) = (unit / chunks, unit % chunks);
            let (map, first) = (index / blocks, index % blocks * PANEL);
            let (image, group) = (map / self.groups, map % self.groups);
            let (row, column, count) = (first / width, first % width, PANEL.min(pixels - first));
            let block = Block { image, group, row, column, count };
            let outs = chunk * CHUNK..self.outs.min((chunk + 1) * CHUNK);
            // SAFETY: pixels and channels are there.
            unsafe {
                if there != Some(index) {
                    self.pack(block, panel);
                    if self.weights_shifted {
                        sums = column_sums(dots, panel, self.layout.row_bytes() / 4);
                    }
                    there = Some(index);
                }
                let runs = Runs::of(self, block);
                for out in outs.clone().step_by(ROWS) {
                    self.tile(dots, (block, &runs), (out, ROWS.min(outs.end - out)), panel, &sums);
                }
            }
        }
    }

    /// The first pixel of a block in the first plane of a channel of its group.
    ///
    /// # Safety
    /// The block is there.
    #[inline(always)]
    unsafe fn first(&self, block: Block, channel: usize) -> *const u8 {
        let channel = block.image * self.planes.channels + block.group * self.ins + channel;
        // SAFETY: the caller's promise.
        unsafe { self.planes.channel(channel).add(block.row * self.planes.width + block.column) }
    }

    /// Packs the pixels of a block for all cells: `[k / 4][32][4]` of u8, zeros beyond the last cell.
    ///
    /// # Safety
    /// The block is there, and `panel` has room.
    #[inline(always)]
    unsafe fn pack(&self, block: Block, panel: *mut u8) {
        let blank = [self.flip; PANEL];
        let flip = u32::from_ne_bytes([self.flip; 4]);
        let mut four = [blank; 4];
        let (mut filled, mut to) = (0, panel.cast::<[u32; PANEL]>());
        // SAFETY: the block's pixels are there; the panel has room for the steps.
        unsafe {
            let end = self.planes.end(self.batch);
            for channel in 0..self.ins {
                let first = self.first(block, channel);
                for &tap in &self.taps {
                    four[filled] = pixels(first.add(tap), end);
                    filled += 1;
                    if filled == 4 {
                        to.write_unaligned(interleave(&four, flip));
                        (filled, to) = (0, to.add(1));
                    }
                }
            }
            if filled > 0 {
                four[filled..].fill(blank);
                to.write_unaligned(interleave(&four, flip));
            }
        }
    }

    /// All pixels of one output channel that is alone in its group, without panels.
    ///
    /// # Safety
    /// The channel is there, of `left` pixels.
    #[inline(always)]
    unsafe fn alone<S: Simd>(&self, simd: S, image: usize, group: usize, mut left: usize) {
        let width = self.planes.width;
        let mut block = Block { image, group, row: 0, column: 0, count: 0 };
        while left > 0 {
            block.count = left.min(PANEL);
            // SAFETY: the caller's promise.
            unsafe {
                let mut totals = [0; PANEL];
                let mut sums = self.alone_sums(simd, block, &mut totals);
                self.finish(block, group, &mut sums, &totals, &Runs::of(self, block));
            }
            left -= block.count;
            block.column += block.count;
            while block.column >= width {
                (block.row, block.column) = (block.row + 1, block.column - width);
            }
        }
    }

    /// The sums of the only output channel of a group, and those of its pixels where they are needed.
    ///
    /// # Safety
    /// The block is there.
    #[inline(always)]
    unsafe fn alone_sums<S: Simd>(&self, simd: S, block: Block, totals: &mut [i32; PANEL]) -> [i32; PANEL] {
        // SAFETY: the weights of the channel are there.
        let mut weights = unsafe { self.args.w.add(block.group * self.layout.row_bytes()) };
        let mut sums = [0_i32; PANEL];
        // SAFETY: the caller's promise.
        unsafe {
            let end = self.planes.end(self.batch);
            if !self.weights_shifted && self.layout.k <= MOST_FLOAT_TAPS {
                let mut floats = [simd.splat(0.0); PANEL / LANES];
                for channel in 0..self.ins {
                    let first = self.first(block, channel);
                    for &tap in &self.taps {
                        let (pixels, weight) = (pixels(first.add(tap), end), f32::from(*weights as i8));
                        weights = weights.add(1);
                        let weight = simd.splat(weight);
                        for (vector, sum) in floats.iter_mut().enumerate() {
                            let mut lanes = [0.0; LANES];
                            for (lane, pixel) in lanes.iter_mut().zip(&pixels[vector * LANES..]) {
                                *lane = f32::from(pixel ^ self.flip);
                            }
                            *sum = simd.fma(simd.from_array(lanes), weight, *sum);
                        }
                    }
                }
                for (vector, &sum) in floats.iter().enumerate() {
                    let whole = simd.from_bits(simd.to_int(sum));
                    simd.store(sums.as_mut_ptr().add(vector * LANES).cast(), whole);
                }
                return sums;
            }
            for channel in 0..self.ins {
                let first = self.first(block, channel);
                for &tap in &self.taps {
                    let (pixels, weight) = (pixels(first.add(tap), end), i32::from(*weights as i8));
                    weights = weights.add(1);
                    for i in 0..PANEL {
                        let pixel = i32::from(pixels[i] ^ self.flip);
                        sums[i] = sums[i].wrapping_add(pixel * weight);
                        totals[i] = totals[i].wrapping_add(pixel);
                    }
                }
            }
        }
        sums
    }

    /// `count` output channels of a block from `out` of its group on.
    ///
    /// # Safety
    /// The channels are there and the block is packed.
    #[inline(always)]
    unsafe fn tile<D: Dots>(
        &self,
        dots: D,
        (block, runs): (Block, &Runs),
        (out, count): (usize, usize),
        panel: *const u8,
        totals: &[i32; PANEL],
    ) {
        let mut sums = [[0_i32; PANEL]; ROWS];
        let channel = block.group * self.outs + out;
        // SAFETY: the caller's promise.
        unsafe {
            let row_bytes = self.layout.row_bytes();
            let tile = Tile {
                rows: self.args.w.add(channel * row_bytes),
                row_bytes,
                panel,
                depth: row_bytes / 4,
                sums: sums.as_mut_ptr().cast(),
            };
            tile.compute::<D, true>(dots, count);
            for (index, sums) in sums.iter_mut().enumerate().take(count) {
                self.finish(block, channel + index, sums, totals, runs);
            }
        }
    }

    /// The results of a channel's sums, given the sums of the pixels alone.
    ///
    /// # Safety
    /// The channel and the block are there.
    #[inline(always)]
    unsafe fn finish(
        &self,
        block: Block,
        channel: usize,
        sums: &mut [i32; PANEL],
        totals: &[i32; PANEL],
        runs: &Runs,
    ) {
        let mut out: Bytes = [0; 4 * PANEL];
        // SAFETY: the caller's promise; the sums of the weights lie behind them.
        unsafe {
            let weights =
                self.args.w.add(self.layout.elements() + 4 * channel).cast::<i32>().read_unaligned();
            let zero = self.w_zero(channel);
            let rest = (self.layout.k as i32).wrapping_mul(zero).wrapping_sub(weights);
            let added = self.results.bias(channel).wrapping_add(self.x_zero.wrapping_mul(rest));
            for i in 0..PANEL {
                sums[i] = sums[i].wrapping_add(added).wrapping_sub(zero.wrapping_mul(totals[i]));
            }
            self.results.finish(sums, &[self.results.scale(channel); PANEL], &mut out);
            let bytes = self.results.element_bytes();
            let plane = self.planes.axes[0].output * self.planes.axes[1].output;
            let map = (block.image * self.layout.rows + channel) * plane;
            for &(lane, count, to) in &runs.list[..runs.count] {
                let (from, to) = (out.as_ptr().add(lane * bytes), self.args.y.add((map + to) * bytes));
                copy(from, to, count * bytes);
            }
        }
    }
}

/// What of a panel belongs to the result: its first lane, its length, and its first place in a map.
struct Runs {
    list: [(usize, usize, usize); PANEL],
    count: usize,
}

impl Runs {
    #[inline(always)]
    fn of(conv: &Conv<'_>, block: Block) -> Self {
        let (width, own) = (conv.planes.width, conv.planes.axes[1].output);
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
        runs
    }
}

/// The pixels from a place on, zeros beyond the end.
///
/// # Safety
/// Memory up to the end is readable.
#[inline(always)]
unsafe fn pixels(from: *const u8, end: *const u8) -> [u8; PANEL] {
    let there = (end as usize).saturating_sub(from as usize);
    if there >= PANEL {
        // SAFETY: the caller's promise.
        return unsafe { from.cast::<[u8; PANEL]>().read() };
    }
    let mut pixels = [0; PANEL];
    // SAFETY: as above.
    unsafe { std::ptr::copy_nonoverlapping(from, pixels.as_mut_ptr(), there) };
    pixels
}

/// Copies a few bytes, by two overlapping pieces where they are enough.
///
/// # Safety
/// `from` is readable and `to` writable for `count` bytes.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: pieces end where the bytes end.
    unsafe {
        match count {
            PANEL => to.cast::<[u8; PANEL]>().write(from.cast::<[u8; PANEL]>().read()),
            16..PANEL => ends::<16>(from, to, count),
            8..16 => ends::<8>(from, to, count),
            4..8 => ends::<4>(from, to, count),
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

/// Four bytes side by side, with bits turned.
#[inline(always)]
fn interleave(four: &[[u8; PANEL]; 4], flip: u32) -> [u32; PANEL] {
    let mut words = [0; PANEL];
    for i in 0..PANEL {
        words[i] = u32::from_le_bytes([four[0][i], four[1][i], four[2][i], four[3][i]]) ^ flip;
    }
    words
}
