//! Products of elements that are not f32: plain loops, each sum one chain over `k` in ascending order.

use half::{bf16, f16};
use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::{Number as Elements, args};

use crate::kernel::{Kernel, size};
use crate::number::{Half, Number, with_number};
use crate::simd::Simd;

/// Most axes of a batch.
const MOST_AXES: usize = 16;
/// Columns whose sums are taken side by side.
const WIDE: usize = 8;

impl Kernel for args::MatMulNumber {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        if size(self.batch_rank) > MOST_AXES {
            return Status::Internal;
        }
        // SAFETY: the caller's promise is the same.
        unsafe {
            match Elements::from_code(self.number) {
                Some(Elements::F16) => multiply(self, worker, halves::<f16>(), <f16 as Half>::narrow),
                Some(Elements::BF16) => multiply(self, worker, halves::<bf16>(), <bf16 as Half>::narrow),
                _ => with_number!(self.number, T => multiply(
                    self,
                    worker,
                    (T::ZERO, |sum: T, a: T, b: T| sum.plus(a.times(b))),
                    |sum| sum,
                )),
            }
        }
        Status::Ok
    }
}

/// The start and step of a sum of products of narrow floats.
fn halves<T: Half>() -> (f64, impl Fn(f64, T, T) -> f64 + Copy) {
    (0.0, |sum, a: T, b: T| sum + a.wide() * b.wide())
}

/// The worker's share: rows of all matrices.
///
/// # Safety
/// The contract of the builtin's row.
#[inline(always)]
unsafe fn multiply<T: Copy, A: Copy>(
    args: &args::MatMulNumber,
    worker: &Worker,
    (start, step): (A, impl Fn(A, T, T) -> A),
    finish: impl Fn(A) -> T,
) {
    let (m, n, k, rank) = (size(args.m), size(args.n), size(args.k), size(args.batch_rank));
    // SAFETY: the lists have `batch_rank` entries; every place lies in its operand.
    unsafe {
        let matrices: usize = (0..rank).map(|axis| size(*args.batch.add(axis))).product();
        for unit in worker.share(matrices * m, 1) {
            let (mut matrix, row) = (unit / m, (unit % m) as isize);
            let (mut a, mut b, mut c) = (row * args.a_row as isize, 0, row * args.c_row as isize);
            for axis in (0..rank).rev() {
                let extent = size(*args.batch.add(axis));
                let index = (matrix % extent) as isize;
                matrix /= extent;
                a += index * *args.a_batch.add(axis) as isize;
                b += index * *args.b_batch.add(axis) as isize;
                c += index * *args.c_batch.add(axis) as isize;
            }
            let (a, b) = (args.a.cast::<T>().offset(a), args.b.cast::<T>().offset(b));
            let c = args.c.cast::<T>().offset(c);
            for column in (0..n).step_by(WIDE) {
                let count = (n - column).min(WIDE);
                let mut sums = [start; WIDE];
                for p in 0..k as isize {
                    let factor = *a.offset(p * args.a_col as isize);
                    let line = b.offset(p * args.b_row as isize);
                    for (j, sum) in sums.iter_mut().enumerate().take(count) {
                        let cell = *line.offset((column + j) as isize * args.b_col as isize);
                        *sum = step(*sum, factor, cell);
                    }
                }
                (0..count).for_each(|j| *c.add(column + j) = finish(sums[j]));
            }
        }
    }
}
