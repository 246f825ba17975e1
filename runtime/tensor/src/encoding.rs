//! How the elements of a constant are stored.

use serde::{Deserialize, Serialize};

use crate::BlockFormat;

/// The encoding of a constant: one value a cell, or quantised blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Elements of the logical dtype in row-major order.
    #[default]
    Dense,
    /// Blocks of quantised elements along the last axis, in row-major order; the stored bytes are a `u8` tensor of rank 1 and the
    /// logical dtype is f32.
    Blocked(BlockFormat),
}
