//! Linear attention: a state of one matrix a head, updated at each position.

use lathe_tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};

/// Attributes of [`crate::Op::LinearAttention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearAttention {
    /// Heads of the queries.
    pub q_heads: usize,
    /// Heads of keys and values; each serves a run of query heads.
    pub kv_heads: usize,
    /// How a position changes the state.
    pub rule: UpdateRule,
    /// Factor of the result; `1 / sqrt(head_dim)` where absent.
    #[serde(default, with = "crate::float::option")]
    pub scale: Option<f32>,
}

/// How a position changes the state `S[d_k, d_v]` by its key `k`, value `v`, decay `g` and rate `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateRule {
    /// `S + k v`.
    Linear,
    /// `exp(g) S + k v`.
    Gated,
    /// `S + b k (v - S k)`.
    Delta,
    /// `exp(g) S + b k (v - exp(g) S k)`.
    GatedDelta,
}

impl UpdateRule {
    /// Whether the rule takes a decay, and whether it takes a rate.
    pub fn operands(self) -> (bool, bool) {
        let gated = matches!(self, UpdateRule::Gated | UpdateRule::GatedDelta);
        (gated, matches!(self, UpdateRule::Delta | UpdateRule::GatedDelta))
    }
}

/// Sizes of one evaluation.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    seq: usize,
    key: usize,
    value: usize,
}

impl Evaluate for LinearAttention {
    fn arity(&self) -> Arity {
        Arity::of(3, 6).outputs(1, 2)
    }

    /// Inputs `q[batch, seq, q_heads * d_k], k[batch, seq, kv_heads * d_k], v[batch, seq, kv_heads * d_v], past?, decay?, rate?`:
    /// `past` is `[batch, kv_heads, d_k, d_v]`, the decay is a number a head or one for each of its key's elements, the
    /// rate one a head or one for all. Outputs `y[batch, seq, q_heads * d_v]` and the last state (ONNX LinearAttention-27).
    /// In f64.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let q = cx.input(0)?;
        let sizes = self.sizes(cx)?;
        let Sizes { batch, seq, key, value } = sizes;
        let state_shape = [batch, self.kv_heads, key, value];
        let mut state = match cx.optional(3) {
            None => cx.filled(cx.count(&state_shape)?, 0.0)?,
            Some(past) if past.shape() == state_shape => cx.floats("past", past)?,
            Some(_) => return Err(cx.shape(format!("past is not {state_shape:?}"))),
        };
        let (gated, rated) = self.rule.operands();
        let decay = gated.then(|| self.per_head(cx, 4, "decay", sizes, key)).transpose()?;
        let rate = rated.then(|| self.per_head(cx, 5, "rate", sizes, 1)).transpose()?;
        let group = self.q_heads / self.kv_heads;
        let shape = [batch, seq, self.q_heads * value];
        let mut y = cx.filled(cx.count(&shape)?, 0.0)?;
        let (queries, keys) = (cx.floats("q", q)?, cx.floats("k", cx.input(1)?)?);
        let values = cx.floats("v", cx.input(2)?)?;
        let scale = self.scale.map_or(1.0 / (key as f64).sqrt(), f64::from);
        for head in 0..batch * self.kv_heads {
            let (b, h) = (head / self.kv_heads, head % self.kv_heads);
            let state = &mut state[head * key * value..][..key * value];
            for t in 0..seq {
                cx.work(4 * key * value)?;
                let row = b * seq + t;
                let k = &keys[(row * self.kv_heads + h) * key..][..key];
                let v = &values[(row * self.kv_heads + h) * value..][..value];
                if let Some((decay, width)) = &decay {
                    fade(state, &decay[(row * self.kv_heads + h) * width..][..*width], value);
                }
                let rate = rate.as_ref().map(|(rate, width)| match width {
                    0 => rate[row],
                    _ => rate[row * self.kv_heads + h],
                });
                update(state, k, v, rate);
                for q_head in h * group..(h + 1) * group {
                    let q = &queries[(row * self.q_heads + q_head) * key..][..key];
                    let y = &mut y[(row * self.q_heads + q_head) * value..][..value];
                    for (q, state) in q.iter().zip(state.chunks_exact(value.max(1))) {
                        y.iter_mut().zip(state).for_each(|(y, cell)| *y += scale * q * cell);
                    }
                }
            }
        }
        let state_dtype = cx.optional(3).map_or(q.dtype(), Tensor::dtype);
        Ok(vec![cx.rounded(q.dtype(), &shape, &y)?, cx.rounded(state_dtype, &state_shape, &state)?])
    }
}

