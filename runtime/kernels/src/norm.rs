//! Layer, RMS and group normalisation.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use crate::kernel::{Kernel, size};
use crate::rows::{self, Memory, SquaresAround};
use crate::simd::{LANES, Simd};

/// `to[i] = a[i] + b[i]`.
///
/// # Safety
/// All are valid for `count` elements; `to` may be `a` or `b`.
#[inline(always)]
unsafe fn add_rows<S: Simd>(simd: S, a: *const f32, b: *const f32, to: *mut f32, count: usize) {
    let mut i = 0;
    while i < count {
        let n = (count - i).min(LANES);
        // SAFETY: `i + n <= count`.
        unsafe {
            let v = simd.add(simd.load_some(a.add(i), n), simd.load_some(b.add(i), n));
            simd.store_some(to.add(i), n, v);
        }
        i += LANES;
    }
}

/// `y[i] = (v[i] - mean) / deviation * scale[i] + bias[i]`, each step rounded on its own; the flags say whether scale and bias are there,
/// and whether, as root mean squares are written, the mean is left out and `v[i]` multiplied with `1 / deviation`.
///
/// # Safety
/// All that are there are valid for `count` elements; `y` may be `v`.
#[inline(always)]
unsafe fn normalise<S: Simd, const RMS: bool, const SCALE: bool, const BIAS: bool>(
    simd: S,
    v: *const f32,
    y: *mut f32,
    count: usize,
    (mean, deviation): (f32, f32),
    (scale, bias): (*const f32, *const f32),
) {
    let (mean, factor, deviation) = (simd.splat(mean), simd.splat(1.0 / deviation), simd.splat(deviation));
    let apply = |x, scale, bias| {
        let x = if RMS { simd.mul(x, factor) } else { simd.div(simd.sub(x, mean), deviation) };
        let x = if SCALE { simd.mul(x, scale) } else { x };
        if BIAS { simd.add(x, bias) } else { x }
    };
    let zero = simd.splat(0.0);
    let whole = count / LANES * LANES;
    let mut i = 0;
    while i < whole {
        // SAFETY: `i + 16 <= count`.
        unsafe {
            let s = if SCALE { simd.load(scale.add(i)) } else { zero };
            let b = if BIAS { simd.load(bias.add(i)) } else { zero };
            simd.store(y.add(i), apply(simd.load(v.add(i)), s, b));
        }
        i += LANES;
    }
    if i < count {
        let n = count - i;
        // SAFETY: `i + n <= count`.
        unsafe {
            let s = if SCALE { simd.load_first(scale.add(i), n) } else { zero };
            let b = if BIAS { simd.load_first(bias.add(i), n) } else { zero };
            simd.store_first(y.add(i), n, apply(simd.load_first(v.add(i), n), s, b));
        }
    }
}

/// [`normalise`] with the scale and the bias that are there.
///
/// # Safety
/// As [`normalise`].
#[inline(always)]
unsafe fn with_parameters<S: Simd, const RMS: bool>(
    simd: S,
    v: *const f32,
    y: *mut f32,
    count: usize,
    numbers: (f32, f32),
    parameters: (*const f32, *const f32),
) {
    // SAFETY: the caller's promise.
    unsafe {
        match (!parameters.0.is_null(), !parameters.1.is_null()) {
            (true, true) => normalise::<S, RMS, true, true>(simd, v, y, count, numbers, parameters),
            (true, false) => normalise::<S, RMS, true, false>(simd, v, y, count, numbers, parameters),
            (false, true) => normalise::<S, RMS, false, true>(simd, v, y, count, numbers, parameters),
            (false, false) => normalise::<S, RMS, false, false>(simd, v, y, count, numbers, parameters),
        }
    }
}

