//! Pooling over windows of `x[batch, channels, spatial...]`.

use serde::{Deserialize, Serialize};

use crate::conv::Padding;

/// Attributes of [`crate::Op::MaxPool`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaxPool {
    /// Sizes of the window's axes.
    pub kernel: Vec<usize>,
    /// Steps of the window.
    pub strides: Vec<usize>,
    /// Distance of the window's cells.
    pub dilations: Vec<usize>,
    /// How the borders are padded.
    pub padding: Padding,
    /// Round the output size up.
    pub ceil_mode: bool,
    /// Indices count in column-major order.
    pub column_major: bool,
}

/// Attributes of [`crate::Op::AveragePool`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AveragePool {
    /// Sizes of the window's axes.
    pub kernel: Vec<usize>,
    /// Steps of the window.
    pub strides: Vec<usize>,
    /// Distance of the window's cells.
    pub dilations: Vec<usize>,
    /// How the borders are padded.
    pub padding: Padding,
    /// Round the output size up.
    pub ceil_mode: bool,
    /// Padding counts in the divisor.
    pub count_include_pad: bool,
}
