//! Parts of a value's last axis, and values joined from two of them.

use lathe_ir::ValueId;
use lathe_ops::Op;

use crate::Context;
use crate::context::dims_equal;

/// The elements `start, start + step, ...` of the last axis of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub of: ValueId,
    pub start: i64,
    pub step: i64,
    pub count: i64,
}

/// A run of elements of one axis.
struct Cut {
    of: ValueId,
    axis: usize,
    start: i64,
    step: i64,
    count: i64,
}

/// How the two elements of a pair lie in a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pairing {
    /// Half a head apart.
    Half,
    /// Neighbours.
    Interleaved,
}

/// The constant size of the last axis.
pub(super) fn width(context: Context<'_>, value: ValueId) -> Option<i64> {
    context.ty(value).dims.last()?.as_constant()
}

/// The part of another value that a value is; a whole value is a part of itself.
pub(super) fn part(context: Context<'_>, value: ValueId) -> Option<Part> {
    let count = width(context, value)?;
    let rank = context.ty(value).rank();
    let whole = Part { of: value, start: 0, step: 1, count };
    let (of, start, step) = match cut(context, value) {
        Some(cut) if cut.axis + 1 == rank && cut.count == count => (cut.of, cut.start, cut.step),
        _ => match member(context, value) {
            Some(found) => found,
            None => return Some(whole),
        },
    };
    let outer = part(context, of)?;
    Some(Part { of: outer.of, start: outer.start + start * outer.step, step: step * outer.step, count })
}

/// The value that is exactly this part: one of those that `from` was cut of, or `from`.
pub(super) fn value_of(context: Context<'_>, from: ValueId, wanted: Part) -> Option<ValueId> {
    let mut value = from;
    loop {
        if part(context, value) == Some(wanted) {
            return Some(value);
        }
        value = cut(context, value)?.of;
    }
}

/// The two halves of pairs that two parts of one value are: the pairing and the value's range.
pub(super) fn pairs(first: Part, second: Part) -> Option<(Pairing, Part)> {
    let count = first.count;
    if first.of != second.of || second.count != count || first.step != second.step {
        return None;
    }
    let range = Part { step: 1, count: 2 * count, ..first };
    match (first.step, second.start - first.start) {
        (1, apart) if apart == count => Some((Pairing::Half, range)),
        (2, 1) => Some((Pairing::Interleaved, range)),
        _ => None,
    }
}

/// A constant slice of one axis, or an output of a split.
fn cut(context: Context<'_>, value: ValueId) -> Option<Cut> {
    let (_, node, op) = context.producer(value)?;
    let of = (*node.inputs.first()?)?;
    let rank = context.ty(of).rank();
    match op {
        Op::Slice(_) => {
            let one = |index: usize| integer(context, node.inputs.get(index).copied().flatten()?);
            let (start, axis) = (one(1)?, axis(one(3)?, rank)?);
            let step = if node.inputs.get(4).copied().flatten().is_some() { one(4)? } else { 1 };
            let size = context.ty(of).dims.get(axis)?.as_constant()?;
            let start = if start < 0 { start.checked_add(size)? } else { start };
            let count = context.ty(value).dims.get(axis)?.as_constant()?;
            (step > 0 && (0..=size).contains(&start)).then_some(Cut { of, axis, start, step, count })
        }
        Op::Split(split) => {
            let axis = axis(split.axis, rank)?;
            let size = |output: &ValueId| context.ty(*output).dims.get(axis)?.as_constant();
            let index = node.outputs.iter().position(|output| *output == value)?;
            let start = node.outputs[..index].iter().map(size).sum::<Option<i64>>()?;
            Some(Cut { of, axis, start, step: 1, count: size(&value)? })
        }
        _ => None,
    }
}

/// Element `i` of each pair where pairs are an axis of their own: the last axis of `[.., d / 2, 2]` or the one before it of
/// `[.., 2, d / 2]`, both views of `[.., d]`. The value with its start and step.
fn member(context: Context<'_>, value: ValueId) -> Option<(ValueId, i64, i64)> {
    let (_, node, op) = context.producer(value)?;
    let inner = (*node.inputs.first()?)?;
    let (view, axis, index) = match op {
        Op::Gather(gather) => {
            let indices = (*node.inputs.get(1)?)?;
            let axis = axis(gather.axis, context.ty(inner).rank())?;
            (context.ty(indices).rank() == 0).then_some((inner, axis, integer(context, indices)?))?
        }
        Op::Squeeze(_) | Op::Reshape(_) => {
            let cut = cut(context, inner)?;
            let (before, after) = (&context.ty(inner).dims, &context.ty(value).dims);
            let mut without = before.clone();
            without.remove(cut.axis);
            (cut.count == 1 && dims_equal(&without, after)).then_some((cut.of, cut.axis, cut.start))?
        }
        _ => return None,
    };
    let (whole, pair_axis) = pair_view(context, view)?;
    let count = width(context, whole)? / 2;
    (axis == pair_axis && (0..2).contains(&index)).then_some(())?;
    match axis + 1 == context.ty(view).rank() {
        true => Some((whole, index, 2)),
        false => Some((whole, index * count, 1)),
    }
}

