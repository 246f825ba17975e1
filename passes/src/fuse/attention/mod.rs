//! `softmax(scale * q @ k^T + mask) @ v -> attention(q, k, v)`
//!
//! In every form that exporters write: the scale before, after or split over queries and keys; a softcap; masks added or chosen by Where, bool
//! or float; a column of sinks that is cut off again; heads in an axis of their own or folded into the batch; key and value heads repeated
//! by any movement of data, of which none is left. Masks that are proven ([`crate::mask`]) become facts, and the graph that made them dies. What
//! is not proven stays the operand `mask`.
//!
//! Sound because the op computes the same sums; the order of roundings differs, but in a module that quantises values by their own range, where
//! the op is `exact` and factors of queries and keys that are no powers of two stay outside. A mask of large negative numbers becomes keys that are not
//! seen: the same wherever a query sees a key. **A query that sees none** (a row of padding under a causal mask) has the mean of all values in
//! the source graph and zeros here; such rows are padding, undefined by what the source graph is for, and nothing reads them.
//!
//! Refuses heads of more than 256 elements, weights that are used elsewhere too, terms that broadcast differently for some sizes, and operands
//! whose heads cannot be told apart.

mod alibi;
mod bias;
mod heads;
pub(crate) mod proven;
mod score;

use lathe_ir::{Answer, Dim, NodeId, ValueId};
use lathe_ops::Op;
use lathe_ops::attention::Attention;
use lathe_ops::shape::{Reshape, Transpose};
use lathe_tensor::DType;

use crate::mask::Reader;
use crate::{Context, Proposal, Rewrite, Rule, Term};
use bias::{Bias, numbers};
use heads::Operand;
use score::Scores;

/// Elements of the largest head that attention kernels take.
const MOST_HEAD: i64 = 256;

pub(crate) struct AttentionFusion;

impl Rule for AttentionFusion {
    fn name(&self) -> &'static str {
        "fuse_attention"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let Some((_, _, Op::MatMul(_))) = node.outputs.first().and_then(|output| context.producer(*output))
        else {
            return Proposal::NoMatch;
        };
        let ([Some(a), Some(b)], [output]) = (&node.inputs[..], &node.outputs[..]) else {
            return Proposal::NoMatch;
        };
        // `w @ v`, or, where elements come before places, `v^T @ w^T`.
        let found = match score::of_weights(context, *a) {
            Ok(None) => match transposed_weights(context, *b) {
                Some(weights) => score::of_weights(context, weights).map(|scores| (scores, *a, true)),
                None => return Proposal::NoMatch,
            },
            found => found.map(|scores| (scores, *b, false)),
        };
        match found {
            Ok((None, ..)) => Proposal::NoMatch,
            Err(reason) => Proposal::because(reason),
            Ok((Some(scores), values, transposed)) => {
                let found = Match::new(context, scores, values, transposed);
                found.and_then(|found| found.rewrite(&node.name, *output)).unwrap_or_else(Proposal::Because)
            }
        }
    }
}

/// What a value is the transpose of, in its last two axes.
fn transposed_weights(context: Context<'_>, value: ValueId) -> Option<ValueId> {
    let (_, node, Op::Transpose(transpose)) = context.producer(value)? else { return None };
    let rank = transpose.perm.len().checked_sub(2)?;
    let lead = transpose.perm.iter().take(rank).enumerate().all(|(axis, from)| axis == *from);
    (lead && transpose.perm[rank..] == [rank + 1, rank]).then_some(())?;
    node.inputs.first().copied().flatten()
}

/// Attention found in a graph.
struct Match<'a> {
    context: Context<'a>,
    scores: Scores,
    /// Reads at the coordinates of the scores, `[batch, heads, seq, total]`.
    reader: Reader<'a>,
    /// The sizes of the scores.
    dims: [Dim; 4],
    /// Queries, transposed keys, values.
    operands: [ValueId; 3],
    /// Whether values and result have their elements before their places.
    transposed: bool,
    /// Whether the op is to round as the graph does.
    exact: bool,
}