/// `exp(g) S`, `g` one number or one a row.
fn fade(state: &mut [f64], decay: &[f64], width: usize) {
    for (row, state) in state.chunks_exact_mut(width.max(1)).enumerate() {
        let factor = decay[if decay.len() == 1 { 0 } else { row }].exp();
        state.iter_mut().for_each(|cell| *cell *= factor);
    }
}

/// `S + k v`, or with a rate `S + b k (v - S k)`.
fn update(state: &mut [f64], k: &[f64], v: &[f64], rate: Option<f64>) {
    let width = v.len().max(1);
    let mut change = v.to_vec();
    if let Some(rate) = rate {
        for (k, row) in k.iter().zip(state.chunks_exact(width)) {
            change.iter_mut().zip(row).for_each(|(change, cell)| *change -= k * cell);
        }
        change.iter_mut().for_each(|change| *change *= rate);
    }
    for (k, row) in k.iter().zip(state.chunks_exact_mut(width)) {
        row.iter_mut().zip(&change).for_each(|(cell, change)| *cell += k * change);
    }
}

impl LinearAttention {
    fn sizes(&self, cx: &Context<'_>) -> Result<Sizes, EvalError> {
        let (q_heads, kv_heads) = (self.q_heads, self.kv_heads);
        if kv_heads == 0 || q_heads == 0 || q_heads % kv_heads != 0 {
            return Err(cx.bad(format!("{q_heads} query heads for {kv_heads} heads of keys and values")));
        }
        let three = |index: usize| {
            <[usize; 3]>::try_from(cx.input(index)?.shape()).map_err(|_| cx.shape("three axes"))
        };
        let ([batch, seq, q], k, v) = (three(0)?, three(1)?, three(2)?);
        let (key, value) = (q / q_heads, v[2] / kv_heads);
        let fits = q % q_heads == 0
            && v[2] % kv_heads == 0
            && k == [batch, seq, key.saturating_mul(kv_heads)]
            && v[..2] == [batch, seq];
        if !fits {
            return Err(cx.shape(format!("q, k and v do not fit {q_heads} and {kv_heads} heads")));
        }
        Ok(Sizes { batch, seq, key, value })
    }

    /// A number a head, or `wide` of them: the elements and how many a head has (0: one for all heads).
    fn per_head(
        &self,
        cx: &Context<'_>,
        index: usize,
        name: &str,
        sizes: Sizes,
        wide: usize,
    ) -> Result<(Vec<f64>, usize), EvalError> {
        let input = cx.input(index)?;
        let cells = cx.floats(name, input)?;
        let rows = [sizes.batch, sizes.seq];
        let heads = self.kv_heads;
        match *input.shape() {
            [batch, seq, width] if [batch, seq] == rows && width == heads => Ok((cells, 1)),
            [batch, seq, width] if [batch, seq] == rows && wide > 1 && width == heads * wide => {
                Ok((cells, wide))
            }
            [batch, seq, 1] if [batch, seq] == rows && wide == 1 => Ok((cells, 0)),
            _ => {
                Err(cx
                    .shape(format!("{name} is not {rows:?} with a number or more for each of {heads} heads")))
            }
        }
    }
}
