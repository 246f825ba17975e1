//! `Loop`: the body becomes a function over the iteration's number, the condition, the carried values, and what it takes from outside.
//!
//! The sizes of the carried values are those that every iteration keeps. They are found by reading the body with the sizes of the first
//! values; sizes that it changes become symbols of the iteration, and the body is read again.

use std::cell::RefCell;

use lathe_ir::{Answer, Dim, FunctionId, Operation, ValueId, ValueType};
use lathe_proto::onnx::{GraphProto, ValueInfoProto, type_proto};
use lathe_tensor::DType;
use lathe_tensor::value::Form;
use rustc_hash::FxHashSet;

use super::{body, outside, take, take_item, unused};
use crate::error::{Fault, quote};
use crate::onnx::attributes::Attributes;
use crate::onnx::graph::Binding;
use crate::onnx::item::{Item, from_parts, join, loose, tensors};
use crate::onnx::node::{Items, Node, Outputs};

/// Bodies of loops that one import reads at most, again for wider sizes included.
const MOST_BODIES: usize = 4096;

/// A loop that is being built.
pub(super) struct Repeat<'m> {
    /// What its body reads by name.
    pub graph: &'m GraphProto,
    pub trips: Option<ValueId>,
    pub condition: Option<ValueId>,
    pub carried: Vec<ValueId>,
    /// Other values of the enclosing function that the body uses.
    pub others: Vec<ValueId>,
}

/// What a body starts from, as values of its function.
pub(super) struct Entry {
    pub iteration: ValueId,
    pub condition: ValueId,
    pub carried: Vec<ValueId>,
    pub others: Vec<ValueId>,
}

/// Writes the body: gives the next condition, the next carried values, and rows.
pub(super) type Write<'w, 'm> = dyn Fn(&mut Node<'_, 'm>, &Entry) -> Outputs + 'w;

/// Loop-1 to 25.
pub(crate) fn repeat(node: &mut Node<'_, '_>) -> Items {
    let graph = node.attributes.required_graph("body")?;
    let carried = node.items.len().saturating_sub(2);
    let (takes, gives, listed) = (graph.input.len(), graph.output.len(), node.node.output.len());
    if takes != carried + 2 {
        return Err(Fault::bad(format!("its body takes {takes} values, {} are there for it", carried + 2)));
    }
    if gives < carried + 1 || listed > gives - 1 {
        return Err(Fault::bad(format!(
            "its body gives {gives} values: with {carried} carried ones and {listed} outputs it gives {} at least",
            listed.max(carried) + 1
        )));
    }
    for index in (0..2).filter(|index| node.items.get(*index).is_some_and(Option::is_some)) {
        node.tensor(index)?;
    }
    let initial: Option<Vec<Item>> = node.items.iter().skip(2).cloned().collect();
    let initial = initial.ok_or_else(|| Fault::bad("a first value is missing"))?;
    let mut forms: Vec<Form> = initial.iter().map(|item| loose(&node.form(item))).collect();
    let functions = node.importer.module.functions().count();
    loop {
        match with_forms(node, graph, &initial, &forms)? {
            Read::Whole(items) => return Ok(items),
            Read::Wider(wider) => {
                node.importer.module.truncate_functions(functions);
                forms = wider;
            }
        }
    }
}

/// What reading a body with forms of its carried values came to.
enum Read {
    /// The results of the loop.
    Whole(Vec<Item>),
    /// An iteration gives values of other forms; these hold for both.
    Wider(Vec<Form>),
}

