//! Functions with the shape of a step, and the activations made of them.

use super::exponential::exp_reduced;
use super::{exp, ln, polynomial};
use crate::simd::Simd;

/// `1 / (1 + exp(-x))`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(simd: S, x: S::F) -> S::F {
    let one = simd.splat(1.0);
    simd.div(one, simd.add(one, exp(simd, simd.neg(x))))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(simd: S, x: S::F) -> S::F {
    simd.div(x, simd.add(simd.splat(1.0), exp(simd, simd.neg(x))))
}

/// `ln(1 + exp(x))`.
#[inline(always)]
pub(crate) fn softplus<S: Simd>(simd: S, x: S::F) -> S::F {
    // max(x, 0) + ln(1 + u) with u = exp(-|x|); u / (w - 1) makes up for what w = 1 + u lost.
    let one = simd.splat(1.0);
    let u = exp(simd, simd.neg(simd.abs(x)));
    let w = simd.add(one, u);
    let small = simd.equal(w, one);
    let correction = simd.div(u, simd.select(small, one, simd.sub(w, one)));
    let log = simd.select(small, u, simd.mul(ln(simd, w), correction));
    simd.add(simd.max(simd.splat(0.0), x), log)
}

/// `tanh(x)`: the quotient of an odd and an even polynomial, which reaches 1 at 9.
///
/// The coefficients are those of Eigen's `ptanh`, which onnxruntime uses too: where [`Simd::FUSED`], both give the same bits, the last
/// unit above 1 that some arguments above 8 get included.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(simd: S, x: S::F) -> S::F {
    // The order of the operands keeps NaN.
    let x = simd.min(simd.splat(9.0), simd.max(simd.splat(-9.0), x));
    let square = simd.mul(x, x);
    let odd = polynomial(
        simd,
        square,
        [
            -2.760_768_477e-16,
            2.000_187_904_8e-13,
            -8.604_671_521_4e-11,
            5.122_297_091e-8,
            1.485_722_357_2e-5,
            6.372_619_288_8e-4,
            4.893_524_558_9e-3,
        ],
    );
    let even = polynomial(
        simd,
        square,
        [1.198_258_394_7e-6, 1.185_347_056_9e-4, 2.268_434_632_4e-3, 4.893_525_185_5e-3],
    );
    simd.div(simd.mul(odd, x), even)
}

/// `erf(x)`: an odd polynomial near 0, else `1 - exp(p(|x|))`.
///
/// The coefficients are N. Juffa's, as onnxruntime has them: where [`Simd::FUSED`], both give the same bits.
#[inline(always)]
pub(crate) fn erf<S: Simd>(simd: S, x: S::F) -> S::F {
    // erf(4) rounds to 1.
    let t = simd.min(simd.splat(4.0), simd.abs(x));
    let p = polynomial(
        simd,
        t,
        [
            -1.729_489_3e-5,
            3.832_086_8e-4,
            -3.883_934_35e-3,
            2.425_456_05e-2,
            -1.067_778_47e-1,
            -6.348_466_87e-1,
            -1.287_175_12e-1,
        ],
    );
    let p = simd.fma(p, t, simd.neg(t));
    let e = exp_reduced(
        simd,
        p,
        [1.383_198_08e-3, 8.375_500_33e-3, 4.166_895_15e-2, 1.666_644_66e-1, 4.999_998_51e-1, 1.0, 1.0],
    );
    let outer = simd.sub(simd.splat(1.0), e);

    let q = polynomial(
        simd,
        simd.mul(t, t),
        [
            -5.991_049_69e-4,
            4.993_395_88e-3,
            -2.676_673_42e-2,
            1.128_180_25e-1,
            -3.761_248_59e-1,
            1.283_791_51e-1,
        ],
    );
    let inner = simd.fma(q, t, t);
    simd.copy_sign(simd.select(simd.less(simd.splat(0.921_875), t), outer, inner), x)
}

/// `x / 2 * (1 + erf(x / sqrt(2)))`.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(simd: S, x: S::F) -> S::F {
    let e = erf(simd, simd.mul(x, simd.splat(std::f32::consts::FRAC_1_SQRT_2)));
    simd.mul(simd.mul(x, simd.splat(0.5)), simd.add(simd.splat(1.0), e))
}

/// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(simd: S, x: S::F) -> S::F {
    const SCALE: f32 = 0.797_884_56;
    // Every step rounds on its own, as in onnxruntime's FastGelu.
    let inner = simd.mul(simd.mul(simd.splat(SCALE * 0.044_715), x), x);
    let inner = simd.mul(x, simd.add(inner, simd.splat(SCALE)));
    simd.mul(simd.mul(x, simd.splat(0.5)), simd.add(tanh(simd, inner), simd.splat(1.0)))
}

/// [`sigmoid`] to 2e-7 in all: half and the quotient of an odd and an even polynomial, for the gates of recurrent cells.
///
/// The coefficients are those of Eigen's logistic function, which onnxruntime uses too: where [`Simd::FUSED`], both give the same bits.
#[inline(always)]
pub(crate) fn logistic<S: Simd>(simd: S, x: S::F) -> S::F {
    // The order of the operands keeps NaN.
    let x = simd.min(simd.splat(18.0), simd.max(simd.splat(-18.0), x));
    let square = simd.mul(x, x);
    let odd = polynomial(
        simd,
        square,
        [4.370_310_125_8e-11, 1.156_273_244_6e-7, 6.085_748_646_001e-5, 8.513_771_333e-3, 2.482_879_470_6e-1],
    );
    let even = polynomial(
        simd,
        square,
        [
            6.102_473_897_6e-13,
            5.761_021_369_9e-9,
            6.291_067_850_2e-6,
            1.701_988_173_7e-3,
            1.168_176_569e-1,
            9.931_519_210_2e-1,
        ],
    );
    let y = simd.add(simd.div(simd.mul(odd, x), even), simd.splat(0.5));
    simd.min(simd.splat(1.0), simd.max(simd.splat(0.0), y))
}
