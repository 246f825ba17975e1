//! Convolution of each channel by itself where rows are short: lanes run along 16 channels instead of along a row.

use lathe_artifact::abi::{SCRATCH_BYTES, Worker};

use super::depthwise::Depthwise;
use crate::matmul::copy::transpose;
use crate::matmul::product::share;
use crate::simd::{LANES, Simd, WithSimd};

/// Columns of the result up to which a row counts as short.
const SHORT: usize = 16;

/// Elements of what is in memory, one part after another.
#[derive(Clone, Copy)]
struct Parts {
    /// Padded columns.
    width: usize,
    /// `[rows and one of padding][width][16]`.
    pixels: usize,
    /// `[cells][16]`.
    weights: usize,
    /// `[positions][16]`, of the image and then of the result.
    compact: usize,
}

/// 16 channels of an image of a convolution, of which `count` are there. Made only by [`compute`], under its conditions.
struct Block<'a> {
    conv: &'a Depthwise,
    parts: Parts,
    image: usize,
    first: usize,
    count: usize,
    memory: *mut f32,
}

/// Computes the worker's share; `false` where rows are long, channels few or memory is not enough, and then nothing is done.
///
/// # Safety
/// As [`Depthwise::compute`].
#[inline(always)]
pub(super) unsafe fn compute<S: Simd>(conv: &Depthwise, simd: S, worker: &Worker) -> bool {
    let fits = conv.window.w.output <= SHORT && conv.multiplier == 1 && conv.channels >= LANES;
    let Some(parts) = Parts::of(conv).filter(|_| fits) else { return false };
    let memory: *mut f32 = worker.scratch.cast();
    // SAFETY: scratch memory holds the parts, as `Parts::of` checked; padding stays between the pixels.
    unsafe { memory.write_bytes(0, parts.pixels) };
    let blocks = conv.channels.div_ceil(LANES);
    for unit in share(conv.batch * blocks, worker) {
        let (image, first) = (unit / blocks, unit % blocks * LANES);
        let count = LANES.min(conv.channels - first);
        let block = Block { conv, parts, image, first, count, memory };
        // SAFETY: the channels are there.
        unsafe {
            block.gather(simd);
            simd.vectorize(Sums(&block));
            block.scatter(simd);
        }
    }
    true
}

impl Parts {
    /// `None` where they are more than scratch memory holds.
    #[inline(always)]
    fn of(conv: &Depthwise) -> Option<Self> {
        let (h, w) = (conv.window.h, conv.window.w);
        let steps = w.output.checked_sub(1)?.checked_mul(w.stride)?;
        let reach = w.cells.checked_sub(1)?.checked_mul(w.delta.unsigned_abs())?;
        let width = steps.checked_add(reach)?.checked_add(1)?;
        let positions = (h.input.checked_mul(w.input)?).max(h.output.checked_mul(w.output)?);
        let parts = Self {
            width,
            pixels: h.input.checked_add(1)?.checked_mul(width)?.checked_mul(LANES)?,
            weights: h.cells.checked_mul(w.cells)?.checked_mul(LANES)?,
            compact: positions.checked_mul(LANES)?,
        };
        let room = parts.pixels.checked_add(parts.weights)?.checked_add(parts.compact)?;
        (room <= SCRATCH_BYTES / 4).then_some(parts)
    }
}

