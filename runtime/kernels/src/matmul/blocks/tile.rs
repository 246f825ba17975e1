//! Tiles of a product of 8-bit integers with quantised blocks: some rows of one panel of 32 columns.

use std::ops::Range;
use std::sync::atomic::{Ordering, compiler_fence};

use lathe_artifact::layout::BlockKind;

use super::quantise::{PLANES, Rows};
use super::{Blocks, GROUP, unpack};
use crate::matmul::epilogue::Rectangle;
use crate::matmul::product::Product;
use crate::matmul::tile::PANEL;
use crate::simd::{Dots, LANES, Simd, WithDots, prefetch};

/// Most rows of a tile.
pub(super) const TILE_ROWS: usize = 6;
/// Most rows of a tile of blocks that are read as they are stored.
pub(super) const STORED_ROWS: usize = 2;
/// How far ahead one row's weights are asked for: more bytes than a group has, and few enough to be there when they are read.
const AHEAD: usize = 4096;
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
    /// Room for a panel of the [`wide`](BlockKind::wide) kind; null where panels are read as they are.
    pub(super) wide: *mut u8,
}

impl WithDots for Panels<'_> {
    #[inline(always)]
    fn with<D: Dots>(self, dots: D) {
        let most = if const { <D::S as Simd>::REGISTERS >= 32 } { TILE_ROWS } else { STORED_ROWS };
        for panel in self.panels.clone() {
            // SAFETY: the panel lies in the right operand, and in the room for it.
            let (b, kind) = unsafe {
                if self.wide.is_null() {
                    (self.b.panel(self.product.k, panel), self.b.kind)
                } else {
                    self.b.widen(dots.simd(), self.product.k, panel, self.wide);
                    (self.wide.cast_const(), self.b.kind.wide())
                }
            };
            let mut row = 0;
            while row < self.left.count {
                let rows = match self.left.count - row {
                    left if left >= most && kind.bits == 8 => most,
                    4.. if kind.bits == 8 && most > 4 => 4,
                    2.. => 2,
                    _ => 1,
                };
                let tile = Tile { left: self.left, row, b, kind, to: self.tile };
                // SAFETY: whoever made this vouches for rows and panels.
                unsafe {
                    tile.multiply(dots, rows);
                    self.finish(dots.simd(), panel, row, rows);
                }
                row += rows;
            }
        }
    }
}

