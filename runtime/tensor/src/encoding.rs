//! How the elements of a constant are stored.

use serde::{Deserialize, Serialize};

use crate::{BlockFormat, DType};

/// The encoding of a constant: one value a cell, floats of 16 bits, or quantised blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Elements of the logical dtype in row-major order.
    #[default]
    Dense,
    /// Blocks of quantised elements along the last axis, in row-major order; the stored bytes are a `u8` tensor of rank 1 and the
    /// logical dtype is f32.
    Blocked(BlockFormat),
    /// f16 or bf16 in row-major order; the stored bytes are a tensor of that dtype and the constant's shape, and the logical dtype is f32:
    /// each element stands for the same number.
    Widened(DType),
}