impl Block<'_> {
    #[inline(always)]
    fn weights(&self) -> *mut f32 {
        self.memory.wrapping_add(self.parts.pixels)
    }

    #[inline(always)]
    fn compact(&self) -> *mut f32 {
        self.weights().wrapping_add(self.parts.weights)
    }

    /// Puts pixels and weights of the channels side by side.
    ///
    /// # Safety
    /// The channels are there.
    #[inline(always)]
    unsafe fn gather<S: Simd>(&self, simd: S) {
        let (h, w) = (self.conv.window.h, self.conv.window.w);
        let (size, cells) = (h.input * w.input, h.cells * w.cells);
        // SAFETY: channels and weights are there; the parts have room.
        unsafe {
            let x = self.conv.x.add((self.image * self.conv.channels + self.first) * size);
            transpose(simd, self.count, size, x, size as isize, self.compact(), LANES);
            let weight = self.conv.weight.add(self.first * cells);
            transpose(simd, self.count, cells, weight, cells as isize, self.weights(), LANES);
        }
    }

    /// Puts the gathered pixels between the padding.
    ///
    /// # Safety
    /// They are gathered.
    #[inline(always)]
    unsafe fn pad<S: Simd>(&self, simd: S) {
        let (h, w) = (self.conv.window.h, self.conv.window.w);
        let (first, from) = ((-w.base).max(0) as usize, w.base.max(0) as usize);
        let columns = w.input.saturating_sub(from).min(self.parts.width.saturating_sub(first));
        for row in 0..h.input {
            for column in 0..columns {
                // SAFETY: pixels of the image and their places.
                unsafe {
                    let pixel = simd.load(self.compact().add((row * w.input + from + column) * LANES));
                    simd.store(self.memory.add((row * self.parts.width + first + column) * LANES), pixel);
                }
            }
        }
    }

    /// Puts the results of the channels where they belong, and finishes them.
    ///
    /// # Safety
    /// They are computed.
    #[inline(always)]
    unsafe fn scatter<S: Simd>(&self, simd: S) {
        let positions = self.conv.window.positions();
        let plane = self.image * self.conv.channels + self.first;
        // SAFETY: the channels' planes follow one another.
        unsafe {
            let y = self.conv.y.add(plane * positions);
            transpose(simd, positions, self.count, self.compact(), LANES as isize, y, positions);
            for lane in 0..self.count {
                self.conv.finish(simd, plane + lane, 0, positions);
            }
        }
    }

    /// `P` columns of a row of the result from `column` on.
    ///
    /// # Safety
    /// The pixels are there.
    #[inline(always)]
    unsafe fn columns<S: Simd, const P: usize>(&self, simd: S, row: usize, column: usize) {
        let (h, w) = (self.conv.window.h, self.conv.window.w);
        let mut sums = [simd.splat(0.0); P];
        // SAFETY: the caller's promise; the row behind the last is padding.
        unsafe {
            for i in 0..h.cells {
                let at = usize::try_from(h.at(row, i)).map_or(h.input, |at| at.min(h.input));
                for j in 0..w.cells {
                    let weights = simd.load(self.weights().add((i * w.cells + j) * LANES));
                    let first = at * self.parts.width + column * w.stride + j * w.delta.unsigned_abs();
                    for (p, sum) in sums.iter_mut().enumerate() {
                        let x = simd.load(self.memory.add((first + p * w.stride) * LANES));
                        *sum = simd.fma(x, weights, *sum);
                    }
                }
            }
            for (p, sum) in sums.into_iter().enumerate() {
                simd.store(self.compact().add((row * w.output + column + p) * LANES), sum);
            }
        }
    }
}

/// The sums of a block whose pixels are gathered. Made only by [`compute`].
struct Sums<'a>(&'a Block<'a>);

impl WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        let (h, w) = (self.0.conv.window.h, self.0.conv.window.w);
        // SAFETY: whoever made this has gathered the pixels.
        unsafe { self.0.pad(simd) };
        for row in 0..h.output {
            let mut column = 0;
            while column < w.output {
                let left = w.output - column;
                // SAFETY: the pixels are padded; the columns are there.
                column += unsafe {
                    match left {
                        4.. => {
                            self.0.columns::<S, 4>(simd, row, column);
                            4
                        }
                        2 | 3 => {
                            self.0.columns::<S, 2>(simd, row, column);
                            2
                        }
                        _ => {
                            self.0.columns::<S, 1>(simd, row, column);
                            1
                        }
                    }
                };
            }
        }
    }
}
