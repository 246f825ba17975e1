//! Functions of one vector, within a few units in the last place, right at infinities and NaN.
//!
//! Inline and generic: the tile builtin runs them over memory, epilogues over registers.
#![allow(
    clippy::excessive_precision,
    clippy::approx_constant,
    reason = "coefficients keep the digits of their derivation"
)]

mod activation;
mod exponential;
mod sigmoidal;
mod trigonometric;

#[cfg(test)]
mod accuracy;

pub(crate) use activation::activate;
pub(crate) use exponential::{exp, exp_bounded, ln};
pub(crate) use sigmoidal::{erf, gelu, gelu_tanh, logistic, sigmoid, silu, softplus, tanh};
pub(crate) use trigonometric::{atan, cos, sin};

use crate::simd::Simd;

/// The polynomial with these coefficients, highest power first, by Horner's rule.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(simd: S, x: S::F, coefficients: [f32; N]) -> S::F {
    let mut value = simd.splat(coefficients[0]);
    let mut i = 1;
    while i < N {
        value = simd.fma(value, x, simd.splat(coefficients[i]));
        i += 1;
    }
    value
}