impl<'a> Match<'a> {
    fn new(context: Context<'a>, scores: Scores, values: ValueId, transposed: bool) -> Result<Self, String> {
        let Some([q, k]) = scores.operands else { return Err("no product of queries and keys".to_string()) };
        if [q, k, values].iter().any(|operand| context.ty(*operand).dtype != DType::F32) {
            return Err("operands are not f32".to_string());
        }
        let dims = score_dims(context, &scores, q, k)?;
        let body = context.body();
        if scores.values.iter().any(|value| body.is_output(*value)) {
            return Err("the weights are a result of their own".to_string());
        }
        let reader = Reader::new(context, &dims);
        let exact = context.module.quantises_by_range();
        if exact && scores.sinks.is_some() {
            return Err("with sinks the last bits, which decide about codes, would differ".to_string());
        }
        Ok(Self { context, scores, reader, dims, operands: [q, k, values], transposed, exact })
    }

    /// The index of a value of the walk at the coordinates of the scores.
    fn place(&self, value: ValueId) -> Option<Vec<Dim>> {
        let space = &self.reader.space;
        let mut index = self.lead(&self.reader.dims(value))?;
        index.extend([space.coordinate(2), space.coordinate(3)]);
        Some(index)
    }

    /// Batch and head as the axes before the last two of a value of these sizes count them.
    fn lead(&self, dims: &[Dim]) -> Option<Vec<Dim>> {
        let space = &self.reader.space;
        let lead = dims.get(..dims.len().checked_sub(2)?)?;
        if lead.len() == 2 && *lead == [space.size(0), space.size(1)] {
            return Some(vec![space.coordinate(0), space.coordinate(1)]);
        }
        let mut flat = space.coordinate(0).mul(&space.size(1)).add(&space.coordinate(1));
        let mut index = vec![Dim::constant(0); lead.len()];
        for axis in (1..lead.len()).rev() {
            let (quotient, rest, sure) = space.divide(&flat, &lead[axis]);
            sure.then_some(())?;
            index[axis] = rest;
            flat = quotient;
        }
        *index.first_mut()? = flat;
        Some(index)
    }

    fn rewrite(self, name: &str, output: ValueId) -> Result<Proposal, String> {
        let [b, h, s, t] = &self.dims;
        let [q, k, v] = self.operands;
        let width = |value: ValueId, from_end: usize| -> Dim {
            let dims = &self.context.ty(value).dims;
            dims[dims.len() - from_end].clone()
        };
        let (qk_size, v_size) = (width(q, 1), width(v, if self.transposed { 2 } else { 1 }));
        if let Some(size) = [&qk_size, &v_size]
            .into_iter()
            .filter_map(|size| size.as_constant())
            .find(|size| *size > MOST_HEAD)
        {
            return Err(format!("heads of {size} elements: more than {MOST_HEAD} are faster apart"));
        }
        let q_dims = [b.clone(), h.clone(), s.clone(), qk_size.clone()];
        let k_dims = [b.clone(), h.clone(), t.clone(), qk_size];
        let v_dims = [b.clone(), h.clone(), t.clone(), v_size.clone()];
        let q = self.operand(q, &q_dims, false).ok_or("the heads of the queries are not understood")?;
        let k = self.operand(k, &k_dims, true).ok_or("the heads of the keys are not understood")?;
        let v =
            self.operand(v, &v_dims, self.transposed).ok_or("the heads of the values are not understood")?;
        if q.repeats != 1 {
            return Err("queries are repeated".to_string());
        }
        if k.repeats != v.repeats {
            return Err("keys and values have different numbers of heads".to_string());
        }
        let bias = Bias::of(&self.reader, &self.scores, &|value| self.place(value))?;
        let mut rewrite = Rewrite::new(name);
        let inputs = self.inputs(&mut rewrite, [(&q, &q_dims), (&k, &k_dims), (&v, &v_dims)], &bias)?;
        let facts = &bias.facts;
        let scale = self.scores.scale * q.scale * k.scale;
        let attention = Op::Attention(Attention {
            q_heads: None,
            kv_heads: None,
            causal: facts.causal,
            scale: Some(scale as f32),
            softcap: self.scores.softcap as f32,
            qk_output: 0,
            left_window: facts.left,
            right_window: facts.right,
            softmax_in_f64: false,
            bottom_right: facts.bottom_right && facts.is_positional(),
            exact: self.exact,
            divisor: self.scores.divisor.map(|divisor| divided(divisor, scale) as f32),
        });
        if v.scale != 1.0 {
            return Err("values are scaled".to_string());
        }
        let mut new = rewrite.node(attention, &inputs);
        if self.transposed {
            new = rewrite.node(Op::Transpose(Transpose { perm: vec![0, 1, 3, 2] }), &[new]);
        }
        let dims = &self.context.ty(output).dims;
        if dims.len() != 4 || !self.same(&dims[0], b) {
            let shape = rewrite.dims(dims);
            new = rewrite.node(Op::Reshape(Reshape { allow_zero: true }), &[new, shape]);
        }
        Ok(rewrite.replace(output, new).assuming(bias.assumption()))
    }

