//! The layout of a page of a KV cache.

use lathe_tensor::DType;
use serde::{Deserialize, Serialize};

/// A page holds the keys and values of [`KvPage::TOKENS`] places of a sequence, of all heads of one layer: the keys as
/// `[kv_head][qk_head_dim][64]`, so that a block of scores reads whole lines, then the values as `[kv_head][64][v_head_dim]`.
///
/// Pages of [`DType::I8`] count bytes, and behind the values stand the scales, f32 in the byte order of the machine:
/// `[kv_head][2][64]`, one a key and one a value of each place, which its elements are multiplied with.
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
    /// Number of elements where they are of `dtype`; `None` where it overflows.
    pub fn elements(self, dtype: DType) -> Option<usize> {
        Self::TOKENS.checked_mul(self.token_elements(dtype)?)
    }

    /// The share of one token in [`elements`](Self::elements).
    pub fn token_elements(self, dtype: DType) -> Option<usize> {
        let head = self.qk_head_dim.checked_add(self.v_head_dim)?.checked_add(Self::scales(dtype))?;
        self.kv_heads.checked_mul(head)
    }

    /// Elements that the scales of a place and head take.
    pub const fn scales(dtype: DType) -> usize {
        match dtype {
            DType::I8 => 2 * size_of::<f32>(),
            _ => 0,
        }
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

    /// Offset in bytes of the scale of the key of `head` at `place`, in pages of [`DType::I8`], likewise. Scales of a head's keys
    /// follow one another.
    pub const fn key_scale(self, head: usize, place: usize) -> usize {
        let numbers = self.kv_heads * (self.qk_head_dim + self.v_head_dim) * Self::TOKENS;
        numbers + (2 * head * Self::TOKENS + place) * size_of::<f32>()
    }

    /// The same for the value.
    pub const fn value_scale(self, head: usize, place: usize) -> usize {
        self.key_scale(head, Self::TOKENS + place)
    }
}

/// The scale of a key or value in pages of [`DType::I8`]: the largest magnitude becomes 127. NaN counts as nothing.
pub fn scale_of(elements: impl Iterator<Item = f32>) -> f32 {
    elements.fold(0.0f32, |largest, x| largest.max(x.abs())) / 127.0
}

/// An element by that scale, to the nearest integer, ties to even.
pub fn narrowed(x: f32, scale: f32) -> i8 {
    if scale == 0.0 { 0 } else { (x / scale).round_ties_even().clamp(-127.0, 127.0) as i8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_has_a_place_of_its_own() {
        let page = KvPage { kv_heads: 2, qk_head_dim: 3, v_head_dim: 5 };
        let mut used = vec![false; page.elements(DType::I8).expect("small")];
        let mut take = |offset: usize| assert!(!std::mem::replace(&mut used[offset], true));
        for head in 0..page.kv_heads {
            for place in 0..KvPage::TOKENS {
                (0..page.qk_head_dim).for_each(|d| take(page.key(head, d, place)));
                (0..page.v_head_dim).for_each(|d| take(page.value(head, place, d)));
                for scale in [page.key_scale(head, place), page.value_scale(head, place)] {
                    (scale..scale + 4).for_each(&mut take);
                }
            }
        }
        assert!(used.iter().all(|used| *used));
        assert_eq!(page.elements(DType::F16), Some(64 * 2 * 8));
        assert_eq!(KvPage { kv_heads: usize::MAX, ..page }.elements(DType::F32), None);
    }

    #[test]
    fn narrowed_elements_differ_by_half_a_step_at_most() {
        let row = [0.5f32, -2.0, 1.999, 0.0, 1e-9];
        let scale = scale_of(row.into_iter());
        for x in row {
            let wide = f32::from(narrowed(x, scale)) * scale;
            assert!((wide - x).abs() <= scale * 0.5001, "{x} became {wide}");
        }
        assert_eq!(narrowed(-2.0, scale), -127);
        assert_eq!((scale_of([0.0, f32::NAN].into_iter()), narrowed(1.0, 0.0)), (0.0, 0));
        assert_eq!(narrowed(f32::NAN, 1.0), 0);
    }
}
