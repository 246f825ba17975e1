//! `attention(q, k, v, mask) -> attention(q, k, v) {causal, window, key padding}`
//!
//! Attention that is one node already (opset 23 and later): its mask is read as that of a decomposition is, and keys and values that are
//! repeated for each query head are taken as they were before. Sound as the fusion is; rows that see no key give zeros before and after.
//!
//! A past that is an operand stands before the keys, and queries behind it: a mask over both is read likewise.
//!
//! Refuses scores that are a result, lengths beside the mask, and windows of its own.

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
        let used =
            |value: &ValueId| !context.body().users(*value).is_empty() || context.body().is_output(*value);
        if node.outputs.iter().skip(3).any(used) {
            return Proposal::because("other results than the first are used");
        }
        let given = |index: usize| rest.get(index).copied().flatten();
        let past = match [given(1), given(2)] {
            [None, None] => None,
            [Some(keys), Some(values)] => Some([keys, values]),
            _ => return Proposal::NoMatch,
        };
        if rest.iter().skip(3).any(Option::is_some) {
            return Proposal::NoMatch;
        }
        let found = Found {
            context,
            attention,
            operands: [*q, *k, *v],
            mask: given(0),
            past,
            outputs: &node.outputs,
            keeps: past.is_some() || node.outputs.iter().skip(1).any(used),
        };
        found.rewrite(&node.name).unwrap_or_else(Proposal::Because)
    }
}

/// An attention node.
struct Found<'a> {
    context: Context<'a>,
    attention: &'a Attention,
    operands: [ValueId; 3],
    mask: Option<ValueId>,
    past: Option<[ValueId; 2]>,
    outputs: &'a [ValueId],
    /// Whether keys and values are joined to a past, or are results: they stay what they are.
    keeps: bool,
}

impl Found<'_> {
    fn rewrite(&self, name: &str) -> Result<Proposal, String> {
        let Found { context, attention, operands: [q, k, v], mask, past, .. } = *self;
        let Some((mut dims, apart)) = sizes(context, attention, [q, k, v]) else {
            return Ok(Proposal::NoMatch);
        };
        if let Some([keys, _]) = past {
            let [_, _, before, _] = &context.ty(keys).dims[..] else { return Ok(Proposal::NoMatch) };
            dims[3] = before.add(&dims[3]);
        }
        let [batch, heads, _, total] = &dims;
        let reader = Reader::new(context, &dims);
        let bias = match mask {
            Some(mask) => read(&reader, mask)?,
            None => Bias::default(),
        };
        self.check_places(&bias)?;
        let mut new = Rewrite::new(name);
        let of = |value: ValueId, size: &Dim| {
            let dims = [batch, heads, total, size].map(Clone::clone);
            let reader = Reader::new(context, &dims);
            heads::operand(&reader, value, reader.space.index())
                .filter(|found| found.repeats > 1)
                .map(|found| (found, dims))
        };
        let same_heads =
            apart.is_some() && context.ty(k).dims[1] == *heads && context.ty(v).dims[1] == *heads;
        let apart = apart.filter(|_| !self.keeps);
        let shared = match apart.map_or((None, None), |[size, v_size]| (of(k, &size), of(v, &v_size))) {
            (Some(k), Some(v))
                if same_heads && k.0.repeats == v.0.repeats && k.0.scale * v.0.scale == 1.0 =>
            {
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
        if let Some(past) = past {
            inputs[4..6].copy_from_slice(&past.map(Rewrite::value));
        }
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let facts = &bias.facts;
        let proven = Attention {
            causal: attention.causal || facts.causal,
            left_window: attention.left_window.or(facts.left),
            right_window: attention.right_window.or(facts.right),
            // Behind a past they stand so already.
            bottom_right: attention.bottom_right
                || (past.is_none() && facts.bottom_right && facts.is_positional()),
            ..attention.clone()
        };
        let outputs = if self.keeps { self.outputs } else { &self.outputs[..1] };
        let made = new.node_of(Op::Attention(proven), &inputs, outputs.len());
        Ok(new.replace_all(outputs, &made).assuming(bias.assumption()))
    }

    /// That the facts of the mask are about the places where the node has its queries.
    fn check_places(&self, bias: &Bias) -> Result<(), String> {
        let attention = self.attention;
        if !bias.facts.is_positional() {
            return Ok(());
        }
        if attention.left_window.or(attention.right_window).is_some() {
            return Err("the node has a window beside that of its mask".to_string());
        }
        let behind = attention.bottom_right || self.past.is_some();
        if (attention.causal || self.past.is_some()) && behind != bias.facts.bottom_right {
            return Err("the node is causal, and its mask places queries elsewhere".to_string());
        }
        Ok(())
    }
}

/// `[batch, heads, seq, total]` of the scores; the sizes of a head of the keys and of the values, where heads have an axis of their own.
fn sizes(
    context: Context<'_>,
    attention: &Attention,
    operands: [ValueId; 3],
) -> Option<([Dim; 4], Option<[Dim; 2]>)> {
    match operands.map(|operand| &context.ty(operand).dims[..]) {
        [[batch, heads, seq, size], [_, _, total, _], [_, _, _, v_size]] => {
            let dims = [batch, heads, seq, total].map(Clone::clone);
            Some((dims, Some([size.clone(), v_size.clone()])))
        }
        [[batch, seq, _], [_, total, _], [_, _, _]] => {
            let heads = Dim::constant(i64::try_from(attention.q_heads?).ok()?);
            Some(([batch.clone(), heads, seq.clone(), total.clone()], None))
        }
        _ => None,
    }
}

fn read(reader: &Reader<'_>, mask: ValueId) -> Result<Bias, String> {
    let sizes: Vec<Dim> = (0..4).map(|axis| reader.space.size(axis)).collect();
    let index = reader.index_into(mask, &sizes, &reader.space.index());
    let index = index.ok_or("the mask does not broadcast to the scores for every size")?;
    let mut terms = Vec::new();
    match reader.context.ty(mask).dtype {
        DType::Bool => terms.push(Left::Hides { condition: mask, index, hidden_if: false }),
        _ => bias::addends(reader, mask, index, 1.0, &mut terms),
    }
    Bias::sort(reader, terms)
}
