//! Attention blocks: projections, norms and rotations of heads, the attention itself and the projection out.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::attention::Attention;
use lathe_tensor::Tensor;

use super::rotary::Tables;
use crate::error::Fault;
use crate::model::net::{Linear, Net, Norm, NormKind, dim};

/// An attention block.
#[derive(Clone, Debug)]
pub(crate) struct Attend {
    /// How queries, keys and values are made.
    pub projections: Projections,
    /// The projection out.
    pub out: Linear,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a query's and a key's head.
    pub head_dim: usize,
    /// Width of a value's head.
    pub value_dim: usize,
    /// Norms of queries and keys.
    pub norms: Option<HeadNorms>,
    /// Which of the tables rotates queries and keys.
    pub rope: Option<usize>,
    /// Queries see no later keys.
    pub causal: bool,
    /// Queries see the last so many keys, their own included.
    pub window: Option<usize>,
    /// Queries see so many keys on either side.
    pub around: Option<usize>,
    /// Factor of the scores.
    pub scale: f64,
    /// `softcap * tanh(score / softcap)`; 0 for none.
    pub softcap: f64,
    /// Name of a logit a head in the denominator of the softmax.
    pub sinks: Option<String>,
    /// Slopes of ALiBi, one a head.
    pub slopes: Option<Vec<f64>>,
    /// Queries, keys and values are cut to `-clip..clip`.
    pub clip: Option<f64>,
}

/// How queries, keys and values are made.
#[derive(Clone, Debug)]
pub(crate) enum Projections {
    /// A matrix each.
    Separate {
        /// Queries.
        q: Linear,
        /// Keys.
        k: Linear,
        /// Values.
        v: Linear,
    },
    /// One matrix: all queries, all keys, all values.
    Merged(Linear),
    /// One matrix: for each key head its queries, the key and the value.
    Grouped(Linear),
    /// DeepSeek's latent attention.
    Latent(Box<Latent>),
}

/// Multi-head latent attention (DeepSeek-AI, "DeepSeek-V2", 2024): keys and values are made of a short row, positions of a few more dims.
#[derive(Clone, Debug)]
pub(crate) struct Latent {
    /// Into the short row of queries, its norm, and its width; without it queries are made at once.
    pub q_down: Option<(Linear, Norm, usize)>,
    /// Queries of all heads.
    pub q_up: Linear,
    /// Into the short row of keys and values, and the positions' part.
    pub kv_down: Linear,
    /// Norm of the short row.
    pub kv_norm: Norm,
    /// Keys and values of all heads.
    pub kv_up: Linear,
    /// Width of the short row.
    pub kv_rank: usize,
    /// Elements of a head without position.
    pub nope: usize,
    /// Elements of a head with position.
    pub rope: usize,
}

/// Norms of queries and keys.
#[derive(Clone, Debug)]
pub(crate) struct HeadNorms {
    /// Of queries.
    pub q: Norm,
    /// Of keys.
    pub k: Norm,
    /// Over all heads of a token instead of each.
    pub whole: bool,
    /// Each head has a scale and a bias of its own, `[heads, head_dim]`.
    pub own: bool,
}

impl HeadNorms {
    /// One of the norms of heads `[batch, heads, seq, head_dim]`.
    fn build(
        &self,
        net: &mut Net<'_>,
        x: ValueId,
        norm: &Norm,
        heads: usize,
        size: usize,
    ) -> Result<ValueId, Fault> {
        let NormKind::Layer { epsilon, bias } = norm.kind else { return net.norm(x, norm, size) };
        if !self.own {
            return net.norm(x, norm, size);
        }
        let ones = net.b.constant(Tensor::from_slice(&vec![1.0f32; size], &[size])?);
        let mut x = net.b.named(&norm.name).layer_norm(x, ones, None, -1, epsilon)?;
        let scale = net.weight(&format!("{}.weight", norm.name), &[heads, size])?;
        let scale = net.b.unsqueeze(scale, &[1])?;
        x = net.b.mul(x, scale)?;
        if bias {
            let bias = net.weight(&format!("{}.bias", norm.name), &[heads, size])?;
            let bias = net.b.unsqueeze(bias, &[1])?;
            x = net.b.add(x, bias)?;
        }
        Ok(x)
    }
}

/// What the attentions of a call share.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Sequences.
    pub batch: Dim,
    /// Tokens of each.
    pub seq: Dim,
    /// bool `[batch, seq]`: which keys count.
    pub padding: Option<ValueId>,
    /// Tables of rotations.
    pub tables: Vec<Tables>,
    /// i64 `[batch, seq]`: positions that ALiBi counts by, where they are not those of the keys.
    pub alibi_positions: Option<ValueId>,
    /// f32 `[1, heads, seq, seq]`: added to the scores.
    pub bias: Option<ValueId>,
}

