//! Convolutions over any number of spatial axes: `x[batch, channels, spatial...]`, `w[out_channels, channels / groups, kernel...]`.

use serde::{Deserialize, Serialize};

use crate::elementwise::Activation;

/// Attributes of [`crate::Op::Conv`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conv {
    /// Steps of the window, one a spatial axis.
    pub strides: Vec<usize>,
    /// Distance of the kernel's cells, one a spatial axis.
    pub dilations: Vec<usize>,
    /// How the borders are padded.
    pub padding: Padding,
    /// Channel groups.
    pub groups: usize,
    /// Applied to the result.
    pub activation: Activation,
}

/// Attributes of [`crate::Op::ConvTranspose`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvTranspose {
    /// Steps, one a spatial axis.
    pub strides: Vec<usize>,
    /// Distance of the kernel's cells.
    pub dilations: Vec<usize>,
    /// Cropped from the borders.
    pub padding: Padding,
    /// Added to the end of each output axis.
    pub output_padding: Vec<usize>,
    /// The spatial sizes asked for; padding follows from it.
    pub output_shape: Option<Vec<usize>>,
    /// Channel groups.
    pub groups: usize,
    /// Applied to the result.
    pub activation: Activation,
}

/// How the borders of a window op are padded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// Cells before and after each spatial axis; negative crops.
    Explicit {
        /// Before.
        begins: Vec<i64>,
        /// After.
        ends: Vec<i64>,
    },
    /// So that the output is `ceil(input / stride)`; the odd cell goes to the end.
    SameUpper,
    /// The same; the odd cell goes to the beginning.
    SameLower,
}