/// The value `[.., d]` that is seen as `[.., d / 2, 2]` or `[.., 2, d / 2]`, with the axis of size 2.
fn pair_view(context: Context<'_>, view: ValueId) -> Option<(ValueId, usize)> {
    let (_, node, Op::Reshape(_)) = context.producer(view)? else { return None };
    let whole = (*node.inputs.first()?)?;
    Some((whole, split_axis(context, whole, view)?))
}

/// The axis of size 2 of `split [.., d / 2, 2]` or `[.., 2, d / 2]`, where it is `whole [.., d]` in row-major order.
fn split_axis(context: Context<'_>, whole: ValueId, split: ValueId) -> Option<usize> {
    let (whole, split) = (&context.ty(whole).dims, &context.ty(split).dims);
    let (last, leading) = whole.split_last()?;
    let size = last.as_constant()?;
    let rank = split.len();
    let (outer, inner) = (split.get(rank.checked_sub(2)?)?.as_constant()?, split[rank - 1].as_constant()?);
    if !dims_equal(leading, &split[..rank - 2]) || outer * inner != size {
        return None;
    }
    if inner == 2 { Some(rank - 1) } else { (outer == 2).then_some(rank - 2) }
}

/// Two values of half the width of which a value is joined, and in which order their elements lie.
pub(super) fn join(context: Context<'_>, value: ValueId) -> Option<(Pairing, ValueId, ValueId)> {
    let (_, node, op) = context.producer(value)?;
    match op {
        Op::Concat(concat) => {
            let [Some(a), Some(b)] = node.inputs[..] else { return None };
            let last = axis(concat.axis, context.ty(value).rank())? + 1 == context.ty(value).rank();
            (last && width(context, a)? == width(context, b)?).then_some((Pairing::Half, a, b))
        }
        Op::Reshape(_) => {
            let stacked = (*node.inputs.first()?)?;
            let pair_axis = split_axis(context, value, stacked)?;
            let (a, b) = stack(context, stacked, pair_axis)?;
            let last = pair_axis + 1 == context.ty(stacked).rank();
            Some((if last { Pairing::Interleaved } else { Pairing::Half }, a, b))
        }
        _ => None,
    }
}

/// The two values that are stacked along a new axis.
fn stack(context: Context<'_>, stacked: ValueId, pair_axis: usize) -> Option<(ValueId, ValueId)> {
    let (_, node, op) = context.producer(stacked)?;
    let layer = |value: ValueId| {
        let (_, node, op) = context.producer(value)?;
        let layer = (*node.inputs.first()?)?;
        let mut dims = context.ty(value).dims.clone();
        let unit = dims.get(pair_axis)?.as_constant() == Some(1);
        dims.remove(pair_axis);
        let added = matches!(op, Op::Unsqueeze(_) | Op::Reshape(_)) && unit;
        (added && dims_equal(&dims, &context.ty(layer).dims)).then_some(layer)
    };
    match op {
        Op::Concat(concat) => {
            let [Some(a), Some(b)] = node.inputs[..] else { return None };
            (axis(concat.axis, context.ty(stacked).rank())? == pair_axis).then_some((layer(a)?, layer(b)?))
        }
        Op::Expand(_) => {
            let one = (*node.inputs.first()?)?;
            let same_rank = context.ty(one).rank() == context.ty(stacked).rank();
            let (mut from, mut to) = (context.ty(one).dims.clone(), context.ty(stacked).dims.clone());
            same_rank.then(|| (from.remove(pair_axis), to.remove(pair_axis)))?;
            dims_equal(&from, &to).then_some((layer(one)?, layer(one)?))
        }
        _ => None,
    }
}

/// The operand of a negation.
pub(super) fn negated(context: Context<'_>, value: ValueId) -> Option<ValueId> {
    use lathe_ops::elementwise::{Binary, Unary};
    let (_, node, op) = context.producer(value)?;
    match (op, &node.inputs[..]) {
        (Op::Unary(Unary::Neg), [Some(x)]) => Some(*x),
        (Op::Binary(Binary::Mul), [Some(a), Some(b)]) if context.scalar(*b) == Some(-1.0) => Some(*a),
        (Op::Binary(Binary::Mul), [Some(a), Some(b)]) if context.scalar(*a) == Some(-1.0) => Some(*b),
        _ => None,
    }
}

/// The one element of a constant of integers.
fn integer(context: Context<'_>, value: ValueId) -> Option<i64> {
    let tensor = context.constant(value)?;
    (tensor.len() == 1 && tensor.dtype().is_integer())
        .then(|| context.scalar(value).map(|scalar| scalar as i64))?
}

/// An axis that may count from the end.
pub(super) fn axis(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis.checked_add(i64::try_from(rank).ok()?)? } else { axis };
    usize::try_from(axis).ok().filter(|axis| *axis < rank)
}
