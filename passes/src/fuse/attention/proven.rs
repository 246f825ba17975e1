//! `attention(q, k, v, mask) -> attention(q, k, v) {causal, window, key padding}`
//!
//! Attention that is one node already (opset 23 and later): its mask is read as that of a decomposition is, and keys and values that are
//! repeated for each query head are taken as they were before. Sound as the fusion is; rows that see no key give zeros before and after.
//!
//! Refuses other results than the first, a past, lengths beside the mask, and windows of its own.

use lathe_ir::{Dim, NodeId, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::attention::Attention;
use lathe_tensor::DType;

use super::bias::{self, Bias, Left};
use super::heads;
use crate::mask::Reader;
use crate::{Context, Proposal, Rewrite, Rule, Term};

pub(crate) struct MaskProving;

impl Rule for MaskProving {
    fn name(&self) -> &'static str {
        "prove_masks"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let Operation::Op(Op::Attention(attention)) = &node.operation else { return Proposal::NoMatch };
        let [Some(q), Some(k), Some(v), rest @ ..] = &node.inputs[..] else { return Proposal::NoMatch };
        let Some((output, others)) = node.outputs.split_first() else { return Proposal::NoMatch };
        if context.ty(*q).rank() != 4 {
            return Proposal::NoMatch;
        }
        if others
            .iter()
            .any(|value| !context.body().users(*value).is_empty() || context.body().is_output(*value))
        {
            return Proposal::because("other results than the first are used");
        }
        if rest.iter().skip(1).any(Option::is_some) {
            return Proposal::NoMatch;
        }
        let mask = rest.first().copied().flatten();
        rewrite(context, attention, [*q, *k, *v], mask, &node.name, *output).unwrap_or_else(Proposal::Because)
    }
}

fn rewrite(
    context: Context<'_>,
    attention: &Attention,
    [q, k, v]: [ValueId; 3],
    mask: Option<ValueId>,
    name: &str,
    output: ValueId,
) -> Result<Proposal, String> {
    let [batch, heads, seq, size] = &context.ty(q).dims[..] else { return Ok(Proposal::NoMatch) };
    let [_, _, total, _] = &context.ty(k).dims[..] else { return Ok(Proposal::NoMatch) };
    let [_, _, _, v_size] = &context.ty(v).dims[..] else { return Ok(Proposal::NoMatch) };
    let dims = [batch, heads, seq, total].map(Clone::clone);
    let reader = Reader::new(context, &dims);
    let bias = match mask {
        Some(mask) => read(&reader, mask)?,
        None => Bias::default(),
    };
    if bias.facts.is_positional() && (attention.left_window.or(attention.right_window)).is_some() {
        return Err("the node has a window beside that of its mask".to_string());
    }
    if bias.facts.is_positional() && attention.causal && attention.bottom_right != bias.facts.bottom_right {
        return Err("the node is causal, and its mask places queries elsewhere".to_string());
    }
    let mut new = Rewrite::new(name);
    let of = |value: ValueId, size: &Dim| {
        let dims = [batch, heads, total, size].map(Clone::clone);
        let reader = Reader::new(context, &dims);
        heads::operand(&reader, value, reader.space.index())
            .filter(|found| found.repeats > 1)
            .map(|found| (found, dims))
    };
    let same_heads = context.ty(k).dims[1] == *heads && context.ty(v).dims[1] == *heads;
    let shared = match (of(k, size), of(v, v_size)) {
        (Some(k), Some(v)) if same_heads && k.0.repeats == v.0.repeats && k.0.scale * v.0.scale == 1.0 => {
            Some((k, v))
        }
        _ => None,
    };
    let learnt = mask.is_some() && bias.left.is_empty();
    if !learnt && shared.is_none() && (!bias.facts.is_positional() || attention.causal) {
        return match mask {
            Some(_) => Err(match bias.facts.rest.is_empty() {
                true => "the mask is a bias".to_string(),
                false => format!("the mask is not understood: {}", bias.facts.rest.join(", ")),
            }),
            None => Ok(Proposal::NoMatch),
        };
    }
    let mut inputs: Vec<Term> = [q, k, v].map(Rewrite::value).to_vec();
    if let Some(((k, k_dims), (v, v_dims))) = &shared {
        inputs[1] = k.emit(context, &mut new, k_dims);
        inputs[2] = v.emit(context, &mut new, v_dims);
    }
    bias.emit(&reader, &mut new, &dims, &mut inputs)?;
    while inputs.last() == Some(&None) {
        inputs.pop();
    }
    let facts = &bias.facts;
    let proven = Attention {
        causal: attention.causal || facts.causal,
        left_window: attention.left_window.or(facts.left),
        right_window: attention.right_window.or(facts.right),
        bottom_right: attention.bottom_right || (facts.bottom_right && facts.is_positional()),
        ..attention.clone()
    };
    let new_output = new.node(Op::Attention(proven), &inputs);
    Ok(new.replace(output, new_output))
}

fn read(reader: &Reader<'_>, mask: ValueId) -> Result<Bias, String> {
    let sizes: Vec<Dim> = (0..4).map(|axis| reader.space.size(axis)).collect();
    let index = reader.index_into(mask, &sizes, &reader.space.index());
    let index = index.ok_or("the mask does not broadcast to the scores for every size")?;
    let mut terms = Vec::new();
    match reader.context.ty(mask).dtype {
        DType::Bool => terms.push(Left::Hides { condition: mask, index, hidden_if: false }),
        _ => bias::addends(reader, mask, index, &mut terms),
    }
    Bias::sort(reader, false, terms)
}
