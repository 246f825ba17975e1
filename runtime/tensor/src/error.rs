//! What can go wrong with a tensor.

use std::path::PathBuf;

use crate::DType;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// A dtype name that is not in the table.
    #[error("unknown dtype `{0}`")]
    UnknownDType(String),
    /// The element count or byte size of a shape does not fit in memory addresses.
    #[error("shape {0:?} is too large")]
    TooLarge(Vec<usize>),
    /// The data does not have the size that dtype and shape ask for.
    #[error("a {dtype} tensor of shape {shape:?} takes {expected} bytes, the data has {actual}")]
    SizeMismatch {
        /// Dtype asked for.
        dtype: DType,
        /// Shape asked for.
        shape: Vec<usize>,
        /// Bytes that dtype and shape take.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// Bytes that do not hold the quantised blocks of a shape.
    #[error("{actual} bytes do not hold a {format} tensor of shape {shape:?}")]
    BlockSize {
        /// Name of the format.
        format: &'static str,
        /// Shape asked for.
        shape: Vec<usize>,
        /// Bytes given.
        actual: usize,
    },
    /// Typed access with another dtype than the tensor's.
    #[error("expected a {expected} tensor, found {actual}")]
    DTypeMismatch {
        /// Dtype asked for.
        expected: DType,
        /// Dtype of the tensor.
        actual: DType,
    },
    /// A reshape that changes the number of elements.
    #[error("cannot view shape {from:?} as {to:?}")]
    BadReshape {
        /// Shape of the tensor.
        from: Vec<usize>,
        /// Shape asked for.
        to: Vec<usize>,
    },
    /// Shapes that do not broadcast together.
    #[error("shapes {0:?} and {1:?} do not broadcast")]
    NotBroadcastable(Vec<usize>, Vec<usize>),
    /// A value of another kind than its form, or parts that do not fit one another.
    #[error("{0}")]
    Form(String),
    /// A byte range outside its file.
    #[error("bytes {offset}..+{length} lie outside `{path}` of {size} bytes")]
    OutsideFile {
        /// The file.
        path: PathBuf,
        /// First byte asked for.
        offset: u64,
        /// Number of bytes asked for.
        length: u64,
        /// Size of the file.
        size: u64,
    },
    /// The operating system refused.
    #[error("cannot read `{path}`: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
