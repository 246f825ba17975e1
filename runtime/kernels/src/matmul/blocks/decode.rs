//! Panels of quantised blocks as f32.

use std::ops::Range;

use super::{Blocks, GROUP};
use crate::matmul::tile::PANEL;
use crate::simd::{LANES, Simd, WithSimd};

impl Blocks {
    /// Decodes rows `depth` (whole groups) of a panel of a matrix of `k` rows to `[rows][32]`.
    ///
    /// # Safety
    /// The panel lies in the matrix and the rows below `k`; `to` is writable for them.
    #[inline(never)]
    pub(crate) unsafe fn decode<S: Simd>(
        self,
        simd: S,
        k: usize,
        panel: usize,
        depth: &Range<usize>,
        to: *mut f32,
    ) {
        debug_assert!(depth.start.is_multiple_of(GROUP) && depth.len().is_multiple_of(GROUP));
        let first = panel * (k / GROUP) + depth.start / GROUP;
        for group in 0..depth.len() / GROUP {
            // SAFETY: the groups that the caller vouches for.
            unsafe {
                let from = self.data.add((first + group) * self.kind.group_bytes());
                simd.vectorize(Group { blocks: self, from, to: to.add(group * GROUP * PANEL) });
            }
        }
    }
}

/// One group at `from`. Made only by [`Blocks::decode`].
struct Group {
    blocks: Blocks,
    from: *const u8,
    to: *mut f32,
}

impl WithSimd for Group {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        let kind = self.blocks.kind;
        for run in 0..kind.runs() {
            for half in 0..PANEL / LANES {
                let at = run * PANEL + half * LANES;
                // SAFETY: a group's scales and minima.
                let (scale, minimum) = unsafe {
                    let load = |from: *const u8| {
                        if kind.half_scales {
                            simd.load_f16(from.cast::<u16>().wrapping_add(at))
                        } else {
                            simd.load(from.cast::<f32>().wrapping_add(at))
                        }
                    };
                    let minima = kind.minima.then(|| load(self.from.add(kind.scales_bytes())));
                    (load(self.from), minima)
                };
                let quarters = 8 / kind.runs();
                for quarter in run * quarters..(run + 1) * quarters {
                    // SAFETY: a quarter of the group's rows.
                    unsafe { self.quarter(simd, quarter, half, scale, minimum) };
                }
            }
        }
    }
}

impl Group {
    /// Four rows of 16 columns.
    ///
    /// # Safety
    /// `quarter` is below 8, `half` below 2.
    #[inline(always)]
    unsafe fn quarter<S: Simd>(
        &self,
        simd: S,
        quarter: usize,
        half: usize,
        scale: S::F,
        minimum: Option<S::F>,
    ) {
        let kind = self.blocks.kind;
        let stored = if kind.nibbles { quarter % 4 } else { quarter };
        // SAFETY: 16 columns of a quarter's elements, and of four rows of the result.
        unsafe {
            let elements = self.from.add(kind.elements_at() + (stored * PANEL + half * LANES) * 4);
            let mut bytes = simd.bits(simd.load(elements.cast()));
            if kind.nibbles && quarter >= 4 {
                bytes = simd.int_shr::<4>(bytes);
            }
            let mask = simd.int_splat(if kind.nibbles { 15 } else { 255 });
            let zero = simd.int_splat(i32::from(kind.zero));
            for row in 0..4 {
                let integer = simd.int_sub(simd.int_and(bytes, mask), zero);
                let product = simd.mul(simd.to_float(integer), scale);
                let value = match minimum {
                    Some(minimum) => simd.add(product, minimum),
                    None => product,
                };
                simd.store(self.to.add((quarter * 4 + row) * PANEL + half * LANES), value);
                bytes = simd.int_shr::<8>(bytes);
            }
        }
    }
}
