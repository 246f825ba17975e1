//! How the elements of a constant are stored.

use serde::{Deserialize, Serialize};

use crate::DType;

/// The encoding of a constant: one value a cell, or quantised blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encoding {
    /// Elements of the logical dtype in row-major order.
    #[default]
    Dense,
    /// Blocks of quantised elements along the last axis.
    Blocked(Blocked),
}

/// Blocks of quantised elements: `value = scale * (q - zero)` or `scale * q - minimum`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Blocked {
    /// Elements that share a scale.
    pub block: u32,
    /// Dtype of the stored elements.
    pub element: DType,
    /// Dtype of the scale of each block.
    pub scale: DType,
    /// Zero points, one a block, in `element`.
    pub zeros: bool,
    /// Minima, one a block, in `scale`.
    pub minima: bool,
    /// Blocks that share a super-scale; 0 where there is none.
    pub super_block: u32,
}
