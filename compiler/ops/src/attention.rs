//! Attention (ONNX Attention-23 to 25), with sliding windows.

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
    /// What output 3 holds: 0 scores, 1 after softcap, 2 with mask, 3 after softmax (ONNX `qk_matmul_output_mode`).
    pub qk_output: u8,
    /// A query at position `p` sees no key before `p - left_window` (Attention-25).
    pub left_window: Option<usize>,
    /// A query at position `p` sees no key after `p + right_window` (Attention-25).
    pub right_window: Option<usize>,
    /// Softmax is computed in f64.
    pub softmax_in_f64: bool,
}