impl Panels<'_> {
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
    unsafe fn multiply<D: Dots>(self, dots: D, rows: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.kind.bits, self.kind.short_runs) {
                (8, false) => self.rows::<D, 8, 1>(dots, rows),
                (8, true) => self.rows::<D, 8, 2>(dots, rows),
                (6, _) => self.rows::<D, 6, 2>(dots, rows),
                (5, _) => self.rows::<D, 5, 1>(dots, rows),
                (4, _) => self.rows::<D, 4, 1>(dots, rows),
                (3, _) => self.rows::<D, 3, 2>(dots, rows),
                _ => self.rows::<D, 2, 2>(dots, rows),
            }
        }
    }

    /// # Safety
    /// As [`multiply`](Self::multiply).
    #[inline(always)]
    unsafe fn rows<D: Dots, const BITS: u8, const RUNS: usize>(self, dots: D, rows: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match rows {
                1 => return self.exactly::<D, BITS, RUNS, 1>(dots),
                2 => return self.exactly::<D, BITS, RUNS, 2>(dots),
                _ => {}
            }
            if const { <D::S as Simd>::REGISTERS >= 32 && BITS == 8 } {
                match rows {
                    4 => self.exactly::<D, BITS, RUNS, 4>(dots),
                    _ => self.exactly::<D, BITS, RUNS, TILE_ROWS>(dots),
                }
            }
        }
    }

    /// # Safety
    /// As [`multiply`](Self::multiply), for `R` rows.
    #[inline(always)]
    unsafe fn exactly<D: Dots, const BITS: u8, const RUNS: usize, const R: usize>(self, dots: D) {
        let simd = dots.simd();
        let mut sums: Sums<_, R> = [[simd.splat(0.0); VECTORS]; R];
        let (mut b, mut head) = (self.b, self.b);
        let (head_bytes, group_bytes) = (self.kind.head_bytes(), self.kind.group_bytes());
        // SAFETY: groups of the panel and of the rows.
        unsafe {
            for group in 0..self.left.groups {
                if group.is_multiple_of(BlockKind::HEAD_GROUPS) {
                    (head, b) = (b, b.add(head_bytes));
                }
                if R <= STORED_ROWS {
                    for line in 0..2 + 2 * usize::from(BITS) {
                        prefetch(b.wrapping_add(AHEAD + line * 64));
                    }
                }
                for run in 0..RUNS {
                    let products = self.products::<D, BITS, RUNS, R>(dots, b, group, run);
                    self.add::<D::S, RUNS, R>(simd, [head, b], group, run, products, &mut sums);
                }
                b = b.add(group_bytes);
            }
            for (r, row) in sums.iter().enumerate() {
                for (v, sum) in row.iter().enumerate() {
                    simd.store(self.to.add(r * PANEL + v * LANES), *sum);
                }
            }
        }
    }

    /// The sums of products of integers of one run: `128 * high + low` of the planes, from the run's start on.
    ///
    /// # Safety
    /// As [`multiply`](Self::multiply), for a group at `b`.
    #[inline(always)]
    unsafe fn products<D: Dots, const BITS: u8, const RUNS: usize, const R: usize>(
        self,
        dots: D,
        b: *const u8,
        group: usize,
        run: usize,
    ) -> Sums<<D::S as Simd>::I, R> {
        let simd = dots.simd();
        let zeros = [[simd.int_splat(0); VECTORS]; R];
        // SAFETY: the caller's promise.
        unsafe {
            if R > 2 {
                // The sums of both planes do not fit the registers.
                let [high] = self.planes::<D, BITS, RUNS, R, 1>(dots, b, group, run, 0, [zeros]);
                let high = self.raised::<D::S, RUNS, R>(simd, group, run, high);
                let [low] = self.planes::<D, BITS, RUNS, R, 1>(dots, b, group, run, 1, [high]);
                return low;
            }
            let [high, mut low] = self.planes::<D, BITS, RUNS, R, 2>(dots, b, group, run, 0, [zeros; 2]);
            let high = self.raised::<D::S, RUNS, R>(simd, group, run, high);
            for r in 0..R {
                for v in 0..VECTORS {
                    low[r][v] = simd.int_add(low[r][v], high[r][v]);
                }
            }
            low
        }
    }

    /// The sums of the high plane times 128, and the run's start.
    ///
    /// # Safety
    /// As [`products`](Self::products).
    #[inline(always)]
    unsafe fn raised<S: Simd, const RUNS: usize, const R: usize>(
        self,
        simd: S,
        group: usize,
        run: usize,
        mut sums: Sums<S::I, R>,
    ) -> Sums<S::I, R> {
        for (r, sums) in sums.iter_mut().enumerate() {
            let at = (self.row + r) * self.left.groups + group;
            // SAFETY: numbers of `R` rows.
            let start = simd.int_splat(unsafe { *self.left.starts.add(at * RUNS + run) });
            for sum in sums.iter_mut() {
                *sum = simd.int_add(simd.int_shl::<7>(*sum), start);
            }
        }
        sums
    }

    /// Adds the products of `P` planes from the plane `first` on.
    ///
    /// # Safety
    /// As [`products`](Self::products).
    #[inline(always)]
    unsafe fn planes<D: Dots, const BITS: u8, const RUNS: usize, const R: usize, const P: usize>(
        self,
        dots: D,
        b: *const u8,
        group: usize,
        run: usize,
        first: usize,
        mut sums: [Sums<<D::S as Simd>::I, R>; P],
    ) -> [Sums<<D::S as Simd>::I, R>; P] {
        // SAFETY: the elements of a group and of `R` rows.
        unsafe {
            let mut rows = [self.left.elements; R];
            for (r, row) in rows.iter_mut().enumerate() {
                let at = (self.row + r) * self.left.groups + group;
                *row = self.left.elements.add((at * PLANES + first) * GROUP);
            }
            let elements = b.add(self.kind.elements_at());
            if RUNS == 1 || run == 0 {
                step::<D, BITS, 0, false, R, P>(dots, elements, rows, &mut sums);
                step::<D, BITS, 1, false, R, P>(dots, elements, rows, &mut sums);
                step::<D, BITS, 2, false, R, P>(dots, elements, rows, &mut sums);
                step::<D, BITS, 3, false, R, P>(dots, elements, rows, &mut sums);
            }
            if RUNS == 1 || run == 1 {
                step::<D, BITS, 0, true, R, P>(dots, elements, rows, &mut sums);
                step::<D, BITS, 1, true, R, P>(dots, elements, rows, &mut sums);
                step::<D, BITS, 2, true, R, P>(dots, elements, rows, &mut sums);
                step::<D, BITS, 3, true, R, P>(dots, elements, rows, &mut sums);
            }
        }
        sums
    }

    /// Adds the products of one run to the sums of the tile. `head` and `b` are where the group's factors and the group begin.
    ///
    /// # Safety
    /// As [`products`](Self::products).
    #[inline(always)]
    unsafe fn add<S: Simd, const RUNS: usize, const R: usize>(
        self,
        simd: S,
        [head, b]: [*const u8; 2],
        group: usize,
        run: usize,
        products: Sums<S::I, R>,
        sums: &mut Sums<S::F, R>,
    ) {
        // SAFETY: scales and minima of a group, numbers of `R` rows.
        unsafe {
            let scales = self.scales(simd, head, b, run);
            for (r, (sums, products)) in sums.iter_mut().zip(products).enumerate() {
                let scale = simd.splat(*self.left.scales.add((self.row + r) * self.left.groups + group));
                for v in 0..VECTORS {
                    sums[v] = simd.fma(simd.to_float(products[v]), simd.mul(scales[v], scale), sums[v]);
                }
            }
            if self.kind.minima {
                let head = head.wrapping_add(2 * PANEL);
                let minima = self.scales(simd, head, b.add(self.kind.scales_bytes()), run);
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
    /// `from` is where a group's scales (or minima) begin, `head` where their factors do.
    #[inline(always)]
    unsafe fn scales<S: Simd>(
        self,
        simd: S,
        head: *const u8,
        from: *const u8,
        run: usize,
    ) -> [S::F; VECTORS] {
        let mut scales = [simd.splat(0.0); VECTORS];
        for (v, scale) in scales.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *scale = unsafe { unpack::scales(simd, self.kind.scales, head, from, run * PANEL + v * LANES) };
        }
        scales
    }
}

/// Adds the products of a quarter with `R` rows in `P` planes.
///
/// # Safety
/// A group's elements and the rows' planes are readable.
#[inline(always)]
unsafe fn step<
    D: Dots,
    const BITS: u8,
    const STEP: usize,
    const HIGH: bool,
    const R: usize,
    const P: usize,
>(
    dots: D,
    elements: *const u8,
    rows: [*const i8; R],
    sums: &mut [Sums<<D::S as Simd>::I, R>; P],
) {
    let simd = dots.simd();
    let quarter = STEP + if HIGH { 4 } else { 0 };
    // Without it the elements of all steps would be read first, which there are not the registers for.
    compiler_fence(Ordering::SeqCst);
    for v in 0..VECTORS {
        // SAFETY: the caller's promise.
        unsafe {
            let weights = unpack::quarter::<D::S, BITS, STEP, HIGH>(simd, elements, v);
            for (plane, sums) in sums.iter_mut().enumerate() {
                for (sums, row) in sums.iter_mut().zip(rows) {
                    sums[v] = dots.dot(sums[v], weights, quad(simd, row.add(plane * GROUP), quarter));
                }
            }
        }
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
