//! `scatter_nd(scatter_nd(data, rows 0..k, a), rows k..n, b) -> concat(a, b)`
//!
//! Assignments to slices of an empty tensor, as `y[..., :k] = a` is exported: where the indices are proven to name runs of one axis that
//! cover it once, with all of the other axes, nothing of `data` is left. Transposes that only bring the axis to the front go around.
//! Indices that name every place in its order leave the updates alone: `scatter_nd(data, all, a) -> a`.
//!
//! Refuses where indices are not understood, runs overlap or leave gaps, updates are added, or a state between is used elsewhere.

use lathe_ir::{Answer, Dim, NodeId, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::gather::Reduction;
use lathe_ops::shape::{Concat, Transpose};

use crate::mask::{Cell, Reader};
use crate::rewrite::Term;
use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct ScatterBoxes;

impl Rule for ScatterBoxes {
    fn name(&self) -> &'static str {
        "scatter_boxes"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let (Operation::Op(Op::ScatterNd(_)), [output]) = (&node.operation, &node.outputs[..]) else {
            return Proposal::NoMatch;
        };
        if let Some(updates) = whole(context, *output) {
            return Rewrite::new(&node.name).replace(*output, Rewrite::value(updates));
        }
        if is_between(context, *output) {
            return Proposal::NoMatch;
        }
        match runs(context, *output) {
            Ok((axis, updates)) => {
                let mut rewrite = Rewrite::new(&node.name);
                let new = joined(context, &mut rewrite, axis, &updates);
                rewrite.replace(*output, new)
            }
            Err(reason) => Proposal::because(reason),
        }
    }
}

/// Whether another scatter goes on with this one's result: it will match as a whole.
fn is_between(context: Context<'_>, output: ValueId) -> bool {
    let users = context.body().users(output);
    let scatters = |user: &NodeId| {
        let node = context.body().node(*user);
        node.is_some_and(|node| {
            matches!(node.operation, Operation::Op(Op::ScatterNd(_))) && node.inputs[0] == Some(output)
        })
    };
    context.single_use(output) && users.iter().all(scatters)
}

/// A write of one run of an axis.
struct Run {
    axis: usize,
    start: i64,
    count: i64,
    updates: ValueId,
}

/// The axis and the updates in its order that make up the whole of a value.
fn runs(context: Context<'_>, output: ValueId) -> Result<(usize, Vec<ValueId>), &'static str> {
    let (mut runs, mut value) = (Vec::<Run>::new(), output);
    loop {
        let Some((_, node, Op::ScatterNd(scatter))) = context.producer(value) else {
            return Err("the runs leave gaps");
        };
        let [Some(data), Some(indices), Some(updates)] = node.inputs[..] else {
            return Err("an operand is missing");
        };
        if value != output && !context.single_use(value) {
            return Err("a state between is used elsewhere");
        }
        if scatter.reduction != Reduction::Replace {
            return Err("updates are combined with what they meet");
        }
        let run = run(context, data, indices, updates).ok_or("the indices are not a run of one axis")?;
        if runs.iter().any(|other| other.axis != run.axis) {
            return Err("the runs are of different axes");
        }
        let size = context.ty(data).dims.get(run.axis).and_then(|size| size.as_constant());
        runs.push(run);
        let written: i64 = runs.iter().map(|run| run.count).sum();
        if Some(written) >= size {
            runs.sort_by_key(|run| run.start);
            let mut end = 0;
            for run in &runs {
                if run.start != end {
                    return Err("the runs overlap");
                }
                end += run.count;
            }
            let axis = runs.first().map_or(0, |run| run.axis);
            let whole = Some(end) == size;
            return if whole {
                Ok((axis, runs.iter().map(|run| run.updates).collect()))
            } else {
                Err("the runs overlap")
            };
        }
        value = data;
    }
}

/// The updates of a scatter that writes every place, each at its own.
fn whole(context: Context<'_>, output: ValueId) -> Option<ValueId> {
    let (_, node, Op::ScatterNd(scatter)) = context.producer(output)? else { return None };
    let [Some(data), Some(indices), Some(updates)] = node.inputs[..] else { return None };
    (scatter.reduction == Reduction::Replace).then_some(())?;
    let offsets = offsets(context, data, indices)?;
    offsets.iter().all(|(offset, whole)| *offset == 0 && *whole).then_some(updates)
}

/// What stands between the places of updates and data along each axis that the indices name, and whether all of the axis is named;
/// `None` where an axis of the index depends on another axis.
fn offsets(context: Context<'_>, data: ValueId, indices: ValueId) -> Option<Vec<(i64, bool)>> {
    let (data_dims, index_dims) = (&context.ty(data).dims, &context.ty(indices).dims);
    let (components, places) = index_dims.split_last()?;
    let components = usize::try_from(components.as_constant()?).ok()?;
    if components != places.len() || components > data_dims.len() || components > 5 {
        return None;
    }
    let reader = Reader::new(context, places);
    let mut found = Vec::with_capacity(components);
    for (axis, (place, size)) in places.iter().zip(data_dims).enumerate() {
        let mut index = reader.space.index();
        index.push(Dim::constant(axis as i64));
        let Cell::Int(cell) = reader.cell(indices, &index) else { return None };
        let offset = cell.sub(&reader.space.coordinate(axis)).as_constant()?;
        found.push((offset, place.equals(size) == Answer::Yes));
    }
    reader.assumptions().is_empty().then_some(found)
}

/// The run that indices `[.., axes]` name: the place `[i, j, ..]` of the updates is that of the data, but for an offset along one axis.
fn run(context: Context<'_>, data: ValueId, indices: ValueId, updates: ValueId) -> Option<Run> {
    let places = &context.ty(indices).dims;
    let mut found = None;
    for (axis, (start, whole)) in offsets(context, data, indices)?.into_iter().enumerate() {
        if start == 0 && whole {
            continue;
        }
        let run = Run { axis, start, count: places[axis].as_constant()?, updates };
        (found.is_none() && start >= 0 && run.count > 0).then_some(())?;
        found = Some(run);
    }
    found
}

/// The updates joined along an axis; where all are transposed alike, what they were is joined and transposed.
fn joined(context: Context<'_>, rewrite: &mut Rewrite, axis: usize, updates: &[ValueId]) -> Term {
    let transposed = |value: &ValueId| match context.producer(*value)? {
        (_, node, Op::Transpose(transpose)) => Some((transpose.perm.clone(), (*node.inputs.first()?)?)),
        _ => None,
    };
    let before: Option<Vec<_>> = updates.iter().map(transposed).collect();
    if let Some(before) = before
        && let Some((perm, _)) = before.first()
        && before.iter().all(|(other, _)| other == perm)
        && let Some(inner) = perm.get(axis)
    {
        let parts: Vec<Term> = before.iter().map(|(_, value)| Rewrite::value(*value)).collect();
        let whole = rewrite.node(Op::Concat(Concat { axis: *inner as i64 }), &parts);
        return rewrite.node(Op::Transpose(Transpose { perm: perm.clone() }), &[whole]);
    }
    let parts: Vec<Term> = updates.iter().map(|value| Rewrite::value(*value)).collect();
    rewrite.node(Op::Concat(Concat { axis: axis as i64 }), &parts)
}
