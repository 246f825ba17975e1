//! Sums of products of bytes: a few rows times one panel of 32 columns, exact on every instruction set.

use lathe_artifact::layout::PackedIntegers;

use crate::simd::{Dots, LANES, Simd};

/// Columns of a panel.
pub(crate) const PANEL: usize = PackedIntegers::PANEL;
/// Most rows of a tile.
pub(crate) const ROWS: usize = 12;
/// Vectors of a panel.
pub(crate) const VECTORS: usize = PANEL / LANES;

/// Rows of bytes, `row_bytes` apart and padded to multiples of 4, and a panel `[depth][32][4]`.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub rows: *const u8,
    pub row_bytes: usize,
    pub panel: *const u8,
    pub depth: usize,
}

/// What takes the sums of a tile's rows.
pub(crate) trait Finish<S: Simd> {
    /// Takes the sums of a row with the 32 columns.
    ///
    /// # Safety
    /// The row is one of the tile's. Implementations are `#[inline(always)]`.
    unsafe fn row(&self, row: usize, sums: [S::I; VECTORS]);
}

impl Tile {
    /// Computes the sums of `count` rows of u8 with a panel of i8.
    ///
    /// # Safety
    /// Rows and panel are readable; `finish` takes each row.
    #[inline(always)]
    pub unsafe fn compute<D: Dots>(self, dots: D, count: usize, finish: &impl Finish<D::S>) {
        let mut row = 0;
        let wide = const { <D::S as Simd>::REGISTERS >= 32 };
        while row < count {
            // SAFETY: as the caller promises; no more rows than are left.
            row += unsafe {
                match count - row {
                    ROWS.. if wide => self.exactly::<D, ROWS>(dots, row, finish),
                    8.. if wide => self.exactly::<D, 8>(dots, row, finish),
                    4.. if wide => self.exactly::<D, 4>(dots, row, finish),
                    2.. => self.exactly::<D, 2>(dots, row, finish),
                    _ => self.exactly::<D, 1>(dots, row, finish),
                }
            };
        }
    }

    /// The sums of the first row with `P` panels, `panel_bytes` apart: enough of them run side by side.
    ///
    /// # Safety
    /// The row and the panels are readable.
    #[inline(always)]
    pub unsafe fn row<D: Dots, const P: usize>(
        self,
        dots: D,
        panel_bytes: usize,
    ) -> [[<D::S as Simd>::I; VECTORS]; P] {
        let simd = dots.simd();
        let mut sums = [[simd.int_splat(0); VECTORS]; P];
        // SAFETY: a panel holds `128 * depth` bytes, the row `4 * depth`.
        unsafe {
            for step in 0..self.depth {
                let four = simd.int_splat(self.rows.add(4 * step).cast::<i32>().read_unaligned());
                for (panel, sums) in sums.iter_mut().enumerate() {
                    let columns = self.panel.add(panel * panel_bytes + 4 * PANEL * step);
                    for (vector, sum) in sums.iter_mut().enumerate() {
                        *sum = dots.dot(*sum, four, load(simd, columns.add(4 * LANES * vector)));
                    }
                }
            }
        }
        sums
    }

    /// `R` rows from `first` on; their number.
    ///
    /// # Safety
    /// As [`Tile::compute`].
    #[inline(always)]
    unsafe fn exactly<D: Dots, const R: usize>(
        self,
        dots: D,
        first: usize,
        finish: &impl Finish<D::S>,
    ) -> usize {
        let simd = dots.simd();
        let mut sums = [[simd.int_splat(0); VECTORS]; R];
        // SAFETY: the panel holds `128 * depth` bytes, a row `4 * depth`.
        unsafe {
            let rows = self.rows.add(first * self.row_bytes);
            for step in 0..self.depth {
                let mut columns = [simd.int_splat(0); VECTORS];
                for (vector, columns) in columns.iter_mut().enumerate() {
                    *columns = load(simd, self.panel.add(4 * (PANEL * step + LANES * vector)));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let four = rows.add(row * self.row_bytes + 4 * step).cast::<i32>().read_unaligned();
                    let four = simd.int_splat(four);
                    for (sum, &columns) in sums.iter_mut().zip(&columns) {
                        *sum = dots.dot(*sum, four, columns);
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                finish.row(first + row, sums);
            }
        }
        R
    }
}

/// # Safety
/// 64 bytes are readable.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd>(simd: S, from: *const u8) -> S::I {
    // SAFETY: the caller's promise.
    simd.bits(unsafe { simd.load(from.cast()) })
}
