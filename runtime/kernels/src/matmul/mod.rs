//! Matrix products in f32.
//!
//! Every element of a product is one chain of multiply-adds over `k` in ascending order from 0, then scale, bias, residual
//! and activation: its bits depend neither on the number of rows, nor on tiles, nor on workers.

pub(crate) mod blocks;
pub(crate) mod copy;
pub(crate) mod encoded;
pub(crate) mod epilogue;
pub(crate) mod finish;
mod halves;
mod number;
pub(crate) mod product;
pub(crate) mod tile;

#[cfg(test)]
pub(crate) mod reference;
#[cfg(test)]
mod tests;

use std::ops::Range;

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::Activation;
use lathe_artifact::builtin::args::{MatMulPacked, MatMulStrided};

use self::epilogue::Epilogue;
use self::product::{Product, Right, share};
use self::tile::PANEL;
use crate::kernel::Kernel;
use crate::simd::Simd;

/// Above this many rows a worker, workers share the rows rather than the columns.
const MANY_ROWS: usize = 32;

/// `None` where a size is negative.
#[inline(always)]
pub(crate) fn sizes<const N: usize>(values: [i64; N]) -> Option<[usize; N]> {
    let mut sizes = [0; N];
    for (size, value) in sizes.iter_mut().zip(values) {
        *size = usize::try_from(value).ok()?;
    }
    Some(sizes)
}

impl Kernel for MatMulPacked {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let Some([m, n, k, c_row]) = sizes([self.m, self.n, self.k, self.c_stride]) else {
            return Status::Internal;
        };
        let Some(activation) = Activation::from_code(self.activation) else {
            return Status::Internal;
        };
        let product = Product {
            n,
            k,
            a: self.a.cast(),
            a_strides: (self.a_stride as isize, 1),
            b: Right::Packed(self.b.cast()),
            c: self.c.cast(),
            c_row,
            epilogue: Epilogue {
                column_bias: self.bias.cast(),
                residual: self.residual.cast(),
                residual_row: self.residual_stride as isize,
                activation,
                alpha: self.alpha as f32,
                beta: self.beta as f32,
                ..Epilogue::NONE
            },
        };
        // SAFETY: the plan's sizes describe the operands.
        unsafe { product.share(simd, m, false, worker) }
    }
}

/// The rows and panels that a worker computes. By columns each worker reads only its own weights; by rows it copies only
/// its own part of the left operand.
#[inline(always)]
pub(crate) fn part(rows: usize, panels: usize, worker: &Worker) -> (Range<usize>, Range<usize>) {
    let workers = worker.count as usize;
    let uneven = panels.div_ceil(workers.max(1)) * workers * 8 > panels * 9;
    let by_rows = rows >= MANY_ROWS * workers || (uneven && rows >= 8 * workers) || panels < workers;
    if by_rows { (share(rows, worker), 0..panels) } else { (0..rows, share(panels, worker)) }
}

impl Kernel for MatMulStrided {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let Some([rank, m, n, k, c_row]) = sizes([self.batch_rank, self.m, self.n, self.k, self.c_row])
        else {
            return Status::Internal;
        };
        // SAFETY: the plan gives `rank` entries at each address.
        let axes = unsafe { Axes::new(self, rank) };
        let Some(batch) = axes.count() else {
            return Status::Internal;
        };
        if m == 0 || n == 0 {
            return Status::Ok;
        }
        let panels = n.div_ceil(PANEL);
        let workers = worker.count as usize;
        let by_rows = batch >= workers || batch * m >= MANY_ROWS * workers || panels < workers;
        let (rows, panels) = if by_rows {
            (share(batch * m, worker), 0..panels)
        } else {
            (0..batch * m, share(panels, worker))
        };
        let mut row = rows.start;
        while row < rows.end {
            let index = row / m;
            let end = rows.end.min((index + 1) * m);
            let [a, b, c] = axes.offsets(index);
            let product = Product {
                n,
                k,
                a: self.a.cast::<f32>().wrapping_offset(a),
                a_strides: (self.a_row as isize, self.a_col as isize),
                b: Right::Strided(
                    self.b.cast::<f32>().wrapping_offset(b),
                    self.b_row as isize,
                    self.b_col as isize,
                ),
                c: self.c.cast::<f32>().wrapping_offset(c),
                c_row,
                epilogue: Epilogue { scale: self.scale as f32, ..Epilogue::NONE },
            };
            let part = row - index * m..end - index * m;
            // SAFETY: the plan's sizes describe the operands; the part lies in the product.
            unsafe { product.compute(simd, part, panels.clone(), worker.scratch.cast()) };
            row = end;
        }
        Status::Ok
    }
}

/// The batch axes of a strided product.
struct Axes<'a> {
    sizes: &'a [i64],
    strides: [&'a [i64]; 3],
}

impl<'a> Axes<'a> {
    /// # Safety
    /// The dims arguments have `rank` entries.
    #[inline(always)]
    unsafe fn new(args: &'a MatMulStrided, rank: usize) -> Self {
        let entries = |from: *const i64| match rank {
            0 => &[][..],
            // SAFETY: the caller vouches for `rank` entries.
            _ => unsafe { std::slice::from_raw_parts(from, rank) },
        };
        Self {
            sizes: entries(args.batch),
            strides: [entries(args.a_batch), entries(args.b_batch), entries(args.c_batch)],
        }
    }

    /// Number of products.
    #[inline(always)]
    fn count(&self) -> Option<usize> {
        self.sizes.iter().try_fold(1usize, |count, &size| count.checked_mul(usize::try_from(size).ok()?))
    }

    /// Offsets of product `index` in `a`, `b` and `c`.
    #[inline(always)]
    fn offsets(&self, mut index: usize) -> [isize; 3] {
        let mut offsets = [0; 3];
        for (axis, &size) in self.sizes.iter().enumerate().rev() {
            let position = (index % size as usize) as isize;
            index /= size as usize;
            for (offset, strides) in offsets.iter_mut().zip(self.strides) {
                *offset += position * strides[axis] as isize;
            }
        }
        offsets
    }
}
