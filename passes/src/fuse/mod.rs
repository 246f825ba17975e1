//! Fusions: high-level ops in place of their decompositions, and epilogues in place of separate steps.

pub(crate) mod activation;
pub(crate) mod affine;
pub(crate) mod affine_forward;
pub(crate) mod attention;
pub(crate) mod batch_norm;
pub(crate) mod gelu;
pub(crate) mod hard_swish;
mod layer;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod moe;
pub(crate) mod norm_heads;
mod normalise;
pub(crate) mod regions;
pub(crate) mod residual;
pub(crate) mod rms_norm;
pub(crate) mod rotary;
pub(crate) mod silu;
pub(crate) mod softmax;
