//! Attention: ONNX Attention-23 to 25, with what models add to it (ALiBi, sinks, padding of keys), and its paged form.

mod bias;
mod contents;
mod page;
pub mod paged;

use lathe_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::elementwise::binary::maximum;
use crate::evaluate::{Arity, Context, Evaluate};
use crate::heads::Heads;
use crate::norm::total;
use bias::Bias;

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
    #[serde(default, with = "crate::float::option")]
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
    /// Query `i` stands at position `total - seq + i` instead of `past + i`.
    #[serde(default)]
    pub bottom_right: bool,
    /// f32 rounds as product, scale, mask, softmax and product do one after the other; without sinks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
    /// What the scores are divided by in place of `scale`, its reciprocal, where they are exact.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::float::option")]
    pub divisor: Option<f32>,
}

impl Attention {
    /// Position of `key_padding` among the inputs: bool `[batch, total]`, true where the key may be seen.
    pub const KEY_PADDING: usize = 7;
    /// Position of `alibi_slopes` among the inputs: `[q_heads]`.
    pub const ALIBI_SLOPES: usize = 8;
    /// Position of `alibi_positions` among the inputs: `[batch, total]`.
    pub const ALIBI_POSITIONS: usize = 9;
    /// Position of `sinks` among the inputs: `[q_heads]`.
    pub const SINKS: usize = 10;
}

impl Evaluate for Attention {
    fn arity(&self) -> Arity {
        Arity::of(3, 11).outputs(1, 4)
    }

    /// `q`, `k` and `v` are `[batch, heads, seq, head_dim]` or `[batch, seq, heads * head_dim]`; past and present
    /// have four axes. Each key head serves a run of query heads. A query that may see no key gives zeros.
    ///
    /// The score of query `i` at position `p` and key `j` is `scale * q.k`, then softcap, plus the mask and the ALiBi bias:
    /// `-slope * |p - j|`, or `slope * alibi_positions[j]` where those are given. A sink is one more logit of its head
    /// in the denominator of the softmax.
    ///
    /// f16 and bf16 are rounded wherever the ops of the standard's function body store a result; that body scales `q` and `k`
    /// by `sqrt(scale)` each. Everything else is in f64.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let q = cx.input(0)?;
        let q_heads = Heads::of(cx, "q", q, self.q_heads)?;
        let keys = self.present(cx, "k", 1, 4)?;
        let values = self.present(cx, "v", 2, 5)?;
        let (k_heads, v_heads) = (Heads::of(cx, "k", &keys, None)?, Heads::of(cx, "v", &values, None)?);
        let same = |a: &Heads, b: &Heads| a.batch == b.batch && a.heads == b.heads && a.seq == b.seq;
        if !same(&k_heads, &v_heads) || q_heads.batch != k_heads.batch || q_heads.head_dim != k_heads.head_dim
        {
            return Err(cx.shape("q, k and v do not fit together"));
        }
        if k_heads.heads == 0 || q_heads.heads % k_heads.heads != 0 {
            return Err(cx.shape(format!("{} heads of q for {} of k", q_heads.heads, k_heads.heads)));
        }
        let past = cx.optional(4).map_or(0, |past| past.shape()[2]);
        let bias = Bias::of(cx, self, &q_heads, k_heads.seq, past)?;
        let sinks = per_head(cx, "sinks", Self::SINKS, q_heads.heads)?;
        let mut cells =
            Operands { q: cx.floats("q", q)?, k: cx.floats("k", &keys)?, v: cx.floats("v", &values)? };
        let rounding = Rounding::of(cx, q.dtype(), self.softmax_in_f64);
        let scale = self.scale.map_or(1.0 / (q_heads.head_dim as f64).sqrt(), f64::from);
        let scale = cells.scaled(scale, &rounding);
        let weighing = Weighing { bias: &bias, sinks: sinks.as_deref(), scale, rounding };
        let (y, scores) = self.attend(cx, &cells, [&q_heads, &k_heads, &v_heads], &weighing)?;
        let y_shape = match q_heads.packed {
            true => vec![q_heads.batch, q_heads.seq, q_heads.heads * v_heads.head_dim],
            false => vec![q_heads.batch, q_heads.heads, q_heads.seq, v_heads.head_dim],
        };
        let mut results = vec![cx.rounded(q.dtype(), &y_shape, &y)?, keys, values];
        if cx.wanted() > 3 {
            let shape = [q_heads.batch, q_heads.heads, q_heads.seq, k_heads.seq];
            results.push(cx.rounded(q.dtype(), &shape, &scores)?);
        }
        Ok(results)
    }
}

