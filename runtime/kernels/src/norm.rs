//! Layer, RMS and group normalisation.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::{NormRounding, args};

use crate::kernel::{Kernel, size};
use crate::simd::{LANES, Simd};

mod statistics;

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

/// How rows are normalised once their statistics are there.
trait Finish {
    /// Divides by the deviation; else multiplies with its reciprocal.
    const DIVIDES: bool;
    /// Scale and bias are one fused step.
    const FUSES: bool;
}

struct Rows;
struct Quotient;
struct Factor;

impl Finish for Rows {
    const DIVIDES: bool = false;
    const FUSES: bool = true;
}

impl Finish for Quotient {
    const DIVIDES: bool = true;
    const FUSES: bool = false;
}

impl Finish for Factor {
    const DIVIDES: bool = false;
    const FUSES: bool = false;
}

/// `y[i] = (v[i] - mean) / deviation * scale[i] + bias[i]`; the flags say whether scale and bias are there.
///
/// # Safety
/// All that are there are valid for `count` elements; `y` may be `v`.
#[inline(always)]
unsafe fn normalise<S: Simd, F: Finish, const SCALE: bool, const BIAS: bool>(
    simd: S,
    v: *const f32,
    y: *mut f32,
    count: usize,
    (mean, deviation): (f32, f32),
    (scale, bias): (*const f32, *const f32),
) {
    let (mean, factor, deviation) = (simd.splat(mean), simd.splat(1.0 / deviation), simd.splat(deviation));
    let normal = |x| {
        let d = simd.sub(x, mean);
        if F::DIVIDES { simd.div(d, deviation) } else { simd.mul(d, factor) }
    };
    let apart = |x, scale, bias| {
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
            let x = normal(simd.load(v.add(i)));
            let x = if F::FUSES && SCALE && BIAS { simd.fma(x, s, b) } else { apart(x, s, b) };
            simd.store(y.add(i), x);
        }
        i += LANES;
    }
    if i < count {
        let n = count - i;
        // SAFETY: `i + n <= count`.
        unsafe {
            let s = if SCALE { simd.load_first(scale.add(i), n) } else { zero };
            let b = if BIAS { simd.load_first(bias.add(i), n) } else { zero };
            let x = normal(simd.load_first(v.add(i), n));
            let x = if F::FUSES && SCALE && BIAS { simd.fma(x, s, b) } else { apart(x, s, b) };
            simd.store_first(y.add(i), n, x);
        }
    }
}

/// [`normalise`] with the scale and the bias that are there.
///
/// # Safety
/// As [`normalise`].
#[inline(always)]
unsafe fn finish<S: Simd, F: Finish>(
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
            (true, true) => normalise::<S, F, true, true>(simd, v, y, count, numbers, parameters),
            (true, false) => normalise::<S, F, true, false>(simd, v, y, count, numbers, parameters),
            (false, true) => normalise::<S, F, false, true>(simd, v, y, count, numbers, parameters),
            (false, false) => normalise::<S, F, false, false>(simd, v, y, count, numbers, parameters),
        }
    }
}

/// Rows whose running moments are taken together, for each is one chain.
const TOGETHER: usize = 4;
/// Shorter rows of [`NormRounding::Rows`] are taken element by element.
const LEAST: usize = 8;
/// The same of root mean squares.
const LEAST_RMS: usize = 16;

/// Where the elements to normalise of a row are, added up with those of the residual where there is one.
///
/// # Safety
/// As [`Kernel::run`], for a row.
#[inline(always)]
unsafe fn summed<S: Simd>(simd: S, args: &args::LayerNorm, row: usize) -> *const f32 {
    let cols = size(args.cols);
    let start = row * cols;
    // SAFETY: the row's contract: every address that is there holds `rows * cols` elements.
    unsafe {
        let v = args.x.cast::<f32>().add(start);
        if !args.residual.is_null() {
            // The sum lies in the output until it is normalised, where nobody asks for it.
            let to = if args.sum.is_null() { args.y } else { args.sum };
            let sum = to.cast::<f32>().add(start);
            add_rows(simd, v, args.residual.cast::<f32>().add(start), sum, cols);
            return sum;
        }
        if !args.sum.is_null() && !std::ptr::eq(args.sum.cast_const(), args.x) {
            std::ptr::copy_nonoverlapping(v, args.sum.cast::<f32>().add(start), cols);
        }
        v
    }
}

impl Kernel for args::LayerNorm {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let Some(rounding) = NormRounding::from_code(self.rounding) else { return Status::Internal };
        let (cols, rms, epsilon) = (size(self.cols), self.rms != 0, self.epsilon as f32);
        let rounding = match rounding {
            NormRounding::Rows if cols < if rms { LEAST_RMS } else { LEAST } => NormRounding::Ascending,
            other => other,
        };
        let parameters = (self.scale.cast::<f32>(), self.bias.cast::<f32>());
        let share = worker.share(size(self.rows), 1);
        let step = if rounding == NormRounding::Ascending { TOGETHER } else { 1 };
        for row in share.clone().step_by(step) {
            let count = step.min(share.end - row);
            // SAFETY: the row's contract: every address that is there holds `rows * cols` elements, scale and bias `cols`.
            unsafe {
                let mut v = [std::ptr::null(); TOGETHER];
                for r in 0..TOGETHER {
                    // Behind the last row stands the first once more.
                    v[r] = if r < count { summed(simd, self, row + r) } else { v[0] };
                }
                let numbers = match rounding {
                    NormRounding::Rows => [statistics::by_rows(simd, v[0], cols, rms, epsilon); TOGETHER],
                    NormRounding::Quotient | NormRounding::Factor => {
                        [statistics::by_fours(simd, (v[0], row), cols, rms, epsilon); TOGETHER]
                    }
                    NormRounding::Ascending => statistics::ascending(v, cols, rms, epsilon),
                };
                for (r, &v) in v[..count].iter().enumerate() {
                    let y = self.y.cast::<f32>().add((row + r) * cols);
                    match rounding {
                        NormRounding::Rows => finish::<S, Rows>(simd, v, y, cols, numbers[r], parameters),
                        NormRounding::Factor => finish::<S, Factor>(simd, v, y, cols, numbers[r], parameters),
                        NormRounding::Quotient | NormRounding::Ascending => {
                            finish::<S, Quotient>(simd, v, y, cols, numbers[r], parameters);
                        }
                    }
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
                let (mean, deviation) =
                    statistics::by_fours(simd, (x, row), cols, false, self.epsilon as f32);
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
