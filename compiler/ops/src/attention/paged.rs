//! Attention of packed rows over a paged cache.
//!
//! The rows of a call belong to several sequences: those of sequence `s` are `seq_start[s]..seq_start[s + 1]`, and row `r` stands
//! at `position[r]` of its sequence. Place `p` of sequence `s` is place `p % 64` of page `block_table[s, p / 64]` of the state.
//! A prefill, a step and a mixed batch differ in their rows only.

use lathe_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::contents::Contents;
pub use super::page::{KvPage, narrowed, scale_of};
use super::{Rounding, per_head, softmax};
use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::broadcast_strides;

/// Attributes of [`crate::Op::KvAppend`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KvAppend {}

/// Attributes of [`crate::Op::PagedAttention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PagedAttention {
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a query and of a key.
    pub qk_head_dim: usize,
    /// Elements of a value that the state keeps.
    pub v_head_dim: usize,
    /// The state keeps no values (`v_head_dim` is 0): they are the first so many elements of the keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent: Option<usize>,
    /// A row at position `p` sees keys after `p - window` only.
    #[serde(default)]
    pub window: Option<usize>,
    /// Factor of the scores; `1 / sqrt(qk_head_dim)` where absent.
    #[serde(default, with = "crate::float::option")]
    pub scale: Option<f32>,
    /// `softcap * tanh(score / softcap)`; 0 leaves it out.
    #[serde(with = "crate::float")]
    pub softcap: f32,
    /// ALiBi's slopes are multiplied with `key + alibi_origin`; with minus the distance of row and key where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alibi_origin: Option<i64>,
}

impl PagedAttention {
    /// Elements of a value.
    pub fn value_dim(&self) -> usize {
        self.latent.unwrap_or(self.v_head_dim)
    }

    /// Checks the sizes against one another.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn check(&self) -> Result<(), String> {
        match self.latent {
            Some(latent) if self.v_head_dim != 0 || latent > self.qk_head_dim => Err(format!(
                "values of {latent} elements of keys of {}, beside {} of their own",
                self.qk_head_dim, self.v_head_dim
            )),
            _ => Ok(()),
        }
    }

    /// The layout of the state's pages.
    pub fn page(&self) -> KvPage {
        KvPage { kv_heads: self.kv_heads, qk_head_dim: self.qk_head_dim, v_head_dim: self.v_head_dim }
    }
}

/// The rows of a call: where each stands.
struct Rows {
    /// Sequence and position of each row.
    places: Vec<(usize, usize)>,
    /// `[sequences, pages]`.
    blocks: Vec<i64>,
    pages: usize,
    pool: usize,
}

impl Rows {
    /// `first` is the index of `position` among the inputs, `table` that of `block_table`.
    fn of(cx: &Context<'_>, rows: usize, pool: usize, [first, table]: [usize; 2]) -> Result<Self, EvalError> {
        let (position, starts) = (cx.input(first)?, cx.input(first + 1)?);
        let [sequences, pages] = *cx.input(table)?.shape() else {
            return Err(cx.shape("block_table is not [sequences, pages]"));
        };
        if position.shape() != [1, rows] || starts.shape() != [sequences.saturating_add(1)] {
            return Err(cx.shape(format!(
                "position is not [1, {rows}], or seq_start not one longer than {sequences}"
            )));
        }
        let blocks = cx.integers("block_table", cx.input(table)?)?;
        let positions = cx.integers("position", position)?;
        let starts = cx.integers("seq_start", starts)?;
        let whole = starts.first() == Some(&0) && starts.last() == i64::try_from(rows).ok().as_ref();
        if !whole || starts.windows(2).any(|pair| pair[0] > pair[1]) {
            return Err(cx.bad(format!("seq_start does not divide {rows} rows")));
        }
        let capacity = pages.saturating_mul(KvPage::TOKENS);
        cx.spend(rows.saturating_mul(size_of::<(usize, usize)>()))?;
        let mut places = Vec::with_capacity(rows);
        for (sequence, pair) in starts.windows(2).enumerate() {
            for row in pair[0]..pair[1] {
                let position = positions[row as usize];
                match usize::try_from(position) {
                    Ok(place) if place < capacity => places.push((sequence, place)),
                    _ => return Err(cx.index(0, position, capacity)),
                }
            }
        }
        Ok(Self { places, blocks, pages, pool })
    }

