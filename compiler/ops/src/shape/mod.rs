//! Shapes and data movement.

mod layout;
mod pad;
mod source;

pub(crate) use pad::Places;

use lathe_tensor::DType;
use serde::{Deserialize, Serialize};

/// Attributes of [`crate::Op::Shape`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShapeOf {
    /// First axis; negative counts from the end.
    pub start: i64,
    /// Axis after the last.
    pub end: Option<i64>,
}

/// [`crate::Op::Size`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Size {}

/// Attributes of [`crate::Op::Reshape`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reshape {
    /// A 0 in the shape is a size and not a copy of the input's.
    pub allow_zero: bool,
}

/// Attributes of [`crate::Op::Squeeze`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Squeeze {
    /// The axes where they are constant; all of size 1 where none are given.
    pub axes: Option<Vec<i64>>,
}

/// Attributes of [`crate::Op::Unsqueeze`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unsqueeze {
    /// The axes of the result where they are constant.
    pub axes: Option<Vec<i64>>,
}

/// Attributes of [`crate::Op::Transpose`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transpose {
    /// Axis `i` of the result is axis `perm[i]` of the input.
    pub perm: Vec<usize>,
}

/// Attributes of [`crate::Op::Concat`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Concat {
    /// The axis.
    pub axis: i64,
}

/// Attributes of [`crate::Op::Split`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// The axis.
    pub axis: i64,
    /// Number of pieces.
    pub outputs: usize,
}

/// [`crate::Op::Slice`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Slice {}

/// [`crate::Op::Expand`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Expand {}

/// [`crate::Op::Tile`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tile {}

/// Attributes of [`crate::Op::Pad`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pad {
    /// What the new cells hold.
    pub mode: PadMode,
}

/// [`crate::Op::Range`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Range {}

/// Attributes of [`crate::Op::ConstantOfShape`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConstantOfShape {
    /// Dtype of the result.
    pub dtype: DType,
    /// The element, in the low bits, little-endian.
    pub bits: u64,
}

/// Attributes of [`crate::Op::Trilu`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trilu {
    /// Keep the upper triangle instead of the lower.
    pub upper: bool,
}

/// What [`Pad`] fills new cells with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum PadMode {
    Constant,
    Edge,
    Reflect,
    Wrap,
}
