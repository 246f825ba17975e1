//! Slices of an axis by index.

mod elements;
mod tuples;

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::{Scatter, args};

use crate::kernel::{Kernel, size};
use crate::number::Number;
use crate::simd::Simd;

/// Bytes that are worth a share of their own.
const GRAIN: usize = 4096;

/// The position that the index at `j` names in an axis of `axis` slices.
///
/// # Safety
/// `indices` holds more than `j` integers of 4 (`wide`: 8) bytes.
#[inline(always)]
pub(crate) unsafe fn position(indices: *const u8, wide: bool, j: usize, axis: usize) -> Option<usize> {
    // SAFETY: the caller's promise.
    let index = unsafe {
        if wide {
            indices.cast::<i64>().add(j).read_unaligned()
        } else {
            i64::from(indices.cast::<i32>().add(j).read_unaligned())
        }
    };
    let axis = axis as i64;
    let index = if index < 0 { index.checked_add(axis)? } else { index };
    (0..axis).contains(&index).then_some(index as usize)
}

/// Copies a slice.
///
/// # Safety
/// Both are valid for `bytes` and do not overlap.
#[inline(always)]
unsafe fn copy_slice(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise. Single elements are moved without a call of memcpy.
    unsafe {
        match bytes {
            1 => *to = *from,
            4 => to.cast::<u32>().write_unaligned(from.cast::<u32>().read_unaligned()),
            8 => to.cast::<u64>().write_unaligned(from.cast::<u64>().read_unaligned()),
            _ => std::ptr::copy_nonoverlapping(from, to, bytes),
        }
    }
}

/// An update meets the element in its place.
///
/// # Safety
/// `from` is readable, `to` writable.
#[inline(always)]
unsafe fn meet<T: Number>(reduction: Scatter, from: *const T, to: *mut T) {
    // SAFETY: the caller's promise.
    unsafe {
        let (old, new) = (*to, *from);
        *to = match reduction {
            Scatter::Replace => new,
            Scatter::Add => old.plus(new),
            Scatter::Mul => old.times(new),
            Scatter::Max => old.larger(new),
            Scatter::Min => old.smaller(new),
        };
    }
}

impl Kernel for args::Gather {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let (outer, axis, count) = (size(self.outer), size(self.axis), size(self.count));
        let bytes = size(self.inner_bytes);
        let wide = match self.index_bytes {
            4 => false,
            8 => true,
            _ => return Status::Internal,
        };
        let share = worker.share(outer * count, (GRAIN / bytes.max(1)).max(1));
        let (mut o, mut j) = (share.start / count.max(1), share.start % count.max(1));
        for _ in share {
            // SAFETY: the contract of the builtin's row; the position is below `axis`.
            unsafe {
                let Some(index) = position(self.indices, wide, j, axis) else {
                    return Status::IndexOutOfRange;
                };
                let from = self.x.add((o * axis + index) * bytes);
                copy_slice(from, self.y.add((o * count + j) * bytes), bytes);
            }
            j += 1;
            if j == count {
                (o, j) = (o + 1, 0);
            }
        }
        Status::Ok
    }
}
