//! `Scan`: a loop over the slices of its inputs, which are gathered by the iteration's number.

use lathe_ir::{Answer, Dim, Guard, GuardCondition, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Compare, Where};
use lathe_ops::gather::Gather;
use lathe_ops::shape::{Slice, Transpose};
use lathe_proto::onnx::GraphProto;

use super::repeat::{Entry, Repeat, build, run};
use crate::error::Fault;
use crate::onnx::item::{Item, tensors};
use crate::onnx::node::{Node, Outputs, axis};

/// A scan whose operands are values of the function that it is added to.
struct Scan<'m> {
    graph: &'m GraphProto,
    states: Vec<ValueId>,
    inputs: Vec<Slices>,
    /// By row output.
    rows: Vec<Order>,
    /// Iterations that count, where that is less than all.
    length: Option<ValueId>,
}

/// An input that is read slice by slice.
#[derive(Clone, Copy)]
struct Slices {
    value: ValueId,
    order: Order,
}

/// Along which axis, and whether from the end.
#[derive(Clone, Copy)]
struct Order {
    axis: i64,
    reverse: bool,
}

/// Scan-8 to 25.
pub(crate) fn scan(node: &mut Node<'_, '_>) -> Outputs {
    let graph = node.attributes.required_graph("body")?;
    let slices = node.attributes.required_int("num_scan_inputs")?;
    let batched = node.opset < 9;
    let given = node.inputs.len().saturating_sub(usize::from(batched));
    let slices = usize::try_from(slices).ok().filter(|slices| (1..=given).contains(slices));
    let slices =
        slices.ok_or_else(|| Fault::bad(format!("num_scan_inputs does not fit its {given} operands")))?;
    let states = given - slices;
    let (takes, gives, listed) = (graph.input.len(), graph.output.len(), node.node.output.len());
    if takes != given || gives < states || listed > gives {
        return Err(Fault::bad(format!(
            "its body takes {takes} values and gives {gives}: it has {given} operands, {states} states and {listed} outputs"
        )));
    }
    let values: Option<Vec<ValueId>> = node.inputs.iter().skip(usize::from(batched)).copied().collect();
    let mut values = values.ok_or_else(|| Fault::bad("an operand is missing"))?;
    let sliced = values.split_off(states);
    let rows = gives - states;
    if batched {
        let inputs = orders(node, slices, None, "directions")?;
        let rows = vec![Order { axis: 0, reverse: false }; rows];
        return batches(node, graph, values, (sliced, inputs), rows);
    }
    let inputs = orders(node, slices, Some("scan_input_axes"), "scan_input_directions")?;
    let inputs = sliced.into_iter().zip(inputs).map(|(value, order)| Slices { value, order }).collect();
    let rows = orders(node, rows, Some("scan_output_axes"), "scan_output_directions")?;
    add(node, &Scan { graph, states: values, inputs, rows, length: None })
}

/// The axes and directions that the attributes give; 0 and forward where they are missing.
fn orders(
    node: &Node<'_, '_>,
    count: usize,
    axes: Option<&str>,
    directions: &str,
) -> Result<Vec<Order>, Fault> {
    let list = |name: &str| {
        let list = node.attributes.ints(name)?.map_or(vec![0; count], <[i64]>::to_vec);
        match list.len() == count {
            true => Ok(list),
            false => Err(Fault::bad(format!("attribute `{name}` has {} elements, not {count}", list.len()))),
        }
    };
    let axes = axes.map_or(Ok(vec![0; count]), list)?;
    let order = |(axis, direction)| match direction {
        0 | 1 => Ok(Order { axis, reverse: direction == 1 }),
        _ => Err(Fault::bad(format!("attribute `{directions}` holds {direction}, which is neither 0 nor 1"))),
    };
    axes.into_iter().zip(list(directions)?).map(order).collect()
}

/// Scan-8: every operand has a batch axis, and each row of the batch is scanned by itself.
fn batches<'m>(
    node: &mut Node<'_, 'm>,
    graph: &'m GraphProto,
    states: Vec<ValueId>,
    (sliced, orders): (Vec<ValueId>, Vec<Order>),
    rows: Vec<Order>,
) -> Outputs {
    let lengths = node.optional(0);
    let first = *sliced.first().ok_or_else(|| Fault::bad("it has no scan input"))?;
    let batch =
        node.dims(first).first().cloned().ok_or_else(|| Fault::bad("its operands have a batch axis"))?;
    let trips = node.sizes(vec![batch.clone()])?;
    let (state_count, slice_count) = (states.len(), sliced.len());
    let others: Vec<ValueId> = states.into_iter().chain(sliced).chain(lengths).collect();
    let guards = equal_sizes(node, &others, 0, &batch, "the batch axes of its operands")?;
    let repeat = Repeat { graph, trips: Some(trips), condition: None, carried: Vec::new(), others };
    let write = |inner: &mut Node<'_, 'm>, entry: &Entry| {
        let mut own = Vec::with_capacity(entry.others.len());
        for &value in &entry.others {
            own.push(inner.add(Op::Gather(Gather { axis: 0 }), &[value, entry.iteration])?);
        }
        let length = own.get(state_count + slice_count).copied();
        let slices = own[state_count..][..slice_count].iter().zip(&orders);
        let inputs = slices.map(|(&value, &order)| Slices { value, order }).collect();
        let scan = Scan { graph, states: own[..state_count].to_vec(), inputs, rows: rows.clone(), length };
        Ok([vec![entry.condition], add(inner, &scan)?].concat())
    };
    let results = build(node, &repeat, &write)?;
    guard(node, &results, guards);
    Ok(results)
}

