//! Sums of products of bytes: a few rows times one panel of 32 columns, exact on every instruction set.

use lathe_artifact::layout::PackedIntegers;

use crate::simd::{Dots, LANES, Simd};

/// Columns of a panel.
pub(super) const PANEL: usize = PackedIntegers::PANEL;
/// Most rows of a tile.
pub(super) const ROWS: usize = 12;
/// Vectors of a panel.
const VECTORS: usize = PANEL / LANES;

/// Rows of bytes, `row_bytes` apart and padded to multiples of 4, and a panel `[depth][32][4]`.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub rows: *const u8,
    pub row_bytes: usize,
    pub panel: *const u8,
    pub depth: usize,
    /// `[rows][32]`.
    pub sums: *mut i32,
}

impl Tile {
    /// Computes the sums of `count` rows of u8 with a panel of i8.
    ///
    /// # Safety
    /// Rows and panel are readable, `sums` is writable.
    #[inline(always)]
    pub unsafe fn compute<D: Dots>(self, dots: D, count: usize) {
        let mut row = 0;
        while row < count {
            // SAFETY: the rows are there.
            let tile = unsafe {
                Tile { rows: self.rows.add(row * self.row_bytes), sums: self.sums.add(row * PANEL), ..self }
            };
            let wide = const { <D::S as Simd>::REGISTERS >= 32 };
            // SAFETY: as the caller promises; no more rows than are left.
            row += unsafe {
                match count - row {
                    ROWS.. if wide => tile.exactly::<D, ROWS>(dots),
                    4.. if wide => tile.exactly::<D, 4>(dots),
                    2.. if !wide => tile.exactly::<D, 2>(dots),
                    _ => tile.exactly::<D, 1>(dots),
                }
            };
        }
    }

    /// `R` rows; their number.
    ///
    /// # Safety
    /// As [`Tile::compute`].
    #[inline(always)]
    unsafe fn exactly<D: Dots, const R: usize>(self, dots: D) -> usize {
        let simd = dots.simd();
        let mut sums = [[simd.int_splat(0); VECTORS]; R];
        for step in 0..self.depth {
            let mut columns = [simd.int_splat(0); VECTORS];
            // SAFETY: the panel holds `128 * depth` bytes, a row `4 * depth`.
            unsafe {
                for (vector, columns) in columns.iter_mut().enumerate() {
                    *columns = load(simd, self.panel.add(4 * (PANEL * step + LANES * vector)));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let four = self.rows.add(row * self.row_bytes + 4 * step).cast::<i32>().read_unaligned();
                    let four = simd.int_splat(four);
                    for (sum, &columns) in sums.iter_mut().zip(&columns) {
                        *sum = dots.dot(*sum, four, columns);
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (vector, &sum) in sums.iter().enumerate() {
                // SAFETY: the sums of `R` rows.
                unsafe {
                    let to = self.sums.add(row * PANEL + LANES * vector).cast();
                    simd.store(to, simd.from_bits(sum));
                }
            }
        }
        R
    }
}

/// # Safety
/// 64 bytes are readable.
#[inline(always)]
unsafe fn load<S: Simd>(simd: S, from: *const u8) -> S::I {
    // SAFETY: the caller's promise.
    simd.bits(unsafe { simd.load(from.cast()) })
}
