//! What walks an axis element by element: running sums, the position of the extreme, the largest few.

use std::any::TypeId;

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use crate::kernel::{Kernel, size};
use crate::number::{Number, with_number};
use crate::reduce::{Max, Min};
use crate::rows::{self, Memory};
use crate::simd::{LANES, Simd};

impl Kernel for args::CumSum {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        // SAFETY: the caller's promise is the same.
        with_number!(self.number, T => unsafe { sum::<T>(self, worker) });
        Status::Ok
    }
}

/// Columns that are summed side by side.
const WIDE: usize = 16;

/// The worker's share of a running sum.
///
/// # Safety
/// The contract of the builtin's row.
#[inline(always)]
unsafe fn sum<T: Number>(args: &args::CumSum, worker: &Worker) {
    let (outer, n, inner) = (size(args.outer), size(args.n), size(args.inner));
    let (x, y) = (args.x.cast::<T>(), args.y.cast::<T>());
    let blocks = inner.div_ceil(WIDE);
    for unit in worker.share(outer * blocks, 1) {
        let (o, column) = (unit / blocks, unit % blocks * WIDE);
        let count = (inner - column).min(WIDE);
        let mut sums = [T::ZERO; WIDE];
        for step in 0..n {
            let i = if args.reverse != 0 { n - 1 - step } else { step };
            let at = (o * n + i) * inner + column;
            for (c, sum) in sums.iter_mut().enumerate().take(count) {
                // SAFETY: `at + c` lies in the `outer * n * inner` elements of both.
                unsafe {
                    let before = *sum;
                    *sum = sum.plus(*x.add(at + c));
                    *y.add(at + c) = if args.exclusive != 0 { before } else { *sum };
                }
            }
        }
    }
}

/// Whether `a` stands before `b` in descending (`largest`) or ascending order; NaN counts as the largest number.
#[inline(always)]
fn before<T: Number>(a: T, b: T, largest: bool) -> bool {
    if largest { a > b || (a.is_nan() && !b.is_nan()) } else { a < b || (b.is_nan() && !a.is_nan()) }
}

/// Elements `stride` apart.
#[derive(Clone, Copy)]
struct Axis<T> {
    start: *const T,
    stride: usize,
    n: usize,
}

impl<T: Number> Axis<T> {
    /// Element `i < n`.
    ///
    /// # Safety
    /// The axis is readable.
    #[inline(always)]
    unsafe fn get(self, i: usize) -> T {
        // SAFETY: the caller's promise.
        unsafe { *self.start.add(i * self.stride) }
    }

    /// The index of the first element that no other stands before (the last such where `last`). NaN is before every number.
    ///
    /// # Safety
    /// The axis is readable.
    #[inline(always)]
    unsafe fn extreme(self, min: bool, last: bool) -> usize {
        let (mut best, mut found) = (T::ZERO, 0);
        for i in 0..self.n {
            // SAFETY: `i < n`.
            let v = unsafe { self.get(i) };
            let better = (if min { v < best } else { v > best }) || (v.is_nan() && !best.is_nan());
            if i == 0 || better || (last && same(v, best)) {
                (best, found) = (v, i);
            }
        }
        found
    }
}

/// Whether two elements are equals, NaN among them.
#[inline(always)]
fn same<T: Number>(a: T, b: T) -> bool {
    a == b || (a.is_nan() && b.is_nan())
}

/// [`Axis::extreme`] of a contiguous row: its value by vectors, then where that is.
///
/// # Safety
/// `row` is readable for `n > 0` elements.
#[inline(always)]
unsafe fn extreme_of_row<S: Simd>(simd: S, row: *const f32, n: usize, min: bool, last: bool) -> usize {
    // SAFETY: all indices are below `n`.
    unsafe {
        let best = if min {
            rows::across(simd, &Min, rows::fold(simd, &Min, n, &mut Memory::new(row)))
        } else {
            rows::across(simd, &Max, rows::fold(simd, &Max, n, &mut Memory::new(row)))
        };
        let here = |i: &usize| same(*row.add(*i), best);
        let blocks = n / LANES;
        let target = simd.splat(best);
        let hit = |block: &usize| {
            let v = simd.load(row.add(block * LANES));
            simd.any(if best.is_nan() { simd.is_nan(v) } else { simd.equal(v, target) })
        };
        let rest = blocks * LANES..n;
        let found = if last {
            rest.rev().find(here).or_else(|| {
                let block = (0..blocks).rev().find(hit)?;
                (block * LANES..(block + 1) * LANES).rev().find(here)
            })
        } else {
            let start = (0..blocks).find(hit).unwrap_or(blocks) * LANES;
            (start..n).find(here)
        };
        found.unwrap_or(0)
    }
}

impl Kernel for args::ArgReduce {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let (outer, n, inner) = (size(self.outer), size(self.n), size(self.inner));
        if n == 0 {
            // There is no position to give.
            return if outer * inner == 0 { Status::Ok } else { Status::BadShape };
        }
        // SAFETY: the caller's promise is the same.
        with_number!(self.number, T => unsafe { positions::<S, T>(simd, self, worker) });
        Status::Ok
    }
}

