//! Softmax and its logarithm.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use crate::kernel::{Kernel, size};
use crate::math::{exp, ln};
use crate::rows::{self, Fold, Row};
use crate::simd::{LANES, Simd};

/// Largest element; NaN among them does not matter, for the exponentials bring it back.
struct Largest;

impl Fold for Largest {
    const IDENTITY: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn step<S: Simd>(&self, simd: S, accumulator: S::F, x: S::F) -> S::F {
        simd.max(x, accumulator)
    }
    #[inline(always)]
    fn combine<S: Simd>(&self, simd: S, a: S::F, b: S::F) -> S::F {
        simd.max(a, b)
    }
}

/// `x * scale + mask`, the latter where `MASK`.
#[derive(Clone, Copy)]
struct Logits<S: Simd, const MASK: bool> {
    x: *const f32,
    mask: *const f32,
    scale: S::F,
}

impl<S: Simd, const MASK: bool> Row<S> for Logits<S, MASK> {
    #[inline(always)]
    fn whole(&mut self, simd: S, i: usize) -> S::F {
        // SAFETY: `row` gives rows of the elements that it folds, the mask too where there is one.
        unsafe {
            let x = simd.load(self.x.add(i));
            let x = simd.mul(x, self.scale);
            if MASK { simd.add(x, simd.load(self.mask.add(i))) } else { x }
        }
    }
    #[inline(always)]
    fn part(&mut self, simd: S, i: usize, count: usize) -> S::F {
        // SAFETY: as above.
        unsafe {
            let x = simd.mul(simd.load_first(self.x.add(i), count), self.scale);
            if MASK { simd.add(x, simd.load_first(self.mask.add(i), count)) } else { x }
        }
    }
}

/// `exp(logit - largest)`, written to `y` where `STORE`.
struct Exponentials<S: Simd, const MASK: bool, const STORE: bool> {
    logits: Logits<S, MASK>,
    largest: S::F,
    y: *mut f32,
}

impl<S: Simd, const MASK: bool, const STORE: bool> Row<S> for Exponentials<S, MASK, STORE> {
    #[inline(always)]
    fn whole(&mut self, simd: S, i: usize) -> S::F {
        let e = exp(simd, simd.sub(self.logits.whole(simd, i), self.largest));
        if STORE {
            // SAFETY: `y` holds a row like `x`.
            unsafe { simd.store(self.y.add(i), e) };
        }
        e
    }
    #[inline(always)]
    fn part(&mut self, simd: S, i: usize, count: usize) -> S::F {
        let e = exp(simd, simd.sub(self.logits.part(simd, i, count), self.largest));
        if STORE {
            // SAFETY: `y` holds a row like `x`.
            unsafe { simd.store_first(self.y.add(i), count, e) };
        }
        e
    }
}

/// Rows up to here are summed in the lanes of one vector, as onnxruntime's are; longer ones would lose more than it is worth.
const ONE_VECTOR: usize = 4096;

/// The sum of a row's exponentials.
#[inline(always)]
fn sum<S: Simd, R: Row<S>>(simd: S, n: usize, exponentials: &mut R) -> f32 {
    match n {
        0..=ONE_VECTOR => rows::sum_in_lanes(simd, n, exponentials),
        _ => simd.sum(rows::fold(simd, &rows::Sum, n, exponentials)),
    }
}

/// `y[i] *= factor`.
///
/// # Safety
/// `y` is valid for `n` elements.
#[inline(always)]
unsafe fn multiply<S: Simd>(simd: S, y: *mut f32, n: usize, factor: f32) {
    let factor = simd.splat(factor);
    let mut i = 0;
    while i + LANES <= n {
        // SAFETY: `i + 16 <= n`.
        unsafe { simd.store(y.add(i), simd.mul(simd.load(y.add(i)), factor)) };
        i += LANES;
    }
    if i < n {
        // SAFETY: the rest of the elements.
        unsafe { simd.store_first(y.add(i), n - i, simd.mul(simd.load_first(y.add(i), n - i), factor)) };
    }
}

