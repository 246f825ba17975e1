//! Attention (ONNX Attention-23 and 24), with sliding windows.

use serde::{Deserialize, Serialize};

/// Attributes of [`crate::Op::Attention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// Query heads, where `q` is `[batch, seq, heads * head_dim]`.
    pub q_heads: Option<usize>,
    /// Key and value heads, likewise.
    pub kv_heads: Option<usize>,
    /// A query sees no later key.
    pub causal: bool,
    /// Factor of the scores; `1 / sqrt(head_dim)` where absent.
    pub scale: Option<f32>,
    /// `softcap * tanh(score / softcap)`; 0 leaves it out.
    #[serde(with = "crate::float")]
    pub softcap: f32,
    /// What output 3 holds: 0 scores, 1 with mask, 2 after softcap, 3 after softmax.
    pub qk_output: u8,
    /// Softmax is computed in f64.
    pub softmax_in_f64: bool,
}
