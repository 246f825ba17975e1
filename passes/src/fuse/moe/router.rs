//! The router: from logits to indices and weights.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Unary};
use lathe_ops::moe::{Groups, Router as Kind};
use lathe_ops::reduce::ReduceKind;

use super::experts::Experts;
use super::walk::{binary, flat, integers, is_last, splat, with_scalar};
use crate::Context;

/// How experts are chosen.
pub(super) struct Router {
    /// `[..., experts]`.
    pub logits: ValueId,
    /// Added to the scores for the choice, `[experts]`.
    pub bias: Option<ValueId>,
    pub kind: Kind,
    pub renormalise: bool,
    pub epsilon: f32,
    pub scale: f32,
    pub groups: Option<Groups>,
    /// What the choice rests on.
    pub assumption: Option<String>,
}

/// How scores are kept from being chosen.
#[derive(Default)]
struct Selection {
    bias: Option<ValueId>,
    groups: Option<Groups>,
    /// Whether others than those of the best groups have a score of zero left.
    zeros: bool,
}

/// A top-k along the last axis, largest first.
struct TopK {
    x: ValueId,
    k: i64,
    /// There are none of an arg max.
    values: Option<ValueId>,
    indices: ValueId,
}

pub(super) fn find(context: Context<'_>, experts: &Experts) -> Result<Router, String> {
    let choice = top_k(context, experts.indices, 1).or_else(|| arg_max(context, experts.indices));
    let choice = choice.ok_or("the experts are not chosen by a top-k")?;
    if choice.k != experts.top_k as i64 {
        return Err("the top-k takes another number of experts".into());
    }
    let (mut weights, mut scale) = (experts.weights, 1.0);
    if let Some((inner, factor)) = with_scalar(context, weights, Binary::Mul) {
        (weights, scale) = (inner, factor);
    }
    if let Some((_, node, Op::Softmax(softmax))) = context.producer(weights) {
        // Over the chosen logits: over all, then renormalised.
        let of_choice = choice.values.is_some() && node.inputs.first() == Some(&choice.values);
        if !of_choice || softmax.log || !is_last(context, weights, softmax.axis) {
            return Err("the weights are a softmax of something else than the chosen logits".into());
        }
        let scores = Scores { logits: choice.x, kind: Kind::Softmax };
        return routed(context, experts, scores, Selection::default(), (true, 0.0, scale));
    }
    let (mut renormalise, mut epsilon) = (false, 0.0);
    if let Some((inner, sum)) = binary(context, weights, Binary::Div) {
        let (sum, added) = with_scalar(context, sum, Binary::Add).unwrap_or((sum, 0.0));
        if summed(context, sum, true) != Some(inner) {
            return Err("the weights are divided by something else than their sum".into());
        }
        (weights, renormalise, epsilon) = (inner, true, added);
    }
    let scores = match context.producer(weights) {
        Some((_, _, Op::TopK(_))) if choice.values == Some(weights) => choice.x,
        // The largest score is that of the first of them.
        Some((_, node, Op::Reduce(reduce)))
            if choice.k == 1
                && reduce.kind == ReduceKind::Max
                && node.inputs.first() == Some(&Some(choice.x)) =>
        {
            let last = matches!(reduce.axes.as_deref(), Some([axis]) if is_last(context, choice.x, *axis));
            last.then_some(choice.x).ok_or("the weights are a maximum over another axis")?
        }
        Some((_, node, Op::GatherElements(gather))) => {
            let indices = node.inputs.get(1).copied().flatten();
            let by_choice = indices.is_some_and(|indices| flat(context, indices) == choice.indices);
            let scores = node.inputs.first().copied().flatten().filter(|_| by_choice);
            let last = is_last(context, weights, gather.axis);
            scores.filter(|_| last).ok_or("the weights are gathered by other indices than the choice")?
        }
        _ => return Err("the weights are not the scores of the choice".into()),
    };
    let selection = select(context, choice.x, scores)?;
    let scores = scored(context, scores).ok_or("the scores are neither softmax nor sigmoid of the logits")?;
    routed(context, experts, scores, selection, (renormalise, epsilon, scale))
}

