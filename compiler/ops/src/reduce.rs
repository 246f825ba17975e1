//! Reductions and scans along axes.

use serde::{Deserialize, Serialize};

/// Attributes of [`crate::Op::Reduce`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reduce {
    /// What is computed.
    pub kind: ReduceKind,
    /// The axes where they are constant; all axes where neither attribute nor input names any.
    pub axes: Option<Vec<i64>>,
    /// Keep reduced axes with size 1.
    pub keep_dims: bool,
    /// An empty list of axes reduces nothing instead of everything.
    pub noop_with_empty_axes: bool,
}

/// Attributes of [`crate::Op::ArgReduce`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArgReduce {
    /// The smallest instead of the largest.
    pub min: bool,
    /// The axis.
    pub axis: i64,
    /// Keep the axis with size 1.
    pub keep_dims: bool,
    /// The last of equal elements instead of the first.
    pub select_last: bool,
}

/// Attributes of [`crate::Op::TopK`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopK {
    /// The axis.
    pub axis: i64,
    /// The largest instead of the smallest.
    pub largest: bool,
    /// In order.
    pub sorted: bool,
}

/// Attributes of [`crate::Op::CumSum`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CumSum {
    /// Leave the element itself out.
    pub exclusive: bool,
    /// Sum from the end.
    pub reverse: bool,
}

/// What [`Reduce`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum ReduceKind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}
