//! Copies of the operands in the order in which the microkernel reads them.

use super::tile::{LEFT_STRIDE, PANEL};
use crate::simd::{LANES, Simd, WithSimd};

/// `to[j * to_row + i] = from[i * from_row + j]` for `i < rows`, `j < columns`.
///
/// # Safety
/// Both sides are valid for these elements and do not overlap.
#[inline(never)]
pub(crate) unsafe fn transpose<S: Simd>(
    simd: S,
    rows: usize,
    columns: usize,
    from: *const f32,
    from_row: isize,
    to: *mut f32,
    to_row: usize,
) {
    simd.vectorize(Transpose { rows, columns, from, from_row, to, to_row });
}

/// [`transpose`]. Made only there, under its conditions.
struct Transpose {
    rows: usize,
    columns: usize,
    from: *const f32,
    from_row: isize,
    to: *mut f32,
    to_row: usize,
}

impl WithSimd for Transpose {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        let Transpose { rows, columns, from, from_row, to, to_row } = self;
        let (whole_rows, whole_columns) = (rows / 8 * 8, columns / 8 * 8);
        // SAFETY: `transpose` asks its caller for both sides; all indices lie below `rows` and `columns`.
        unsafe {
            for i in (0..whole_rows).step_by(8) {
                let line = from.offset(i as isize * from_row);
                for j in (0..whole_columns).step_by(8) {
                    let to = to.add(j * to_row + i);
                    simd.transpose_8x8(line.add(j).cast(), from_row, to.cast(), to_row as isize);
                }
            }
            for i in 0..rows {
                let line = from.offset(i as isize * from_row);
                let done = if i < whole_rows { whole_columns } else { 0 };
                for j in done..columns {
                    *to.add(j * to_row + i) = *line.add(j);
                }
            }
        }
    }
}

/// Copies `rows` rows and `depth` columns of a left operand to rows [`LEFT_STRIDE`] apart.
///
/// # Safety
/// `from` is readable by its strides, `to` writable for `rows * LEFT_STRIDE` elements, and they do not overlap.
#[inline(never)]
pub(crate) unsafe fn left<S: Simd>(
    simd: S,
    rows: usize,
    depth: usize,
    from: *const f32,
    (row, column): (isize, isize),
    to: *mut f32,
) {
    // SAFETY: the indices lie below `rows` and `depth`.
    unsafe {
        if column == 1 {
            for i in 0..rows {
                from.offset(i as isize * row).copy_to_nonoverlapping(to.add(i * LEFT_STRIDE), depth);
            }
        } else if row == 1 {
            transpose(simd, depth, rows, from, column, to, LEFT_STRIDE);
        } else {
            for i in 0..rows {
                for j in 0..depth {
                    *to.add(i * LEFT_STRIDE + j) = *from.offset(i as isize * row + j as isize * column);
                }
            }
        }
    }
}

/// Copies `depth` rows and `columns` (at most 32) columns of a right operand to a panel, zeros behind them.
///
/// # Safety
/// `from` is readable by its strides, `to` writable for `depth * 32` elements, and they do not overlap.
#[inline(never)]
pub(crate) unsafe fn right<S: Simd>(
    simd: S,
    depth: usize,
    columns: usize,
    from: *const f32,
    (row, column): (isize, isize),
    to: *mut f32,
) {
    // SAFETY: the indices lie below `depth` and `columns`; rows of the panel hold 32 elements.
    unsafe {
        if column == 1 {
            simd.vectorize(Rows { depth, columns, from, row, to });
            return;
        }
        if columns < PANEL {
            to.write_bytes(0, depth * PANEL);
        }
        if row == 1 {
            transpose(simd, columns, depth, from, column, to, PANEL);
            return;
        }
        for i in 0..depth {
            for j in 0..columns {
                *to.add(i * PANEL + j) = *from.offset(i as isize * row + j as isize * column);
            }
        }
    }
}

/// [`right`] with contiguous rows. Made only there, under its conditions.
struct Rows {
    depth: usize,
    columns: usize,
    from: *const f32,
    row: isize,
    to: *mut f32,
}

impl WithSimd for Rows {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        let first = self.columns.min(LANES);
        for i in 0..self.depth {
            // SAFETY: whoever made this vouches for `depth` rows of `columns` and for the panel.
            unsafe {
                let (from, to) = (self.from.offset(i as isize * self.row), self.to.add(i * PANEL));
                if self.columns == PANEL {
                    simd.store(to, simd.load(from));
                    simd.store(to.add(LANES), simd.load(from.add(LANES)));
                } else {
                    simd.store(to, simd.load_first(from, first));
                    let second = simd.load_first(from.wrapping_add(LANES), self.columns - first);
                    simd.store(to.add(LANES), second);
                }
            }
        }
    }
}