/// One contiguous row of `n > 0` elements.
///
/// # Safety
/// `x`, `y` and the mask, where there is one, are valid for `n` elements; `y` may be `x`.
#[inline(always)]
unsafe fn row<S: Simd, const MASK: bool, const LOG: bool>(
    simd: S,
    x: *const f32,
    mask: *const f32,
    y: *mut f32,
    n: usize,
    scale: S::F,
) {
    let mut logits = Logits::<S, MASK> { x, mask, scale };
    let largest = simd.splat(simd.largest(rows::fold(simd, &Largest, n, &mut logits)));
    if !LOG {
        let mut exponentials = Exponentials::<S, MASK, true> { logits, largest, y };
        let sum = sum(simd, n, &mut exponentials);
        // SAFETY: the caller's promise.
        return unsafe { multiply(simd, y, n, 1.0 / sum) };
    }
    let mut exponentials = Exponentials::<S, MASK, false> { logits, largest, y };
    let sum = sum(simd, n, &mut exponentials);
    let log_sum = ln(simd, simd.splat(sum));
    let mut i = 0;
    while i < n {
        let count = (n - i).min(LANES);
        let v = if count == LANES { logits.whole(simd, i) } else { logits.part(simd, i, count) };
        // SAFETY: `i + count <= n`.
        unsafe { simd.store_some(y.add(i), count, simd.sub(simd.sub(v, largest), log_sum)) };
        i += LANES;
    }
}

/// 16 or fewer neighbouring columns of `n` elements, `stride` apart.
///
/// # Safety
/// `x` and `y` are valid for `count` elements in each of `n` rows; `y` may be `x`.
#[inline(always)]
unsafe fn columns<S: Simd>(
    simd: S,
    (x, y): (*const f32, *mut f32),
    n: usize,
    stride: usize,
    count: usize,
    scale: f32,
    log: bool,
) {
    let scale = simd.splat(scale);
    // SAFETY: `i < n`, and the caller gives `count` columns.
    let load = |from: *const f32, i: usize| unsafe { simd.load_some(from.add(i * stride), count) };
    // SAFETY: as above.
    let store = |i: usize, v| unsafe { simd.store_some(y.add(i * stride), count, v) };
    let mut largest = simd.splat(f32::NEG_INFINITY);
    for i in 0..n {
        largest = simd.max(simd.mul(load(x, i), scale), largest);
    }
    let mut sum = simd.splat(0.0);
    for i in 0..n {
        let e = exp(simd, simd.sub(simd.mul(load(x, i), scale), largest));
        sum = simd.add(sum, e);
        if !log {
            store(i, e);
        }
    }
    if log {
        let log_sum = ln(simd, sum);
        for i in 0..n {
            store(i, simd.sub(simd.sub(simd.mul(load(x, i), scale), largest), log_sum));
        }
    } else {
        let factor = simd.div(simd.splat(1.0), sum);
        for i in 0..n {
            store(i, simd.mul(load(y, i), factor));
        }
    }
}

impl Kernel for args::Softmax {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let (outer, n, inner) = (size(self.outer), size(self.n), size(self.inner));
        let (x, y, mask) = (self.x.cast::<f32>(), self.y.cast::<f32>(), self.mask.cast::<f32>());
        let (scale, log) = (self.scale as f32, self.log != 0);
        if n == 0 {
            return Status::Ok;
        }
        if inner != 1 {
            if !mask.is_null() {
                return Status::Internal;
            }
            let blocks = inner.div_ceil(LANES);
            for unit in worker.share(outer * blocks, 1) {
                let (o, column) = (unit / blocks, unit % blocks * LANES);
                let at = o * n * inner + column;
                // SAFETY: `x` and `y` hold `outer * n * inner` elements.
                unsafe {
                    let both = (x.add(at), y.add(at));
                    columns(simd, both, n, inner, (inner - column).min(LANES), scale, log);
                }
            }
            return Status::Ok;
        }
        let (mask_rows, mask_inner) = (size(self.mask_rows), size(self.mask_inner_rows));
        if !mask.is_null() && (mask_rows == 0 || mask_inner == 0) {
            return Status::Internal;
        }
        let scale = simd.splat(scale);
        for o in worker.share(outer, 1) {
            // SAFETY: `x` and `y` hold `outer` rows, the mask `mask_rows`.
            unsafe {
                let (x, y) = (x.add(o * n), y.add(o * n));
                let masked = !mask.is_null();
                let mask = if masked { mask.add(o / mask_inner % mask_rows * n) } else { mask };
                match (masked, log) {
                    (false, false) => row::<S, false, false>(simd, x, mask, y, n, scale),
                    (true, false) => row::<S, true, false>(simd, x, mask, y, n, scale),
                    (false, true) => row::<S, false, true>(simd, x, mask, y, n, scale),
                    (true, true) => row::<S, true, true>(simd, x, mask, y, n, scale),
                }
            }
        }
        Status::Ok
    }
}
