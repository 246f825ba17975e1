//! Tensors: dtypes, constant encodings, concrete shapes and strides, owned and mapped buffers, views.
//!
//! A [`Tensor`] is a dtype, a shape and shared bytes in row-major order. The bytes are owned (aligned to
//! [`ALIGN`]) or a range of a mapped file, which may start at any address: typed access copies only then.

mod block;
mod buffer;
mod dtype;
mod encoding;
mod error;
mod quantise;
mod random;
mod shape;
mod tensor;
pub mod value;
mod widen;

pub use block::{BlockFormat, BlockParts, ScaleForm};
pub use buffer::{ALIGN, Buffer, MappedFile};
pub use dtype::{DType, Element};
pub use encoding::Encoding;
pub use error::TensorError;
pub use random::SplitMix64;
pub use shape::{Shape, broadcast_shapes, element_count, row_major_strides};
pub use tensor::Tensor;