    /// The page of the pool that holds a place.
    fn page(&self, cx: &Context<'_>, sequence: usize, place: usize) -> Result<usize, EvalError> {
        let block = self.blocks[sequence * self.pages + place / KvPage::TOKENS];
        match usize::try_from(block) {
            Ok(page) if page < self.pool => Ok(page),
            _ => Err(cx.index(0, block, self.pool)),
        }
    }
}

impl Evaluate for KvAppend {
    fn arity(&self) -> Arity {
        // What stands behind the optional values is asked for where it is read.
        Arity::of(2, 6)
    }

    /// `k` is `[1, kv_heads, rows, qk_head_dim]`, `v` `[1, kv_heads, rows, v_head_dim]` or absent; the result is the state with them in
    /// their places. Of two rows with one place the later wins.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (state, k, v) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
        let &[1, kv_heads, rows, qk_head_dim] = k.shape() else {
            return Err(cx.shape("k is not [1, kv_heads, rows, head_dim]"));
        };
        let absent = [1, kv_heads, rows, 0];
        let &[1, heads, v_rows, v_head_dim] = v.map_or(&absent[..], Tensor::shape) else {
            return Err(cx.shape("v is not [1, kv_heads, rows, head_dim]"));
        };
        if (kv_heads, rows) != (heads, v_rows) {
            return Err(cx.shape("k and v differ in heads or rows"));
        }
        let page = KvPage { kv_heads, qk_head_dim, v_head_dim };
        let mut contents = Contents::of(cx, state, page)?;
        let rows = Rows::of(cx, rows, contents.pool(), [3, 5])?;
        let k = cx.floats("k", k)?;
        let v = v.map(|v| cx.floats("v", v)).transpose()?.unwrap_or_default();
        let count = rows.places.len();
        for (row, &(sequence, place)) in rows.places.iter().enumerate() {
            let page = rows.page(cx, sequence, place)?;
            let place = place % KvPage::TOKENS;
            for head in 0..kv_heads {
                cx.work(qk_head_dim + v_head_dim)?;
                let at = head * count + row;
                contents.set_key(page, head, place, &k[at * qk_head_dim..][..qk_head_dim]);
                if v_head_dim > 0 {
                    contents.set_value(page, head, place, &v[at * v_head_dim..][..v_head_dim]);
                }
            }
        }
        Ok(vec![contents.tensor(cx)?])
    }
}

impl Evaluate for PagedAttention {
    fn arity(&self) -> Arity {
        Arity::of(6, 9)
    }