impl Call {
    /// Sequences whose tokens all count, without positions.
    pub(crate) fn unpadded(batch: Dim, seq: Dim) -> Self {
        Self { batch, seq, padding: None, tables: Vec::new(), alibi_positions: None, bias: None }
    }
}

/// Keys and values of another sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    /// Its rows.
    pub rows: ValueId,
    /// Its call.
    pub call: &'a Call,
}

impl Attend {
    /// Builds it for rows `[batch, seq, width]`; `source` has the keys and values of a cross-attention.
    pub(crate) fn build(
        &self,
        net: &mut Net<'_>,
        call: &Call,
        x: ValueId,
        source: Option<Source<'_>>,
        width: usize,
    ) -> Result<ValueId, Fault> {
        let [q, k, v] = self.heads(net, call, x, source, width)?;
        let keys = source.map_or(call, |source| source.call);
        let constant = |net: &mut Net<'_>, values: &[f64]| -> Result<ValueId, Fault> {
            let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
            Ok(net.b.constant(Tensor::from_slice(&values, &[values.len()])?))
        };
        let slopes = match &self.slopes {
            Some(slopes) => Some(constant(net, slopes)?),
            None => None,
        };
        let sinks = match &self.sinks {
            Some(name) => Some(net.weight(name, &[self.heads])?),
            None => None,
        };
        let bias = if source.is_some() { None } else { call.bias };
        let positions = call.alibi_positions.filter(|_| slopes.is_some());
        let mut inputs =
            vec![Some(q), Some(k), Some(v), bias, None, None, None, keys.padding, slopes, positions, sinks];
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let y = net.b.named(&self.out.name).apply(Op::Attention(self.op()), &inputs)?;
        let y = net.b.transpose(y, &[0, 2, 1, 3])?;
        let inner =
            self.heads.checked_mul(self.value_dim).ok_or_else(|| Fault::bad("heads are too large"))?;
        let y = net.b.reshape_to(y, [call.batch.clone(), call.seq.clone(), dim(inner)?])?;
        net.linear(y, &self.out, inner, width)
    }

    fn op(&self) -> Attention {
        Attention {
            q_heads: None,
            kv_heads: None,
            causal: self.causal,
            scale: Some(self.scale as f32),
            softcap: self.softcap as f32,
            qk_output: 0,
            left_window: self.window.map(|window| window.saturating_sub(1)).or(self.around),
            right_window: self.around,
            softmax_in_f64: false,
            bottom_right: false,
            exact: false,
            divisor: None,
        }
    }

    /// Queries, keys and values as `[batch, heads, seq, head_dim]`, normalised and rotated.
    fn heads(
        &self,
        net: &mut Net<'_>,
        call: &Call,
        x: ValueId,
        source: Option<Source<'_>>,
        width: usize,
    ) -> Result<[ValueId; 3], Fault> {
        let (q_width, kv_width) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let v_width = self.kv_heads * self.value_dim;
        let mut parts = match &self.projections {
            Projections::Latent(latent) => return self.latent(net, call, x, latent, width),
            Projections::Separate { q, k, v } => {
                let rows = source.map_or(x, |source| source.rows);
                [
                    net.linear(x, q, width, q_width)?,
                    net.linear(rows, k, width, kv_width)?,
                    net.linear(rows, v, width, v_width)?,
                ]
            }
            Projections::Merged(all) => {
                let all = net.linear(x, all, width, q_width + kv_width + v_width)?;
                let parts = net.split(all, &[q_width, kv_width, v_width])?;
                [parts[0], parts[1], parts[2]]
            }
            Projections::Grouped(all) => self.grouped(net, call, x, all, width)?,
        };
        if let Some(norms) = self.norms.as_ref().filter(|norms| norms.whole) {
            parts[0] = net.norm(parts[0], &norms.q, q_width)?;
            parts[1] = net.norm(parts[1], &norms.k, kv_width)?;
        }
        if let Some(clip) = self.clip {
            for part in &mut parts {
                let (low, high) = (net.b.scalar(-clip as f32), net.b.scalar(clip as f32));
                let above = net.b.max(*part, low)?;
                *part = net.b.min(above, high)?;
            }
        }
        let [q, k, v] = parts;
        let keys = source.map_or(call, |source| source.call);
        let mut q = self.split_heads(net, call, q, self.heads, self.head_dim)?;
        let mut k = self.split_heads(net, keys, k, self.kv_heads, self.head_dim)?;
        let v = self.split_heads(net, keys, v, self.kv_heads, self.value_dim)?;
        if let Some(norms) = self.norms.as_ref().filter(|norms| !norms.whole) {
            q = norms.build(net, q, &norms.q, self.heads, self.head_dim)?;
            k = norms.build(net, k, &norms.k, self.kv_heads, self.head_dim)?;
        }
        if let Some(tables) = self.rope.and_then(|index| call.tables.get(index)) {
            q = tables.rotate(net, q, self.head_dim)?;
            k = tables.rotate(net, k, self.head_dim)?;
        }
        Ok([q, k, v])
    }

    /// `[batch, seq, heads * size]` as `[batch, heads, seq, size]`.
    fn split_heads(
        &self,
        net: &mut Net<'_>,
        call: &Call,
        x: ValueId,
        heads: usize,
        size: usize,
    ) -> Result<ValueId, Fault> {
        let x = net.b.reshape_to(x, [call.batch.clone(), call.seq.clone(), dim(heads)?, dim(size)?])?;
        Ok(net.b.transpose(x, &[0, 2, 1, 3])?)
    }

    /// Queries, keys and values of one matrix whose rows are grouped by key head.
    fn grouped(
        &self,
        net: &mut Net<'_>,
        call: &Call,
        x: ValueId,
        all: &Linear,
        width: usize,
    ) -> Result<[ValueId; 3], Fault> {
        let (groups, size, each) = (self.kv_heads, self.head_dim, self.heads / self.kv_heads);
        let all = net.linear(x, all, width, groups * (each + 2) * size)?;
        let rows = [call.batch.clone(), call.seq.clone()];
        let shape = |heads: usize, size: usize| -> Result<Vec<Dim>, Fault> {
            Ok([&rows[..], &[dim(heads)?, dim(size)?]].concat())
        };
        let all = net.b.reshape_to(all, shape(groups, (each + 2) * size)?)?;
        let parts = net.split(all, &[each * size, size, size])?;
        let flat = |net: &mut Net<'_>, part: ValueId, width: usize| -> Result<ValueId, Fault> {
            Ok(net.b.reshape_to(part, [&rows[..], &[dim(width)?]].concat())?)
        };
        Ok([
            flat(net, parts[0], self.heads * size)?,
            flat(net, parts[1], groups * size)?,
            flat(net, parts[2], groups * size)?,
        ])
    }

    /// Queries, keys and values by way of short rows. Only the last elements of a head are rotated.
    fn latent(
        &self,
        net: &mut Net<'_>,
        call: &Call,
        x: ValueId,
        latent: &Latent,
        width: usize,
    ) -> Result<[ValueId; 3], Fault> {
        let Latent { nope, rope, kv_rank, .. } = *latent;
        let (q, q_width) = match &latent.q_down {
            Some((down, norm, rank)) => {
                let short = net.linear(x, down, width, *rank)?;
                (net.norm(short, norm, *rank)?, *rank)
            }
            None => (x, width),
        };
        let q = net.linear(q, &latent.q_up, q_width, self.heads * (nope + rope))?;
        let q = self.split_heads(net, call, q, self.heads, nope + rope)?;
        let q = net.split(q, &[nope, rope])?;
        let short = net.linear(x, &latent.kv_down, width, kv_rank + rope)?;
        let short = net.split(short, &[kv_rank, rope])?;
        let kv = net.norm(short[0], &latent.kv_norm, kv_rank)?;
        let kv = net.linear(kv, &latent.kv_up, kv_rank, self.heads * (nope + self.value_dim))?;
        let kv = self.split_heads(net, call, kv, self.heads, nope + self.value_dim)?;
        let kv = net.split(kv, &[nope, self.value_dim])?;
        let mut k_rope = self.split_heads(net, call, short[1], 1, rope)?;
        let mut q_rope = q[1];
        if let Some(tables) = self.rope.and_then(|index| call.tables.get(index)) {
            q_rope = tables.rotate(net, q_rope, rope)?;
            k_rope = tables.rotate(net, k_rope, rope)?;
        }
        // All heads share the rotated elements of the keys.
        let shape = net.b.list(&[1, self.heads as i64, 1, 1])?;
        let k_rope = net.b.expand(k_rope, shape)?;
        let q = net.b.concat(&[q[0], q_rope], -1)?;
        let k = net.b.concat(&[kv[0], k_rope], -1)?;
        Ok([q, k, kv[1]])
    }
}

/// Slopes of ALiBi (Press et al., 2021) for any number of heads: those of the power of two below, then every other one of the next.
pub(crate) fn alibi_slopes(heads: usize) -> Vec<f64> {
    let below = 1usize << heads.max(1).ilog2();
    let slope = |base: usize, index: usize| (2.0f64).powf(-8.0 * index as f64 / base as f64);
    let first = (1..=below).map(|index| slope(below, index));
    let rest = (0..heads - below).map(|index| slope(2 * below, 2 * index + 1));
    first.chain(rest).collect()
}
