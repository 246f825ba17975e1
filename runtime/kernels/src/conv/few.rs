//! Convolution at few positions: lanes run along the output channels.

use crate::matmul::tile::{PANEL, ROWS};
use crate::simd::{LANES, Simd, WithSimd};

/// Blocks of output channels at few positions.
#[derive(Clone, Copy)]
pub(super) struct Few {
    /// Length of the sums.
    pub(super) k: usize,
    /// `[blocks][k][12]`.
    pub(super) weight: *const f32,
    /// `[k][32]`.
    pub(super) patches: *const f32,
    /// At most 32.
    pub(super) positions: usize,
    /// `[blocks][12][32]`.
    pub(super) to: *mut f32,
}

impl Few {
    /// The sums of `blocks` (1 or 4) blocks.
    ///
    /// # Safety
    /// The blocks, `k` rows of patches and the result are there.
    #[inline(always)]
    pub(super) unsafe fn compute<S: Simd>(self, simd: S, blocks: usize) {
        // Positions side by side, so that sums fill the registers.
        let most = match (const { S::REGISTERS >= 32 }, blocks) {
            (true, 4) => 6,
            (true, _) => 8,
            (false, 4) => 1,
            (false, _) => 4,
        };
        let parts = self.positions.div_ceil(most);
        for part in 0..parts {
            let (first, end) = (self.positions * part / parts, self.positions * (part + 1) / parts);
            // SAFETY: positions of the patches and of the result.
            let few = unsafe { Few { patches: self.patches.add(first), to: self.to.add(first), ..self } };
            macro_rules! with {
                ($($count:literal)*) => {
                    match (end - first, blocks == 4) {
                        $(($count, true) => simd.vectorize(Part::<4, $count>(few)),
                        ($count, false) => simd.vectorize(Part::<1, $count>(few)),)*
                        _ => {}
                    }
                };
            }
            with! { 1 2 3 4 5 6 7 8 }
        }
    }
}

/// The sums of `B` blocks at `P` positions. Made only by [`Few::compute`], under its conditions.
struct Part<const B: usize, const P: usize>(Few);

impl<const B: usize, const P: usize> Part<B, P> {
    /// One step of the sums; `WHOLE` says that a vector of weights may be read where 12 are.
    ///
    /// # Safety
    /// The step is there.
    #[inline(always)]
    unsafe fn step<S: Simd, const WHOLE: bool>(&self, simd: S, index: usize, sums: &mut [[S::F; B]; P]) {
        let Few { k, weight, patches, .. } = self.0;
        // SAFETY: the caller's promise.
        unsafe {
            let mut weights = [simd.splat(0.0); B];
            for (block, weights) in weights.iter_mut().enumerate() {
                let from = weight.add((block * k + index) * ROWS);
                *weights = if WHOLE { simd.load(from) } else { simd.load_first(from, ROWS) };
            }
            for (position, sums) in sums.iter_mut().enumerate() {
                let x = simd.splat(*patches.add(index * PANEL + position));
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = simd.fma(weights, x, *sum);
                }
            }
        }
    }
}

impl<const B: usize, const P: usize> WithSimd for Part<B, P> {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        let mut sums = [[simd.splat(0.0); B]; P];
        // SAFETY: whoever made this vouches for `B` blocks of `k` rows of 12 and for `k` rows of patches; a row is followed by another but for
        // the last.
        unsafe {
            for index in 1..self.0.k {
                self.step::<S, true>(simd, index - 1, &mut sums);
            }
            if self.0.k > 0 {
                self.step::<S, false>(simd, self.0.k - 1, &mut sums);
            }
            for (position, sums) in sums.into_iter().enumerate() {
                for (block, sum) in sums.into_iter().enumerate() {
                    let lanes: [f32; LANES] = simd.to_array(sum);
                    for (row, value) in lanes.into_iter().take(ROWS).enumerate() {
                        // A tile of 12 rows of 32 for each block.
                        *self.0.to.add((block * ROWS + row) * PANEL + position) = value;
                    }
                }
            }
        }
    }
}