    /// `q` is `[1, heads, rows, qk_head_dim]`, the result `[1, heads, rows, value_dim]`. A row at position `p` sees the keys at
    /// `0..=p` of its sequence, within the window. `bias` is added to the scores and broadcasts to `[1, heads, rows, width]`,
    /// where `width` is at least each context's length; ALiBi and sinks are as in [`super::Attention`], where the ALiBi position of
    /// the key at place `j` is `j + alibi_origin`.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (q, state, lengths) = (cx.input(0)?, cx.input(1)?, cx.input(4)?);
        let &[1, heads, count, qk_head_dim] = q.shape() else {
            return Err(cx.shape("q is not [1, heads, rows, head_dim]"));
        };
        self.check().map_err(|reason| cx.bad(reason))?;
        let (page, value_dim) = (self.page(), self.value_dim());
        if qk_head_dim != page.qk_head_dim || page.kv_heads == 0 || heads % page.kv_heads != 0 {
            return Err(cx.shape(format!("q does not fit pages of {page:?}")));
        }
        let contents = Contents::of(cx, state, page)?;
        let rows = Rows::of(cx, count, contents.pool(), [2, 5])?;
        self.check_lengths(cx, &rows, lengths)?;
        let bias = Bias::of(cx, heads, count, lengths)?;
        let slopes = per_head(cx, "alibi_slopes", 7, heads)?;
        let sinks = per_head(cx, "sinks", 8, heads)?;
        let q = cx.floats("q", q)?;
        let shape = [1, heads, count, value_dim];
        let mut y = cx.filled(cx.count(&shape)?, 0.0)?;
        let exact = Rounding::of(cx, DType::F64, true);
        for head in 0..heads {
            let kv_head = head / (heads / page.kv_heads);
            for (row, &(sequence, position)) in rows.places.iter().enumerate() {
                let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
                cx.spend((position + 1 - first).saturating_mul(2 * size_of::<f64>()))?;
                let mut pages = Vec::with_capacity(position + 1 - first);
                let mut scores = Vec::with_capacity(position + 1 - first);
                for key in first..=position {
                    cx.work(qk_head_dim + value_dim)?;
                    let page = rows.page(cx, sequence, key)?;
                    let query = &q[(head * count + row) * qk_head_dim..][..qk_head_dim];
                    let score = query
                        .iter()
                        .enumerate()
                        .map(|(d, q)| q * contents.key(page, kv_head, d, key % KvPage::TOKENS));
                    let along = match self.alibi_origin {
                        Some(origin) => key as f64 + origin as f64,
                        None => key as f64 - position as f64,
                    };
                    let alibi = slopes.as_ref().map_or(0.0, |slopes| slopes[head] * along);
                    scores.push(self.capped(score.sum()) + alibi + bias.value(head, row, key));
                    pages.push(page);
                }
                softmax(&mut scores, sinks.as_ref().map(|sinks| sinks[head]), &exact);
                let out = &mut y[(head * count + row) * value_dim..][..value_dim];
                for ((key, page), weight) in (first..).zip(pages).zip(scores) {
                    for (d, sum) in out.iter_mut().enumerate() {
                        let place = key % KvPage::TOKENS;
                        *sum += weight
                            * match self.latent {
                                Some(_) => contents.key(page, kv_head, d, place),
                                None => contents.value(page, kv_head, d, place),
                            };
                    }
                }
            }
        }
        Ok(vec![cx.rounded(cx.input(0)?.dtype(), &shape, &y)?])
    }
}

impl PagedAttention {
    fn capped(&self, product: f64) -> f64 {
        let score = product * self.scale.map_or(1.0 / (self.qk_head_dim as f64).sqrt(), f64::from);
        let softcap = f64::from(self.softcap);
        if softcap > 0.0 { softcap * (score / softcap).tanh() } else { score }
    }

    /// That each row stands within its context.
    fn check_lengths(&self, cx: &Context<'_>, rows: &Rows, lengths: &Tensor) -> Result<(), EvalError> {
        let sequences = cx.input(5)?.shape()[0];
        if lengths.shape() != [sequences] {
            return Err(cx.shape(format!("context_len is not [{sequences}]")));
        }
        let lengths = cx.integers("context_len", lengths)?;
        let outside = rows.places.iter().find(|(sequence, place)| *place as i64 >= lengths[*sequence]);
        match outside {
            Some(&(sequence, place)) => {
                Err(cx.index(0, place as i64, usize::try_from(lengths[sequence]).unwrap_or(0)))
            }
            None => Ok(()),
        }
    }
}

/// What is added to the scores.
struct Bias {
    values: Option<Vec<f64>>,
    strides: Vec<isize>,
}

impl Bias {
    fn of(cx: &Context<'_>, heads: usize, rows: usize, lengths: &Tensor) -> Result<Self, EvalError> {
        let Some(bias) = cx.optional(6) else { return Ok(Self { values: None, strides: Vec::new() }) };
        let width = bias.shape().last().copied().unwrap_or(0);
        let over = [1, heads, rows, width];
        cx.broadcasts_to("bias", bias.shape(), &over)?;
        let longest = cx.integers("context_len", lengths)?.into_iter().max().unwrap_or(0);
        if usize::try_from(longest).is_ok_and(|longest| longest > width) {
            return Err(cx.shape(format!("the bias has {width} columns for a context of {longest}")));
        }
        Ok(Self { values: Some(cx.floats("bias", bias)?), strides: broadcast_strides(bias.shape(), &over) })
    }

    fn value(&self, head: usize, row: usize, key: usize) -> f64 {
        let Some(values) = &self.values else { return 0.0 };
        let at = |axis: usize, index: usize| index * self.strides[axis] as usize;
        values[at(1, head) + at(2, row) + at(3, key)]
    }
}

/// The dtypes that a state may have.
pub fn is_state_dtype(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::I8)
}
