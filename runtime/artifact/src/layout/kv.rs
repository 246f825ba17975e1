//! Pages of a KV cache, and the states of chunks of keys that workers share. The layout of a page is the ops' own, for the meaning
//! of the paged ops rests on it.

pub use lathe_ops::attention::paged::{KvPage, narrowed, scale_of};

/// Pages of a chunk of keys: attention joins the states of chunks in ascending order, whoever computes them.
pub const CHUNK_PAGES: usize = 8;
/// Most rows of a call of `paged_attention` whose keys workers share in chunks.
pub const SHARED_ROWS: usize = 8;

/// Elements of the state that a row's chunk leaves: 16 for the largest score, 16 lanes of the weights' sum, the weighted values.
pub const fn chunk_state_len(v_dim: usize) -> usize {
    32 + v_dim.div_ceil(32) * 32
}
