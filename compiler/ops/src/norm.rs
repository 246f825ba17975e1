//! Normalisations.

use serde::{Deserialize, Serialize};

/// Attributes of [`crate::Op::BatchNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm {
    /// Added to the variance.
    #[serde(with = "crate::float")]
    pub epsilon: f32,
    /// Weight of the old running statistics in training.
    #[serde(with = "crate::float")]
    pub momentum: f32,
    /// Normalise by the batch's own statistics and return the running ones.
    pub training: bool,
}

/// Attributes of [`crate::Op::LayerNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerNorm {
    /// First normalised axis; negative counts from the end.
    pub axis: i64,
    /// Added to the variance.
    #[serde(with = "crate::float")]
    pub epsilon: f32,
}

/// Attributes of [`crate::Op::RmsNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RmsNorm {
    /// First normalised axis; negative counts from the end.
    pub axis: i64,
    /// Added to the variance.
    #[serde(with = "crate::float")]
    pub epsilon: f32,
}

/// Attributes of [`crate::Op::InstanceNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceNorm {
    /// Added to the variance.
    #[serde(with = "crate::float")]
    pub epsilon: f32,
}

/// Attributes of [`crate::Op::GroupNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupNorm {
    /// Number of channel groups.
    pub groups: usize,
    /// Scale and bias are per group (opset 18), not per channel.
    pub per_group: bool,
    /// Added to the variance.
    #[serde(with = "crate::float")]
    pub epsilon: f32,
}

/// Attributes of [`crate::Op::Softmax`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Softmax {
    /// The axis; negative counts from the end.
    pub axis: i64,
    /// The logarithm of softmax.
    pub log: bool,
}
