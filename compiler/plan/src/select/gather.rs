//! Slices by index along an axis.

use lathe_artifact::builtin::{Builtin, Scatter};
use lathe_artifact::plan::{Condition, Guard};
use lathe_ir::{Node, Source, ValueId};
use lathe_ops::gather::{Gather, GatherElements, GatherNd, Reduction, ScatterElements, ScatterNd};
use lathe_tensor::DType;

use super::axis_of;
use super::matmul::{encoded, packed_location, reading};
use crate::error::{Refusal, refuse};
use crate::location::Location;
use crate::planner::Operand;
use crate::scope::{Context, Fits};
use crate::size::Size;
use crate::weights::Packing;

pub(super) fn gather(context: &mut Context<'_, '_>, node: &Node, gather: &Gather) -> Result<(), Refusal> {
    let (x, indices) = (context.required(node, 0)?, context.required(node, 1)?);
    let output = context.output(node, 0)?;
    let Some(bytes) = context.dtype(x).element_bytes() else {
        return refuse(format!("{} elements have no address", context.dtype(x)));
    };
    let dims = context.dims(x)?;
    let Some(axis) = axis_of(gather.axis, dims.len()) else { return refuse("no such axis") };
    if one_slice(context, node, axis, &dims)? {
        return Ok(());
    }
    let index_bytes = index_bytes(context, indices)?;
    if encoded_rows(context, node, axis, index_bytes)? {
        return Ok(());
    }
    let (outer, size, inner) = context.around(&dims, axis);
    let inner_bytes = context.planner.sizes.mul_constant(inner, bytes as i64);
    let count = context.dims(indices)?;
    let count = context.planner.sizes.product(&count);
    let (source, index) = (context.dense(x)?, context.dense(indices)?);
    let result = context.dims(output)?;
    let target = context.destination(output, &result, Fits::Dense)?;
    let operands = [
        Operand::Read(&source),
        Operand::Read(&index),
        Operand::Write(&target),
        Operand::Size(outer),
        Operand::Size(size),
        Operand::Size(inner_bytes),
        Operand::Size(count),
        Operand::Int(index_bytes),
    ];
    context.planner.call(Builtin::Gather, &operands, "rows copied by index");
    context.place(output, target);
    Ok(())
}

/// Bytes of the elements of an index tensor.
fn index_bytes(context: &Context<'_, '_>, indices: ValueId) -> Result<i64, Refusal> {
    match context.dtype(indices) {
        DType::I32 => Ok(4),
        DType::I64 => Ok(8),
        other => refuse(format!("no builtin for {other} indices")),
    }
}

/// Rows of a matrix that is not stored as f32, which the builtin decodes as it copies them.
fn encoded_rows(
    context: &mut Context<'_, '_>,
    node: &Node,
    axis: usize,
    index_bytes: i64,
) -> Result<bool, Refusal> {
    let (x, indices) = (context.required(node, 0)?, context.required(node, 1)?);
    let Source::Constant(constant) = context.scope.function.value(x).source else { return Ok(false) };
    let dims = context.dims(x)?;
    let numbers: Option<Vec<usize>> = dims
        .iter()
        .map(|&size| context.planner.sizes.as_constant(size).and_then(|size| usize::try_from(size).ok()))
        .collect();
    let (Some(&[n, k]), 0) = (numbers.as_deref(), axis) else { return Ok(false) };
    let Some(packing) = encoded(context, constant, 1, [k, n], true) else { return Ok(false) };
    let (form, _, _) = reading(context, packing, false)?;
    let source = packed_location(context, constant, packing)?;
    let index = context.dense(indices)?;
    let count = context.planner.sizes.product(&index.dims);
    let output = context.output(node, 0)?;
    let result = context.dims(output)?;
    let target = context.destination(output, &result, Fits::Dense)?;
    let operands = [
        Operand::Read(&source),
        Operand::Read(&index),
        Operand::Write(&target),
        Operand::Size(dims[0]),
        Operand::Size(dims[1]),
        Operand::Size(count),
        Operand::Int(index_bytes),
        Operand::Int(form.code()),
    ];
    let what = match packing {
        Packing::Blocks { format, .. } => format!("{} blocks", format.name()),
        packing => packing.dtype().to_string(),
    };
    context.planner.call(Builtin::GatherEncoded, &operands, format!("rows of {what} decoded by index"));
    context.place(output, target);
    Ok(true)
}