/// The elements of the operands.
struct Operands {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
}

impl Operands {
    /// The factor that products of `q` and `k` still need; narrow operands are scaled here.
    fn scaled(&mut self, scale: f64, rounding: &Rounding<'_, '_>) -> f64 {
        if !rounding.narrow {
            return scale;
        }
        let factor = rounding.round(scale.sqrt());
        for cell in self.q.iter_mut().chain(&mut self.k) {
            *cell = rounding.round(*cell * factor);
        }
        1.0
    }
}

/// How results between the ops of attention are stored.
struct Rounding<'c, 'a> {
    cx: &'c Context<'a>,
    dtype: DType,
    narrow: bool,
    /// The softmax is stored in a wider dtype.
    wide_softmax: bool,
}

impl<'c, 'a> Rounding<'c, 'a> {
    fn of(cx: &'c Context<'a>, dtype: DType, wide_softmax: bool) -> Self {
        Self { cx, dtype, narrow: matches!(dtype, DType::F16 | DType::BF16), wide_softmax }
    }

    fn round(&self, value: f64) -> f64 {
        if self.narrow { self.cx.round_to(self.dtype, value) } else { value }
    }

    /// Within the softmax.
    fn round_weight(&self, value: f64) -> f64 {
        if self.wide_softmax { value } else { self.round(value) }
    }
}

/// What makes weights of products.
struct Weighing<'c, 'a> {
    bias: &'c Bias,
    sinks: Option<&'c [f64]>,
    scale: f64,
    rounding: Rounding<'c, 'a>,
}

impl Attention {
    /// Past and new keys or values, `[batch, kv_heads, total, head_dim]`.
    fn present(&self, cx: &Context<'_>, name: &str, new: usize, past: usize) -> Result<Tensor, EvalError> {
        let new = cx.input(new)?;
        let heads = Heads::of(cx, name, new, self.kv_heads)?;
        let old = match (cx.optional(4), cx.optional(5), cx.optional(past)) {
            (Some(_), Some(_), Some(old)) => old,
            (None, None, _) if !heads.packed => return Ok(new.clone()),
            (None, None, _) => &cx.zeros(new.dtype(), &[heads.batch, heads.heads, 0, heads.head_dim])?,
            _ => return Err(cx.bad("past keys and past values must be given together")),
        };
        let before = match *old.shape() {
            [batch, count, before, dim]
                if [batch, count, dim] == [heads.batch, heads.heads, heads.head_dim] =>
            {
                before
            }
            _ => return Err(cx.shape(format!("the past of {name} does not fit it"))),
        };
        let total = before.checked_add(heads.seq).ok_or_else(|| cx.too_large(None))?;
        let dim = heads.head_dim;
        let whole = Heads { seq: total, packed: false, ..heads };
        let shape = [whole.batch, whole.heads, total, dim];
        cx.count(&shape)?;
        let past_heads = Heads { seq: before, ..whole };
        let cells = whole.places().flat_map(|(batch, head, place)| {
            let (source, start) = match place.checked_sub(before) {
                None => (0, past_heads.offset(batch, head, place)),
                Some(place) => (1, heads.offset(batch, head, place)),
            };
            (start..start + dim).map(move |element| Some((source, element)))
        });
        cx.pick(&[old, new], None, &shape, cells)
    }

