//! Linear quantisation.

use lathe_tensor::DType;
use serde::{Deserialize, Serialize};

/// Attributes of [`crate::Op::QuantizeLinear`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuantizeLinear {
    /// Axis of per-axis or blocked scales.
    pub axis: i64,
    /// Elements that share a scale along the axis; 0 where not blocked.
    pub block_size: usize,
    /// Dtype of the result.
    pub to: DType,
    /// Whether f8 conversions saturate.
    pub saturate: bool,
    /// Dtype of the division, where it is not the scale's.
    pub precision: Option<DType>,
}

/// Attributes of [`crate::Op::DequantizeLinear`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DequantizeLinear {
    /// Axis of per-axis or blocked scales.
    pub axis: i64,
    /// Elements that share a scale along the axis; 0 where not blocked.
    pub block_size: usize,
    /// Dtype of the result.
    pub to: DType,
}

/// [`crate::Op::DynamicQuantizeLinear`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DynamicQuantizeLinear {}

/// [`crate::Op::MatMulInteger`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MatMulInteger {}
