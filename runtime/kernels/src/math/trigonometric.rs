//! Sine, cosine and the inverse of the tangent.
//!
//! Reductions, coefficients and roundings (products and sums apart) are those of Eigen's vector functions without fused operations, with which
//! onnxruntime is built: both give the same bits.

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

/// Magnitudes from which angles go to the library of C functions, as do infinities and NaN.
const FAR: f32 = 1e9;

/// [`reduce`] for lanes of which some are beyond `limit`: those are reduced in f64.
#[cold]
fn reduce_lanes(x: [f32; 16], limit: f32, quadrants: &mut [i32; 16], rests: &mut [f32; 16]) {
    // What pi/2 has beyond an f64.
    const LOW: f64 = 6.123_233_995_736_766e-17;
    for lane in 0..16 {
        let magnitude = x[lane].abs();
        if (limit..FAR).contains(&magnitude) {
            let angle = f64::from(magnitude);
            let n = (angle * std::f64::consts::FRAC_2_PI).round_ties_even();
            let rest = n.mul_add(-LOW, n.mul_add(-std::f64::consts::FRAC_PI_2, angle));
            (quadrants[lane], rests[lane]) = ((n as i64 & 3) as i32, rest as f32);
        }
    }
}

/// The sine of `|x|` and so many quadrants more, where some lanes are beyond `limit`; lanes beyond [`FAR`] are unspecified.
#[inline(always)]
fn beyond<S: Simd>(simd: S, x: S::F, limit: f32, quadrants: i32) -> S::F {
    let (quadrant, rest) = reduce(simd, simd.abs(x));
    let mut quadrant = simd.to_array(simd.from_bits(quadrant)).map(|lane| lane.to_bits() as i32);
    let mut rest = simd.to_array(rest);
    reduce_lanes(simd.to_array(x), limit, &mut quadrant, &mut rest);
    let quadrant = simd.bits(simd.from_array(quadrant.map(|lane| f32::from_bits(lane as u32))));
    evaluate(simd, simd.int_add(quadrant, simd.int_splat(quadrants)), simd.from_array(rest))
}

/// `near` with the lanes of `x` that are far, or no numbers, by a function.
#[cold]
fn far(x: [f32; 16], mut near: [f32; 16], function: fn(f32) -> f32) -> [f32; 16] {
    for (x, near) in x.into_iter().zip(&mut near) {
        if x.is_nan() || x.abs() >= FAR {
            *near = function(x);
        }
    }
    near
}

/// Whether all lanes are inside the limit.
#[inline(always)]
fn tame<S: Simd>(simd: S, x: S::F, limit: f32) -> bool {
    let bounded = simd.min(simd.splat(limit), simd.abs(x));
    // A lane at the bound or NaN is not below it.
    let inside = simd.select(simd.less(bounded, simd.splat(limit)), simd.splat(0.0), simd.splat(1.0));
    !simd.any(simd.less(simd.splat(0.5), inside))
}

/// `value`, its sign turned where `x` is negative.
#[inline(always)]
fn signed<S: Simd>(simd: S, value: S::F, x: S::F) -> S::F {
    let sign = simd.int_and(simd.bits(x), simd.int_splat(i32::MIN));
    simd.from_bits(simd.int_xor(simd.bits(value), sign))
}

/// `sin(x)`.
#[inline(always)]
pub(crate) fn sin<S: Simd>(simd: S, x: S::F) -> S::F {
    if !tame(simd, x, SINE_LIMIT) {
        let near = signed(simd, beyond(simd, x, SINE_LIMIT, 0), x);
        return simd.from_array(far(simd.to_array(x), simd.to_array(near), libm::sinf));
    }
    let (quadrant, rest) = reduce(simd, simd.abs(x));
    signed(simd, evaluate(simd, quadrant, rest), x)
}

/// `cos(x)`.
#[inline(always)]
pub(crate) fn cos<S: Simd>(simd: S, x: S::F) -> S::F {
    if !tame(simd, x, COSINE_LIMIT) {
        let near = beyond(simd, x, COSINE_LIMIT, 1);
        return simd.from_array(far(simd.to_array(x), simd.to_array(near), libm::cosf));
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