fn routed(
    context: Context<'_>,
    experts: &Experts,
    scores: Scores,
    selection: Selection,
    (renormalise, epsilon, scale): (bool, f64, f64),
) -> Result<Router, String> {
    let dims = &context.ty(scores.logits).dims;
    if dims.len() < 2 || dims.last().and_then(|dim| dim.as_constant()) != Some(experts.count as i64) {
        return Err("the logits are not [tokens, experts]".into());
    }
    Ok(Router {
        logits: scores.logits,
        bias: selection.bias,
        kind: scores.kind,
        renormalise,
        epsilon: epsilon as f32,
        scale: scale as f32,
        groups: selection.groups,
        assumption: selection.zeros.then(|| {
            "experts outside the best groups have a score of 0, and none of the others underflows to it"
                .to_string()
        }),
    })
}

struct Scores {
    logits: ValueId,
    kind: Kind,
}

fn scored(context: Context<'_>, scores: ValueId) -> Option<Scores> {
    let (_, node, op) = context.producer(scores)?;
    let kind = match op {
        Op::Softmax(softmax) if !softmax.log && is_last(context, scores, softmax.axis) => Kind::Softmax,
        Op::Unary(Unary::Sigmoid) => Kind::Sigmoid,
        _ => return None,
    };
    Some(Scores { logits: (*node.inputs.first()?)?, kind })
}

/// The top-k whose output `index` a value is.
fn top_k(context: Context<'_>, value: ValueId, index: usize) -> Option<TopK> {
    let (_, node, Op::TopK(op)) = context.producer(value)? else { return None };
    let ([Some(x), Some(k)], [values, indices]) = (&node.inputs[..], &node.outputs[..]) else { return None };
    let (&[k], true) = (&integers(context, *k)?[..], node.outputs.get(index) == Some(&value)) else {
        return None;
    };
    let usable = op.largest && is_last(context, *x, op.axis);
    usable.then_some(TopK { x: *x, k, values: Some(*values), indices: *indices })
}

/// The largest of a row, the first of equal ones.
fn arg_max(context: Context<'_>, value: ValueId) -> Option<TopK> {
    let (_, node, Op::ArgReduce(reduce)) = context.producer(value)? else { return None };
    let x = node.inputs.first().copied().flatten()?;
    let usable = !reduce.min && !reduce.select_last && is_last(context, x, reduce.axis);
    usable.then_some(TopK { x, k: 1, values: None, indices: value })
}

/// The operand of a sum over the last axis.
fn summed(context: Context<'_>, value: ValueId, keep: bool) -> Option<ValueId> {
    let (_, node, Op::Reduce(reduce)) = context.producer(value)? else { return None };
    let x = (*node.inputs.first()?)?;
    let [axis] = reduce.axes.as_deref()? else { return None };
    let fits = reduce.kind == ReduceKind::Sum && reduce.keep_dims == keep && is_last(context, x, *axis);
    fits.then_some(x)
}

