//! What walks an axis element by element: running sums, the position of the extreme, the largest few.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use crate::kernel::{Kernel, size};
use crate::reduce::{Max, Min};
use crate::rows::{self, Memory};
use crate::simd::{LANES, Simd};

impl Kernel for args::CumSum {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let (outer, n, inner) = (size(self.outer), size(self.n), size(self.inner));
        let (x, y) = (self.x.cast::<f32>(), self.y.cast::<f32>());
        /// Columns that are summed side by side.
        const WIDE: usize = 16;
        let blocks = inner.div_ceil(WIDE);
        for unit in worker.share(outer * blocks, 1) {
            let (o, column) = (unit / blocks, unit % blocks * WIDE);
            let count = (inner - column).min(WIDE);
            let mut sums = [0.0_f32; WIDE];
            for step in 0..n {
                let i = if self.reverse != 0 { n - 1 - step } else { step };
                let at = (o * n + i) * inner + column;
                for (c, sum) in sums.iter_mut().enumerate().take(count) {
                    // SAFETY: `at + c` lies in the `outer * n * inner` elements of both.
                    unsafe {
                        let before = *sum;
                        *sum += *x.add(at + c);
                        *y.add(at + c) = if self.exclusive != 0 { before } else { *sum };
                    }
                }
            }
        }
        Status::Ok
    }
}

/// Whether `a` stands before `b` in descending (`largest`) or ascending order; NaN counts as the largest number.
#[inline(always)]
fn before(a: f32, b: f32, largest: bool) -> bool {
    if largest { a > b || (a.is_nan() && !b.is_nan()) } else { a < b || (b.is_nan() && !a.is_nan()) }
}

/// Elements `stride` apart.
#[derive(Clone, Copy)]
struct Axis {
    start: *const f32,
    stride: usize,
    n: usize,
}

impl Axis {
    /// Element `i < n`.
    ///
    /// # Safety
    /// The axis is readable.
    #[inline(always)]
    unsafe fn get(self, i: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { *self.start.add(i * self.stride) }
    }

    /// The index of the first element that no other stands before (the last such where `last`). NaN is before every number.
    ///
    /// # Safety
    /// The axis is readable.
    #[inline(always)]
    unsafe fn extreme(self, min: bool, last: bool) -> usize {
        let (mut best, mut found) = (f32::NAN, 0);
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
fn same(a: f32, b: f32) -> bool {
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
        for unit in worker.share(outer * inner, 1) {
            // SAFETY: `x` holds `outer * n * inner` elements, `y` `outer * inner`.
            unsafe {
                let start = self.x.cast::<f32>().add(unit / inner * n * inner + unit % inner);
                let (min, last) = (self.min != 0, self.last != 0);
                let position = if inner == 1 {
                    extreme_of_row(simd, start, n, min, last)
                } else {
                    Axis { start, stride: inner, n }.extreme(min, last)
                };
                *self.y.cast::<i64>().add(unit) = position as i64;
            }
        }
        Status::Ok
    }
}

/// The heap of the `k` elements found so far, in the place of the result; its root is the one that leaves first.
struct Heap {
    values: *mut f32,
    indices: *mut i64,
    stride: usize,
    largest: bool,
}

impl Heap {
    /// # Safety
    /// For all methods: positions lie in the result.
    #[inline(always)]
    unsafe fn get(&self, position: usize) -> (f32, i64) {
        // SAFETY: as above.
        unsafe { (*self.values.add(position * self.stride), *self.indices.add(position * self.stride)) }
    }

    #[inline(always)]
    unsafe fn set(&mut self, position: usize, (value, index): (f32, i64)) {
        // SAFETY: as above.
        unsafe {
            *self.values.add(position * self.stride) = value;
            *self.indices.add(position * self.stride) = index;
        }
    }

    /// Whether `a` stands before `b` in the result: by value, then by lower index.
    #[inline(always)]
    fn before(&self, a: (f32, i64), b: (f32, i64)) -> bool {
        before(a.0, b.0, self.largest) || (!before(b.0, a.0, self.largest) && a.1 < b.1)
    }

    /// Puts `item` in the heap of `len` elements at or below `position`.
    unsafe fn sift_down(&mut self, mut position: usize, len: usize, item: (f32, i64)) {
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
    unsafe fn select(&mut self, axis: Axis, k: usize) {
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
        let (outer, n, inner, k) = (size(self.outer), size(self.n), size(self.inner), size(self.k));
        if k > n {
            return Status::BadShape;
        }
        if k == 0 {
            return Status::Ok;
        }
        for unit in worker.share(outer * inner, 1) {
            let (o, column) = (unit / inner, unit % inner);
            // SAFETY: `x` holds `outer * n * inner` elements, the results `outer * k * inner`.
            unsafe {
                let start = self.x.cast::<f32>().add(o * n * inner + column);
                let to = o * k * inner + column;
                let mut heap = Heap {
                    values: self.values.cast::<f32>().add(to),
                    indices: self.indices.cast::<i64>().add(to),
                    stride: inner,
                    largest: self.largest != 0,
                };
                heap.select(Axis { start, stride: inner, n }, k);
            }
        }
        Status::Ok
    }
}
