//! `transpose<q>(f(transpose<p>(conv(x)))) -> f'(conv(x))` where `p . q` is the identity
//!
//! Exports of frameworks that keep channels last put a transpose on both sides of each convolution. Between two of them `f` is elementwise, pads, or
//! drops and brings back axes of 1; it is computed in the convolution's own layout, and the transposes meet. Several convolutions may flow into
//! one `f`. Sound because elementwise ops treat all elements alike, and pads and constants are permuted with the axes.
//!
//! Refuses where as many transposes would have to be made for results that leave as are saved.

use std::collections::BTreeMap;

use lathe_ir::{Edit, EditValue, FunctionId, Module, Node, NodeId, Operation, ValueId};
use lathe_ops::shape::{Squeeze, Transpose};
use lathe_ops::{Limits, Op};
use lathe_tensor::Tensor;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::driver::{FunctionPass, PassReport};
use crate::{Context, PassError};

pub(crate) struct SinkTransposes;

impl FunctionPass for SinkTransposes {
    fn name(&self) -> &'static str {
        "sink_transposes"
    }

    fn run(
        &self,
        module: &mut Module,
        function: FunctionId,
        report: &mut PassReport,
    ) -> Result<(), PassError> {
        // Groups share no value, so that the edit of one leaves those of the others as they are.
        for (node, proposal) in Moved::of(Context { module, function }).proposals() {
            match proposal {
                Ok(edit) => {
                    module.apply(function, edit).map_err(|source| PassError::Rejected {
                        pass: "sink_transposes",
                        node: node.clone(),
                        source,
                    })?;
                    report.applied.push(node);
                }
                Err(reason) => report.refused.push((node, reason)),
            }
        }
        Ok(())
    }
}

/// The permutation of a transpose that follows an op over pictures.
fn root<'a>(context: Context<'a>, node: &'a Node) -> Option<&'a [usize]> {
    let Operation::Op(Op::Transpose(Transpose { perm })) = &node.operation else { return None };
    let (_, _, op) = context.producer(node.inputs.first().copied().flatten()?)?;
    let pictures = matches!(
        op,
        Op::Conv(_) | Op::ConvTranspose(_) | Op::MaxPool(_) | Op::AveragePool(_) | Op::Resize(_)
    );
    (pictures && perm.len() > 2).then_some(perm)
}

/// Axes of `whole` with some that had been dropped.
fn restored(mut axes: Vec<usize>, places: &[i64], whole: usize) -> Option<Vec<usize>> {
    let rank = (axes.len() + places.len()) as i64;
    let mut places: Vec<i64> =
        places.iter().map(|axis| if *axis < 0 { axis + rank } else { *axis }).collect();
    places.sort_unstable();
    for place in places {
        let place = usize::try_from(place).ok().filter(|place| *place <= axes.len())?;
        let least = place.checked_sub(1).map_or(0, |before| axes[before] + 1);
        let behind = axes.get(place).copied().unwrap_or(whole);
        axes.insert(place, (least < behind).then_some(least)?);
    }
    Some(axes)
}

/// The nodes of a group, in order, with what they make.
type Own = Vec<(NodeId, ValueId)>;

/// What can be computed before transposes behind convolutions.
struct Moved<'a> {
    context: Context<'a>,
    /// By value: for each of its axes the axis of the transposed operand, without those that were dropped; and its group.
    values: FxHashMap<ValueId, (Vec<usize>, usize)>,
    /// The nodes that make them, in order.
    nodes: Own,
    /// By group: its permutation, and the group that it flows into, itself where there is none.
    groups: Vec<(&'a [usize], usize)>,
}

impl<'a> Moved<'a> {
    fn of(context: Context<'a>) -> Self {
        let mut moved = Self { context, values: FxHashMap::default(), nodes: Vec::new(), groups: Vec::new() };
        for id in context.body().topological_order().unwrap_or_default() {
            let Some(node) = context.body().node(id) else { continue };
            let &[output] = &node.outputs[..] else { continue };
            let found = if let Some(perm) = root(context, node) {
                let group = moved.groups.len();
                moved.groups.push((perm, group));
                Some(((0..perm.len()).collect(), group))
            } else {
                moved.through(node)
            };
            if let Some(found) = found {
                moved.values.insert(output, found);
                moved.nodes.push((id, output));
            }
        }
        for group in 0..moved.groups.len() {
            moved.groups[group].1 = moved.group(group);
        }
        moved
    }

    /// The group that a group is part of.
    fn group(&mut self, mut group: usize) -> usize {
        while self.groups[group].1 != group {
            let above = self.groups[self.groups[group].1].1;
            self.groups[group].1 = above;
            group = above;
        }
        group
    }

