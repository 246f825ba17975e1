//! Elements by index along an axis, and what is scattered to them.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::{Scatter, args};

use super::{copy_slice, meet, position};
use crate::kernel::{Kernel, size};
use crate::number::with_number;
use crate::simd::Simd;

/// Most axes that are walked.
const MOST_AXES: usize = 16;
/// Elements that are worth a share of their own.
const GRAIN: usize = 256;

/// The axes of the indices, with the strides of `N` operands.
struct Walk<const N: usize> {
    rank: usize,
    sizes: [usize; MOST_AXES],
    strides: [[isize; MOST_AXES]; N],
}

impl<const N: usize> Walk<N> {
    /// `None` where there are too many axes.
    ///
    /// # Safety
    /// The arrays hold `rank` entries.
    #[inline(always)]
    unsafe fn new(rank: i64, sizes: *const i64, strides: [*const i64; N]) -> Option<Self> {
        let rank = size(rank);
        if rank == 0 || rank > MOST_AXES {
            return None;
        }
        let mut walk = Self { rank, sizes: [1; MOST_AXES], strides: [[0; MOST_AXES]; N] };
        for axis in 0..rank {
            // SAFETY: the caller's promise.
            unsafe {
                walk.sizes[axis] = size(*sizes.add(axis));
                for (operand, from) in walk.strides.iter_mut().zip(strides) {
                    operand[axis] = *from.add(axis) as isize;
                }
            }
        }
        Some(walk)
    }

    /// Product of the sizes of all axes but the one left out.
    #[inline(always)]
    fn count(&self, without: Option<usize>) -> usize {
        (0..self.rank).filter(|axis| Some(*axis) != without).map(|axis| self.sizes[axis]).product()
    }

    /// Offsets of the operands at a row-major index over all axes but the one left out, and the coordinate on the last of these.
    #[inline(always)]
    fn at(&self, mut index: usize, without: Option<usize>) -> ([isize; N], usize) {
        let (mut offsets, mut last) = ([0; N], None);
        for axis in (0..self.rank).rev().filter(|axis| Some(*axis) != without) {
            let coordinate = index % self.sizes[axis].max(1);
            index /= self.sizes[axis].max(1);
            last.get_or_insert(coordinate);
            for (offset, strides) in offsets.iter_mut().zip(&self.strides) {
                *offset += coordinate as isize * strides[axis];
            }
        }
        (offsets, last.unwrap_or(0))
    }
}

/// The position that the index `offset` elements from `indices` names.
///
/// # Safety
/// The index is readable.
#[inline(always)]
unsafe fn named(indices: *const u8, wide: bool, offset: isize, axis: usize) -> Option<usize> {
    let bytes = if wide { 8 } else { 4 };
    // SAFETY: the caller's promise.
    unsafe { position(indices.offset(offset * bytes), wide, 0, axis) }
}

impl Kernel for args::GatherElements {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        // SAFETY: the contract of the builtin's row.
        let walk = unsafe { Walk::new(self.rank, self.sizes, [self.x_strides, self.index_strides]) };
        let (Some(walk), true) = (walk, matches!(self.index_bytes, 4 | 8)) else { return Status::Internal };
        let (axis, axis_size, bytes) = (size(self.axis), size(self.axis_size), size(self.element_bytes));
        if axis >= walk.rank {
            return Status::Internal;
        }
        let (row, step) = (walk.sizes[walk.rank - 1], walk.strides.map(|strides| strides[walk.rank - 1]));
        let along = walk.strides[0][axis];
        let share = worker.share(walk.count(None), GRAIN);
        let mut index = share.start;
        while index < share.end {
            let (mut at, column) = walk.at(index, None);
            // The position replaces the coordinate on the axis.
            let coordinate =
                index / walk.sizes[axis + 1..walk.rank].iter().product::<usize>() % walk.sizes[axis];
            at[0] -= coordinate as isize * along;
            let count = (row - column).min(share.end - index);
            for i in 0..count {
                // SAFETY: the indices are as many as the walk's; the position is below the axis' size.
                unsafe {
                    let j = i as isize;
                    let Some(position) =
                        named(self.indices, self.index_bytes == 8, at[1] + j * step[1], axis_size)
                    else {
                        return Status::IndexOutOfRange;
                    };
                    let moved = if axis + 1 == walk.rank { 0 } else { j * step[0] };
                    let from = at[0] + moved + position as isize * along;
                    copy_slice(self.x.offset(from * bytes as isize), self.y.add((index + i) * bytes), bytes);
                }
            }
            index += count;
        }
        Status::Ok
    }
}

impl Kernel for args::ScatterElements {
    /// Lines along the axis do not touch one another; the updates of a line are applied in order.
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let Some(reduction) = Scatter::from_code(self.reduction) else { return Status::Internal };
        let bytes = size(self.element_bytes) as isize;
        if reduction == Scatter::Replace {
            // SAFETY: the caller's promise is the same; `put` gets offsets of elements.
            return unsafe {
                scatter(self, worker, |from, to| {
                    copy_slice(self.updates.offset(from * bytes), self.y.offset(to * bytes), bytes as usize);
                })
            };
        }
        with_number!(self.number, T => {
            let (updates, y) = (self.updates.cast::<T>(), self.y.cast::<T>());
            // SAFETY: as above.
            unsafe { scatter(self, worker, |from, to| meet::<T>(reduction, updates.offset(from), y.offset(to))) }
        })
    }
}

/// Brings the worker's share of the updates to their places; `put` takes the offsets of both.
///
/// # Safety
/// The contract of the builtin's row.
#[inline(always)]
unsafe fn scatter(args: &args::ScatterElements, worker: &Worker, put: impl Fn(isize, isize)) -> Status {
    let strides = [args.update_strides, args.index_strides, args.y_strides];
    // SAFETY: the caller's promise.
    let walk = unsafe { Walk::new(args.rank, args.sizes, strides) };
    let (Some(walk), true) = (walk, matches!(args.index_bytes, 4 | 8)) else { return Status::Internal };
    let (axis, axis_size) = (size(args.axis), size(args.axis_size));
    if axis >= walk.rank {
        return Status::Internal;
    }
    // Lines that differ on the last other axis alone are walked side by side.
    let last = (0..walk.rank).rfind(|other| *other != axis);
    let width = last.map_or(1, |last| walk.sizes[last]);
    let step = walk.strides.map(|strides| last.map_or(0, |last| strides[last]));
    let along = walk.strides.map(|strides| strides[axis]);
    let lines = worker.share(walk.count(Some(axis)), 16);
    let mut line = lines.start;
    while line < lines.end {
        let (at, column) = walk.at(line, Some(axis));
        let count = (width - column).min(lines.end - line);
        for i in 0..walk.sizes[axis] as isize {
            for j in 0..count as isize {
                let [from, index, to] =
                    std::array::from_fn(|operand| at[operand] + i * along[operand] + j * step[operand]);
                // SAFETY: the indices are as many as the walk's.
                let Some(position) =
                    (unsafe { named(args.indices, args.index_bytes == 8, index, axis_size) })
                else {
                    return Status::IndexOutOfRange;
                };
                put(from, to + (position as isize - i) * along[2]);
            }
        }
        line += count;
    }
    Status::Ok
}
