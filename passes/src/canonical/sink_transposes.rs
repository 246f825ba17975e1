//! `transpose<q>(f(transpose<p>(conv(x)))) -> f'(conv(x))` where `p . q` is the identity
//!
//! Exports of frameworks that keep channels last put a transpose on both sides of each convolution. Between two of them `f` is elementwise, pads, or
//! drops and brings back axes of 1; it is computed in the convolution's own layout, and the transposes meet. Several convolutions may flow into
//! one `f`. Sound because elementwise ops treat all elements alike, and pads and constants are permuted with the axes.
//!
//! Refuses where as many transposes would have to be made for results that leave as are saved.

use lathe_ir::{Edit, EditValue, Node, NodeId, Operation, ValueId};
use lathe_ops::shape::{Squeeze, Transpose};
use lathe_ops::{Limits, Op};
use lathe_tensor::Tensor;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{Context, Proposal, Rule};

pub(crate) struct SinkTransposes;

impl Rule for SinkTransposes {
    fn name(&self) -> &'static str {
        "sink_transposes"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(perm) = context.body().node(id).and_then(|node| root(context, node)) else {
            return Proposal::NoMatch;
        };
        let moved = Moved::of(context, perm);
        let Some(anchor) = context.body().node(id).and_then(|node| node.outputs.first()) else {
            return Proposal::NoMatch;
        };
        moved.propose(*anchor)
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

/// What can be computed before the transposes by `perm`.
struct Moved<'a> {
    context: Context<'a>,
    perm: &'a [usize],
    /// By value: for each of its axes the axis of the transposed operand, without those that were dropped; and its group.
    values: FxHashMap<ValueId, (Vec<usize>, usize)>,
    /// The nodes that make them, in order.
    nodes: Vec<(NodeId, ValueId)>,
    /// Groups that flow into one another have one root.
    groups: Vec<usize>,
}

impl<'a> Moved<'a> {
    fn of(context: Context<'a>, perm: &'a [usize]) -> Self {
        let mut moved =
            Self { context, perm, values: FxHashMap::default(), nodes: Vec::new(), groups: Vec::new() };
        for id in context.body().topological_order().unwrap_or_default() {
            let Some(node) = context.body().node(id) else { continue };
            let &[output] = &node.outputs[..] else { continue };
            let found = if root(context, node) == Some(perm) {
                moved.groups.push(moved.groups.len());
                Some(((0..perm.len()).collect(), moved.groups.len() - 1))
            } else {
                moved.through(node)
            };
            if let Some(found) = found {
                moved.values.insert(output, found);
                moved.nodes.push((id, output));
            }
        }
        moved
    }

