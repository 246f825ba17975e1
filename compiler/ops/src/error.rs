//! What can go wrong in an evaluation.

use lathe_tensor::{DType, TensorError};

/// An error of [`crate::Op::evaluate`]. Every message names the op.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// An input that the op needs is missing.
    #[error("{op}: input {index} is missing")]
    MissingInput {
        /// The op.
        op: &'static str,
        /// Position of the input.
        index: usize,
    },
    /// The op is not defined for the dtype of an operand.
    #[error("{op}: {operand} is {found}, expected {expected}")]
    DType {
        /// The op.
        op: &'static str,
        /// Which operand.
        operand: String,
        /// Its dtype.
        found: DType,
        /// What the op takes.
        expected: String,
    },
    /// Sizes that do not fit the op or each other.
    #[error("{op}: {reason} (dims {dims:?})")]
    Shape {
        /// The op.
        op: &'static str,
        /// Dims of the inputs, or of the operand in question.
        dims: Vec<Vec<usize>>,
        /// What does not fit.
        reason: String,
    },
    /// An index outside its axis.
    #[error("{op}: index {index} lies outside axis {axis} of size {size}")]
    IndexOutOfRange {
        /// The op.
        op: &'static str,
        /// The axis.
        axis: usize,
        /// The index as given.
        index: i64,
        /// Size of the axis.
        size: usize,
    },
    /// An attribute or an input's value that the op does not allow.
    #[error("{op}: {reason}")]
    BadValue {
        /// The op.
        op: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// More memory than [`crate::Limits::max_bytes`].
    #[error("{op}: needs {bytes} bytes, over the limit of {limit}")]
    TooLarge {
        /// The op.
        op: &'static str,
        /// Bytes needed; `u64::MAX` where the number overflows.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A tensor operation failed.
    #[error("{op}: {source}")]
    Tensor {
        /// The op.
        op: &'static str,
        /// Why.
        #[source]
        source: TensorError,
    },
    /// [`crate::Limits::cancel`] said so.
    #[error("{op}: cancelled")]
    Cancelled {
        /// The op.
        op: &'static str,
    },
    /// A valid use of the op that the evaluator does not know.
    #[error("{op}: {reason} is not supported")]
    Unsupported {
        /// The op.
        op: &'static str,
        /// What.
        reason: String,
    },
}
