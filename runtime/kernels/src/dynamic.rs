//! What data-dependent sizes are computed from.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use crate::kernel::{Kernel, size};
use crate::simd::Simd;

/// Most axes of a tensor whose elements are listed.
const MOST_AXES: usize = 16;

/// The elements of a tensor as bits.
#[derive(Clone, Copy)]
struct Elements {
    x: *const u8,
    bytes: usize,
    /// The bits that must all be 0 in a zero.
    mask: u64,
}

impl Elements {
    /// `None` where elements of so many bytes are not known.
    #[inline(always)]
    fn new(x: *const u8, bytes: i64, float: i64) -> Option<Self> {
        let bytes = size(bytes);
        if !matches!(bytes, 1 | 2 | 4 | 8) {
            return None;
        }
        let all = u64::MAX >> (64 - 8 * bytes);
        Some(Self { x, bytes, mask: if float != 0 { all >> 1 } else { all } })
    }

    /// Whether element `i` is not zero.
    ///
    /// # Safety
    /// It is readable.
    #[inline(always)]
    unsafe fn is_set(self, i: usize) -> bool {
        // SAFETY: the caller's promise.
        let bits = unsafe {
            match self.bytes {
                1 => u64::from(*self.x.add(i)),
                2 => u64::from(*self.x.cast::<u16>().add(i)),
                4 => u64::from(*self.x.cast::<u32>().add(i)),
                _ => *self.x.cast::<u64>().add(i),
            }
        };
        bits & self.mask != 0
    }
}

impl Kernel for args::NonZeroCount {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let Some(elements) = Elements::new(self.x, self.element_bytes, self.float) else {
            return Status::Internal;
        };
        if worker.index == 0 {
            // SAFETY: `x` holds `count` elements, `found` one.
            unsafe {
                let found = (0..size(self.count)).filter(|&i| elements.is_set(i)).count();
                *self.found.cast::<i64>() = found as i64;
            }
        }
        Status::Ok
    }
}

impl Kernel for args::NonZero {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let Some(elements) = Elements::new(self.x, self.element_bytes, self.float) else {
            return Status::Internal;
        };
        let (rank, found) = (size(self.rank), size(self.found));
        if rank > MOST_AXES {
            return Status::Internal;
        }
        if worker.index != 0 {
            return Status::Ok;
        }
        let mut sizes = [1; MOST_AXES];
        for (axis, axis_size) in sizes.iter_mut().enumerate().take(rank) {
            // SAFETY: there are `rank` sizes.
            *axis_size = size(unsafe { *self.sizes.add(axis) });
        }
        let sizes = &sizes[..rank];
        let mut coordinates = [0; MOST_AXES];
        let y = self.y.cast::<i64>();
        let mut column = 0;
        for i in 0..sizes.iter().product() {
            // SAFETY: `x` holds as many elements as its sizes say; columns beyond `found` are not written.
            unsafe {
                if elements.is_set(i) && column < found {
                    for (axis, &coordinate) in coordinates.iter().enumerate().take(rank) {
                        *y.add(axis * found + column) = coordinate;
                    }
                    column += 1;
                }
            }
            for axis in (0..rank).rev() {
                coordinates[axis] += 1;
                if (coordinates[axis] as usize) < sizes[axis] {
                    break;
                }
                coordinates[axis] = 0;
            }
        }
        // Nothing else writes `x` between the count and this call.
        if column == found { Status::Ok } else { Status::Internal }
    }
}

impl Kernel for args::BroadcastSizes {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let (rank, length) = (size(self.rank), size(self.length));
        if length > rank {
            return Status::Internal;
        }
        if worker.index != 0 {
            return Status::Ok;
        }
        for axis in 0..rank {
            // SAFETY: there are `rank` sizes and results, `length` elements of the shape.
            unsafe {
                let own = *self.sizes.add(axis);
                let given = match axis.checked_sub(rank - length) {
                    Some(place) => *self.shape.cast::<i64>().add(place),
                    None => 1,
                };
                *self.y.cast::<i64>().add(axis) = match (own, given) {
                    (_, given) if given < 0 => return Status::BadShape,
                    (1, given) => given,
                    (own, 1) => own,
                    (own, given) if own == given => own,
                    _ => return Status::BadShape,
                };
            }
        }
        Status::Ok
    }
}
