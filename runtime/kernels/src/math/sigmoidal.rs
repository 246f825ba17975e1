//! Functions with the shape of a step, and the activations made of them.

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

/// `tanh(x)`: an odd polynomial near 0, else `1 - 2 / (exp(2 |x|) + 1)`.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(simd: S, x: S::F) -> S::F {
    let one = simd.splat(1.0);
    let t = simd.abs(x);
    let z = simd.mul(x, x);
    let p = polynomial(
        simd,
        z,
        [-5.704_988_7e-3, 2.063_908_9e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328_2e-1],
    );
    let inner = simd.fma(simd.mul(p, z), x, x);
    let e = exp(simd, simd.add(t, t));
    let outer = simd.sub(one, simd.div(simd.splat(2.0), simd.add(e, one)));
    simd.select(simd.less(t, simd.splat(0.625)), inner, simd.copy_sign(outer, x))
}

/// `erf(x)`: an odd polynomial near 0, else `1 - exp(p(|x|))`.
#[inline(always)]
pub(crate) fn erf<S: Simd>(simd: S, x: S::F) -> S::F {
    // erf(4) rounds to 1.
    let t = simd.min(simd.splat(4.0), simd.abs(x));
    let s = simd.mul(t, t);

    let even = polynomial(simd, t, [-1.728_534_7e-5, 3.831_971_3e-4]);
    let odd = polynomial(simd, t, [-3.883_964_4e-3, 2.425_462_2e-2]);
    let p = simd.fma(even, s, odd);
    let p = simd.fma(p, t, simd.splat(-1.067_778_8e-1));
    let p = simd.fma(p, t, simd.splat(-6.348_466_9e-1));
    let p = simd.fma(p, t, simd.splat(-1.287_175_1e-1));
    let p = simd.fma(p, t, simd.neg(t));
    let outer = simd.copy_sign(simd.sub(simd.splat(1.0), exp(simd, p)), x);

    let q = polynomial(
        simd,
        s,
        [-5.967_617e-4, 4.991_194_2e-3, -2.676_813_5e-2, 1.128_199_3e-1, -3.761_253_4e-1, 1.283_791_7e-1],
    );
    let inner = simd.fma(q, x, x);
    simd.select(simd.less(t, simd.splat(0.927_734_4)), inner, outer)
}

/// `x / 2 * (1 + erf(x / sqrt(2)))`.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(simd: S, x: S::F) -> S::F {
    let e = erf(simd, simd.mul(x, simd.splat(std::f32::consts::FRAC_1_SQRT_2)));
    simd.mul(simd.mul(x, simd.splat(0.5)), simd.add(simd.splat(1.0), e))
}

/// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`, which is `x * sigmoid` of twice the argument.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(simd: S, x: S::F) -> S::F {
    const TWICE: f32 = -1.595_769_1;
    let square = simd.mul(x, x);
    let inner = simd.mul(x, simd.fma(square, simd.splat(TWICE * 0.044_715), simd.splat(TWICE)));
    simd.div(x, simd.add(simd.splat(1.0), exp(simd, inner)))
}