/// Adds the loop and puts its rows in order.
fn add<'m>(node: &mut Node<'_, 'm>, scan: &Scan<'m>) -> Outputs {
    let mut axes = Vec::with_capacity(scan.inputs.len());
    for input in &scan.inputs {
        axes.push(axis(input.order.axis, node.rank(input.value))?);
    }
    let (Some(first), Some(&along)) = (scan.inputs.first(), axes.first()) else {
        return Err(Fault::bad("it has no scan input"));
    };
    let count = node.dims(first.value)[along].clone();
    let mut guards = Vec::new();
    for (input, &along) in scan.inputs.iter().zip(&axes).skip(1) {
        guards.extend(equal_sizes(node, &[input.value], along, &count, "the scanned axes of its operands")?);
    }
    let trips = node.sizes(vec![count.clone()])?;
    let others: Vec<ValueId> = scan.inputs.iter().map(|input| input.value).chain(scan.length).collect();
    let carried = scan.states.clone();
    let repeat = Repeat { graph: scan.graph, trips: Some(trips), condition: None, carried, others };
    let results = build(node, &repeat, &|inner, entry| body(inner, scan, entry, (&axes, &count)))?;
    guard(node, &results, guards);
    let mut ordered = results;
    for (result, order) in ordered.iter_mut().skip(scan.states.len()).zip(&scan.rows) {
        *result = in_order(node, *result, *order)?;
    }
    Ok(ordered)
}

/// One iteration: the slices, the body's graph, and, past the length, the old states and zeros.
fn body<'m>(
    node: &mut Node<'_, 'm>,
    scan: &Scan<'m>,
    entry: &Entry,
    (axes, count): (&[usize], &Dim),
) -> Outputs {
    let length = scan.length.and_then(|_| entry.others.last().copied());
    let mut values = entry.carried.clone();
    for ((input, &axis), &value) in scan.inputs.iter().zip(axes).zip(&entry.others) {
        let index = match input.order.reverse {
            false => entry.iteration,
            true => from_the_end(node, entry.iteration, length, count)?,
        };
        values.push(node.add(Op::Gather(Gather { axis: axis as i64 }), &[value, index])?);
    }
    let mut results = tensors(run(node, scan.graph, values.into_iter().map(Item::Tensor))?)?;
    if let Some(length) = length {
        let length = node.as_i64(length)?;
        let length = node.reshape(length, vec![])?;
        let counts = node.add(Op::Compare(Compare::Less), &[entry.iteration, length])?;
        for (index, result) in results.iter_mut().enumerate() {
            let other = match entry.carried.get(index) {
                Some(&state) => state,
                None => node.number_like(*result, 0.0)?,
            };
            *result = node.add(Op::Where(Where {}), &[counts, *result, other])?;
        }
    }
    Ok([vec![entry.condition], results].concat())
}

/// The index of an iteration that counts from the end; 0 past the length.
fn from_the_end(
    node: &mut Node<'_, '_>,
    iteration: ValueId,
    length: Option<ValueId>,
    count: &Dim,
) -> Result<ValueId, Fault> {
    let all = match length {
        Some(length) => node.as_i64(length)?,
        None => node.sizes(vec![count.clone()])?,
    };
    let all = node.reshape(all, vec![])?;
    let one = node.number_like(all, 1.0)?;
    let last = node.binary(Binary::Sub, all, one)?;
    let index = node.binary(Binary::Sub, last, iteration)?;
    if length.is_none() {
        return Ok(index);
    }
    let zero = node.number_like(all, 0.0)?;
    node.binary(Binary::Max, index, zero)
}

/// Stacked rows along the axis and in the direction asked for.
fn in_order(node: &mut Node<'_, '_>, rows: ValueId, order: Order) -> Result<ValueId, Fault> {
    let rank = node.rank(rows);
    let axis = axis(order.axis, rank)?;
    let mut rows = rows;
    if order.reverse {
        let [start, end, along, step] = [-1, i64::MIN + 1, 0, -1].map(|element| node.ints(&[element]));
        rows = node.add(Op::Slice(Slice {}), &[rows, start?, end?, along?, step?])?;
    }
    if axis == 0 {
        return Ok(rows);
    }
    let perm = (1..=axis).chain([0]).chain(axis + 1..rank).collect();
    node.add(Op::Transpose(Transpose { perm }), &[rows])
}

/// Conditions that axis `axis` of these values has size `size`.
fn equal_sizes(
    node: &Node<'_, '_>,
    values: &[ValueId],
    axis: usize,
    size: &Dim,
    what: &str,
) -> Result<Vec<Guard>, Fault> {
    let mut guards = Vec::new();
    for &value in values {
        let found =
            node.dims(value).get(axis).ok_or_else(|| Fault::bad(format!("{what}: one is missing")))?;
        match found.equals(size) {
            Answer::Yes => {}
            Answer::No => return Err(Fault::bad(format!("{what}: {found} is not {size}"))),
            Answer::Unknown => guards.push(Guard {
                condition: GuardCondition::Equal(found.clone(), size.clone()),
                reason: format!("{what} are equal"),
            }),
        }
    }
    Ok(guards)
}

/// Puts conditions on the node that makes these values.
fn guard(node: &mut Node<'_, '_>, results: &[ValueId], guards: Vec<Guard>) {
    let function = node.importer.module.function_mut(node.frame.function);
    let producer = results.first().and_then(|value| function.producer(*value)).map(|(id, _)| id);
    if let Some(producer) = producer.and_then(|id| function.node_mut(id)) {
        producer.guards.extend(guards);
    }
}