    fn group(&self, mut group: usize) -> usize {
        while self.groups[group] != group {
            group = self.groups[group];
        }
        group
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
                Some((self.restored(axes, unsqueeze.axes.as_deref()?)?, group))
            }
            _ => None,
        }
    }

    /// Axes with some that had been dropped.
    fn restored(&self, mut axes: Vec<usize>, places: &[i64]) -> Option<Vec<usize>> {
        let rank = (axes.len() + places.len()) as i64;
        let mut places: Vec<i64> =
            places.iter().map(|axis| if *axis < 0 { axis + rank } else { *axis }).collect();
        places.sort_unstable();
        for place in places {
            let place = usize::try_from(place).ok().filter(|place| *place <= axes.len())?;
            let least = place.checked_sub(1).map_or(0, |before| axes[before] + 1);
            let behind = axes.get(place).copied().unwrap_or(self.perm.len());
            axes.insert(place, (least < behind).then_some(least)?);
        }
        Some(axes)
    }

    /// Whether an operand from `first` on is computed in the other layout too.
    fn reads(&self, node: &Node, first: usize) -> bool {
        node.inputs.iter().skip(first).flatten().any(|value| self.values.contains_key(value))
    }

    fn elementwise(&mut self, node: &Node) -> Option<(Vec<usize>, usize)> {
        let mut found: Option<(Vec<usize>, usize)> = None;
        for value in node.inputs.iter().flatten() {
            let Some((axes, group)) = self.values.get(value).cloned() else { continue };
            match &mut found {
                None => found = Some((axes, self.group(group))),
                Some((known, _)) if *known != axes => return None,
                Some((_, known)) => {
                    let (from, to) = (self.group(group), *known);
                    self.groups[from] = to;
                }
            }
        }
        let (axes, _) = found.as_ref()?;
        let fits = |value: &ValueId| {
            let constant = self.context.constant(*value);
            self.values.contains_key(value) || constant.is_some_and(|constant| constant.rank() <= axes.len())
        };
        if node.inputs.iter().flatten().all(fits) { found } else { None }
    }

    fn propose(&self, anchor: ValueId) -> Proposal {
        let Some(&(_, group)) = self.values.get(&anchor) else { return Proposal::NoMatch };
        let group = self.group(group);
        let own: Vec<(NodeId, ValueId)> =
            self.nodes.iter().copied().filter(|(_, value)| self.is_in(*value, group)).collect();
        let body = self.context.body();
        let mut roots = 0;
        let (mut cancelled, mut leaving) = (Vec::new(), FxHashSet::default());
        for (id, value) in &own {
            roots +=
                usize::from(body.node(*id).is_some_and(|node| root(self.context, node) == Some(self.perm)));
            if body.is_output(*value) {
                leaving.insert(*value);
            }
            for user in body.users(*value) {
                match body.node(*user) {
                    Some(node) if node.outputs.iter().any(|output| self.is_in(*output, group)) => {}
                    Some(node) if self.cancels(*value, node) => {
                        cancelled.extend(node.outputs.iter().map(|output| (*output, *value)))
                    }
                    _ => drop(leaving.insert(*value)),
                }
            }
        }
        if cancelled.is_empty() {
            return Proposal::NoMatch;
        }
        if leaving.len() >= roots + cancelled.len() {
            return Proposal::because(format!(
                "{} of its results leave, {} transposes would be saved",
                leaving.len(),
                roots + cancelled.len()
            ));
        }
        self.edit(&own, &cancelled, &leaving).unwrap_or_else(Proposal::Because)
    }

    fn is_in(&self, value: ValueId, group: usize) -> bool {
        self.values.get(&value).is_some_and(|(_, own)| self.group(*own) == group)
    }

    /// Whether a node is the transpose back.
    fn cancels(&self, value: ValueId, node: &Node) -> bool {
        let Operation::Op(Op::Transpose(back)) = &node.operation else { return false };
        let whole = self.values.get(&value).is_some_and(|(axes, _)| axes.len() == self.perm.len());
        whole && back.perm.iter().enumerate().all(|(to, from)| self.perm.get(*from) == Some(&to))
    }

    fn edit(
        &self,
        own: &[(NodeId, ValueId)],
        cancelled: &[(ValueId, ValueId)],
        leaving: &FxHashSet<ValueId>,
    ) -> Result<Proposal, String> {
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
                                None => self.constant(&mut edit, operand, axes, pads)?,
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
            let perm = self.perm.to_vec();
            let mut back = edit.op(Op::Transpose(Transpose { perm }), &[made[value]], name);
            if axes.len() < self.perm.len() {
                let dropped =
                    (0..self.perm.len()).filter(|axis| !axes.contains(axis)).map(|axis| axis as i64);
                back = edit.op(Op::Squeeze(Squeeze { axes: Some(dropped.collect()) }), &[back], name);
            }
            edit.replace(*value, back);
        }
        Ok(Proposal::Edit(edit))
    }

    /// A constant operand in the layout of the convolutions.
    fn constant(
        &self,
        edit: &mut Edit,
        value: ValueId,
        axes: &[usize],
        pads: bool,
    ) -> Result<EditValue, String> {
        let Some(constant) = self.context.constant(value) else { return Ok(EditValue::from(value)) };
        if constant.rank() == 0 {
            return Ok(EditValue::from(value));
        }
        let rank = self.perm.len();
        if pads {
            let given = constant.to_slice::<i64>().map_err(|error| error.to_string())?;
            let mut all = vec![0; 2 * rank];
            for (index, axis) in axes.iter().enumerate() {
                all[self.perm[*axis]] = given[index];
                all[rank + self.perm[*axis]] = given[axes.len() + index];
            }
            let pads = Tensor::from_slice(&all, &[2 * rank]).map_err(|error| error.to_string())?;
            return Ok(edit.constant(pads, None));
        }
        let mut shape = vec![1; rank];
        for (axis, size) in axes[axes.len() - constant.rank()..].iter().zip(constant.shape()) {
            shape[*axis] = *size;
        }
        let spread = constant.reshape(&shape).map_err(|error| error.to_string())?;
        let back = (0..rank).map(|axis| self.perm.iter().position(|from| *from == axis).unwrap_or(axis));
        let op = Op::Transpose(Transpose { perm: back.collect() });
        let turned =
            op.evaluate(&[Some(&spread)], 1, &Limits::default()).map_err(|error| error.to_string())?;
        let turned = turned.into_iter().next().ok_or("a transpose without a result")?;
        Ok(edit.constant(turned, None))
    }
}
