//! The layout of a page of a KV cache.

use serde::{Deserialize, Serialize};

/// A page holds the keys and values of [`KvPage::TOKENS`] places of a sequence, of all heads of one layer: the keys as
/// `[kv_head][qk_head_dim][64]`, so that a block of scores reads whole lines, then the values as `[kv_head][64][v_head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KvPage {
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a key.
    pub qk_head_dim: usize,
    /// Elements of a value.
    pub v_head_dim: usize,
}

impl KvPage {
    /// Version of the layout; artifacts name it.
    pub const VERSION: u32 = 1;
    /// Places of a page.
    pub const TOKENS: usize = 64;

    /// Number of elements; `None` where it overflows.
    pub fn elements(self) -> Option<usize> {
        let dims = self.qk_head_dim.checked_add(self.v_head_dim)?;
        Self::TOKENS.checked_mul(self.kv_heads)?.checked_mul(dims)
    }

    /// Offset of element `d` of the key of `head` at `place`. The arguments lie within the page, whose
    /// [`elements`](Self::elements) do not overflow.
    pub const fn key(self, head: usize, d: usize, place: usize) -> usize {
        (head * self.qk_head_dim + d) * Self::TOKENS + place
    }

    /// Offset of element `d` of the value of `head` at `place`, likewise.
    pub const fn value(self, head: usize, place: usize, d: usize) -> usize {
        self.kv_heads * self.qk_head_dim * Self::TOKENS + (head * Self::TOKENS + place) * self.v_head_dim + d
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_has_a_place_of_its_own() {
        let page = KvPage { kv_heads: 2, qk_head_dim: 3, v_head_dim: 5 };
        let mut used = vec![false; page.elements().expect("small")];
        for head in 0..page.kv_heads {
            for place in 0..KvPage::TOKENS {
                let keys = (0..page.qk_head_dim).map(|d| page.key(head, d, place));
                let values = (0..page.v_head_dim).map(|d| page.value(head, place, d));
                for offset in keys.chain(values) {
                    assert!(!std::mem::replace(&mut used[offset], true));
                }
            }
        }
        assert!(used.iter().all(|used| *used));
        assert_eq!(KvPage { kv_heads: usize::MAX, ..page }.elements(), None);
    }
}