    fn perm(&self, group: usize) -> &'a [usize] {
        self.groups[group].0
    }

    /// Axes and group of a node's result, where the node can be computed in the other layout.
    fn through(&mut self, node: &Node) -> Option<(Vec<usize>, usize)> {
        let first = node.inputs.first().copied().flatten();
        match &node.operation {
            operation if operation.is_elementwise() => self.elementwise(node),
            Operation::Op(Op::Pad(_)) => {
                let (axes, group) = self.values.get(&first?)?.clone();
                let pads = self.context.constant(node.inputs.get(1).copied().flatten()?)?;
                let inside = |index: usize| node.inputs.get(index).copied().flatten().is_none();
                (inside(3) && pads.len() == 2 * axes.len() && !self.reads(node, 1)).then_some((axes, group))
            }
            Operation::Op(Op::Squeeze(Squeeze { axes: Some(dropped) })) if node.inputs.len() == 1 => {
                let (mut axes, group) = self.values.get(&first?)?.clone();
                let rank = axes.len() as i64;
                let mut dropped: Vec<i64> =
                    dropped.iter().map(|axis| if *axis < 0 { axis + rank } else { *axis }).collect();
                dropped.sort_unstable();
                for axis in dropped.into_iter().rev() {
                    axes.remove(usize::try_from(axis).ok().filter(|axis| *axis < axes.len())?);
                }
                Some((axes, group))
            }
            Operation::Op(Op::Unsqueeze(unsqueeze)) if node.inputs.len() == 1 => {
                let (axes, group) = self.values.get(&first?)?.clone();
                Some((restored(axes, unsqueeze.axes.as_deref()?, self.perm(group).len())?, group))
            }
            _ => None,
        }
    }

    /// Whether an operand from `first` on is computed in the other layout too.
    fn reads(&self, node: &Node, first: usize) -> bool {
        node.inputs.iter().skip(first).flatten().any(|value| self.values.contains_key(value))
    }

    fn elementwise(&mut self, node: &Node) -> Option<(Vec<usize>, usize)> {
        let mut found: Option<(Vec<usize>, usize)> = None;
        for value in node.inputs.iter().flatten() {
            let Some((axes, group)) = self.values.get(value).cloned() else { continue };
            let group = self.group(group);
            match &found {
                None => found = Some((axes, group)),
                Some((known, own)) if *known != axes || self.perm(*own) != self.perm(group) => return None,
                Some((_, own)) => self.groups[group].1 = *own,
            }
        }
        let (axes, _) = found.as_ref()?;
        let fits = |value: &ValueId| {
            let constant = self.context.constant(*value);
            self.values.contains_key(value) || constant.is_some_and(|constant| constant.rank() <= axes.len())
        };
        if node.inputs.iter().flatten().all(fits) { found } else { None }
    }

    /// By the name of a group's first transpose, what is to be done with it.
    fn proposals(&self) -> Vec<(String, Result<Edit, String>)> {
        let mut groups: BTreeMap<usize, Own> = BTreeMap::new();
        for &(id, value) in &self.nodes {
            groups.entry(self.groups[self.values[&value].1].1).or_default().push((id, value));
        }
        let name = |own: &Own| {
            let first = own.first().and_then(|(id, _)| self.context.body().node(*id));
            first.map_or(String::new(), |node| node.name.clone())
        };
        let all = groups.iter();
        all.filter_map(|(group, own)| Some((name(own), self.propose(*group, own)?))).collect()
    }

    /// `None` where no transposes meet.
    fn propose(&self, group: usize, own: &Own) -> Option<Result<Edit, String>> {
        let body = self.context.body();
        let mut roots = 0;
        let (mut cancelled, mut leaving) = (Vec::new(), FxHashSet::default());
        for (id, value) in own {
            let is_root = body.node(*id).is_some_and(|node| root(self.context, node).is_some());
            roots += usize::from(is_root);
            if body.is_output(*value) {
                leaving.insert(*value);
            }
            for user in body.users(*value) {
                match body.node(*user) {
                    Some(node) if node.outputs.iter().any(|output| self.is_in(*output, group)) => {}
                    Some(node) if self.cancels(*value, node, group) => {
                        cancelled.extend(node.outputs.iter().map(|output| (*output, *value)));
                    }
                    _ => drop(leaving.insert(*value)),
                }
            }
        }
        let saved = roots + cancelled.len();
        if cancelled.is_empty() {
            return None;
        }
        if leaving.len() >= saved {
            let count = leaving.len();
            return Some(Err(format!("{count} of its results leave, {saved} transposes would be saved")));
        }
        Some(self.edit(self.perm(group), own, &cancelled, &leaving))
    }

    fn is_in(&self, value: ValueId, group: usize) -> bool {
        self.values.get(&value).is_some_and(|(_, own)| self.groups[*own].1 == group)
    }

    /// Whether a node is the transpose back.
    fn cancels(&self, value: ValueId, node: &Node, group: usize) -> bool {
        let Operation::Op(Op::Transpose(back)) = &node.operation else { return false };
        let perm = self.perm(group);
        let whole = self.values.get(&value).is_some_and(|(axes, _)| axes.len() == perm.len());
        whole && back.perm.iter().enumerate().all(|(to, from)| perm.get(*from) == Some(&to))
    }

    fn edit(
        &self,
        perm: &[usize],
        own: &Own,
        cancelled: &[(ValueId, ValueId)],
        leaving: &FxHashSet<ValueId>,
    ) -> Result<Edit, String> {
        let mut edit = Edit::new();
        let mut made: FxHashMap<ValueId, EditValue> = FxHashMap::default();
        for (id, value) in own {
            let Some(node) = self.context.body().node(*id) else { continue };
            let first = node.inputs.first().copied().flatten().ok_or("an operand is missing")?;
            let now = match &node.operation {
                Operation::Op(Op::Transpose(_)) => EditValue::from(first),
                Operation::Op(Op::Squeeze(_) | Op::Unsqueeze(_)) => made[&first],
                operation => {
                    let (axes, _) = &self.values[value];
                    let mut operands = Vec::with_capacity(node.inputs.len());
                    for (index, operand) in node.inputs.iter().enumerate() {
                        let pads = index == 1 && matches!(operation, Operation::Op(Op::Pad(_)));
                        operands.push(match *operand {
                            None => None,
                            Some(operand) => Some(match made.get(&operand) {
                                Some(operand) => *operand,
                                None => self.constant(&mut edit, operand, (perm, axes), pads)?,
                            }),
                        });
                    }
                    let outputs = edit.node(operation.clone(), &operands, 1, &node.name);
                    *outputs.first().ok_or("a node without a result")?
                }
            };
            made.insert(*value, now);
        }
        for (output, value) in cancelled {
            edit.replace(*output, made[value]);
        }
        for (id, value) in own.iter().filter(|(_, value)| leaving.contains(value)) {
            let name = self.context.body().node(*id).map_or("", |node| &node.name);
            let (axes, _) = &self.values[value];
            let mut back = edit.op(Op::Transpose(Transpose { perm: perm.to_vec() }), &[made[value]], name);
            if axes.len() < perm.len() {
                let dropped = (0..perm.len()).filter(|axis| !axes.contains(axis)).map(|axis| axis as i64);
                back = edit.op(Op::Squeeze(Squeeze { axes: Some(dropped.collect()) }), &[back], name);
            }
            edit.replace(*value, back);
        }
        Ok(edit)
    }

    /// A constant operand in the layout of the convolutions.
    fn constant(
        &self,
        edit: &mut Edit,
        value: ValueId,
        (perm, axes): (&[usize], &[usize]),
        pads: bool,
    ) -> Result<EditValue, String> {
        let Some(constant) = self.context.constant(value) else { return Ok(EditValue::from(value)) };
        if constant.rank() == 0 {
            return Ok(EditValue::from(value));
        }
        let rank = perm.len();
        if pads {
            let given = constant.to_slice::<i64>().map_err(|error| error.to_string())?;
            let mut all = vec![0; 2 * rank];
            for (index, axis) in axes.iter().enumerate() {
                all[perm[*axis]] = given[index];
                all[rank + perm[*axis]] = given[axes.len() + index];
            }
            let pads = Tensor::from_slice(&all, &[2 * rank]).map_err(|error| error.to_string())?;
            return Ok(edit.constant(pads, None));
        }
        let mut shape = vec![1; rank];
        for (axis, size) in axes[axes.len() - constant.rank()..].iter().zip(constant.shape()) {
            shape[*axis] = *size;
        }
        let spread = constant.reshape(&shape).map_err(|error| error.to_string())?;
        let back = (0..rank).map(|axis| perm.iter().position(|from| *from == axis).unwrap_or(axis));
        let op = Op::Transpose(Transpose { perm: back.collect() });
        let turned =
            op.evaluate(&[Some(&spread)], 1, &Limits::default()).map_err(|error| error.to_string())?;
        let turned = turned.into_iter().next().ok_or("a transpose without a result")?;
        Ok(edit.constant(turned, None))
    }
}
