//! Position encodings.

use serde::{Deserialize, Serialize};

/// Attributes of [`crate::Op::RotaryEmbedding`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RotaryEmbedding {
    /// Pairs are neighbours instead of half a head apart.
    pub interleaved: bool,
    /// Heads, where `x` is `[batch, seq, heads * head_dim]`.
    pub heads: Option<usize>,
    /// Leading elements of each head that are rotated; all where absent.
    pub rotary_dim: Option<usize>,
}
