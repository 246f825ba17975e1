//! Resampling (ONNX Resize-19 and Upsample).

use serde::{Deserialize, Serialize};

/// Attributes of [`crate::Op::Resize`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    /// Interpolation.
    pub mode: Mode,
    /// Where output cells lie in the input.
    pub coordinates: Coordinates,
    /// Rounding of `nearest`.
    pub rounding: Rounding,
    /// The `a` of cubic interpolation.
    #[serde(with = "crate::float")]
    pub cubic_coefficient: f32,
    /// Cells outside get weight 0.
    pub exclude_outside: bool,
    /// Value outside for `tf_crop_and_resize`.
    #[serde(with = "crate::float")]
    pub extrapolation_value: f32,
    /// Widen the filter when shrinking.
    pub antialias: bool,
    /// Axes that `scales`, `sizes` and `roi` name; all where absent.
    pub axes: Option<Vec<i64>>,
    /// How `sizes` are kept in proportion.
    pub policy: AspectPolicy,
}

/// Interpolation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Mode {
    Nearest,
    Linear,
    Cubic,
}

/// ONNX `coordinate_transformation_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfCropAndResize,
}

/// ONNX `nearest_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Rounding {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

/// ONNX `keep_aspect_ratio_policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum AspectPolicy {
    Stretch,
    NotLarger,
    NotSmaller,
}
