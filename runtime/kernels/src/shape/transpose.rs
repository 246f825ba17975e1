//! Transposes: the source's runs lie across the destination's.

use lathe_artifact::abi::Worker;

use super::boxes::{Axis, Copy};
use crate::simd::Simd;

/// An element that is moved; only its size matters.
pub(super) trait Element: std::marker::Copy {}
impl Element for u8 {}
impl Element for u16 {}
impl Element for u32 {}
impl Element for u64 {}

/// Destination rows of a unit of work: 16 elements of 4 bytes are a cache line of the source.
const ROWS: usize = 16;
/// Destination columns of a unit of work.
const COLUMNS: usize = 256;
/// Side of a tile.
const TILE: usize = 8;

/// A two-dimensional piece: `rows` neighbours in the source, `columns` neighbours in the destination.
#[derive(Clone, Copy)]
struct Piece<T> {
    from: *const T,
    to: *mut T,
    rows: usize,
    columns: usize,
    /// Distance of the columns in the source.
    from_stride: isize,
    /// Distance of the rows in the destination.
    to_stride: isize,
}

impl<T: Element> Piece<T> {
    /// The piece from `row` and `column` on.
    #[inline(always)]
    fn at(self, row: usize, column: usize, rows: usize, columns: usize) -> Self {
        let from = self.from.wrapping_add(row).wrapping_offset(column as isize * self.from_stride);
        let to = self.to.wrapping_add(column).wrapping_offset(row as isize * self.to_stride);
        Self { from, to, rows, columns, ..self }
    }

    /// Copies element by element, along the destination.
    ///
    /// # Safety
    /// The piece is valid on both sides.
    #[inline(always)]
    unsafe fn plain(self) {
        for row in 0..self.rows as isize {
            for column in 0..self.columns as isize {
                // SAFETY: the caller's promise.
                unsafe {
                    let value = self.from.offset(row + column * self.from_stride).read_unaligned();
                    self.to.offset(row * self.to_stride + column).write_unaligned(value);
                }
            }
        }
    }

    /// Copies in tiles of 8 x 8.
    ///
    /// # Safety
    /// The piece is valid on both sides.
    #[inline(always)]
    unsafe fn tiled<S: Simd>(self, simd: S) {
        let (whole_rows, whole_columns) = (self.rows / TILE * TILE, self.columns / TILE * TILE);
        // SAFETY: every tile lies in the piece.
        unsafe {
            for column in (0..whole_columns).step_by(TILE) {
                for row in (0..whole_rows).step_by(TILE) {
                    let tile = self.at(row, column, TILE, TILE);
                    if size_of::<T>() == 4 {
                        simd.transpose_8x8(
                            tile.from.cast(),
                            tile.from_stride,
                            tile.to.cast(),
                            tile.to_stride,
                        );
                    } else {
                        tile.plain();
                    }
                }
            }
            if whole_columns < self.columns {
                self.at(0, whole_columns, whole_rows, self.columns - whole_columns).plain();
            }
            if whole_rows < self.rows {
                self.at(whole_rows, 0, self.rows - whole_rows, self.columns).plain();
            }
        }
    }
}

/// The worker's share of a copy whose axis `rows` has neighbours in the source and whose axis `columns` has
/// neighbours in the destination; `outer` are the other axes.
///
/// # Safety
/// The box is readable at `from` and writable at `to`, which do not overlap.
#[inline(always)]
pub(super) unsafe fn run<S: Simd, T: Element>(
    simd: S,
    worker: &Worker,
    from: *const T,
    to: *mut T,
    outer: Copy,
    rows: Axis,
    columns: Axis,
) {
    let (row_units, column_units) = (rows.size.div_ceil(ROWS), columns.size.div_ceil(COLUMNS));
    let each = row_units * column_units;
    let share = worker.share(
        outer.count() * each,
        (GRAIN_UNITS / (rows.size.min(ROWS) * columns.size.min(COLUMNS))).max(1),
    );
    let mut walk = outer.walk(share.start / each.max(1));
    let mut unit = share.start % each.max(1);
    for _ in share {
        let (row, column) = (unit / column_units * ROWS, unit % column_units * COLUMNS);
        let whole = Piece {
            from: from.wrapping_offset(walk.from),
            to: to.wrapping_offset(walk.to),
            rows: rows.size,
            columns: columns.size,
            from_stride: columns.from,
            to_stride: rows.to,
        };
        let (row_count, column_count) = ((rows.size - row).min(ROWS), (columns.size - column).min(COLUMNS));
        // SAFETY: the piece lies in the box.
        unsafe { whole.at(row, column, row_count, column_count).tiled(simd) };
        unit += 1;
        if unit == each {
            unit = 0;
            walk.advance();
        }
    }
}

/// Elements that are worth a share of their own.
const GRAIN_UNITS: usize = 1024;
