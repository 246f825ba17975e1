//! Plain forms of what the product kernels compute, for their tests.

use lathe_artifact::builtin::Activation;

use crate::isa::Isa;

/// Marks memory that must stay as it is.
pub(crate) const UNTOUCHED: f32 = -12345.5;

/// Reproducible numbers in -1..1.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let number = |index: u64| {
        let mut x = (seed << 40 | index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 29)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count as u64).map(number).collect()
}

/// The sum of products in order, rounded as the instruction set rounds it.
pub(crate) fn chain(isa: Isa, terms: impl Iterator<Item = (f32, f32)>) -> f32 {
    let fused = isa != Isa::Portable || cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    terms.fold(0.0, |sum, (a, b)| if fused { a.mul_add(b, sum) } else { a * b + sum })
}

/// An activation in f64.
pub(crate) fn activate(activation: Activation, alpha: f64, beta: f64, x: f32) -> f32 {
    let x = f64::from(x);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let y = match activation {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::LeakyRelu => x.max(0.0) + alpha * x.min(0.0),
        Activation::Sigmoid => sigmoid(x),
        Activation::Tanh => x.tanh(),
        Activation::Gelu => x / 2.0 * (1.0 + libm::erf(x / 2f64.sqrt())),
        Activation::GeluTanh => {
            x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::Silu => x * sigmoid(x),
        Activation::HardSigmoid => (alpha * x + beta).clamp(0.0, 1.0),
        Activation::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Activation::Clip => x.clamp(alpha, beta),
    };
    y as f32
}

/// The bits of numbers, for exact comparison.
pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Whether all pairs are within `tolerance`, relative above 1.
pub(crate) fn near(actual: &[f32], expected: &[f32], tolerance: f32) -> bool {
    actual.len() == expected.len()
        && actual.iter().zip(expected).all(|(a, b)| (a - b).abs() <= tolerance * b.abs().max(1.0))
}
