//! `MatMulInteger`: sums of `(a - a_zero) * (b - b_zero)` from sums of `a * b`, of rows and of columns; all arithmetic wraps.

use lathe_artifact::abi::{SCRATCH_BYTES, Status, Worker};
use lathe_artifact::builtin::args;
use lathe_artifact::layout::PackedIntegers;

use super::result::{Bytes, Results};
use super::tile::{PANEL, ROWS, Tile};
use crate::kernel::{Buffer, Kernel};
use crate::matmul::sizes;
use crate::simd::{Dots, Simd, WithDots};

/// Most rows that are copied together, for which a panel is read once.
const MOST_ROWS: usize = 8 * ROWS;

/// The product, checked.
struct Product<'a> {
    args: &'a args::MatMulInteger,
    results: Results,
    batch: usize,
    m: usize,
    n: usize,
    layout: PackedIntegers,
    /// Bytes of a copied row.
    row_bytes: usize,
    /// Rows that are copied together.
    together: usize,
    a_zeros: usize,
    b_zeros: usize,
}

/// The rows that are copied: bytes, sums, and zero points as u8.
#[derive(Clone, Copy)]
struct Rows {
    bytes: *mut u8,
    sums: *mut i32,
}

impl Kernel for args::MatMulInteger {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let sizes = sizes([self.batch, self.m, self.n, self.k, self.a_zeros, self.b_zeros, self.scales]);
        let Some([batch, m, n, k, a_zeros, b_zeros, scales]) = sizes else { return Status::Internal };
        let fits = |count: usize, size: usize| matches!(count, 0 | 1) || count == size;
        // SAFETY: the contract of the builtin's row.
        let results = unsafe { Results::of(self.to, (self.scale, scales), self.y_zero, self.bias) };
        let (Some(results), true) = (results, fits(a_zeros, m) && fits(b_zeros, n) && fits(scales, n)) else {
            return Status::Internal;
        };
        let row_bytes = k.div_ceil(4) * 4;
        let fit = SCRATCH_BYTES / (row_bytes + 4) / ROWS * ROWS;
        let together = fit.clamp(ROWS, MOST_ROWS).min(m.max(1));
        let layout = PackedIntegers { k, n };
        let product =
            Product { args: self, results, batch, m, n, layout, row_bytes, together, a_zeros, b_zeros };
        let Some(mut copied) = Buffer::new(worker, (together * (row_bytes + 4)).div_ceil(4)) else {
            return Status::OutOfMemory;
        };
        let bytes: *mut u8 = copied.pointer().cast();
        let rows = Rows { bytes, sums: bytes.wrapping_add(together * row_bytes).cast() };
        simd.with_dots(Work { product: &product, worker, rows });
        Status::Ok
    }
}

struct Work<'a> {
    product: &'a Product<'a>,
    worker: &'a Worker,
    rows: Rows,
}

impl WithDots for Work<'_> {
    #[inline(always)]
    fn with<D: Dots>(self, dots: D) {
        // SAFETY: the product's operands are as the builtin's row says, and the copies have room.
        unsafe { self.product.compute(dots, self.worker, self.rows) }
    }
}

