//! What is added to the scores: the mask, ALiBi, causality, the window and the padding of keys.

use lathe_tensor::{DType, Tensor};

use super::{Attention, per_head};
use crate::EvalError;
use crate::evaluate::Context;
use crate::heads::Heads;
use crate::walk::broadcast_strides;

/// The bias of each score `[batch, heads, seq, total]`.
pub(super) struct Bias {
    mask: Option<Mask>,
    alibi: Option<Alibi>,
    /// Whether each key `[batch, total]` may be seen.
    seen: Option<Vec<bool>>,
    total: usize,
    /// Keys before the first query, for each batch.
    offsets: Vec<i128>,
    /// Keys that are not padding, for each batch.
    lengths: Option<Vec<i64>>,
    causal: bool,
    left: Option<usize>,
    right: Option<usize>,
}

/// A bias that grows with distance, or with a given number for each key.
struct Alibi {
    slopes: Vec<f64>,
    /// `[batch, total]`.
    positions: Option<Vec<f64>>,
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
        if lengths.is_some() && attention.bottom_right {
            return Err(cx.bad("bottom_right and nonpad_kv_seq_len exclude each other"));
        }
        let past = if attention.bottom_right { total as i128 - q.seq as i128 } else { past as i128 };
        let offsets = match (&lengths, cx.optional(4)) {
            (Some(_), Some(_)) => return Err(cx.bad("past keys and nonpad_kv_seq_len exclude each other")),
            (Some(lengths), None) => {
                lengths.iter().map(|&length| i128::from(length) - q.seq as i128).collect()
            }
            (None, _) => {
                cx.spend(q.batch.saturating_mul(size_of::<i128>()))?;
                vec![past; q.batch]
            }
        };
        let Attention { causal, left_window: left, right_window: right, .. } = *attention;
        let seen = cx.optional(Attention::KEY_PADDING).map(|seen| {
            of_keys(cx, "key_padding", seen, [q.batch, total])?;
            cx.bools("key_padding", seen)
        });
        let (alibi, seen) = (Alibi::of(cx, q, total)?, seen.transpose()?);
        Ok(Self { mask, alibi, seen, total, offsets, lengths, causal, left, right })
    }

    /// The biases of one query to all keys.
    pub fn row(&self, batch: usize, head: usize, place: usize, out: &mut [f64]) {
        let position = self.offsets[batch] + place as i128;
        for (key, bias) in out.iter_mut().enumerate() {
            *bias = self.mask.as_ref().map_or(0.0, |mask| mask.value([batch, head, place], key));
            let ahead = key as i128 - position;
            if let Some(alibi) = &self.alibi {
                *bias += match &alibi.positions {
                    Some(positions) => alibi.slopes[head] * positions[batch * self.total + key],
                    None => -alibi.slopes[head] * ahead.unsigned_abs() as f64,
                };
            }
            let hidden = self.causal && ahead > 0
                || self.left.is_some_and(|left| -ahead > left as i128)
                || self.right.is_some_and(|right| ahead > right as i128)
                || self.lengths.as_ref().is_some_and(|lengths| key as i128 >= i128::from(lengths[batch]))
                || self.seen.as_ref().is_some_and(|seen| !seen[batch * self.total + key]);
            if hidden {
                *bias += f64::NEG_INFINITY;
            }
        }
    }
}

impl Alibi {
    fn of(cx: &Context<'_>, q: &Heads, total: usize) -> Result<Option<Self>, EvalError> {
        let positions = cx.optional(Attention::ALIBI_POSITIONS);
        let Some(slopes) = per_head(cx, "alibi_slopes", Attention::ALIBI_SLOPES, q.heads)? else {
            return match positions {
                Some(_) => Err(cx.bad("alibi_positions without alibi_slopes")),
                None => Ok(None),
            };
        };
        let positions = positions.map(|positions| {
            of_keys(cx, "alibi_positions", positions, [q.batch, total])?;
            cx.numbers("alibi_positions", positions)
        });
        Ok(Some(Self { slopes, positions: positions.transpose()? }))
    }
}

/// That an operand has one element for each key of each batch.
fn of_keys(cx: &Context<'_>, name: &str, x: &Tensor, shape: [usize; 2]) -> Result<(), EvalError> {
    if x.shape() == shape { Ok(()) } else { Err(cx.shape(format!("{name} is not {shape:?}"))) }
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
