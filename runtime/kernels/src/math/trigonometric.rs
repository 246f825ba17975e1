//! Sine, cosine and the inverse of the tangent.
//!
//! Reductions, coefficients and roundings (products and sums apart) are those of Eigen's vector functions without fused operations, with which
//! onnxruntime is built: both give the same bits for sines and cosines up to [`SINE_LIMIT`] and [`COSINE_LIMIT`].

use crate::simd::Simd;

/// `a * b + c`, rounded twice.
#[inline(always)]
fn multiply_add<S: Simd>(simd: S, a: S::F, b: S::F, c: S::F) -> S::F {
    simd.add(simd.mul(a, b), c)
}

/// The polynomial with these coefficients, highest power first, each step rounded twice.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(simd: S, x: S::F, coefficients: [f32; N]) -> S::F {
    let mut value = simd.splat(coefficients[0]);
    let mut i = 1;
    while i < N {
        value = multiply_add(simd, value, x, simd.splat(coefficients[i]));
        i += 1;
    }
    value
}

/// Quadrant and rest of an angle that is not negative: `x = quadrant * pi/2 + rest` with `|rest| <= pi/4`.
#[inline(always)]
fn reduce<S: Simd>(simd: S, x: S::F) -> (S::I, S::F) {
    // 1.5 * 2^23: the sum with a small number is that number rounded to a whole one.
    let rounding = simd.splat(12_582_912.0);
    let n = simd.sub(simd.add(simd.mul(x, simd.splat(std::f32::consts::FRAC_2_PI)), rounding), rounding);
    // pi/2 in four parts, the first of which are short, so that their products are exact.
    let mut rest = x;
    for part in [-1.570_312_5, -4.839_897_157e-4, 1.628_650_352_4e-7, 5.564_431_544_5e-11] {
        rest = multiply_add(simd, n, simd.splat(part), rest);
    }
    (simd.to_int(n), rest)
}

/// The angles below which [`reduce`] is good for sines and for cosines.
const SINE_LIMIT: f32 = 25_966.0;
const COSINE_LIMIT: f32 = 18_838.0;

/// The sine of `quadrant * pi/2 + rest`.
#[inline(always)]
fn evaluate<S: Simd>(simd: S, quadrant: S::I, rest: S::F) -> S::F {
    let s = simd.mul(rest, rest);
    let sine = polynomial(simd, s, [-1.959_234_114_1e-4, 8.332_687_365_6e-3, -1.666_666_203_98e-1]);
    let sine = multiply_add(simd, simd.mul(sine, s), rest, rest);
    let cosine =
        polynomial(simd, s, [2.437_226_612_5e-5, -1.388_652_017_3e-3, 4.166_661_947_97e-2, -0.5, 1.0]);
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
fn tame<S: Simd>(simd: S, x: S::F, limit: f32) -> bool {
    let bounded = simd.min(simd.splat(limit), simd.abs(x));
    // A lane at the bound or NaN is not below it.
    let inside = simd.select(simd.less(bounded, simd.splat(limit)), simd.splat(0.0), simd.splat(1.0));
    !simd.any(simd.less(simd.splat(0.5), inside))
}

/// `sin(x)`.
#[inline(always)]
pub(crate) fn sin<S: Simd>(simd: S, x: S::F) -> S::F {
    if !tame(simd, x, SINE_LIMIT) {
        return simd.from_array(scalar(simd.to_array(x), libm::sinf));
    }
    let (quadrant, rest) = reduce(simd, simd.abs(x));
    let sign = simd.int_and(simd.bits(x), simd.int_splat(i32::MIN));
    simd.from_bits(simd.int_xor(simd.bits(evaluate(simd, quadrant, rest)), sign))
}

/// `cos(x)`.
#[inline(always)]
pub(crate) fn cos<S: Simd>(simd: S, x: S::F) -> S::F {
    if !tame(simd, x, COSINE_LIMIT) {
        return simd.from_array(scalar(simd.to_array(x), libm::cosf));
    }
    let (quadrant, rest) = reduce(simd, simd.abs(x));
    evaluate(simd, simd.int_add(quadrant, simd.int_splat(1)), rest)
}

/// `atan(x)`: a quotient of polynomials up to 1, beyond it pi/2 less that of the reciprocal.
#[inline(always)]
pub(crate) fn atan<S: Simd>(simd: S, x: S::F) -> S::F {
    let one = simd.splat(1.0);
    let magnitude = simd.abs(x);
    let large = simd.less(one, magnitude);
    let t = simd.select(large, simd.div(one, magnitude), magnitude);
    let s = simd.mul(t, t);
    let p = polynomial(simd, s, [1.120_269_820_1e-1, 7.296_695_709_2e-1, 8.109_951_019_3e-1]);
    let q = polynomial(simd, s, [1.009_171_083_6e-2, 2.831_856_012_3e-1, 1.0, 8.109_951_019_3e-1]);
    let inner = simd.mul(t, simd.div(p, q));
    let outer = simd.sub(simd.splat(std::f32::consts::FRAC_PI_2), inner);
    simd.copy_sign(simd.select(large, outer, inner), x)
}