/// The worker's share of the positions of extremes.
///
/// # Safety
/// The contract of the builtin's row; the axis is not empty.
#[inline(always)]
unsafe fn positions<S: Simd, T: Number>(simd: S, args: &args::ArgReduce, worker: &Worker) {
    let (outer, n, inner) = (size(args.outer), size(args.n), size(args.inner));
    let (min, last) = (args.min != 0, args.last != 0);
    let vectors = inner == 1 && TypeId::of::<T>() == TypeId::of::<f32>();
    for unit in worker.share(outer * inner, 1) {
        // SAFETY: `x` holds `outer * n * inner` elements, `y` `outer * inner`.
        unsafe {
            let start = args.x.cast::<T>().add(unit / inner * n * inner + unit % inner);
            let position = if vectors {
                extreme_of_row(simd, start.cast(), n, min, last)
            } else {
                Axis { start, stride: inner, n }.extreme(min, last)
            };
            *args.y.cast::<i64>().add(unit) = position as i64;
        }
    }
}

/// The heap of the `k` elements found so far, in the place of the result; its root is the one that leaves first.
struct Heap<T> {
    values: *mut T,
    indices: *mut i64,
    stride: usize,
    largest: bool,
}

impl<T: Number> Heap<T> {
    /// # Safety
    /// For all methods: positions lie in the result.
    #[inline(always)]
    unsafe fn get(&self, position: usize) -> (T, i64) {
        // SAFETY: as above.
        unsafe { (*self.values.add(position * self.stride), *self.indices.add(position * self.stride)) }
    }

    #[inline(always)]
    unsafe fn set(&mut self, position: usize, (value, index): (T, i64)) {
        // SAFETY: as above.
        unsafe {
            *self.values.add(position * self.stride) = value;
            *self.indices.add(position * self.stride) = index;
        }
    }

    /// Whether `a` stands before `b` in the result: by value, then by lower index.
    #[inline(always)]
    fn before(&self, a: (T, i64), b: (T, i64)) -> bool {
        before(a.0, b.0, self.largest) || (!before(b.0, a.0, self.largest) && a.1 < b.1)
    }

    /// Puts `item` in the heap of `len` elements at or below `position`.
    unsafe fn sift_down(&mut self, mut position: usize, len: usize, item: (T, i64)) {
        // SAFETY: children are below `len`.
        unsafe {
            loop {
                let mut child = 2 * position + 1;
                if child >= len {
                    break;
                }
                if child + 1 < len && self.before(self.get(child), self.get(child + 1)) {
                    child += 1;
                }
                if !self.before(item, self.get(child)) {
                    break;
                }
                let moved = self.get(child);
                self.set(position, moved);
                position = child;
            }
            self.set(position, item);
        }
    }

    /// Fills the result with the first `k` elements of the axis in order.
    unsafe fn select(&mut self, axis: Axis<T>, k: usize) {
        // SAFETY: the caller gives a readable axis of at least `k` elements and a result of `k`.
        unsafe {
            for i in 0..k {
                self.set(i, (axis.get(i), i as i64));
            }
            for position in (0..k / 2).rev() {
                let item = self.get(position);
                self.sift_down(position, k, item);
            }
            for i in k..axis.n {
                let value = axis.get(i);
                // Later elements leave before earlier equals.
                if before(value, self.get(0).0, self.largest) {
                    self.sift_down(0, k, (value, i as i64));
                }
            }
            for end in (1..k).rev() {
                let (root, item) = (self.get(0), self.get(end));
                self.sift_down(0, end, item);
                self.set(end, root);
            }
        }
    }
}

impl Kernel for args::TopK {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let (n, k) = (size(self.n), size(self.k));
        if k > n {
            return Status::BadShape;
        }
        if k == 0 {
            return Status::Ok;
        }
        // SAFETY: the caller's promise is the same.
        with_number!(self.number, T => unsafe { select::<T>(self, worker) });
        Status::Ok
    }
}

/// The worker's share of the first elements in order.
///
/// # Safety
/// The contract of the builtin's row; `k` is between 1 and `n`.
#[inline(always)]
unsafe fn select<T: Number>(args: &args::TopK, worker: &Worker) {
    let (outer, n, inner, k) = (size(args.outer), size(args.n), size(args.inner), size(args.k));
    for unit in worker.share(outer * inner, 1) {
        let (o, column) = (unit / inner, unit % inner);
        // SAFETY: `x` holds `outer * n * inner` elements, the results `outer * k * inner`.
        unsafe {
            let start = args.x.cast::<T>().add(o * n * inner + column);
            let to = o * k * inner + column;
            let mut heap = Heap {
                values: args.values.cast::<T>().add(to),
                indices: args.indices.cast::<i64>().add(to),
                stride: inner,
                largest: args.largest != 0,
            };
            heap.select(Axis { start, stride: inner, n }, k);
        }
    }
}
