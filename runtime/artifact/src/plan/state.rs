//! States: memory that outlives a call. The engine lends it, the program changes it in place.

use lathe_tensor::DType;
use serde::{Deserialize, Serialize};

use crate::layout::KvPage;

/// What a state holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateKind {
    /// Keys and values of self-attention: grows with the sequence.
    Kv,
    /// Keys and values of an encoder's output: written once a request, then only read.
    Cross,
}

/// A state of a function: one of its inputs, and where the function changes it, one of its outputs. Both are the same memory, which
/// the engine lends for the call: pages `[pool_pages, page_elements]` of [`KvPage::TOKENS`] tokens each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Index into [`super::Plan::inputs`].
    pub input: u32,
    /// Index into [`super::Plan::outputs`]; `None` where the function only reads the state.
    pub output: Option<u32>,
    /// What it holds.
    pub kind: StateKind,
    /// The layer that it belongs to, counted from 0 over states of its kind.
    pub layer: u32,
    /// The input (index into [`super::Plan::inputs`]) that lists each sequence's pages. States of one table are one group: they keep
    /// the same tokens.
    pub block_table: u32,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Size of a key.
    pub qk_head_dim: usize,
    /// Size of a value.
    pub v_head_dim: usize,
    /// Tokens that stay visible: a sliding window. `None`: all.
    pub window: Option<usize>,
    /// Dtype of the elements.
    pub dtype: DType,
}

impl State {
    /// The layout of a page.
    pub fn page(&self) -> KvPage {
        KvPage { kv_heads: self.kv_heads, qk_head_dim: self.qk_head_dim, v_head_dim: self.v_head_dim }
    }

    /// Elements of one page; `usize::MAX` where they do not fit.
    pub fn page_elements(&self) -> usize {
        self.page().elements(self.dtype).unwrap_or(usize::MAX)
    }

    /// Bytes that one token takes, scales included.
    pub fn bytes_per_token(&self) -> u64 {
        let elements = self.page().token_elements(self.dtype).unwrap_or(usize::MAX);
        self.dtype.storage_bytes(elements).unwrap_or(usize::MAX) as u64
    }

    /// Bytes of the tokens that a sequence of `tokens` tokens keeps: `min(tokens, window) * kv_heads * (qk_head_dim +
    /// v_head_dim) * bytes`, and 8 bytes a kv head for the scales of int8.
    pub fn bytes(&self, tokens: u64) -> u64 {
        let kept = self.window.map_or(tokens, |window| tokens.min(window as u64));
        kept.saturating_mul(self.bytes_per_token())
    }
}

/// A value of the past that the plan's function cannot follow token by token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Regime {
    /// The node that depends on the total length.
    pub node: String,
    /// Lengths up to this one are of the first regime, longer ones of the second. A sequence that crosses it is computed again from
    /// its first token.
    pub boundary: u64,
}

impl super::Plan {
    /// The states that grow with the sequence.
    fn growing(&self) -> impl Iterator<Item = &State> {
        self.states.iter().filter(|state| state.kind == StateKind::Kv)
    }

    /// Bytes that one more token takes in all states that grow and whose window is not full.
    pub fn kv_bytes_per_token(&self) -> u64 {
        self.growing().map(State::bytes_per_token).fold(0, u64::saturating_add)
    }

    /// Bytes that the states of one sequence of `tokens` tokens hold, without what an encoder left: without windows and with equal layers
    /// `2 * layers * tokens * kv_heads * head_dim * bytes`.
    pub fn kv_bytes(&self, tokens: u64) -> u64 {
        self.growing().map(|state| state.bytes(tokens)).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(window: Option<usize>) -> State {
        State {
            input: 0,
            output: Some(0),
            kind: StateKind::Kv,
            layer: 0,
            block_table: 1,
            kv_heads: 2,
            qk_head_dim: 16,
            v_head_dim: 8,
            window,
            dtype: DType::F32,
        }
    }

    #[test]
    fn bytes_follow_heads_and_window() {
        assert_eq!(state(None).page_elements(), 64 * 2 * 24);
        assert_eq!(state(None).bytes(10), 10 * 2 * 24 * 4);
        for (tokens, kept) in [(0, 0), (7, 7), (8, 8), (9, 8)] {
            assert_eq!(state(Some(8)).bytes(tokens), kept * 2 * 24 * 4);
        }
        let half = State { dtype: DType::F16, ..state(None) };
        assert_eq!(half.bytes_per_token(), 2 * 24 * 2);
        let bytes = State { dtype: DType::I8, ..state(None) };
        assert_eq!((bytes.bytes_per_token(), bytes.page_elements()), (2 * 32, 64 * 2 * 32));
    }
}
