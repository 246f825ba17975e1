//! `SequenceMap`: a body over the elements of sequences. Where their number is known now and small, the body stands in the program once an
//! element; otherwise it is the body of a loop that puts what it makes behind what was made before.

use std::cell::RefCell;

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::shape::ShapeOf;
use lathe_proto::onnx::{GraphProto, ValueInfoProto, type_proto};
use lathe_tensor::DType;
use lathe_tensor::value::{Form, Rank};

use super::repeat::{Entry, Repeat, build, run};
use super::{body, outside};
use crate::error::{Fault, quote};
use crate::onnx::graph::Binding;
use crate::onnx::item::{Item, from_parts, tensors};
use crate::onnx::node::{Items, Node, Outputs};
use crate::onnx::types::dtype;

/// Most nodes that bodies take in the program once an element.
const UNROLLED: usize = 256;

/// SequenceMap-17.
pub(crate) fn sequence_map(node: &mut Node<'_, '_>) -> Items {
    let graph = node.attributes.required_graph("body")?;
    let operands = (0..node.items.len()).map(|index| node.item(index)).collect::<Result<Vec<_>, _>>()?;
    let (takes, gives, listed) = (graph.input.len(), graph.output.len(), node.node.output.len());
    if takes != operands.len() || gives < listed {
        return Err(Fault::bad(format!(
            "its body takes {takes} values and gives {gives}: it has {} operands and {listed} outputs",
            operands.len()
        )));
    }
    let lengths: Vec<Option<usize>> = operands
        .iter()
        .filter_map(|item| match node.form(item) {
            Form::Tensor { .. } => None,
            Form::List { ranks, .. } => Some(Some(ranks.len())),
            _ => Some(None),
        })
        .collect();
    match lengths[..] {
        [Some(length), ..] if lengths.iter().all(|other| other.is_some()) => {
            if lengths.iter().any(|other| *other != Some(length)) {
                return Err(Fault::bad(format!("its sequences have the lengths {lengths:?}")));
            }
            if length > 0 && length.saturating_mul(graph.node.len().max(1)) <= UNROLLED {
                return unrolled(node, graph, &operands, length);
            }
        }
        [] => return Err(Fault::bad("its input 0 is a tensor, not a sequence")),
        _ => {}
    }
    looped(node, graph, &operands)
}

/// The body once an element.
fn unrolled<'m>(node: &mut Node<'_, 'm>, graph: &'m GraphProto, operands: &[Item], length: usize) -> Items {
    let mut columns: Vec<Vec<ValueId>> = vec![Vec::new(); graph.output.len()];
    for index in 0..length {
        let outside = outside(node, &[graph])?;
        let names = outside.into_iter().map(|(name, item)| (name, Binding::Value(item))).collect();
        let mut frame = body(node, node.frame.function, names);
        for (input, operand) in graph.input.iter().zip(operands) {
            let element = match operand {
                Item::Tensor(value) => Some(*value),
                Item::Composite(composite) => composite.parts.get(index).copied(),
            };
            let element = element.ok_or_else(|| Fault::bad(format!("a sequence has no element {index}")))?;
            frame.names.insert(input.name(), Binding::Value(element.into()));
        }
        node.importer.initializers(&mut frame, graph)?;
        node.importer.nodes(&mut frame, &graph.node)?;
        let results = tensors(node.importer.outputs(&mut frame, graph)?)?;
        columns.iter_mut().zip(results).for_each(|(column, result)| column.push(result));
    }
    let mut items = Vec::with_capacity(columns.len());
    for (column, output) in columns.into_iter().zip(&graph.output) {
        let dtype = match column.first() {
            Some(&first) => node.dtype(first),
            None => declared(output)?,
        };
        items.push(node.listed(dtype, column)?);
    }
    Ok(items)
}

/// The declared dtype of a body's output.
fn declared(output: &ValueInfoProto) -> Result<DType, Fault> {
    match output.r#type.as_ref().and_then(|ty| ty.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => dtype(tensor.elem_type()),
        _ => Err(Fault::bad(format!("output {} of its body declares no tensor type", quote(output.name())))),
    }
}

fn looped<'m>(node: &mut Node<'_, 'm>, graph: &'m GraphProto, operands: &[Item]) -> Items {
    let operands = operands.iter().map(|item| node.ragged(item)).collect::<Result<Vec<_>, _>>()?;
    let forms: Vec<Form> = operands.iter().map(|item| node.form(item)).collect();
    let others: Vec<ValueId> = operands.iter().flat_map(Item::parts).copied().collect();
    let mut empties = Vec::with_capacity(graph.output.len());
    for output in &graph.output {
        empties.push(Form::Sequence { dtype: declared(output)?, rank: Rank::Any });
    }
    let mut carried = Vec::new();
    for form in &empties {
        carried.extend(form.absent()?.into_iter().map(|tensor| node.constant(tensor)));
    }
    let first = operands.iter().find(|item| item.tensor().is_none()).map(Item::parts);
    let Some(&[_, _, layout]) = first else { return Err(Fault::bad("it has no sequence")) };
    let trips = node.add(Op::Shape(ShapeOf { start: 0, end: Some(1) }), &[layout])?;
    let repeat = Repeat { graph, trips: Some(trips), condition: None, carried, others };
    let made = RefCell::new(empties);
    let parts = build(node, &repeat, &|inner, entry| iteration(inner, graph, (&forms, &made), entry))?;
    Ok(from_parts(&made.into_inner(), &parts))
}

/// The body over the elements of one place; its results behind those of the places before.
fn iteration<'m>(
    node: &mut Node<'_, 'm>,
    graph: &'m GraphProto,
    (forms, made): (&[Form], &RefCell<Vec<Form>>),
    entry: &Entry,
) -> Outputs {
    let mut values = Vec::with_capacity(forms.len());
    for (form, item) in forms.iter().zip(from_parts(forms, &entry.others)) {
        values.push(match form {
            Form::Sequence { rank, .. } => node.at(item.parts(), entry.iteration, *rank)?.into(),
            _ => item,
        });
    }
    let results = tensors(run(node, graph, values.into_iter())?)?;
    let mut parts = vec![entry.condition];
    let before = from_parts(&made.borrow(), &entry.carried);
    for ((result, before), form) in results.into_iter().zip(before).zip(made.borrow_mut().iter_mut()) {
        let result_rank = Rank::Is(node.rank(result) as u32);
        parts.extend(node.inserted(before.parts(), result, None)?);
        if let Form::Sequence { rank, .. } = form {
            *rank = rank.join(result_rank);
        }
    }
    Ok(parts)
}