/// Mean (0 where it is left out) and standard deviation of row `index`.
///
/// # Safety
/// `v` is readable for `count` elements.
#[inline(always)]
unsafe fn statistics<S: Simd>(
    simd: S,
    (v, index): (*const f32, usize),
    count: usize,
    rms: bool,
    epsilon: f32,
) -> (f32, f32) {
    let lead = rows::lead(index, count);
    // SAFETY: the caller's promise.
    let memory = || unsafe { Memory::new(v) };
    let mean = if rms { 0.0 } else { rows::sum(simd, count, lead, &mut memory()) / count as f32 };
    let mut squares = SquaresAround::<S>(memory(), simd.splat(mean));
    let variance = rows::sum(simd, count, lead, &mut squares) / count as f32;
    (mean, (variance + epsilon).sqrt())
}

impl Kernel for args::LayerNorm {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let cols = size(self.cols);
        let (scale, bias) = (self.scale.cast::<f32>(), self.bias.cast::<f32>());
        for row in worker.share(size(self.rows), 1) {
            let start = row * cols;
            // SAFETY: the row's contract: every address that is there holds `rows * cols` elements, scale and bias `cols`.
            unsafe {
                let y = self.y.cast::<f32>().add(start);
                let mut v = self.x.cast::<f32>().add(start);
                if !self.residual.is_null() {
                    // The sum lies in the output until it is normalised, where nobody asks for it.
                    let sum = if self.sum.is_null() { y } else { self.sum.cast::<f32>().add(start) };
                    add_rows(simd, v, self.residual.cast::<f32>().add(start), sum, cols);
                    v = sum;
                } else if !self.sum.is_null() && !std::ptr::eq(self.sum.cast_const(), self.x) {
                    std::ptr::copy_nonoverlapping(v, self.sum.cast::<f32>().add(start), cols);
                }
                let rms = self.rms != 0;
                let numbers = statistics(simd, (v, row), cols, rms, self.epsilon as f32);
                if rms {
                    with_parameters::<S, true>(simd, v, y, cols, numbers, (scale, bias));
                } else {
                    with_parameters::<S, false>(simd, v, y, cols, numbers, (scale, bias));
                }
            }
        }
        Status::Ok
    }
}

/// `y[i] = (x[i] - mean) * factor + bias`.
///
/// # Safety
/// Both are valid for `count` elements; `y` may be `x`.
#[inline(always)]
unsafe fn affine<S: Simd>(
    simd: S,
    x: *const f32,
    y: *mut f32,
    count: usize,
    (mean, factor, bias): (f32, f32, f32),
) {
    let (mean, factor, bias) = (simd.splat(mean), simd.splat(factor), simd.splat(bias));
    let apply = |x| simd.fma(simd.sub(x, mean), factor, bias);
    let mut i = 0;
    while i + LANES <= count {
        // SAFETY: `i + 16 <= count`.
        unsafe { simd.store(y.add(i), apply(simd.load(x.add(i)))) };
        i += LANES;
    }
    if i < count {
        // SAFETY: the rest of the elements.
        unsafe { simd.store_first(y.add(i), count - i, apply(simd.load_first(x.add(i), count - i))) };
    }
}

impl Kernel for args::GroupNorm {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let (cols, channels) = (size(self.cols), size(self.channels_per_group));
        let groups = size(self.groups_per_batch);
        if channels == 0 || groups == 0 {
            return if size(self.rows) * cols == 0 { Status::Ok } else { Status::Internal };
        }
        let per_channel = cols / channels;
        for row in worker.share(size(self.rows), 1) {
            // SAFETY: the row's contract: `x` and `y` hold `rows * cols` elements, scale and bias one a channel.
            unsafe {
                let x = self.x.cast::<f32>().add(row * cols);
                let y = self.y.cast::<f32>().add(row * cols);
                let (mean, deviation) = statistics(simd, (x, row), cols, false, self.epsilon as f32);
                for c in 0..channels {
                    let channel = row % groups * channels + c;
                    let parameter = |of: *const u8, otherwise: f32| {
                        if of.is_null() { otherwise } else { *of.cast::<f32>().add(channel) }
                    };
                    let (scale, bias) = (parameter(self.scale, 1.0), parameter(self.bias, 0.0));
                    let at = c * per_channel;
                    affine(simd, x.add(at), y.add(at), per_channel, (mean, 1.0 / deviation * scale, bias));
                }
            }
        }
        Status::Ok
    }
}
