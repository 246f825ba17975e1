//! Tiles of a product of 8-bit integers with quantised blocks: some rows of one panel of 32 columns.

use std::ops::Range;

use lathe_artifact::layout::BlockKind;

use super::quantise::{PLANES, Rows};
use super::{Blocks, GROUP};
use crate::matmul::epilogue::Rectangle;
use crate::matmul::product::Product;
use crate::matmul::tile::PANEL;
use crate::simd::{Dots, LANES, Simd, WithDots};

/// Most rows of a tile.
pub(super) const TILE_ROWS: usize = 6;
/// Vectors of a panel.
const VECTORS: usize = PANEL / LANES;

/// Some panels of a product for the rows that are quantised. Made only under the conditions of [`Product::compute`].
pub(super) struct Panels<'a> {
    pub(super) product: &'a Product,
    pub(super) b: Blocks,
    pub(super) left: Rows,
    /// The first row's number in the product.
    pub(super) first: usize,
    pub(super) panels: Range<usize>,
    /// Room for a tile of [`TILE_ROWS`] rows.
    pub(super) tile: *mut f32,
}

impl WithDots for Panels<'_> {
    #[inline(always)]
    fn with<D: Dots>(self, dots: D) {
        let most = if const { <D::S as Simd>::REGISTERS >= 32 } { TILE_ROWS } else { 2 };
        let bytes = self.left.groups * self.b.kind.group_bytes();
        for panel in self.panels.clone() {
            // SAFETY: the panel lies in the right operand.
            let b = unsafe { self.b.data.add(panel * bytes) };
            let mut row = 0;
            while row < self.left.count {
                let rows = match self.left.count - row {
                    left if left >= most => most,
                    4.. => 4,
                    2.. => 2,
                    _ => 1,
                };
                // SAFETY: whoever made this vouches for rows and panels.
                unsafe {
                    self.multiply(dots, b, row, rows);
                    self.finish(dots.simd(), panel, row, rows);
                }
                row += rows;
            }
        }
    }
}

impl Panels<'_> {
    /// # Safety
    /// `b` is a panel, and the rows are quantised.
    #[inline(always)]
    unsafe fn multiply<D: Dots>(&self, dots: D, b: *const u8, row: usize, rows: usize) {
        let tile = Tile { left: self.left, row, b, kind: self.b.kind, to: self.tile };
        let kind = self.b.kind;
        // SAFETY: the caller's promise.
        unsafe {
            match (kind.nibbles, kind.short_runs) {
                (true, false) => tile.rows::<D, true, 1>(dots, rows),
                (true, true) => tile.rows::<D, true, 2>(dots, rows),
                (false, false) => tile.rows::<D, false, 1>(dots, rows),
                (false, true) => tile.rows::<D, false, 2>(dots, rows),
            }
        }
    }

    /// Scale, bias, residual and activation on the way to the result.
    ///
    /// # Safety
    /// The tile is computed and lies in the product.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, simd: S, panel: usize, row: usize, rows: usize) {
        let column = panel * PANEL;
        let columns = PANEL.min(self.product.n - column);
        let at = Rectangle { row: self.first + row, column, rows, columns };
        // SAFETY: the caller's promise.
        unsafe {
            let to = self.product.c.add(at.row * self.product.c_row + column);
            self.product.epilogue.apply(simd, at, self.tile, PANEL, to, self.product.c_row);
        }
    }
}

/// Some rows of a panel.
#[derive(Clone, Copy)]
struct Tile {
    left: Rows,
    row: usize,
    b: *const u8,
    kind: BlockKind,
    to: *mut f32,
}

/// The sums of `R` rows.
type Sums<V, const R: usize> = [[V; VECTORS]; R];

