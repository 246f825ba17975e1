//! Reading and writing by index. Negative indices count from the end; others outside are an error.

use serde::{Deserialize, Serialize};

/// Attributes of [`crate::Op::Gather`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gather {
    /// The axis.
    pub axis: i64,
}

/// Attributes of [`crate::Op::GatherElements`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatherElements {
    /// The axis.
    pub axis: i64,
}

/// Attributes of [`crate::Op::GatherNd`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatherNd {
    /// Leading axes that both operands share.
    pub batch_dims: usize,
}

/// Attributes of [`crate::Op::ScatterElements`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScatterElements {
    /// The axis.
    pub axis: i64,
    /// How an update meets the old value.
    pub reduction: Reduction,
}

/// Attributes of [`crate::Op::ScatterNd`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScatterNd {
    /// How an update meets the old value.
    pub reduction: Reduction,
}

/// [`crate::Op::NonZero`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NonZero {}

/// How a scattered update meets the value in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Reduction {
    Replace,
    Add,
    Mul,
    Max,
    Min,
}
