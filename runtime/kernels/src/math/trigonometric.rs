//! Sine and cosine.

use super::polynomial;
use crate::simd::Simd;

/// Quadrant and rest of an angle: `x = quadrant * pi/2 + rest` with `|rest| <= pi/4`.
#[inline(always)]
fn reduce<S: Simd>(simd: S, x: S::F) -> (S::I, S::F) {
    let n = simd.round(simd.mul(x, simd.splat(std::f32::consts::FRAC_2_PI)));
    // pi/2 in three parts; without fused products the first ones are short, so that products are exact.
    let parts: [f32; 3] = if S::FUSED {
        [-1.570_796, -3.139_164_7e-7, -5.390_302_5e-15]
    } else {
        [-1.570_312_5, -4.837_513e-4, -7.549_79e-8]
    };
    let mut rest = x;
    for part in parts {
        rest = simd.fma(n, simd.splat(part), rest);
    }
    (simd.to_int(n), rest)
}

/// The angles for which [`reduce`] is good.
#[inline(always)]
fn limit<S: Simd>() -> f32 {
    if S::FUSED { 70_000.0 } else { 8_000.0 }
}

/// The sine of `quadrant * pi/2 + rest`.
#[inline(always)]
fn evaluate<S: Simd>(simd: S, quadrant: S::I, rest: S::F) -> S::F {
    let s = simd.mul(rest, rest);
    let sine = polynomial(simd, s, [2.865_679_6e-6, -1.985_599_2e-4, 8.333_386e-3, -1.666_666_7e-1]);
    let sine = simd.fma(sine, simd.mul(s, rest), rest);
    let cosine = polynomial(simd, s, [2.446_770_7e-5, -1.388_773e-3, 4.166_665_7e-2, -0.5, 1.0]);
    let odd = simd.int_and(quadrant, simd.int_splat(1));
    let value = simd.select(simd.int_equal(odd, simd.int_splat(0)), sine, cosine);
    let sign = simd.int_shl::<30>(simd.int_and(quadrant, simd.int_splat(2)));
    simd.from_bits(simd.int_xor(simd.bits(value), sign))
}

/// Lanes outside the limit, NaN and infinities included, one by one.
#[cold]
fn scalar(mut lanes: [f32; 16], function: fn(f32) -> f32) -> [f32; 16] {
    lanes.iter_mut().for_each(|x| *x = function(*x));
    lanes
}

/// Whether all lanes are inside the limit.
#[inline(always)]
fn tame<S: Simd>(simd: S, x: S::F) -> bool {
    let bounded = simd.min(simd.splat(limit::<S>()), simd.abs(x));
    // A lane at the bound or NaN is not below it.
    let inside = simd.select(simd.less(bounded, simd.splat(limit::<S>())), simd.splat(0.0), simd.splat(1.0));
    !simd.any(simd.less(simd.splat(0.5), inside))
}

/// `sin(x)`.
#[inline(always)]
pub(crate) fn sin<S: Simd>(simd: S, x: S::F) -> S::F {
    if !tame(simd, x) {
        return simd.from_array(scalar(simd.to_array(x), libm::sinf));
    }
    let (quadrant, rest) = reduce(simd, x);
    evaluate(simd, quadrant, rest)
}

/// `cos(x)`.
#[inline(always)]
pub(crate) fn cos<S: Simd>(simd: S, x: S::F) -> S::F {
    if !tame(simd, x) {
        return simd.from_array(scalar(simd.to_array(x), libm::cosf));
    }
    let (quadrant, rest) = reduce(simd, x);
    evaluate(simd, simd.int_add(quadrant, simd.int_splat(1)), rest)
}
