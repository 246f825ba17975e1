//! Control flow: `If` here, `Loop` and `Scan` below.
//!
//! A condition that is known now (exporters ask for ranks and sizes of 1) leaves one branch, inlined. Otherwise the
//! branches are functions: what they take from outside becomes their inputs, the same ones for both.

mod map;
mod repeat;
mod scan;

pub(crate) use map::sequence_map;
pub(crate) use repeat::repeat;
pub(crate) use scan::scan;

use lathe_ir::{FunctionId, Guard, GuardCondition, Node as IrNode, Operation, Source, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Compare, Unary};
use lathe_proto::onnx::GraphProto;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::{Fault, quote};
use crate::onnx::graph::{Binding, Frame};
use crate::onnx::item::{Item, from_parts, join, tensors};
use crate::onnx::maybe_scalar::Rank;
use crate::onnx::node::{Items, Node, Outputs};
use crate::onnx::order::captures;

/// How far a condition is traced back.
const CONDITION_DEPTH: usize = 16;

/// If-1 to 25.
pub(crate) fn conditional(node: &mut Node<'_, '_>) -> Items {
    let condition = node.tensor(0)?;
    let then_graph = node.attributes.required_graph("then_branch")?;
    let else_graph = node.attributes.required_graph("else_branch")?;
    let listed = node.node.output.len();
    for (branch, graph) in [("then", then_graph), ("else", else_graph)] {
        let given = graph.output.len();
        if given != listed {
            return Err(Fault::bad(format!("its {branch} branch has {given} outputs, it has {listed}")));
        }
        if let Some(input) = graph.input.first() {
            let reason =
                format!("its {branch} branch has an input, {}: branches take none", quote(input.name()));
            return Err(Fault::bad(reason));
        }
    }
    if let Some(holds) = node.known_bool(condition) {
        return inline(node, if holds { then_graph } else { else_graph });
    }
    let outside = outside(node, &[then_graph, else_graph])?;
    let functions = node.importer.module.functions().count();
    let then_branch = branch(node, "then", then_graph, &outside)?;
    let else_branch = branch(node, "else", else_graph, &outside)?;
    if ranks(node, &then_branch) != ranks(node, &else_branch)
        && let Some((holds, guard)) = node.equality(condition, CONDITION_DEPTH)
    {
        node.importer.module.truncate_functions(functions);
        return assume(node, if holds { then_graph } else { else_graph }, guard);
    }
    choose(node, condition, &outside, [(then_branch, then_graph), (else_branch, else_graph)])
}

/// A branch as a function whose results are not returned yet.
struct Branch {
    function: FunctionId,
    results: Vec<Item>,
}

/// Brings the results of both branches to one form, and adds the node.
fn choose<'m>(
    node: &mut Node<'_, 'm>,
    condition: ValueId,
    outside: &[(&'m str, Item)],
    branches: [(Branch, &'m GraphProto); 2],
) -> Items {
    let [(then_branch, then_graph), (else_branch, else_graph)] = branches;
    let functions = [then_branch.function, else_branch.function];
    let (mut forms, mut ranks, mut results) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    for (a, b) in then_branch.results.iter().zip(&else_branch.results) {
        let ([a, b], rank) = node.importer.even_ranks(functions, [a, b], &node.name)?;
        forms.push(join(&node.importer.form(functions[0], &a), &node.importer.form(functions[1], &b))?);
        ranks.push(rank);
        results[0].push(a);
        results[1].push(b);
    }
    for ((function, results), graph) in functions.into_iter().zip(&results).zip([then_graph, else_graph]) {
        let mut taken = FxHashSet::default();
        for ((output, item), form) in graph.output.iter().zip(results).zip(&forms) {
            let item = node.importer.convert(function, item, form, &node.name)?;
            for (suffix, value) in item.suffixes().iter().zip(item.parts()) {
                let name = unused(&mut taken, &format!("{}{suffix}", output.name()));
                node.importer.module.function_mut(function).add_output(name, *value);
            }
        }
    }
    let count = forms.iter().map(lathe_tensor::value::Form::part_count).sum();
    if count == 0 {
        return Ok(from_parts(&forms, &[]));
    }
    let captured = outside.iter().flat_map(|(_, item)| item.parts());
    let captured = captured.filter(|value| !node.is_constant(**value)).map(|value| Some(*value));
    let inputs: Vec<_> = std::iter::once(Some(condition)).chain(captured).collect();
    let [then_branch, else_branch] = functions;
    let parts = node.add_all(Operation::If { then_branch, else_branch }, &inputs, count)?;
    let items = from_parts(&forms, &parts);
    let open =
        items.iter().zip(ranks).filter(|(_, rank)| *rank == Rank::Open).filter_map(|(item, _)| item.tensor());
    node.importer.remember_scalars(node.frame.function, open);
    Ok(items)
}

/// `wanted`, or a name close to it that is not taken.
fn unused(taken: &mut FxHashSet<String>, wanted: &str) -> String {
    let mut name = wanted.to_string();
    while !taken.insert(name.clone()) {
        name.push('_');
    }
    name
}

/// The names that bodies take from outside, and their values.
fn outside<'m>(node: &mut Node<'_, 'm>, graphs: &[&'m GraphProto]) -> Result<Vec<(&'m str, Item)>, Fault> {
    let mut seen = FxHashSet::default();
    let mut values = Vec::new();
    for &graph in graphs {
        for name in captures(graph)? {
            if !seen.insert(name) {
                continue;
            }
            if let Some(value) = node.importer.value(node.frame, name)? {
                values.push((name, value));
            }
        }
    }
    Ok(values)
}

fn body<'m>(node: &Node<'_, 'm>, function: FunctionId, names: FxHashMap<&'m str, Binding>) -> Frame<'m> {
    Frame {
        function,
        names,
        opsets: node.frame.opsets.clone(),
        environment: node.frame.environment.clone(),
        path: node.frame.path.clone(),
    }
}