    fn same(&self, a: &Dim, b: &Dim) -> bool {
        self.reader.space.lift(a).equals(&self.reader.space.lift(b)) == Answer::Yes
    }

    /// An operand of these sizes, which the graph may hold transposed.
    fn operand(&self, value: ValueId, dims: &[Dim; 4], transposed: bool) -> Option<Operand> {
        let reader = Reader::new(self.context, dims);
        let mut index = self.lead(&self.reader.dims(value)).or_else(|| self.lead_of_all(value))?;
        let (row, column) = (reader.space.coordinate(2), reader.space.coordinate(3));
        index.extend(if transposed { [column, row] } else { [row, column] });
        heads::operand(&reader, value, index)
    }

    /// The same for an operand that serves every head or every batch: axes of one place.
    fn lead_of_all(&self, value: ValueId) -> Option<Vec<Dim>> {
        let space = &self.reader.space;
        let dims = self.reader.dims(value);
        let lead = dims.get(..dims.len().checked_sub(2)?)?;
        let [batch, heads] = lead else { return None };
        let at = |size: &Dim, axis: usize| match size.as_constant() {
            Some(1) => Some(Dim::constant(0)),
            _ => (*size == space.size(axis)).then(|| space.coordinate(axis)),
        };
        Some(vec![at(batch, 0)?, at(heads, 1)?])
    }

    fn inputs(
        &self,
        rewrite: &mut Rewrite,
        operands: [(&Operand, &[Dim; 4]); 3],
        bias: &Bias,
    ) -> Result<Vec<Term>, String> {
        let mut inputs: Vec<Term> =
            operands.iter().map(|(operand, dims)| operand.emit(self.context, rewrite, *dims)).collect();
        if inputs.iter().any(Option::is_none) {
            return Err("an operand cannot be made".to_string());
        }
        bias.emit(&self.reader, rewrite, &self.dims, &mut inputs)?;
        inputs.push(self.sinks(rewrite)?);
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        Ok(inputs)
    }

    /// The operand `sinks`: one number a head.
    fn sinks(&self, rewrite: &mut Rewrite) -> Result<Term, String> {
        let Some(sinks) = self.scores.sinks else { return Ok(None) };
        let heads = self.dims[1].as_constant().and_then(|heads| usize::try_from(heads).ok());
        let heads = heads.ok_or("sinks for an unknown number of heads")?;
        let mut index = self.lead(&self.reader.dims(sinks)).ok_or("the sinks do not belong to the heads")?;
        index.extend([self.reader.space.coordinate(2), Dim::constant(0)]);
        let found = alibi::per_head(&self.reader, sinks, &index, heads);
        numbers(rewrite, &found.ok_or("the sinks are not one constant a head")?)
    }
}

/// What scores are divided by that are scaled by `scale` in all: by a divisor and by powers of two.
fn divided(divisor: f64, scale: f64) -> f64 {
    divisor / (scale * divisor).log2().round().exp2()
}

/// The sizes `[batch, heads, seq, total]`: of a value of the walk with four axes, else of one head.
fn score_dims(context: Context<'_>, scores: &Scores, q: ValueId, k: ValueId) -> Result<[Dim; 4], String> {
    let dims = |value: ValueId| &context.ty(value).dims;
    let (Some(seq), Some(total)) = (dims(q).iter().rev().nth(1), dims(k).last()) else {
        return Err("queries or keys are vectors".to_string());
    };
    // The product itself comes last: its sizes are the plainest.
    let four = scores.values.iter().rev().find(|value| dims(**value).len() == 4);
    let lead = match four.map(|value| &dims(*value)[..]) {
        Some([batch, heads, ..]) => [batch.clone(), heads.clone()],
        _ => match scores.values.last().map(|value| &dims(*value)[..]) {
            // Heads folded into the batch by a known number.
            Some([folded, _, _]) => match folded.terms() {
                [term] if folded.constant_part() == 0 && term.coefficient() > 1 => {
                    let heads = Dim::constant(term.coefficient());
                    [folded.floor_div(&heads), heads]
                }
                _ => [folded.clone(), Dim::constant(1)],
            },
            _ => return Err("scores with other than three or four axes".to_string()),
        },
    };
    let [batch, heads] = lead;
    Ok([batch, heads, seq.clone(), total.clone()])
}