impl Product<'_> {
    /// The worker's share: panels of some rows.
    ///
    /// # Safety
    /// The contract of the builtin's row; `rows` has room for `together` rows.
    #[inline(always)]
    unsafe fn compute<D: Dots>(&self, dots: D, worker: &Worker, rows: Rows) {
        let panels = self.layout.panels();
        let blocks = self.m.div_ceil(self.together);
        let mut there = None;
        for unit in worker.share(self.batch * blocks * panels, 1) {
            let (block, panel) = (unit / panels, unit % panels);
            let (matrix, first) = (block / blocks, block % blocks * self.together);
            let count = self.together.min(self.m - first);
            // SAFETY: rows `first..first + count` and the panel are there; the copies have room for `together` rows.
            unsafe {
                if there != Some(block) {
                    self.copy(matrix * self.m + first, count, rows);
                    there = Some(block);
                }
                let own = if self.args.b_batch != 0 { matrix * panels + panel } else { panel };
                let b = self.args.b.add(own * self.layout.panel_bytes());
                for row in (0..count).step_by(ROWS) {
                    self.tile(dots, (matrix, first), (row, ROWS.min(count - row)), rows, (b, panel));
                }
            }
        }
    }

    /// Copies rows as u8, padded to multiples of 4, with their sums.
    ///
    /// # Safety
    /// The rows are there, and there is room.
    #[inline(always)]
    unsafe fn copy(&self, first: usize, count: usize, rows: Rows) {
        let k = self.layout.k;
        let flip = if self.args.a_signed != 0 { 0x80 } else { 0 };
        for row in 0..count {
            // SAFETY: the caller's promise.
            unsafe {
                let (from, to) = (self.args.a.add((first + row) * k), rows.bytes.add(row * self.row_bytes));
                let mut sum = 0_i32;
                for i in 0..k {
                    let byte = *from.add(i) ^ flip;
                    *to.add(i) = byte;
                    sum = sum.wrapping_add(i32::from(byte));
                }
                to.add(k).write_bytes(0, self.row_bytes - k);
                *rows.sums.add(row) = sum;
            }
        }
    }

    /// The zero point of a row of a matrix as u8: an i8 less its zero point is the u8 of 128 more less a zero point of 128 more.
    ///
    /// # Safety
    /// The row is there.
    #[inline(always)]
    unsafe fn a_zero(&self, row: usize) -> i32 {
        let at = if self.a_zeros > 1 { row } else { 0 };
        match (self.a_zeros, self.args.a_signed != 0) {
            (0, false) => 0,
            (0, true) => 128,
            // SAFETY: the caller's promise.
            (_, false) => i32::from(unsafe { *self.args.a_zero.add(at) }),
            // SAFETY: as above.
            (_, true) => i32::from(unsafe { *self.args.a_zero.cast::<i8>().add(at) }) + 128,
        }
    }

    /// A few rows of the result in a panel: `count` from row `row` of those that are copied, which begin at `first` of the matrix.
    ///
    /// # Safety
    /// The rows, copied with their sums, and the panel are there.
    #[inline(always)]
    unsafe fn tile<D: Dots>(
        &self,
        dots: D,
        (matrix, first): (usize, usize),
        (row, count): (usize, usize),
        rows: Rows,
        (b, panel): (*const u8, usize),
    ) {
        let mut products = [[0_i32; PANEL]; ROWS];
        let column = panel * PANEL;
        let columns = PANEL.min(self.n - column);
        // SAFETY: the panel lies in the packed matrix, its sums behind its elements; rows and columns lie in the result.
        unsafe {
            let tile = Tile {
                rows: rows.bytes.add(row * self.row_bytes),
                row_bytes: self.row_bytes,
                panel: b,
                depth: self.row_bytes / 4,
                sums: products.as_mut_ptr().cast(),
            };
            tile.compute(dots, count);
            let column_sums = b.add(self.layout.panel_elements()).cast::<[i32; PANEL]>().read_unaligned();
            let zeros = self.zeros(column, columns);
            let (bias, scales) = self.channels(column, columns);
            let bytes = self.results.element_bytes();
            for (index, products) in products.iter_mut().enumerate().take(count) {
                let (a_zero, row_sum) = (self.a_zero(first + row + index), *rows.sums.add(row + index));
                let rest = (self.layout.k as i32).wrapping_mul(a_zero).wrapping_sub(row_sum);
                for (column, sum) in products.iter_mut().enumerate() {
                    *sum = sum
                        .wrapping_sub(a_zero.wrapping_mul(column_sums[column]))
                        .wrapping_add(rest.wrapping_mul(zeros[column]))
                        .wrapping_add(bias[column]);
                }
                let mut out: Bytes = [0; 4 * PANEL];
                self.results.finish(dots.simd(), products, &scales, &mut out);
                let at = (matrix * self.m + first + row + index) * self.n + column;
                std::ptr::copy_nonoverlapping(out.as_ptr(), self.args.c.add(at * bytes), columns * bytes);
            }
        }
    }

    /// Bias and scale of a panel's columns.
    ///
    /// # Safety
    /// The columns are there.
    #[inline(always)]
    unsafe fn channels(&self, first: usize, columns: usize) -> ([i32; PANEL], [f32; PANEL]) {
        let (mut bias, mut scales) = ([0; PANEL], [0.0; PANEL]);
        for column in 0..columns {
            // SAFETY: the caller's promise.
            unsafe {
                bias[column] = self.results.bias(first + column);
                scales[column] = self.results.scale(first + column);
            }
        }
        (bias, scales)
    }

    /// The zero points of a panel's columns, as they are packed.
    ///
    /// # Safety
    /// The columns are there.
    #[inline(always)]
    unsafe fn zeros(&self, first: usize, columns: usize) -> [i32; PANEL] {
        let unsigned = self.args.b_unsigned != 0;
        let mut zeros = [if unsigned { -128 } else { 0 }; PANEL];
        if self.b_zeros == 0 {
            return zeros;
        }
        for (column, slot) in zeros.iter_mut().enumerate().take(columns) {
            // SAFETY: the caller's promise.
            unsafe {
                let at = self.args.b_zero.add(if self.b_zeros > 1 { first + column } else { 0 });
                *slot = if unsigned { i32::from(*at) - 128 } else { i32::from(*at.cast::<i8>()) };
            }
        }
        zeros
    }
}
