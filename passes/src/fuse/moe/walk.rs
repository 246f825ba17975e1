//! Walking back through exporters' reshapes.

use std::collections::BTreeSet;

use lathe_ir::{Answer, Dim, NodeId, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Binary;

use super::experts::Experts;
use super::router::Router;
use crate::Context;

/// The value whose elements, in the same order, `value` has under another shape.
pub(super) fn flat(context: Context<'_>, mut value: ValueId) -> ValueId {
    while let Some((_, node, Op::Reshape(_) | Op::Squeeze(_) | Op::Unsqueeze(_))) = context.producer(value) {
        match node.inputs.first() {
            Some(Some(inner)) => value = *inner,
            _ => return value,
        }
    }
    value
}

/// The operands of a binary op.
pub(super) fn binary(context: Context<'_>, value: ValueId, kind: Binary) -> Option<(ValueId, ValueId)> {
    match context.producer(value)? {
        (_, node, Op::Binary(found)) if *found == kind => {
            Some(((*node.inputs.first()?)?, (*node.inputs.get(1)?)?))
        }
        _ => None,
    }
}

/// The other operand of a commutative op with a constant scalar, and the scalar.
pub(super) fn with_scalar(context: Context<'_>, value: ValueId, kind: Binary) -> Option<(ValueId, f64)> {
    let (a, b) = binary(context, value, kind)?;
    match (context.scalar(a), context.scalar(b)) {
        (_, Some(scalar)) => Some((a, scalar)),
        (Some(scalar), None) => Some((b, scalar)),
        _ => None,
    }
}

/// Operand `index` of the node that makes a value.
pub(super) fn operand(context: Context<'_>, value: ValueId, index: usize) -> Option<ValueId> {
    let (_, node, _) = context.producer(value)?;
    *node.inputs.get(index)?
}

/// Known integer elements of a value.
pub(super) fn integers(context: Context<'_>, value: ValueId) -> Option<Vec<i64>> {
    context.body().value(value).known.as_ref()?.iter().map(Dim::as_constant).collect()
}

/// Constant dims.
pub(super) fn sizes(context: Context<'_>, value: ValueId) -> Option<Vec<usize>> {
    context.ty(value).dims.iter().map(|dim| usize::try_from(dim.as_constant()?).ok()).collect()
}

/// The one number that a value repeats: a constant, or the expansion of one.
pub(super) fn splat(context: Context<'_>, value: ValueId) -> Option<f64> {
    let value = flat(context, value);
    match context.producer(value) {
        Some((_, node, Op::Expand(_) | Op::Tile(_) | Op::Cast(_))) => {
            splat(context, (*node.inputs.first()?)?)
        }
        Some((_, _, Op::ConstantOfShape(constant))) if constant.dtype == lathe_tensor::DType::F32 => {
            Some(f64::from(f32::from_bits(constant.bits as u32)))
        }
        Some(_) => None,
        None => {
            let elements = context.constant_f32(value)?;
            let first = elements.first()?;
            elements.iter().all(|element| element == first).then(|| f64::from(*first))
        }
    }
}

pub(super) fn equal(a: &Dim, b: &Dim) -> bool {
    a.equals(b) == Answer::Yes
}

/// Whether an axis of a value is its last.
pub(super) fn is_last(context: Context<'_>, value: ValueId, axis: i64) -> bool {
    axis == -1 || axis + 1 == context.ty(value).rank() as i64
}

/// Refuses where the experts' gathered weights, which `moe` does not make, are needed by others: both would be computed then.
pub(super) fn closed(
    context: Context<'_>,
    output: ValueId,
    experts: &Experts,
    router: &Router,
) -> Result<(), String> {
    let body = context.body();
    let stop: BTreeSet<ValueId> = [Some(experts.x), Some(router.logits)].into_iter().flatten().collect();
    let mut inside: BTreeSet<NodeId> = BTreeSet::new();
    let mut queue = vec![output];
    while let Some(value) = queue.pop() {
        let Some((id, node)) = body.producer(value).filter(|_| !stop.contains(&value)) else { continue };
        if inside.insert(id) {
            queue.extend(node.inputs.iter().flatten());
        }
    }
    for product in &experts.inner {
        let outside = body.users(*product).iter().any(|user| !inside.contains(user));
        if outside || body.is_output(*product) {
            return Err("the experts' weights or answers are used elsewhere".into());
        }
    }
    Ok(())
}