/// A scalar index that is a constant is a view; whether it lies within the axis is checked once a shape.
fn one_slice(
    context: &mut Context<'_, '_>,
    node: &Node,
    axis: usize,
    dims: &[Size],
) -> Result<bool, Refusal> {
    let (x, indices) = (context.required(node, 0)?, context.required(node, 1)?);
    if context.scope.depth > 0 || !context.dims(indices)?.is_empty() {
        return Ok(false);
    }
    let Some(&[index]) = context.constants(indices).as_deref() else { return Ok(false) };
    let needed = if index < 0 { index.checked_neg() } else { index.checked_add(1) };
    let Some(needed) = needed else { return Ok(false) };
    let sizes = &mut context.planner.sizes;
    match sizes.as_constant(dims[axis]) {
        Some(size) if size >= needed => {}
        Some(_) => return Ok(false),
        None => {
            let least = sizes.constant(needed);
            let stage = sizes.stage(dims[axis]);
            let a = context.planner.table.entry(&context.planner.sizes, dims[axis]);
            let b = context.planner.table.entry(&context.planner.sizes, least);
            let origin = format!("`{}` (gather): index {index} on axis {axis}", node.name);
            context.planner.guards.push(Guard { stage, condition: Condition::AtLeast(a, b), origin });
        }
    }
    let location = context.location(x)?;
    let sizes = &mut context.planner.sizes;
    let start = sizes.constant(index);
    let start = if index < 0 { sizes.add(dims[axis], start) } else { start };
    let mut view = location.sliced(sizes, axis, start, Size::ONE, 1);
    view.dims.remove(axis);
    view.strides.remove(axis);
    let output = context.output(node, 0)?;
    context.view(output, view);
    Ok(true)
}

/// The indices of an op on tuples: number and length of the tuples, all and those of a batch, the sizes of the axes that they index,
/// bytes of a slice.
struct Tuples {
    indices: Location,
    count: Size,
    per_batch: Size,
    depth: usize,
    sizes: Vec<Size>,
    inner_bytes: Size,
}

fn tuples(context: &mut Context<'_, '_>, node: &Node, batch_dims: usize) -> Result<Tuples, Refusal> {
    let (x, indices) = (context.required(node, 0)?, context.required(node, 1)?);
    let Some(bytes) = context.dtype(x).element_bytes() else {
        return refuse(format!("{} elements have no address", context.dtype(x)));
    };
    if context.dtype(indices) != DType::I64 {
        return refuse(format!("no builtin for {} indices", context.dtype(indices)));
    }
    let (dims, places) = (context.dims(x)?, context.dims(indices)?);
    let Some((&depth, leading)) = places.split_last() else {
        return refuse("the indices have no axis of tuples");
    };
    let depth = context.planner.sizes.as_constant(depth).and_then(|depth| usize::try_from(depth).ok());
    let Some(depth) = depth.filter(|depth| depth.saturating_add(batch_dims) <= dims.len()) else {
        return refuse("the tuples' length is not constant");
    };
    if leading.len() < batch_dims {
        return refuse("the tuples have fewer axes than batches");
    }
    let (count, per_batch) =
        (context.planner.sizes.product(leading), context.planner.sizes.product(&leading[batch_dims..]));
    let inner = context.planner.sizes.product(&dims[batch_dims + depth..]);
    let inner_bytes = context.planner.sizes.mul_constant(inner, bytes as i64);
    let indices = context.dense(indices)?;
    let sizes = dims[batch_dims..batch_dims + depth].to_vec();
    Ok(Tuples { indices, count, per_batch, depth, sizes, inner_bytes })
}

pub(super) fn gather_nd(
    context: &mut Context<'_, '_>,
    node: &Node,
    gather: &GatherNd,
) -> Result<(), Refusal> {
    let tuples = tuples(context, node, gather.batch_dims)?;
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    let source = context.dense(x)?;
    let dims = context.dims(output)?;
    let target = context.destination(output, &dims, Fits::Dense)?;
    let operands = [
        Operand::Read(&source),
        Operand::Read(&tuples.indices),
        Operand::Write(&target),
        Operand::Size(tuples.count),
        Operand::Size(tuples.per_batch),
        Operand::Int(tuples.depth as i64),
        Operand::Dims(&tuples.sizes),
        Operand::Size(tuples.inner_bytes),
    ];
    context.planner.call(Builtin::GatherNd, &operands, "slices copied by tuple");
    context.place(output, target);
    Ok(())
}

