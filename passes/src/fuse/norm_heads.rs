//! `norm(reshape(x) [batch, seq * heads, size]) -> reshape(norm(reshape(x) [batch, seq, heads, size]))`
//!
//! A norm of each head whose heads an exporter counts among the tokens (onnxruntime-genai's QK-norm, `view(-1, head_dim)`): heads get an
//! axis of their own, so that an axis of tokens holds one thing a token. Sound because the norm is over the last axis alone, and shapes
//! keep the order of elements. The shape behind it merges with what turns heads back.
//!
//! Refuses norms over more than the last axis, and tokens whose number only the run knows.

use lathe_ir::{Dim, NodeId};
use lathe_ops::Op;
use lathe_ops::shape::Reshape;

use crate::context::dims_equal;
use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct NormHeads;

impl Rule for NormHeads {
    fn name(&self) -> &'static str {
        "norm_heads"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let ([output], Some(Some(folded))) = (&node.outputs[..], node.inputs.first()) else {
            return Proposal::NoMatch;
        };
        let Some((_, _, op)) = context.producer(*output) else { return Proposal::NoMatch };
        let axis = match op {
            Op::RmsNorm(norm) => norm.axis,
            Op::LayerNorm(norm) => norm.axis,
            _ => return Proposal::NoMatch,
        };
        let Some((_, reshape, Op::Reshape(_))) = context.producer(*folded) else { return Proposal::NoMatch };
        let Some(Some(x)) = reshape.inputs.first() else { return Proposal::NoMatch };
        let (from, to) = (&context.ty(*x).dims, &context.ty(*folded).dims);
        let Some(apart) = apart(from, to) else { return Proposal::NoMatch };
        if axis != -1 && axis + 1 != to.len() as i64 {
            return Proposal::because("the norm is over more than the last axis");
        }
        if !context.from_inputs(&apart) || !context.from_inputs(to) {
            return Proposal::because("the number of tokens depends on data");
        }
        let mut rewrite = Rewrite::new(&node.name);
        let op = match op.clone() {
            Op::RmsNorm(norm) => Op::RmsNorm(lathe_ops::norm::RmsNorm { axis: -1, ..norm }),
            Op::LayerNorm(norm) => Op::LayerNorm(lathe_ops::norm::LayerNorm { axis: -1, ..norm }),
            op => op,
        };
        let keep = || Op::Reshape(Reshape { allow_zero: true });
        let shape = rewrite.dims(&apart);
        let heads = rewrite.node(keep(), &[Rewrite::value(*x), shape]);
        let rest = node.inputs.iter().skip(1).map(|input| input.map(Into::into));
        let inputs: Vec<_> = std::iter::once(heads).chain(rest).collect();
        let normed = rewrite.node(op, &inputs);
        let shape = rewrite.dims(to);
        let new = rewrite.node(keep(), &[normed, shape]);
        rewrite.replace(*output, new)
    }
}

/// `[..., heads, size]` where `[..., heads * size]` became fewer axes that end with `size`.
fn apart(from: &[Dim], to: &[Dim]) -> Option<Vec<Dim>> {
    let ((width, tokens), (size, folded)) = (from.split_last()?, to.split_last()?);
    let (width, size) = (width.as_constant()?, size.as_constant().filter(|size| *size > 0)?);
    let heads = width.checked_div(size).filter(|heads| *heads > 1 && heads * size == width)?;
    let apart: Vec<Dim> = tokens.iter().cloned().chain([Dim::constant(heads)]).collect();
    if dims_equal(&apart, folded) {
        return None;
    }
    Some(apart.into_iter().chain([Dim::constant(size)]).collect())
}
