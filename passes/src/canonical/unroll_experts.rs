//! `loop(E) { acc = body(i, acc) } -> body(E - 1, ... body(0, acc))`, of bodies that take matrices of a constant by the number of the iteration
//!
//! A loop over stacked experts becomes as many copies of its body, where the other passes see what belongs to one expert, and `fuse_moe` sees
//! all of them. Sound because the number of iterations is a constant, and the condition is always true. A loop over the experts that some
//! token chose ([`super::hit_experts`]) is one over all of them.
//!
//! Refuses conditions that may end it, rows that are collected, functions inside, and copies of more than some thousand nodes.

use lathe_ir::{Edit, EditValue, Function, FunctionId, NodeId, Operation, Source, ValueId};
use lathe_ops::Op;
use lathe_tensor::{DType, Tensor};
use rustc_hash::FxHashMap;

use super::hit_experts::{self, Hits};
use crate::{Context, Proposal, Rule};

/// Nodes that a loop may become.
const MOST: usize = 16384;

pub(crate) struct UnrollExperts;

impl Rule for UnrollExperts {
    fn name(&self) -> &'static str {
        "unroll_experts"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let Operation::Loop { body, carried } = node.operation else { return Proposal::NoMatch };
        let hits = hit_experts::find(context, &node.inputs, context.module.function(body), carried);
        let found = Loop { context, id, body, carried, hits };
        if !found.takes_matrices() {
            return Proposal::NoMatch;
        }
        found.unrolled().map_or_else(Proposal::because, Proposal::Edit)
    }
}

struct Loop<'a> {
    context: Context<'a>,
    id: NodeId,
    body: FunctionId,
    carried: usize,
    /// The list of experts that it walks, where that stands for all of them.
    hits: Option<Hits>,
}