/// Adds the loop, where its carried values keep these forms.
fn with_forms<'m>(
    node: &mut Node<'_, 'm>,
    graph: &'m GraphProto,
    initial: &[Item],
    forms: &[Form],
) -> Result<Read, Fault> {
    let mut carried = Vec::new();
    for (item, form) in initial.iter().zip(forms) {
        carried.extend_from_slice(node.convert(item, form)?.parts());
    }
    let count = carried.len();
    let (trips, condition) = (node.optional(0), node.optional(1));
    let repeat = Repeat { graph, trips, condition, carried, others: Vec::new() };
    let wider = RefCell::new(None);
    let built = build(node, &repeat, &|inner, entry| {
        let iteration = ranked(inner, graph.input.first(), entry.iteration)?;
        let condition = ranked(inner, graph.input.get(1), entry.condition)?;
        let values = [iteration, condition].into_iter().map(Item::Tensor);
        let results = run(inner, graph, values.chain(from_parts(forms, &entry.carried)))?;
        let mut results = results.into_iter();
        let mut parts = tensors(results.next().into_iter().collect())?;
        let (mut next, mut joined) = (Vec::new(), Vec::new());
        for (form, item) in forms.iter().zip(results.by_ref()) {
            joined.push(join(form, &inner.form(&item))?);
            next.push(item);
        }
        if joined != forms {
            *wider.borrow_mut() = Some(joined);
            return Err(Fault::bad("its carried values change their kind"));
        }
        for (item, form) in next.iter().zip(forms) {
            parts.extend_from_slice(inner.convert(item, form)?.parts());
        }
        parts.extend(tensors(results.collect())?);
        Ok(parts)
    });
    if let Some(wider) = wider.into_inner() {
        return Ok(Read::Wider(wider));
    }
    let values = built?;
    let (carried, rows) = values.split_at(count.min(values.len()));
    let rows = rows.iter().copied().map(Item::Tensor);
    Ok(Read::Whole(from_parts(forms, carried).into_iter().chain(rows).collect()))
}

/// The iteration's number or the condition with the axis that the body declares.
fn ranked(
    node: &mut Node<'_, '_>,
    declared: Option<&ValueInfoProto>,
    value: ValueId,
) -> Result<ValueId, Fault> {
    let ty = declared.and_then(|input| input.r#type.as_ref()?.value.as_ref());
    let rank = match ty {
        Some(type_proto::Value::TensorType(tensor)) => {
            tensor.shape.as_ref().map_or(0, |shape| shape.dim.len())
        }
        _ => 0,
    };
    if rank == 0 { Ok(value) } else { node.reshape(value, vec![Dim::constant(1); rank.min(8)]) }
}

/// The nodes of a body's graph, its inputs bound to values.
pub(super) fn run<'m>(
    node: &mut Node<'_, 'm>,
    graph: &'m GraphProto,
    values: impl Iterator<Item = Item>,
) -> Items {
    let mut seen = FxHashSet::default();
    for (input, value) in graph.input.iter().zip(values) {
        if input.name().is_empty() || !seen.insert(input.name()) {
            return Err(Fault::bad(format!(
                "input {} of its body has no name of its own",
                quote(input.name())
            )));
        }
        node.frame.names.insert(input.name(), Binding::Value(value));
    }
    node.importer.initializers(node.frame, graph)?;
    node.importer.nodes(node.frame, &graph.node)?;
    node.importer.outputs(node.frame, graph)
}

/// Adds the loop; all carried values and stacked rows.
pub(super) fn build<'m>(node: &mut Node<'_, 'm>, repeat: &Repeat<'m>, write: &Write<'_, 'm>) -> Outputs {
    let outside = outside(node, &[repeat.graph])?;
    let mut types: Vec<ValueType> = repeat.carried.iter().map(|&value| ty(node, value)).collect();
    let mut wide = FxHashSet::default();
    let functions = node.importer.module.functions().count();
    let function = loop {
        node.importer.bodies += 1;
        if node.importer.bodies > MOST_BODIES {
            return Err(Fault::resource(format!("over {MOST_BODIES} bodies of loops have to be read")));
        }
        let function = function(node, repeat, &types, &outside, write)?;
        if !widen(node, function, &mut types, &mut wide)? {
            break function;
        }
        node.importer.module.truncate_functions(functions);
    };
    let rows = node.importer.module.function(function).outputs().len() - 1;
    let others = outside.iter().flat_map(|(_, item)| item.parts()).chain(&repeat.others).copied();
    let others: Vec<ValueId> = others.filter(|value| !node.is_constant(*value)).collect();
    let first = repeat.carried.iter().copied().chain(others).map(Some);
    let inputs: Vec<_> = [repeat.trips, repeat.condition].into_iter().chain(first).collect();
    node.add_all(Operation::Loop { body: function, carried: repeat.carried.len() }, &inputs, rows)
}