    /// The result in the layout of `q`, and what output 3 holds (empty where nobody wants it).
    fn attend(
        &self,
        cx: &Context<'_>,
        cells: &Operands,
        [q, k, v]: [&Heads; 3],
        weighing: &Weighing<'_, '_>,
    ) -> Result<(Vec<f64>, Vec<f64>), EvalError> {
        let result = Heads { head_dim: v.head_dim, ..*q };
        let mut y = cx.filled(cx.count(&[q.batch, q.heads, q.seq, v.head_dim])?, 0.0)?;
        let score_count = if cx.wanted() > 3 { cx.count(&[q.batch, q.heads, q.seq, k.seq])? } else { 0 };
        let mut scores = cx.filled(score_count, 0.0)?;
        if y.is_empty() && scores.is_empty() {
            return Ok((y, scores));
        }
        let mut row = cx.filled(k.seq, 0.0)?;
        let mut biases = cx.filled(k.seq, 0.0)?;
        for (index, (batch, head, place)) in q.places().enumerate() {
            let key_head = head / (q.heads / k.heads);
            let query = &cells.q[q.offset(batch, head, place)..][..q.head_dim];
            for (key, score) in row.iter_mut().enumerate() {
                cx.work(q.head_dim + v.head_dim)?;
                let key = &cells.k[k.offset(batch, key_head, key)..][..k.head_dim];
                let product = query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>();
                *score = weighing.rounding.round(product * weighing.scale);
            }
            let kept = scores.get_mut(index * k.seq..(index + 1) * k.seq);
            weighing.bias.row(batch, head, place, &mut biases);
            self.weigh(&mut row, &biases, head, weighing, kept.unwrap_or_default());
            let out = &mut y[result.offset(batch, head, place)..][..v.head_dim];
            for (key, &weight) in row.iter().enumerate() {
                let value = &cells.v[v.offset(batch, key_head, key)..][..v.head_dim];
                out.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * value);
            }
        }
        Ok((y, scores))
    }

    /// Turns scores into weights; `kept` receives the stage that output 3 asks for, where it is not empty.
    fn weigh(
        &self,
        row: &mut [f64],
        biases: &[f64],
        head: usize,
        weighing: &Weighing<'_, '_>,
        kept: &mut [f64],
    ) {
        let rounding = &weighing.rounding;
        let mut keep = |stage: u8, row: &[f64]| {
            if self.qk_output == stage && !kept.is_empty() {
                kept.copy_from_slice(row);
            }
        };
        keep(0, row);
        let softcap = f64::from(self.softcap);
        if softcap > 0.0 {
            for score in row.iter_mut() {
                let capped = rounding.round(rounding.round(*score / softcap).tanh());
                *score = rounding.round(softcap * capped);
            }
        }
        keep(1, row);
        row.iter_mut().zip(biases).for_each(|(score, bias)| *score = rounding.round(*score + bias));
        keep(2, row);
        // Whether a query sees anything is decided by the bias alone: a masked score may be NaN.
        if biases.iter().all(|&bias| bias == f64::NEG_INFINITY) {
            row.fill(0.0);
        } else {
            softmax(row, weighing.sinks.map(|sinks| sinks[head]), rounding);
        }
        keep(3, row);
    }
}

/// Turns scores into weights; without a finite score all are 0. A sink takes part in the denominator alone.
fn softmax(row: &mut [f64], sink: Option<f64>, rounding: &Rounding<'_, '_>) {
    let round = |value: f64| rounding.round_weight(value);
    let largest = row.iter().copied().chain(sink).fold(f64::NEG_INFINITY, maximum);
    if largest == f64::NEG_INFINITY {
        row.fill(0.0);
        return;
    }
    row.iter_mut().for_each(|score| *score = round(round(*score - largest).exp()));
    let extra = sink.map(|sink| round(round(sink - largest).exp()));
    let sum = total(rounding.dtype, row.iter().copied().chain(extra), round);
    row.iter_mut().for_each(|weight| *weight = rounding.round(round(*weight / sum)));
}

/// The numbers of an optional input that has one a query head.
fn per_head(cx: &Context<'_>, name: &str, index: usize, heads: usize) -> Result<Option<Vec<f64>>, EvalError> {
    let Some(values) = cx.optional(index) else { return Ok(None) };
    if values.shape() != [heads] {
        return Err(cx.shape(format!("{name} is not [{heads}]")));
    }
    cx.floats(name, values).map(Some)
}
