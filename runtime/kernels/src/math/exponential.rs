//! Exponential and logarithm.

use super::polynomial;
use crate::simd::Simd;

/// ln(2) in two parts; the first has so few bits that its product with an exponent is exact.
const LN2_HIGH: f32 = 6.931_457_52e-1;
const LN2_LOW: f32 = 1.428_606_77e-6;

/// 1.5 * 2^23: the sum with a small number is that number rounded to a whole one.
const ROUNDING: f32 = 12_582_912.0;

/// `exp(x)`.
///
/// `x = n ln(2) + r` with `|r| <= ln(2) / 2`; a polynomial gives `exp(r)`. Its coefficients are N. Juffa's for `expf`, which
/// onnxruntime uses too: where [`Simd::FUSED`], both give the same bits, on which the codes of a dynamically quantised model
/// depend.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F) -> S::F {
    // Above this bound the result is infinite; the order of the operands keeps NaN.
    exp_bounded(simd, simd.min(simd.splat(89.0), x))
}

/// `exp(x)` for `x` up to 89, with the bits of [`exp`]: softmax needs no more.
#[inline(always)]
pub(crate) fn exp_bounded<S: Simd>(simd: S, x: S::F) -> S::F {
    // Below this bound the result is 0; the order of the operands keeps NaN.
    let x = simd.max(simd.splat(-104.0), x);
    exp_reduced(
        simd,
        x,
        [
            1.378_059_387_2e-3,
            8.373_124_525e-3,
            4.166_953_638_2e-2,
            1.666_647_195_8e-1,
            4.999_998_509_9e-1,
            1.0,
            1.0,
        ],
    )
}

/// `exp(x)` for `x` between -104 and 89 by these coefficients of the reduced argument.
#[inline(always)]
pub(super) fn exp_reduced<S: Simd>(simd: S, x: S::F, coefficients: [f32; 7]) -> S::F {
    let rounding = simd.splat(ROUNDING);
    let n = simd.sub(simd.fma(x, simd.splat(std::f32::consts::LOG2_E), rounding), rounding);
    let r = simd.fma(n, simd.splat(-LN2_HIGH), x);
    let r = simd.fma(n, simd.splat(-LN2_LOW), r);
    simd.scale(polynomial(simd, r, coefficients), n)
}

/// `ln(x)`: -inf at 0, NaN below.
///
/// `x = m 2^e` with `m` between sqrt(1/2) and sqrt(2); a polynomial gives `ln(m)`.
#[inline(always)]
pub(crate) fn ln<S: Simd>(simd: S, x: S::F) -> S::F {
    // ln(2) in two parts; the first has 9 bits, so that its product with an exponent is exact.
    let (ln2_high, ln2_low) = (simd.splat(0.693_359_375), simd.splat(-2.121_944_4e-4));
    let subnormal = simd.less(x, simd.splat(f32::MIN_POSITIVE));
    let scaled = simd.select(subnormal, simd.mul(x, simd.splat(8_388_608.0)), x);
    let bits = simd.bits(scaled);
    // Taking away the bits of sqrt(1/2) makes the exponent field that of the wanted range.
    let offset = simd.int_sub(bits, simd.int_splat(0x3f35_04f3));
    let e = simd.to_float(simd.int_shr::<23>(offset));
    let e = simd.sub(e, simd.select(subnormal, simd.splat(23.0), simd.splat(0.0)));
    let m = simd.int_add(simd.int_and(offset, simd.int_splat(0x007f_ffff)), simd.int_splat(0x3f35_04f3));
    let m = simd.sub(simd.from_bits(m), simd.splat(1.0));

    let z = simd.mul(m, m);
    let p = polynomial(
        simd,
        m,
        [
            7.037_683_6e-2,
            -1.151_461e-1,
            1.167_699_9e-1,
            -1.242_014_1e-1,
            1.424_932_3e-1,
            -1.666_805_8e-1,
            2.000_071_5e-1,
            -2.499_999_4e-1,
            3.333_333_1e-1,
        ],
    );
    let y = simd.mul(simd.mul(m, z), p);
    let y = simd.fma(e, ln2_low, y);
    let y = simd.fma(z, simd.splat(-0.5), y);
    let y = simd.fma(e, ln2_high, simd.add(m, y));

    let zero = simd.splat(0.0);
    let infinity = simd.splat(f32::INFINITY);
    let y = simd.select(simd.equal(x, infinity), x, y);
    let y = simd.select(simd.equal(x, zero), simd.splat(f32::NEG_INFINITY), y);
    // NaN is neither at least 0 nor an exception of its own.
    simd.select(simd.less_equal(zero, x), y, simd.splat(f32::NAN))
}