pub(super) fn scatter_nd(
    context: &mut Context<'_, '_>,
    node: &Node,
    scatter: &ScatterNd,
) -> Result<(), Refusal> {
    let (reduction, number) = meeting(context, node, scatter.reduction)?;
    let tuples = tuples(context, node, 0)?;
    let (x, updates) = (context.required(node, 0)?, context.required(node, 2)?);
    let output = context.output(node, 0)?;
    let updates = context.dense(updates)?;
    let target = copied(context, x, output, Fits::Dense)?;
    let operands = [
        Operand::Read(&updates),
        Operand::Read(&tuples.indices),
        Operand::Update(&target),
        Operand::Size(tuples.count),
        Operand::Int(tuples.depth as i64),
        Operand::Dims(&tuples.sizes),
        Operand::Size(tuples.inner_bytes),
        Operand::Int(reduction),
        Operand::Int(number),
    ];
    context.planner.call(Builtin::ScatterNd, &operands, "slices updated by tuple");
    context.place(output, target);
    Ok(())
}

/// How the updates of operand 2 meet operand 0: a [`Scatter`] and the code of the elements.
fn meeting(context: &Context<'_, '_>, node: &Node, reduction: Reduction) -> Result<(i64, i64), Refusal> {
    let x = context.required(node, 0)?;
    let scatter = match reduction {
        // Elements of any dtype are moved.
        Reduction::Replace => return Ok((Scatter::Replace as i64, 0)),
        Reduction::Add => Scatter::Add,
        Reduction::Mul => Scatter::Mul,
        Reduction::Max => Scatter::Max,
        Reduction::Min => Scatter::Min,
    };
    Ok((scatter as i64, context.number(x)? as i64))
}

/// A copy of `x` in the place of the output, for updates.
fn copied(
    context: &mut Context<'_, '_>,
    x: ValueId,
    output: ValueId,
    fits: Fits,
) -> Result<Location, Refusal> {
    let source = context.location(x)?;
    let dims = context.dims(output)?;
    let target = context.destination(output, &dims, fits)?;
    let Some(source) = source.broadcast(&mut context.planner.sizes, &target.dims) else {
        return Err(context.planner.bug("the result has another rank").into());
    };
    context.copy(&source, &target, "what the updates leave")?;
    Ok(target)
}

pub(super) fn gather_elements(
    context: &mut Context<'_, '_>,
    node: &Node,
    gather: &GatherElements,
) -> Result<(), Refusal> {
    let (x, indices) = (context.required(node, 0)?, context.required(node, 1)?);
    let output = context.output(node, 0)?;
    let (bytes, index_bytes) = (context.element_bytes(x)?, index_bytes(context, indices)?);
    let (source, index) = (context.location(x)?, context.location(indices)?);
    let Some(axis) = axis_of(gather.axis, source.rank()) else { return refuse("no such axis") };
    let dims = context.dims(output)?;
    let target = context.destination(output, &dims, Fits::Dense)?;
    let operands = [
        Operand::Read(&source),
        Operand::Read(&index),
        Operand::Write(&target),
        Operand::Int(dims.len() as i64),
        Operand::Dims(&dims),
        Operand::Dims(&source.strides),
        Operand::Dims(&index.strides),
        Operand::Int(axis as i64),
        Operand::Size(source.dims[axis]),
        Operand::Int(bytes as i64),
        Operand::Int(index_bytes),
    ];
    context.planner.call(Builtin::GatherElements, &operands, "elements picked along the axis");
    context.place(output, target);
    Ok(())
}

pub(super) fn scatter_elements(
    context: &mut Context<'_, '_>,
    node: &Node,
    scatter: &ScatterElements,
) -> Result<(), Refusal> {
    let (x, indices) = (context.required(node, 0)?, context.required(node, 1)?);
    let (updates, output) = (context.required(node, 2)?, context.output(node, 0)?);
    let (bytes, index_bytes) = (context.element_bytes(x)?, index_bytes(context, indices)?);
    let (reduction, number) = meeting(context, node, scatter.reduction)?;
    let (index, updates) = (context.location(indices)?, context.location(updates)?);
    let Some(axis) = axis_of(scatter.axis, index.rank()) else { return refuse("no such axis") };
    let target = copied(context, x, output, Fits::Any)?;
    let operands = [
        Operand::Read(&updates),
        Operand::Read(&index),
        Operand::Update(&target),
        Operand::Int(index.rank() as i64),
        Operand::Dims(&index.dims),
        Operand::Dims(&updates.strides),
        Operand::Dims(&index.strides),
        Operand::Dims(&target.strides),
        Operand::Int(axis as i64),
        Operand::Size(target.dims[axis]),
        Operand::Int(bytes as i64),
        Operand::Int(index_bytes),
        Operand::Int(reduction),
        Operand::Int(number),
    ];
    context.planner.call(Builtin::ScatterElements, &operands, "elements updated along the axis");
    context.place(output, target);
    Ok(())
}