/// The results of a graph of one input, inlined over a value.
pub(crate) fn applied<'m>(node: &mut Node<'_, 'm>, graph: &'m GraphProto, x: ValueId) -> Outputs {
    let [input] = &graph.input[..] else {
        return Err(Fault::bad(format!("a body takes one input, it has {}", graph.input.len())));
    };
    let outside = outside(node, &[graph])?;
    let names = outside.into_iter().map(|(name, value)| (name, Binding::Value(value)));
    let names = names.chain([(input.name(), Binding::Value(x.into()))]).collect();
    let mut frame = body(node, node.frame.function, names);
    node.importer.initializers(&mut frame, graph)?;
    node.importer.nodes(&mut frame, &graph.node)?;
    tensors(node.importer.outputs(&mut frame, graph)?)
}

/// The branch in place of the node.
fn inline<'m>(node: &mut Node<'_, 'm>, graph: &'m GraphProto) -> Items {
    let outside = outside(node, &[graph])?;
    let names = outside.into_iter().map(|(name, value)| (name, Binding::Value(value))).collect();
    let mut frame = body(node, node.frame.function, names);
    node.importer.initializers(&mut frame, graph)?;
    node.importer.nodes(&mut frame, &graph.node)?;
    node.importer.outputs(&mut frame, graph)
}

/// The ranks of the results that are tensors.
fn ranks(node: &Node<'_, '_>, branch: &Branch) -> Vec<Option<usize>> {
    let function = node.importer.module.function(branch.function);
    branch.results.iter().map(|item| item.tensor().map(|value| function.ty(value).rank())).collect()
}

/// The branch that an equality of sizes chooses, inlined, and the equality as a guard. Exporters write
/// "squeeze this axis if its size is 1" so; what follows fits one of the ranks only.
fn assume<'m>(node: &mut Node<'_, 'm>, graph: &'m GraphProto, guard: Guard) -> Items {
    let mut items = inline(node, graph)?;
    let Some(first) = items.iter_mut().find_map(|item| match item {
        Item::Tensor(value) => Some(value),
        Item::Composite(_) => None,
    }) else {
        return Ok(items);
    };
    let function = node.frame.function;
    if node.importer.module.function(function).producer(*first).is_none() {
        *first = node.unary(Unary::Identity, *first)?;
    }
    let target = node.importer.module.function_mut(function);
    let producer = target.producer(*first).map(|(id, _)| id);
    if let Some(producer) = producer.and_then(|id| target.node_mut(id)) {
        producer.guards.push(guard);
    }
    Ok(items)
}

/// A value from outside in a body: an input of it, or the same constant.
fn take(node: &mut Node<'_, '_>, function: FunctionId, name: &str, value: ValueId) -> ValueId {
    let module = &mut node.importer.module;
    let outer = module.function(node.frame.function).value(value).clone();
    let inner = match outer.source {
        Source::Constant(constant) => module.constant_value(function, constant, Some(name.to_string())),
        _ => module.function_mut(function).add_input(name, outer.ty),
    };
    let inner_value = module.function_mut(function).value_mut(inner);
    inner_value.known = inner_value.known.take().or(outer.known);
    inner
}

/// A value of any kind from outside in a body.
fn take_item(
    node: &mut Node<'_, '_>,
    function: FunctionId,
    (name, item): (&str, &Item),
    taken: &mut FxHashSet<String>,
) -> Item {
    let parts = item.suffixes().into_iter().zip(item.parts()).map(|(suffix, &value)| {
        let name = unused(taken, &format!("{name}{suffix}"));
        take(node, function, &name, value)
    });
    item.with(parts.collect())
}

