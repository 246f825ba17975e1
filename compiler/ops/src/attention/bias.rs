//! What is added to the scores: the mask, causality, the window and the padding of keys.

use lathe_tensor::{DType, Tensor};

use super::Attention;
use crate::EvalError;
use crate::evaluate::Context;
use crate::heads::Heads;
use crate::walk::broadcast_strides;

/// The bias of each score `[batch, heads, seq, total]`.
pub(super) struct Bias {
    mask: Option<Mask>,
    /// Keys before the first query, for each batch.
    offsets: Vec<i128>,
    /// Keys that are not padding, for each batch.
    lengths: Option<Vec<i64>>,
    causal: bool,
    left: Option<usize>,
    right: Option<usize>,
}

/// A mask as additive values, `[batch, heads, seq, width]` by strides.
struct Mask {
    values: Vec<f64>,
    strides: Vec<isize>,
    width: usize,
}

impl Bias {
    pub fn of(
        cx: &Context<'_>,
        attention: &Attention,
        q: &Heads,
        total: usize,
        past: usize,
    ) -> Result<Self, EvalError> {
        let mask =
            cx.optional(3).map(|mask| Mask::of(cx, mask, [q.batch, q.heads, q.seq, total])).transpose()?;
        let lengths = cx.optional(6).map(|lengths| cx.integers("nonpad_kv_seq_len", lengths)).transpose()?;
        if lengths.as_ref().is_some_and(|lengths| lengths.len() != q.batch) {
            return Err(cx.shape(format!("nonpad_kv_seq_len is not [{}]", q.batch)));
        }
        let offsets = match (&lengths, cx.optional(4)) {
            (Some(_), Some(_)) => return Err(cx.bad("past keys and nonpad_kv_seq_len exclude each other")),
            (Some(lengths), None) => {
                lengths.iter().map(|&length| i128::from(length) - q.seq as i128).collect()
            }
            (None, _) => {
                cx.spend(q.batch.saturating_mul(size_of::<i128>()))?;
                vec![past as i128; q.batch]
            }
        };
        let Attention { causal, left_window: left, right_window: right, .. } = *attention;
        Ok(Self { mask, offsets, lengths, causal, left, right })
    }

    /// The biases of one query to all keys.
    pub fn row(&self, batch: usize, head: usize, place: usize, out: &mut [f64]) {
        let position = self.offsets[batch] + place as i128;
        for (key, bias) in out.iter_mut().enumerate() {
            *bias = self.mask.as_ref().map_or(0.0, |mask| mask.value([batch, head, place], key));
            let ahead = key as i128 - position;
            let hidden = self.causal && ahead > 0
                || self.left.is_some_and(|left| -ahead > left as i128)
                || self.right.is_some_and(|right| ahead > right as i128)
                || self.lengths.as_ref().is_some_and(|lengths| key as i128 >= i128::from(lengths[batch]));
            if hidden {
                *bias += f64::NEG_INFINITY;
            }
        }
    }
}

impl Mask {
    /// A bool mask hides where it is false. A mask with fewer columns than keys hides the rest.
    fn of(cx: &Context<'_>, mask: &Tensor, scores: [usize; 4]) -> Result<Self, EvalError> {
        let [over @ .., total] = scores;
        let Some((&width, _)) = mask.shape().split_last() else {
            return Err(cx.shape("the mask is a scalar"));
        };
        if width > total || mask.rank() > 4 {
            return Err(cx.shape(format!("the mask does not fit scores of {scores:?}")));
        }
        let over = [over[0], over[1], over[2], width];
        cx.broadcasts_to("the mask", mask.shape(), &over)?;
        let values = match mask.dtype() {
            DType::Bool => {
                let bits = cx.bools("mask", mask)?;
                cx.spend(bits.len().saturating_mul(size_of::<f64>()))?;
                bits.into_iter().map(|seen| if seen { 0.0 } else { f64::NEG_INFINITY }).collect()
            }
            _ => cx.numbers("mask", mask)?,
        };
        let strides = broadcast_strides(mask.shape(), &over);
        Ok(Self { values, strides, width })
    }

    fn value(&self, index: [usize; 3], key: usize) -> f64 {
        if key >= self.width {
            return f64::NEG_INFINITY;
        }
        let row: usize =
            index.iter().zip(&self.strides).map(|(index, &stride)| index * stride as usize).sum();
        self.values[row + key * self.strides[3] as usize]
    }
}