impl<'a> Loop<'a> {
    fn body(&self) -> &'a Function {
        self.context.module.function(self.body)
    }

    fn inputs(&self) -> &'a [Option<ValueId>] {
        self.context.body().node(self.id).map_or(&[], |node| &node.inputs)
    }

    /// Whether a constant of matrices, the loop's own or one from outside, is gathered by the number of the iteration.
    fn takes_matrices(&self) -> bool {
        let body = self.body();
        let constant = |value: ValueId| match body.value(value).source {
            Source::Constant(_) => true,
            Source::Input(index) if index >= 2 + self.carried => self
                .inputs()
                .get(index)
                .copied()
                .flatten()
                .is_some_and(|x| self.context.constant(x).is_some()),
            _ => false,
        };
        body.node_ids().filter_map(|id| body.node(id)).any(|node| {
            let (Operation::Op(Op::Gather(_)), [Some(data), Some(index), ..]) =
                (&node.operation, &node.inputs[..])
            else {
                return false;
            };
            body.ty(*data).rank() == 3 && constant(*data) && self.is_number(*index)
        })
    }

    fn is_number(&self, mut value: ValueId) -> bool {
        let body = self.body();
        let list = self.hits.as_ref().and_then(|hits| body.inputs().get(hits.input));
        while let Some((_, node)) = body.producer(value) {
            let moves = matches!(
                node.operation,
                Operation::Op(Op::Reshape(_) | Op::Unsqueeze(_) | Op::Squeeze(_) | Op::Cast(_))
            );
            let listed = matches!(node.operation, Operation::Op(Op::Gather(_)));
            match node.inputs[..] {
                [Some(x), ..] if moves => value = x,
                [Some(x), Some(at)] if listed && Some(&x) == list => value = at,
                _ => return false,
            }
        }
        body.inputs().first() == Some(&value)
    }

    fn unrolled(&self) -> Result<Edit, String> {
        let (body, inputs) = (self.body(), self.inputs());
        let trips = inputs.first().copied().flatten().and_then(|trips| self.context.scalar(trips));
        let trips = trips.filter(|trips| (0.0..=MOST as f64).contains(trips));
        let trips = match &self.hits {
            Some(hits) => hits.experts,
            None => trips.ok_or("the number of iterations is not a constant")? as usize,
        };
        let begins = inputs.get(1).copied().flatten().is_none_or(|condition| self.is_true(condition));
        let goes_on = body.outputs().first().is_some_and(|(_, next)| self.stays_true(*next));
        if !begins || !goes_on {
            return Err("a condition may end it".into());
        }
        let node = self.context.body().node(self.id).ok_or("no node")?;
        if body.outputs().len() != self.carried + 1 {
            return Err("it collects rows".into());
        }
        if trips.saturating_mul(body.node_count()) > MOST {
            return Err(format!("{trips} times {} nodes are too many", body.node_count()));
        }
        let mut edit = Edit::new();
        let mut given: Vec<Option<EditValue>> =
            inputs.iter().map(|input| input.map(EditValue::from)).collect();
        if let Some(hits) = &self.hits {
            let all: Vec<i64> = (0..hits.experts as i64).collect();
            let all = Tensor::from_slice(&all, &hits.shape).map_err(|error| error.to_string())?;
            given[hits.input] = Some(edit.constant(all, None));
        }
        let mut carried: Vec<Option<EditValue>> = given.get(2..2 + self.carried).ok_or("no values")?.to_vec();
        for number in 0..trips {
            carried = self.copy(&mut edit, number, &carried, &given[2 + self.carried..])?;
        }
        for (output, value) in node.outputs.iter().zip(carried) {
            edit.replace(*output, value.ok_or("a carried value is missing")?);
        }
        Ok(edit)
    }

    fn is_true(&self, condition: ValueId) -> bool {
        self.context.constant(condition).is_some_and(|tensor| {
            tensor.dtype() == DType::Bool && tensor.len() == 1 && tensor.bytes().first() != Some(&0)
        })
    }

    /// Whether the next condition is the last one, or the constant true.
    fn stays_true(&self, mut value: ValueId) -> bool {
        let body = self.body();
        while let Some((_, node)) = body.producer(value) {
            match (&node.operation, node.inputs.first()) {
                (Operation::Op(Op::Unary(lathe_ops::elementwise::Unary::Identity)), Some(Some(x))) => {
                    value = *x
                }
                _ => return false,
            }
        }
        match body.value(value).source {
            Source::Input(index) => index == 1,
            Source::Constant(id) => self.context.module.constant(id).tensor.bytes().first() == Some(&1),
            Source::Node(..) => false,
        }
    }

    /// Adds one iteration; gives the values that it carries on.
    fn copy(
        &self,
        edit: &mut Edit,
        number: usize,
        carried: &[Option<EditValue>],
        outside: &[Option<EditValue>],
    ) -> Result<Vec<Option<EditValue>>, String> {
        let body = self.body();
        let number = Tensor::from_slice(&[number as i64], &[]).map_err(|error| error.to_string())?;
        let holds = Tensor::from_bools(&[true], &[]).map_err(|error| error.to_string())?;
        let first = [Some(edit.constant(number, None)), Some(edit.constant(holds, None))];
        let given = first.iter().chain(carried).chain(outside);
        let mut values: FxHashMap<ValueId, Option<EditValue>> =
            body.inputs().iter().copied().zip(given.copied()).collect();
        for id in body.topological_order().ok_or("a cycle")? {
            let node = body.node(id).ok_or("no node")?;
            let Operation::Op(op) = &node.operation else {
                return Err(format!("`{}` inside is no op that is copied", node.operation.name()));
            };
            let inputs: Vec<Option<EditValue>> = node
                .inputs
                .iter()
                .map(|input| input.and_then(|x| self.value(edit, &mut values, x)))
                .collect();
            let made = edit.node(op.clone(), &inputs, node.outputs.len(), &node.name);
            values.extend(node.outputs.iter().copied().zip(made.into_iter().map(Some)));
        }
        Ok(body.outputs().iter().skip(1).map(|(_, output)| self.value(edit, &mut values, *output)).collect())
    }

    fn value(
        &self,
        edit: &mut Edit,
        values: &mut FxHashMap<ValueId, Option<EditValue>>,
        value: ValueId,
    ) -> Option<EditValue> {
        if let Source::Constant(id) = self.body().value(value).source {
            return *values.entry(value).or_insert_with(|| Some(edit.shared_constant(id)));
        }
        values.get(&value).copied().flatten()
    }
}
