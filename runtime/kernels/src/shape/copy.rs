//! Copies of strided boxes: runs, repeated elements, transposes, anything else.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use super::boxes::{Axis, Copy, MAX_RANK};
use super::transpose::{self, Element};
use super::{GRAIN, by_element_size};
use crate::kernel::{Kernel, size};
use crate::simd::Simd;

/// Copies a run of elements.
///
/// # Safety
/// Both are valid for `count` elements and do not overlap.
#[inline(always)]
unsafe fn copy_run<T: Element>(from: *const T, to: *mut T, count: usize) {
    // SAFETY: the caller's promise; bytes have no alignment.
    unsafe {
        if count * size_of::<T>() < 32 {
            // A call of memcpy costs more than so few elements.
            for i in 0..count {
                to.add(i).write_unaligned(from.add(i).read_unaligned());
            }
        } else {
            std::ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast::<u8>(), count * size_of::<T>());
        }
    }
}

/// Copies elements at any distances.
///
/// # Safety
/// The elements of the axis are valid on both sides.
#[inline(always)]
unsafe fn copy_strided<T: Element>(from: *const T, to: *mut T, axis: Axis) {
    for i in 0..axis.size as isize {
        // SAFETY: the caller's promise.
        unsafe { to.offset(i * axis.to).write_unaligned(from.offset(i * axis.from).read_unaligned()) };
    }
}

/// The worker's share of a copy.
///
/// # Safety
/// The box is readable at `from` and writable at `to`, which do not overlap.
#[inline(always)]
unsafe fn copy<S: Simd, T: Element>(simd: S, worker: &Worker, from: *const T, to: *mut T, mut copy: Copy) {
    let inner = copy.remove(copy.axes().len() - 1);
    if copy.axes().is_empty() {
        // One run: every worker takes a piece of it.
        let share = worker.share(inner.size, GRAIN);
        let (start, rest) = (share.start as isize, Axis { size: share.len(), ..inner });
        // SAFETY: the share lies in the axis.
        unsafe {
            copy_inner(from.wrapping_offset(start * inner.from), to.wrapping_offset(start * inner.to), rest)
        };
        return;
    }
    let across = copy.axes().iter().position(|axis| axis.from == 1);
    if let (Some(across), true) = (across, inner.to == 1 && inner.from != 1 && inner.from != 0) {
        let outer_axis = copy.remove(across);
        // SAFETY: the caller's promise.
        return unsafe { transpose::run(simd, worker, from, to, copy, outer_axis, inner) };
    }
    let share = worker.share(copy.count(), (GRAIN / inner.size).max(1));
    let mut walk = copy.walk(share.start);
    for _ in share {
        // SAFETY: the walk stays in the box.
        unsafe { copy_inner(from.offset(walk.from), to.offset(walk.to), inner) };
        walk.advance();
    }
}

/// Copies along the innermost axis.
///
/// # Safety
/// The elements of the axis are valid on both sides.
#[inline(always)]
unsafe fn copy_inner<T: Element>(from: *const T, to: *mut T, axis: Axis) {
    // SAFETY: the caller's promise.
    unsafe {
        match (axis.from, axis.to) {
            (1, 1) => copy_run(from, to, axis.size),
            (0, 1) => {
                if axis.size > 0 {
                    let value = from.read_unaligned();
                    (0..axis.size).for_each(|i| to.add(i).write_unaligned(value));
                }
            }
            _ => copy_strided(from, to, axis),
        }
    }
}

impl Kernel for args::Copy {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let rank = size(self.rank);
        if rank > MAX_RANK {
            return Status::Internal;
        }
        // SAFETY: each list of dims has `rank` entries.
        let axes = (0..rank).map(|d| unsafe {
            Axis {
                size: size(*self.sizes.add(d)),
                from: *self.src_strides.add(d) as isize,
                to: *self.dst_strides.add(d) as isize,
            }
        });
        let Some(plan) = Copy::new(axes) else { return Status::Ok };
        by_element_size!(self.element_bytes, T => {
            // SAFETY: the contract of the builtin's row.
            unsafe { copy::<S, T>(simd, worker, self.src.cast(), self.dst.cast(), plan) }
        });
        Status::Ok
    }
}
