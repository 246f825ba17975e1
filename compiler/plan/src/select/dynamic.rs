//! Results whose sizes depend on data: a step computes the sizes, the run reads them and allocates, a step fills.

use lathe_artifact::builtin::Builtin;
use lathe_artifact::plan::DimId;
use lathe_ir::{Node, ValueId};
use lathe_ops::reduce::TopK;
use lathe_tensor::DType;

use super::{axis_of, reduce, shape};
use crate::error::{Refusal, refuse};
use crate::location::Location;
use crate::planner::Operand;
use crate::scope::Context;
use crate::size::Size;

/// Makes the elements of `values` the sizes of axes of `output`, where these are new.
pub(super) fn begin_stage(
    context: &mut Context<'_, '_>,
    node: &Node,
    output: ValueId,
    values: &Location,
    axes: std::ops::Range<usize>,
) -> Result<(), Refusal> {
    let function = context.scope.function;
    let first = axes.start;
    let fresh: Vec<_> = function.ty(output).dims[axes]
        .iter()
        .map(|dim| dim.as_symbol().filter(|symbol| !context.planner.sizes.is_defined(symbol)).is_some())
        .collect();
    let Some(stage) = context.define_outputs(node) else {
        return Err(context.planner.bug("no size is new").into());
    };
    let dims = context.dims(output)?;
    let mut written: Vec<Option<DimId>> = Vec::new();
    for (&size, fresh) in dims[first..].iter().zip(fresh) {
        let entry = fresh.then(|| context.planner.table.entry(&context.planner.sizes, size));
        // One symbol may stand for several axes.
        written.push(entry.filter(|entry| !written.contains(&Some(*entry))));
    }
    context.planner.read_sizes(values, written, stage, "sizes that depend on data");
    // Guards may name the new symbols.
    Ok(context.node_guards(node)?)
}

/// Refuses where a new size of the output is no symbol, so that no element gives it.
pub(super) fn require_symbols(context: &mut Context<'_, '_>, output: ValueId) -> Result<(), Refusal> {
    for dim in &context.scope.function.ty(output).dims {
        if dim.as_symbol().is_none() && !context.planner.sizes.undefined(dim).is_empty() {
            return refuse("its sizes depend on data");
        }
    }
    Ok(())
}

pub(super) fn non_zero(context: &mut Context<'_, '_>, node: &Node) -> Result<(), Refusal> {
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    let bytes = context.element_bytes(x)?;
    require_symbols(context, output)?;
    let float = Operand::Int(i64::from(context.dtype(x).is_float()));
    let source = context.dense(x)?;
    let sizes = context.dims(x)?;
    let count = context.planner.sizes.product(&sizes);
    let found = context.planner.temporary(DType::I64, &[Size::ONE], context.scope.depth);
    let operands = [
        Operand::Read(&source),
        Operand::Write(&found),
        Operand::Size(count),
        Operand::Int(bytes as i64),
        float.clone(),
    ];
    context.planner.call(Builtin::NonZeroCount, &operands, "how many there are");
    begin_stage(context, node, output, &found, 1..2)?;
    let dims = context.dims(output)?;
    let target = context.planner.temporary(DType::I64, &dims, context.scope.depth);
    let operands = [
        Operand::Read(&source),
        Operand::Write(&target),
        Operand::Int(sizes.len() as i64),
        Operand::Dims(&sizes),
        Operand::Size(dims[1]),
        Operand::Int(bytes as i64),
        float,
    ];
    context.planner.call(Builtin::NonZero, &operands, "where they are");
    context.place(output, target);
    Ok(())
}

/// As many as an operand says.
pub(super) fn top_k(context: &mut Context<'_, '_>, node: &Node, top: &TopK) -> Result<(), Refusal> {
    let (x, count) = (context.required(node, 0)?, context.required(node, 1)?);
    let values = context.output(node, 0)?;
    context.number(x)?;
    require_symbols(context, values)?;
    let rank = context.dims(x)?.len();
    let Some(axis) = axis_of(top.axis, rank).filter(|_| context.dtype(count) == DType::I64) else {
        return refuse("its sizes depend on data");
    };
    let count = Location { dims: vec![Size::ONE], strides: vec![Size::ONE], ..context.dense(count)? };
    begin_stage(context, node, values, &count, axis..axis + 1)?;
    reduce::top_k(context, node, top)
}

pub(super) fn expand(context: &mut Context<'_, '_>, node: &Node) -> Result<(), Refusal> {
    let (x, shape, output) =
        (context.required(node, 0)?, context.required(node, 1)?, context.output(node, 0)?);
    context.element_bytes(x)?;
    require_symbols(context, output)?;
    let (sizes, given) = (context.dims(x)?, context.dims(shape)?);
    let rank = context.scope.function.ty(output).rank();
    let length = match given[..] {
        [length] => context.planner.sizes.as_constant(length).and_then(|length| usize::try_from(length).ok()),
        _ => None,
    };
    let Some(length) = length.filter(|&length| length <= rank && context.dtype(shape) == DType::I64) else {
        return refuse("its sizes depend on data");
    };
    let mut own = vec![Size::ONE; rank.saturating_sub(sizes.len())];
    own.extend(sizes);
    let source = context.dense(shape)?;
    let count = context.size_of(rank as i64);
    let values = context.planner.temporary(DType::I64, &[count], context.scope.depth);
    let operands = [
        Operand::Read(&source),
        Operand::Write(&values),
        Operand::Int(rank as i64),
        Operand::Dims(&own),
        Operand::Int(length as i64),
    ];
    context.planner.call(Builtin::BroadcastSizes, &operands, "the sizes of the result");
    begin_stage(context, node, output, &values, 0..rank)?;
    shape::expand(context, node)
}