/// The branch as a function over what both branches take from outside; constants are shared, not passed.
fn branch<'m>(
    node: &mut Node<'_, 'm>,
    kind: &str,
    graph: &'m GraphProto,
    outside: &[(&'m str, Item)],
) -> Result<Branch, Fault> {
    let function = node.importer.add_branch(kind);
    outside.iter().try_for_each(|(_, item)| node.importer.certain_rank(node.frame.function, item))?;
    let mut taken = FxHashSet::default();
    let mut names = FxHashMap::default();
    for (name, item) in outside {
        names.insert(*name, Binding::Value(take_item(node, function, (name, item), &mut taken)));
    }
    let mut frame = body(node, function, names);
    node.importer.initializers(&mut frame, graph)?;
    node.importer.nodes(&mut frame, &graph.node)?;
    let results = node.importer.outputs(&mut frame, graph)?;
    Ok(Branch { function, results })
}

impl Node<'_, '_> {
    fn is_constant(&self, value: ValueId) -> bool {
        let source = self.importer.module.function(self.function()).value(value).source;
        matches!(source, Source::Constant(_))
    }

    /// A condition, where it is known now: a constant, or a comparison of sizes that holds or fails for all of them.
    pub(crate) fn known_bool(&self, value: ValueId) -> Option<bool> {
        self.truth(value, CONDITION_DEPTH)
    }

    fn truth(&self, value: ValueId, depth: usize) -> Option<bool> {
        let depth = depth.checked_sub(1)?;
        let function = self.importer.module.function(self.function());
        match function.value(value).source {
            Source::Input(_) => None,
            Source::Constant(constant) => {
                let tensor = &self.importer.module.constant(constant).tensor;
                let one = tensor.len() == 1 && tensor.dtype() == lathe_tensor::DType::Bool;
                one.then(|| tensor.bytes().first().is_some_and(|byte| *byte != 0))
            }
            Source::Node(node, _) => {
                let node = function.node(node)?;
                let Operation::Op(op) = &node.operation else { return None };
                self.truth_of(op, node, depth)
            }
        }
    }

    fn truth_of(&self, op: &Op, node: &IrNode, depth: usize) -> Option<bool> {
        let operand = |index: usize| node.inputs.get(index).copied().flatten();
        let truth = |index: usize| self.truth(operand(index)?, depth);
        match op {
            Op::Unary(Unary::Not) => Some(!truth(0)?),
            Op::Unary(Unary::Identity) | Op::Reshape(_) | Op::Squeeze(_) | Op::Unsqueeze(_) => truth(0),
            Op::Cast(cast) if cast.to == lathe_tensor::DType::Bool => {
                let operand = operand(0)?;
                truth(0).or_else(|| Some(self.single(operand)? != 0))
            }
            Op::Binary(Binary::And) => match (truth(0), truth(1)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (a, b) => Some(a? && b?),
            },
            Op::Binary(Binary::Or) => match (truth(0), truth(1)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (a, b) => Some(a? || b?),
            },
            Op::Compare(kind) => self.compare(*kind, operand(0)?, operand(1)?),
            _ => None,
        }
    }

    /// The equality of sizes that a condition asks for, and whether the condition holds with it.
    fn equality(&self, value: ValueId, depth: usize) -> Option<(bool, Guard)> {
        let depth = depth.checked_sub(1)?;
        let (_, node) = self.importer.module.function(self.function()).producer(value)?;
        let operand = |index: usize| node.inputs.get(index).copied().flatten();
        match &node.operation {
            Operation::Op(Op::Unary(Unary::Not)) => {
                let (holds, guard) = self.equality(operand(0)?, depth)?;
                Some((!holds, guard))
            }
            Operation::Op(Op::Unary(Unary::Identity) | Op::Cast(_)) => self.equality(operand(0)?, depth),
            Operation::Op(Op::Compare(Compare::Equal)) => {
                let (a, b) = (self.single_dim(operand(0)?)?, self.single_dim(operand(1)?)?);
                let reason = format!("the rank of the result of {} asks for it", quote(&self.name));
                Some((true, Guard { condition: GuardCondition::Equal(a, b), reason }))
            }
            _ => None,
        }
    }

    fn compare(&self, kind: Compare, a: ValueId, b: ValueId) -> Option<bool> {
        use lathe_ir::Answer;
        let (a, b) = (self.single_dim(a)?, self.single_dim(b)?);
        // `x >= y` as an answer about `x - y`.
        let at_least = |x: &lathe_ir::Dim, y: &lathe_ir::Dim| match x.sub(y).at_least(0) {
            Answer::Yes => Some(true),
            Answer::No => Some(false),
            Answer::Unknown => None,
        };
        match kind {
            Compare::Equal => match a.equals(&b) {
                Answer::Yes => Some(true),
                Answer::No => Some(false),
                Answer::Unknown => None,
            },
            Compare::GreaterOrEqual => at_least(&a, &b),
            Compare::LessOrEqual => at_least(&b, &a),
            Compare::Less => at_least(&a, &b).map(|holds| !holds),
            Compare::Greater => at_least(&b, &a).map(|holds| !holds),
        }
    }

    fn single_dim(&self, value: ValueId) -> Option<lathe_ir::Dim> {
        let function = self.importer.module.function(self.function());
        match function.value(value).known.as_deref() {
            Some([dim]) => Some(dim.clone()),
            _ => self.single(value).map(lathe_ir::Dim::constant),
        }
    }

    fn single(&self, value: ValueId) -> Option<i64> {
        match self.known_ints(value)?[..] {
            [element] => Some(element),
            _ => None,
        }
    }
}
