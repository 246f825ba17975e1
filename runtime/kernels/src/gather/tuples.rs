//! Slices by tuples of indices, and what is scattered to them.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::{Scatter, args};

use super::{GRAIN, copy_slice, meet, position};
use crate::kernel::{Kernel, size};
use crate::number::with_number;
use crate::simd::Simd;

/// The number of the slice that tuple `t` names.
///
/// # Safety
/// `indices` holds more than `t` tuples of `depth`, `sizes` `depth` sizes.
#[inline(always)]
unsafe fn slice_of(
    indices: *const u8,
    t: usize,
    per_batch: usize,
    depth: usize,
    sizes: *const i64,
) -> Option<usize> {
    let mut slice = t / per_batch.max(1);
    for d in 0..depth {
        // SAFETY: the caller's promise.
        unsafe {
            let axis = size(*sizes.add(d));
            slice = slice * axis + position(indices, true, t * depth + d, axis)?;
        }
    }
    Some(slice)
}

impl Kernel for args::GatherNd {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let (count, depth, bytes) = (size(self.count), size(self.depth), size(self.inner_bytes));
        let per_batch = size(self.per_batch);
        for t in worker.share(count, (GRAIN / bytes.max(1)).max(1)) {
            // SAFETY: the contract of the builtin's row; every index is below its size.
            unsafe {
                let Some(slice) = slice_of(self.indices, t, per_batch, depth, self.sizes) else {
                    return Status::IndexOutOfRange;
                };
                copy_slice(self.x.add(slice * bytes), self.y.add(t * bytes), bytes);
            }
        }
        Status::Ok
    }
}

impl Kernel for args::ScatterNd {
    /// Tuples may repeat, so that workers share the elements of the slices and each walks all tuples in order.
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let Some(reduction) = Scatter::from_code(self.reduction) else { return Status::Internal };
        if reduction == Scatter::Replace {
            // SAFETY: the caller's promise is the same.
            return unsafe { scatter(self, worker, |from, to, bytes| copy_slice(from, to, bytes)) };
        }
        with_number!(self.number, T => {
            // SAFETY: the caller's promise is the same; slices are whole elements.
            unsafe {
                scatter(self, worker, |from, to, bytes| {
                    for i in 0..bytes / size_of::<T>() {
                        meet::<T>(reduction, from.cast::<T>().add(i), to.cast::<T>().add(i));
                    }
                })
            }
        })
    }
}

/// Brings the worker's part of each update to its slice; `put` takes both addresses and the bytes.
///
/// # Safety
/// The contract of the builtin's row.
#[inline(always)]
unsafe fn scatter(
    args: &args::ScatterNd,
    worker: &Worker,
    put: impl Fn(*const u8, *mut u8, usize),
) -> Status {
    let (count, depth, bytes) = (size(args.count), size(args.depth), size(args.inner_bytes));
    let part = worker.share(bytes, 64);
    for t in 0..count {
        // SAFETY: every index is below its size, the part below the slice's bytes.
        unsafe {
            let Some(slice) = slice_of(args.indices, t, count, depth, args.sizes) else {
                return Status::IndexOutOfRange;
            };
            let (from, to) = (t * bytes + part.start, slice * bytes + part.start);
            put(args.updates.add(from), args.y.add(to), part.len());
        }
    }
    Status::Ok
}
