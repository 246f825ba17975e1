//! Panels of f16 or bf16, widened as they are read.
//!
//! Widening is exact: a product has the bits of the one with f32 panels of the same values.

use std::ops::Range;

use super::epilogue::Rectangle;
use super::product::Product;
use super::tile::{PANEL, PANELS};
use crate::simd::{LANES, Simd, WithSimd};

/// Vectors of a panel.
const VECTORS: usize = PANEL / LANES;

/// A matrix in [`lathe_artifact::layout::PackedMatrix`] of 16-bit elements.
#[derive(Clone, Copy)]
pub(crate) struct Halves {
    /// The first element.
    pub(crate) data: *const u16,
    /// Elements are bf16 instead of f16.
    pub(crate) bf16: bool,
}

impl Halves {
    /// Element `index`.
    ///
    /// # Safety
    /// It is readable.
    #[inline(always)]
    pub(crate) unsafe fn value(self, index: usize) -> f32 {
        // SAFETY: the caller's promise.
        let bits = unsafe { *self.data.add(index) };
        match self.bf16 {
            true => half::bf16::from_bits(bits).to_f32(),
            false => half::f16::from_bits(bits).to_f32(),
        }
    }

    /// Widens rows `depth` of a panel of a matrix of `k` rows to `[rows][32]`.
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
        // SAFETY: the rows that the caller vouches for.
        let from = unsafe { self.data.add((panel * k + depth.start) * PANEL) };
        match self.bf16 {
            true => simd.vectorize(Widen::<true> { from, to, vectors: depth.len() * VECTORS }),
            false => simd.vectorize(Widen::<false> { from, to, vectors: depth.len() * VECTORS }),
        }
    }

    /// One row of a product with these panels, whose left operand has its elements side by side.
    ///
    /// # Safety
    /// The row and the panels lie in the product, whose right operand this is; `buffer` holds a row of [`PANELS`] panels.
    #[inline(always)]
    pub(crate) unsafe fn row<S: Simd>(
        self,
        simd: S,
        product: &Product,
        row: usize,
        panels: Range<usize>,
        buffer: *mut f32,
    ) {
        let mut panel = panels.start;
        while panel < panels.end {
            // Two vectors of 16 take all registers of a set that has few.
            let most = if const { S::REGISTERS >= 32 } { PANELS } else { PANELS / 2 };
            let count = if panels.end - panel >= most { most } else { 1 };
            // SAFETY: `count` of the caller's panels.
            unsafe {
                let a = product.a.offset(row as isize * product.a_strides.0);
                let b = self.data.add(panel * product.k * PANEL);
                let sums = Sums { a, b, k: product.k, to: buffer };
                match (self.bf16, count) {
                    (true, 4) => simd.vectorize(Row::<true, 4>(sums)),
                    (true, 2) => simd.vectorize(Row::<true, 2>(sums)),
                    (true, _) => simd.vectorize(Row::<true, 1>(sums)),
                    (false, 4) => simd.vectorize(Row::<false, 4>(sums)),
                    (false, 2) => simd.vectorize(Row::<false, 2>(sums)),
                    (false, _) => simd.vectorize(Row::<false, 1>(sums)),
                }
                let column = panel * PANEL;
                let columns = (count * PANEL).min(product.n - column);
                let at = Rectangle { row, column, rows: 1, columns };
                let to = product.c.add(row * product.c_row + column);
                product.epilogue.apply(simd, at, buffer, columns, to, product.c_row);
            }
            panel += count;
        }
    }
}

/// 16 widened elements.
///
/// # Safety
/// They are readable.
#[inline(always)]
unsafe fn widened<S: Simd, const BF16: bool>(simd: S, from: *const u16) -> S::F {
    // SAFETY: the caller's promise.
    unsafe { if BF16 { simd.load_bf16(from) } else { simd.load_f16(from) } }
}

/// Vectors from 16 bits an element to 32. Made only by [`Halves::decode`], under its conditions.
struct Widen<const BF16: bool> {
    from: *const u16,
    to: *mut f32,
    vectors: usize,
}

impl<const BF16: bool> WithSimd for Widen<BF16> {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        for at in (0..self.vectors).map(|vector| vector * LANES) {
            // SAFETY: whoever made this vouches for the vectors.
            unsafe { simd.store(self.to.add(at), widened::<S, BF16>(simd, self.from.add(at))) };
        }
    }
}

/// A row of `k` elements times `[panel][k][32]`, to `to`.
#[derive(Clone, Copy)]
struct Sums {
    a: *const f32,
    b: *const u16,
    k: usize,
    to: *mut f32,
}

/// The sums of `P` panels. Made only by [`Halves::row`], under its conditions.
struct Row<const BF16: bool, const P: usize>(Sums);

impl<const BF16: bool, const P: usize> WithSimd for Row<BF16, P> {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        let Sums { a, b, k, to } = self.0;
        let mut sums = [[simd.splat(0.0); VECTORS]; P];
        // SAFETY: `k` elements of the row, `P` panels of `k` rows, and `P * 32` places.
        unsafe {
            for p in 0..k {
                let x = simd.splat(*a.add(p));
                for (panel, sums) in sums.iter_mut().enumerate() {
                    let from = b.add((panel * k + p) * PANEL);
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = simd.fma(x, widened::<S, BF16>(simd, from.add(v * LANES)), *sum);
                    }
                }
            }
            for (panel, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    simd.store(to.add(panel * PANEL + v * LANES), sum);
                }
            }
        }
    }
}
