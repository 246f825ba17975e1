//! Attention over short rows: what `decode` makes of multi-head latent attention (see [`crate::latent`]).
//!
//! Pages hold `concat(c, r)` a token. Queries are brought to the short rows by the weights of the keys, answers to values by those of the
//! values: both are products with constants, head by head.

use lathe_ir::{Dim, Node, ValueId};
use lathe_ops::Op;
use lathe_ops::attention::Attention;
use lathe_ops::attention::paged::{KvAppend, KvPage, PagedAttention};
use lathe_ops::matmul::MatMul;
use lathe_ops::shape::{Concat, Split};
use lathe_tensor::Tensor;

use super::build::Decode;
use super::mapped::{Mapped, Refusal, Rows};
use crate::Context;
use crate::latent::Latent;

impl Decode<'_> {
    /// The attention over the short rows of its layer; `None` where its keys and values are none.
    pub fn latent(
        &mut self,
        node: &Node,
        attention: &Attention,
        window: Option<usize>,
    ) -> Result<Option<Vec<Mapped>>, Refusal> {
        let refuse = |reason: &str| Refusal::new(&node.name, reason);
        let Some(main) = self.source.main() else { return Ok(None) };
        let context = Context { module: self.source, function: main };
        let Some(latent) = Latent::of(context, node).filter(|_| self.interface.past.is_none()) else {
            return Ok(None);
        };
        let Some(weight) = context.dense_matrix(latent.weight) else { return Ok(None) };
        // A bias, a past, ALiBi or sinks beside it are left to the general form.
        let mask = node.inputs.get(3).copied().flatten();
        let biased = mask.is_some_and(|mask| self.uniform(mask).is_none() && self.span(mask).is_none());
        let others = node.inputs.iter().skip(4).take(2).chain(node.inputs.iter().skip(8));
        if biased || others.flatten().count() > 0 {
            return Ok(None);
        }
        let (Mapped::Rows(rows), Mapped::Rows(rotated)) =
            (self.lookup(latent.rows), self.lookup(latent.rotated))
        else {
            return Ok(None);
        };
        let Some(query) = node.inputs.first().copied().flatten() else { return Ok(None) };
        let query = self.heads(node, query, None)?;
        let seq = self.ty(rows.value).rank().checked_sub(2);
        let axes = seq == Some(rows.axis) && rotated.axis == 2 && query.heads == latent.heads;
        if !axes || query.size != latent.nope + latent.rope {
            return Ok(None);
        }
        let [into, out] =
            absorbed(&weight, &latent).ok_or_else(|| refuse("there is no memory for its weights"))?;
        let count = Dim::symbol(self.rows.clone());
        let short = [1.into(), 1.into(), count, (latent.rank as i64).into()];
        let short = self.reshape(&node.name, rows.value, &short)?;
        let last = || Op::Concat(Concat { axis: 3 });
        let keys = self.emit_one(&node.name, last(), &[short, rotated.value])?;
        let parts = [latent.nope as i64, latent.rope as i64];
        let parts = Tensor::from_slice(&parts, &[2]).map_err(|error| refuse(&error.to_string()))?;
        let parts = self.constant(parts);
        let split = Op::Split(Split { axis: 3, outputs: 2 });
        let split = self.emit(&node.name, split, &[Some(query.value), Some(parts)], 2)?;
        let [plain, turned] = split[..] else { return Err(refuse("its queries do not split")) };
        let into = self.constant(into);
        let plain = self.emit_one(&node.name, Op::MatMul(MatMul::default()), &[plain, into])?;
        let query = self.emit_one(&node.name, last(), &[plain, turned])?;
        let answers = self.over_pages(node, (attention, window), &latent, [query, keys])?;
        let out = self.constant(out);
        let value = self.emit_one(&node.name, Op::MatMul(MatMul::default()), &[answers, out])?;
        let others =
            node.outputs.iter().skip(1).map(|_| Mapped::Refused(refuse("its keys and scores are not kept")));
        Ok(Some(std::iter::once(Mapped::Rows(Rows { value, axis: 2 })).chain(others).collect()))
    }

    /// Appends the keys `[1, 1, rows, width]` to the pages of the layer, and attends over them with one query a head.
    fn over_pages(
        &mut self,
        node: &Node,
        (attention, window): (&Attention, Option<usize>),
        latent: &Latent,
        [query, keys]: [ValueId; 2],
    ) -> Result<ValueId, Refusal> {
        let refuse = |reason: &str| Refusal::new(&node.name, reason);
        let Some(&(_, table)) = self.inputs.tables.iter().find(|(known, _)| *known == window) else {
            self.asked.windows.push(window);
            return Err(refuse("its window was not expected"));
        };
        let page = KvPage { kv_heads: 1, qk_head_dim: latent.width(), v_head_dim: 0 };
        let state = self.new_state(node, page)?;
        let (position, seq_start) = (self.inputs.position, self.inputs.seq_start);
        let appended = [Some(state), Some(keys), None, Some(position), Some(seq_start), Some(table)];
        let made = self.emit(&node.name, Op::KvAppend(KvAppend {}), &appended, 1)?;
        let state = made.first().copied().ok_or_else(|| refuse("it has no result"))?;
        self.keep_state(state);
        let scale = attention.scale.unwrap_or(1.0 / ((latent.nope + latent.rope) as f32).sqrt());
        let paged = PagedAttention {
            kv_heads: 1,
            qk_head_dim: page.qk_head_dim,
            v_head_dim: 0,
            latent: Some(latent.rank),
            window,
            scale: Some(scale),
            softcap: attention.softcap,
            alibi_origin: None,
        };
        let operands = [query, state, position, seq_start, self.inputs.context_len, table];
        self.emit_one(&node.name, Op::PagedAttention(paged), &operands)
    }
}

/// The weights by which queries come to short rows, `[1, heads, nope, rank]`, and answers to values, `[1, heads, rank, value]`.
fn absorbed(weight: &Tensor, latent: &Latent) -> Option<[Tensor; 2]> {
    let Latent { heads, rank, nope, value, .. } = *latent;
    let elements = weight.to_slice::<f32>().ok()?;
    let (mut into, mut out) = (Vec::new(), Vec::new());
    into.try_reserve_exact(heads * nope * rank).ok()?;
    out.try_reserve_exact(heads * nope * value).ok()?;
    let columns = heads * (nope + value);
    let row = |r: usize| elements.get(r * columns..(r + 1) * columns);
    for head in 0..heads {
        let first = head * (nope + value);
        for n in 0..nope {
            for r in 0..rank {
                into.push(*row(r)?.get(first + n)?);
            }
        }
        for r in 0..rank {
            out.extend_from_slice(row(r)?.get(first + nope..first + nope + value)?);
        }
    }
    let into = Tensor::from_slice(&into, &[1, heads, nope, rank]).ok()?;
    let out = Tensor::from_slice(&out, &[1, heads, rank, value]).ok()?;
    Some([into, out])
}
