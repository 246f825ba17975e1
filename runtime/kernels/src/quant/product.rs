//! `MatMulInteger`: sums of `(a - a_zero) * (b - b_zero)` from sums of `a * b`, of rows and of columns; all arithmetic wraps.

use lathe_artifact::abi::{SCRATCH_BYTES, Status, Worker};
use lathe_artifact::builtin::args;
use lathe_artifact::layout::PackedIntegers;

use super::result::{Bytes, Results};
use super::tile::{Finish, PANEL, ROWS, Tile, VECTORS, load};
use crate::kernel::{Buffer, Kernel};
use crate::matmul::sizes;
use crate::simd::{Dots, LANES, Simd, WithDots};

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

/// Operands of a panel's columns.
struct Columns<S: Simd> {
    first: usize,
    count: usize,
    bias: [S::I; VECTORS],
    zeros: [S::I; VECTORS],
    /// Sums of the columns themselves.
    sums: [S::I; VECTORS],
    scales: [S::F; VECTORS],
}

/// Rows of a panel that become results.
struct Finished<'a, S: Simd> {
    product: &'a Product<'a>,
    simd: S,
    columns: Columns<S>,
    rows: Rows,
    matrix: usize,
    /// The first of the copied rows in the matrix.
    first: usize,
}

impl<S: Simd> Finish<S> for Finished<'_, S> {
    #[inline(always)]
    unsafe fn row(&self, row: usize, sums: [S::I; VECTORS]) {
        let Self { product, simd, columns, .. } = self;
        let bytes = product.results.element_bytes();
        let mut out: Bytes = [0; 4 * PANEL];
        // SAFETY: the row, copied with its sum, and the columns are there.
        unsafe {
            let (a_zero, row_sum) = (product.a_zero(self.first + row), *self.rows.sums.add(row));
            let rest = (product.layout.k as i32).wrapping_mul(a_zero).wrapping_sub(row_sum);
            let (a_zero, rest) = (simd.int_splat(a_zero.wrapping_neg()), simd.int_splat(rest));
            let at = (self.matrix * product.m + self.first + row) * product.n + columns.first;
            let to = product.args.c.add(at * bytes);
            let whole = columns.count == PANEL;
            let place = if whole { to } else { out.as_mut_ptr() };
            for (vector, sum) in sums.into_iter().enumerate() {
                let sum = simd.int_add(sum, simd.int_mul(a_zero, columns.sums[vector]));
                let sum = simd.int_add(sum, simd.int_mul(rest, columns.zeros[vector]));
                let sum = simd.int_add(sum, columns.bias[vector]);
                product.results.vector(*simd, sum, columns.scales[vector], place.add(vector * LANES * bytes));
            }
            if !whole {
                std::ptr::copy_nonoverlapping(out.as_ptr(), to, columns.count * bytes);
            }
        }
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
                let (row_bytes, depth) = (self.row_bytes, self.row_bytes / 4);
                let tile = Tile { rows: rows.bytes, row_bytes, panel: b, depth };
                let columns = self.columns(dots.simd(), b, panel);
                let finish = Finished { product: self, simd: dots.simd(), columns, rows, matrix, first };
                tile.compute(dots, count, &finish);
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

    /// What the columns of a panel add to their sums.
    ///
    /// # Safety
    /// The panel is there.
    #[inline(always)]
    unsafe fn columns<S: Simd>(&self, simd: S, b: *const u8, panel: usize) -> Columns<S> {
        let first = panel * PANEL;
        let count = PANEL.min(self.n - first);
        // SAFETY: the caller's promise; the sums of a panel lie behind its elements.
        unsafe {
            let (bias, scales) = self.channels(first, count);
            let (zeros, sums) = (self.zeros(first, count), b.add(self.layout.panel_elements()));
            let mut columns = Columns {
                first,
                count,
                bias: [simd.int_splat(0); VECTORS],
                zeros: [simd.int_splat(0); VECTORS],
                sums: [simd.int_splat(0); VECTORS],
                scales: [simd.splat(0.0); VECTORS],
            };
            for index in 0..VECTORS {
                columns.bias[index] = load(simd, bias.as_ptr().add(LANES * index).cast());
                columns.zeros[index] = load(simd, zeros.as_ptr().add(LANES * index).cast());
                columns.sums[index] = load(simd, sums.add(4 * LANES * index));
                columns.scales[index] = simd.load(scales.as_ptr().add(LANES * index));
            }
            columns
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
