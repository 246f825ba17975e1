//! Activations that matmul and convolution apply to a vector before they store it.

use lathe_artifact::builtin::Activation;

use super::{gelu, gelu_tanh, sigmoid, silu, tanh};
use crate::simd::Simd;

/// `activation(x)` with its parameters. NaN stays NaN.
#[inline(always)]
pub(crate) fn activate<S: Simd>(simd: S, activation: Activation, alpha: f32, beta: f32, x: S::F) -> S::F {
    let clamp = |x, low: f32, high: f32| simd.min(simd.splat(high), simd.max(simd.splat(low), x));
    match activation {
        Activation::None => x,
        Activation::Relu => simd.max(simd.splat(0.0), x),
        Activation::LeakyRelu => {
            simd.select(simd.less(x, simd.splat(0.0)), simd.mul(x, simd.splat(alpha)), x)
        }
        Activation::Sigmoid => sigmoid(simd, x),
        Activation::Tanh => tanh(simd, x),
        Activation::Gelu => gelu(simd, x),
        Activation::GeluTanh => gelu_tanh(simd, x),
        Activation::Silu => silu(simd, x),
        Activation::HardSigmoid => clamp(simd.fma(x, simd.splat(alpha), simd.splat(beta)), 0.0, 1.0),
        Activation::HardSwish => {
            simd.mul(x, clamp(simd.fma(x, simd.splat(1.0 / 6.0), simd.splat(0.5)), 0.0, 1.0))
        }
        Activation::Clip => clamp(x, alpha, beta),
    }
}