impl Tile {
    /// # Safety
    /// The tile's rows and panel are readable, `to` is writable for the tile.
    #[inline(always)]
    unsafe fn rows<D: Dots, const NIBBLES: bool, const RUNS: usize>(self, dots: D, rows: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match rows {
                1 => return self.exactly::<D, NIBBLES, RUNS, 1>(dots),
                2 => return self.exactly::<D, NIBBLES, RUNS, 2>(dots),
                _ => {}
            }
            if const { <D::S as Simd>::REGISTERS >= 32 } {
                match rows {
                    4 => self.exactly::<D, NIBBLES, RUNS, 4>(dots),
                    _ => self.exactly::<D, NIBBLES, RUNS, 6>(dots),
                }
            }
        }
    }

    /// # Safety
    /// As [`rows`](Self::rows), for `R` rows.
    #[inline(always)]
    unsafe fn exactly<D: Dots, const NIBBLES: bool, const RUNS: usize, const R: usize>(self, dots: D) {
        let simd = dots.simd();
        let mut sums: Sums<_, R> = [[simd.splat(0.0); VECTORS]; R];
        let mut b = self.b;
        // SAFETY: groups of the panel and of the rows.
        unsafe {
            for group in 0..self.left.groups {
                for run in 0..RUNS {
                    let products = self.products::<D, NIBBLES, RUNS, R>(dots, b, group, run);
                    self.add::<D::S, RUNS, R>(simd, b, group, run, products, &mut sums);
                }
                b = b.add(self.kind.group_bytes());
            }
            for (r, row) in sums.iter().enumerate() {
                for (v, sum) in row.iter().enumerate() {
                    simd.store(self.to.add(r * PANEL + v * LANES), *sum);
                }
            }
        }
    }

    /// The sums of products of integers of one run.
    ///
    /// # Safety
    /// As [`rows`](Self::rows), for a group at `b`.
    #[inline(always)]
    unsafe fn products<D: Dots, const NIBBLES: bool, const RUNS: usize, const R: usize>(
        self,
        dots: D,
        b: *const u8,
        group: usize,
        run: usize,
    ) -> Sums<<D::S as Simd>::I, R> {
        let simd = dots.simd();
        let mut sums: Sums<_, R> = [[simd.int_splat(0); VECTORS]; R];
        // SAFETY: the elements of a group and of `R` rows.
        unsafe {
            let mut rows = [self.left.elements; R];
            for (r, row) in rows.iter_mut().enumerate() {
                let at = (self.row + r) * self.left.groups + group;
                *row = self.left.elements.add(at * PLANES * GROUP);
            }
            let elements = b.add(self.kind.elements_at());
            let load = |at: usize| simd.bits(simd.load(elements.add(at).cast()));
            let mask = simd.int_splat(0x0F0F_0F0F);
            // Quarters of the run, of the high plane and then of the low one: four rows of the matrix each.
            for plane_step in 0..PLANES * (8 / RUNS) {
                let step = plane_step % (8 / RUNS);
                if plane_step == 8 / RUNS {
                    for (r, (sums, row)) in sums.iter_mut().zip(&mut rows).enumerate() {
                        let at = (self.row + r) * self.left.groups + group;
                        let start = simd.int_splat(*self.left.starts.add(at * RUNS + run));
                        for sum in sums.iter_mut() {
                            *sum = simd.int_add(simd.int_shl::<7>(*sum), start);
                        }
                        *row = row.add(GROUP);
                    }
                }
                let quarter = run * (8 / RUNS) + step;
                if NIBBLES && RUNS == 1 && step >= 4 {
                    continue;
                }
                for v in 0..VECTORS {
                    let at = (quarter * PANEL + v * LANES) * 4;
                    if !NIBBLES {
                        let weights = load(at);
                        for (sums, row) in sums.iter_mut().zip(rows) {
                            sums[v] = dots.dot(sums[v], weights, quad(simd, row, quarter));
                        }
                        continue;
                    }
                    let both = load((step * PANEL + v * LANES) * 4);
                    let low = simd.int_and(both, mask);
                    let high = simd.int_and(simd.int_shr::<4>(both), mask);
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        if RUNS == 1 || run == 0 {
                            sums[v] = dots.dot(sums[v], low, quad(simd, row, step));
                        }
                        if RUNS == 1 || run == 1 {
                            sums[v] = dots.dot(sums[v], high, quad(simd, row, step + 4));
                        }
                    }
                }
            }
        }
        sums
    }

    /// Adds the products of one run to the sums of the tile.
    ///
    /// # Safety
    /// As [`products`](Self::products).
    #[inline(always)]
    unsafe fn add<S: Simd, const RUNS: usize, const R: usize>(
        self,
        simd: S,
        b: *const u8,
        group: usize,
        run: usize,
        products: Sums<S::I, R>,
        sums: &mut Sums<S::F, R>,
    ) {
        // SAFETY: scales and minima of a group, numbers of `R` rows.
        unsafe {
            let scales = self.scales(simd, b, run);
            for (r, (sums, products)) in sums.iter_mut().zip(products).enumerate() {
                let scale = simd.splat(*self.left.scales.add((self.row + r) * self.left.groups + group));
                for v in 0..VECTORS {
                    sums[v] = simd.fma(simd.to_float(products[v]), simd.mul(scales[v], scale), sums[v]);
                }
            }
            if self.kind.minima {
                let minima = self.scales(simd, b.add(self.kind.scales_bytes()), run);
                for (r, sums) in sums.iter_mut().enumerate() {
                    let at = ((self.row + r) * self.left.groups + group) * RUNS + run;
                    let sum = simd.splat(*self.left.sums.add(at));
                    for v in 0..VECTORS {
                        sums[v] = simd.fma(minima[v], sum, sums[v]);
                    }
                }
            }
        }
    }

    /// The scales (or minima) of a run of the 32 columns.
    ///
    /// # Safety
    /// `from` is where a group's scales (or minima) begin.
    #[inline(always)]
    unsafe fn scales<S: Simd>(self, simd: S, from: *const u8, run: usize) -> [S::F; VECTORS] {
        let mut scales = [simd.splat(0.0); VECTORS];
        for (v, scale) in scales.iter_mut().enumerate() {
            let at = run * PANEL + v * LANES;
            // SAFETY: the caller's promise.
            *scale = unsafe {
                if self.kind.half_scales {
                    simd.load_f16(from.cast::<u16>().wrapping_add(at))
                } else {
                    simd.load(from.cast::<f32>().wrapping_add(at))
                }
            };
        }
        scales
    }
}

/// Four elements of a row in every lane.
///
/// # Safety
/// The row is readable there.
#[inline(always)]
unsafe fn quad<S: Simd>(simd: S, row: *const i8, quarter: usize) -> S::I {
    // SAFETY: the caller's promise.
    simd.int_splat(unsafe { row.add(quarter * 4).cast::<i32>().read_unaligned() })
}