/// What is added to the scores before the choice, and the groups that limit it.
fn select(context: Context<'_>, chosen: ValueId, scores: ValueId) -> Result<Selection, String> {
    let masked = match context.producer(chosen) {
        Some((_, node, Op::Where(_))) => Some(node),
        _ => None,
    };
    let (chosen, groups, zeros) = match masked {
        None => (chosen, None, false),
        Some(node) => {
            let [Some(condition), Some(a), Some(b)] = node.inputs[..] else {
                return Err("a `where` without operands".into());
            };
            let (inverted, condition) = match context.producer(condition) {
                Some((_, node, Op::Unary(Unary::Not))) => (true, node.inputs.first().copied().flatten()),
                _ => (false, Some(condition)),
            };
            let (kept, masked) = if inverted { (b, a) } else { (a, b) };
            let fill = splat(context, masked).ok_or("experts outside the best groups keep their scores")?;
            if fill > -1e30 && (fill != 0.0 || !is_positive(context, kept)) {
                return Err(format!(
                    "experts outside the best groups keep a score of {fill}, which may be chosen"
                ));
            }
            let groups = condition.and_then(|condition| groups(context, condition, kept));
            (kept, Some(groups.ok_or("the mask of groups is not understood")?), fill == 0.0)
        }
    };
    if chosen == scores {
        return Ok(Selection { bias: None, groups, zeros });
    }
    let bias = binary(context, chosen, Binary::Add).and_then(|(a, b)| match () {
        () if a == scores => Some(b),
        () if b == scores => Some(a),
        () => None,
    });
    let bias = bias.filter(|bias| context.constant(*bias).is_some() && context.ty(*bias).rank() == 1);
    let bias = bias.ok_or("the choice is by something else than scores plus a bias")?;
    Ok(Selection { bias: Some(bias), groups, zeros })
}

/// Whether scores are above zero: a softmax or sigmoid, perhaps with a constant added that is nowhere below it.
fn is_positive(context: Context<'_>, scores: ValueId) -> bool {
    match binary(context, scores, Binary::Add) {
        None => scored(context, scores).is_some(),
        Some((a, b)) => [(a, b), (b, a)].into_iter().any(|(scores, bias)| {
            let bias = context.constant_f32(bias);
            scored(context, scores).is_some()
                && bias.is_some_and(|bias| bias.iter().all(|added| *added >= 0.0))
        }),
    }
}

/// Groups from a mask of experts: ones scattered to the groups with the best sums of two.
fn groups(context: Context<'_>, mask: ValueId, scores: ValueId) -> Option<Groups> {
    let mask = match context.producer(mask)? {
        (_, node, Op::Cast(_)) => (*node.inputs.first()?)?,
        _ => mask,
    };
    let repeated = flat(context, mask);
    let (_, node, Op::Expand(_) | Op::Tile(_)) = context.producer(repeated)? else { return None };
    let single = (*node.inputs.first()?)?;
    let (from, to) = (&context.ty(single).dims, &context.ty(repeated).dims);
    let each = from.len() == 3 && to.len() == 3 && from[2].as_constant() == Some(1);
    let count = usize::try_from(to.get(1)?.as_constant()?).ok()?;
    if !each || from[1] != to[1] || from[0] != to[0] {
        return None;
    }
    let (_, node, Op::ScatterElements(scatter)) = context.producer(flat(context, single))? else {
        return None;
    };
    let [Some(zeros), Some(indices), Some(ones)] = node.inputs[..] else { return None };
    let replaces =
        scatter.reduction == lathe_ops::gather::Reduction::Replace && matches!(scatter.axis, 1 | -1);
    if !replaces || splat(context, zeros)? != 0.0 || splat(context, ones)? != 1.0 {
        return None;
    }
    let best = top_k(context, indices, 1)?;
    let pairs = top_k(context, summed(context, best.x, false)?, 0)?;
    let shape = sizes_after_first(context, pairs.x)?;
    let same = flat(context, pairs.x) == flat(context, scores);
    let fits = same
        && pairs.k == 2
        && shape.first() == Some(&count)
        && shape.get(1) == Some(&last(context, repeated)?);
    fits.then_some(Groups { count, top: usize::try_from(best.k).ok()? })
}

fn last(context: Context<'_>, value: ValueId) -> Option<usize> {
    usize::try_from(context.ty(value).dims.last()?.as_constant()?).ok()
}

/// The constant sizes of all axes but the first of three.
fn sizes_after_first(context: Context<'_>, value: ValueId) -> Option<Vec<usize>> {
    let dims = &context.ty(value).dims;
    if dims.len() != 3 {
        return None;
    }
    dims[1..].iter().map(|dim| usize::try_from(dim.as_constant()?).ok()).collect()
}