fn ty(node: &Node<'_, '_>, value: ValueId) -> ValueType {
    node.importer.module.function(node.frame.function).ty(value).clone()
}

/// The body as a function, with carried values of these types.
fn function<'m>(
    node: &mut Node<'_, 'm>,
    repeat: &Repeat<'m>,
    types: &[ValueType],
    outside: &[(&'m str, Item)],
    write: &Write<'_, 'm>,
) -> Result<FunctionId, Fault> {
    outside.iter().try_for_each(|(_, item)| node.importer.certain_rank(node.frame.function, item))?;
    let function = node.importer.add_branch("loop");
    let outer = outside
        .iter()
        .flat_map(|(name, item)| item.suffixes().into_iter().map(move |suffix| format!("{name}{suffix}")));
    let mut taken: FxHashSet<String> = outer.collect();
    let mut unique = |wanted: &str| unused(&mut taken, wanted);
    let target = node.importer.module.function_mut(function);
    let iteration = target.add_input(unique("iteration"), ValueType::new(DType::I64, []));
    let condition = target.add_input(unique("condition"), ValueType::new(DType::Bool, []));
    let carried = types.iter().map(|ty| target.add_input(unique("carried"), ty.clone())).collect();
    let mut names = rustc_hash::FxHashMap::default();
    let mut outer = FxHashSet::default();
    for (name, item) in outside {
        names.insert(*name, Binding::Value(take_item(node, function, (name, item), &mut outer)));
    }
    let others = repeat.others.iter().map(|&value| take(node, function, &unique("other"), value)).collect();
    let entry = Entry { iteration, condition, carried, others };
    let mut frame = body(node, function, names);
    let attributes = Attributes::resolve(node.node, frame.environment.clone().as_deref())?;
    let mut inner = Node {
        importer: &mut *node.importer,
        frame: &mut frame,
        node: node.node,
        opset: node.opset,
        attributes,
        inputs: Vec::new(),
        items: Vec::new(),
        wanted: 0,
        name: node.name.clone(),
    };
    let results = write(&mut inner, &entry)?;
    let mut seen = FxHashSet::default();
    for (index, value) in results.into_iter().enumerate() {
        let declared = repeat.graph.output.get(index).map_or("", |output| output.name());
        let mut name = declared.to_string();
        while name.is_empty() || !seen.insert(name.clone()) {
            name = format!("{declared}.{index}");
        }
        node.importer.module.function_mut(function).add_output(name, value);
    }
    Ok(function)
}

/// Puts symbols in the place of sizes that the body changes; whether there were any.
fn widen(
    node: &mut Node<'_, '_>,
    function: FunctionId,
    types: &mut [ValueType],
    wide: &mut FxHashSet<(usize, usize)>,
) -> Result<bool, Fault> {
    let module = &mut node.importer.module;
    let mut changed = Vec::new();
    let target = module.function(function);
    for (index, (ty, (_, next))) in types.iter().zip(target.outputs().iter().skip(1)).enumerate() {
        let next = target.ty(*next);
        if next.dtype != ty.dtype {
            return Err(Fault::bad(format!(
                "carried value {index} is {} and becomes {}",
                ty.dtype, next.dtype
            )));
        }
        if next.rank() != ty.rank() {
            let reason =
                format!("carried value {index} of rank {}, which becomes {}", ty.rank(), next.rank());
            return Err(Fault::unsupported(reason));
        }
        for (axis, (now, next)) in ty.dims.iter().zip(&next.dims).enumerate() {
            if now.equals(next) != Answer::Yes && wide.insert((index, axis)) {
                changed.push((index, axis));
            }
        }
    }
    for &(index, axis) in &changed {
        types[index].dims[axis] = Dim::symbol(module.fresh_symbol());
    }
    Ok(!changed.is_empty())
}
