//! Reductions and scans along an axis.

use lathe_artifact::builtin::{Builtin, Number, Reduction};
use lathe_ir::Node;
use lathe_ops::reduce::{ArgReduce, CumSum, Reduce, ReduceKind, TopK};
use lathe_tensor::DType;

use super::{axis_of, shape};
use crate::error::{Refusal, refuse};
use crate::planner::Operand;
use crate::scope::{Context, Fits};
use crate::size::Size;

pub(super) fn reduce(context: &mut Context<'_, '_>, node: &Node, reduce: &Reduce) -> Result<(), Refusal> {
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    // The order of bools is that of their bytes.
    let number = match (context.dtype(x), reduce.kind) {
        (DType::Bool, ReduceKind::Max | ReduceKind::Min) => Number::U8,
        _ => context.wide_number(x)?,
    };
    let float = matches!(number, Number::F32 | Number::F64 | Number::F16 | Number::BF16);
    if !float && reduce.kind == ReduceKind::L2 {
        return refuse("no builtin for the length of integers");
    }
    let kind = match reduce.kind {
        ReduceKind::Sum => Reduction::Sum,
        ReduceKind::Mean => Reduction::Mean,
        ReduceKind::Max => Reduction::Max,
        ReduceKind::Min => Reduction::Min,
        ReduceKind::Prod => Reduction::Prod,
        ReduceKind::L1 => Reduction::L1,
        ReduceKind::L2 => Reduction::L2,
        ReduceKind::SumSquare => Reduction::SumSquare,
        ReduceKind::LogSum | ReduceKind::LogSumExp => return refuse("no builtin for the logarithm of a sum"),
    };
    let dims = context.dims(x)?;
    let axes = match (&reduce.axes, context.operand(node, 1)) {
        (Some(axes), _) => axes.clone(),
        (None, Some(axes)) => match context.constants(axes) {
            Some(axes) => axes,
            None => return refuse("the axes are not constant"),
        },
        (None, None) => Vec::new(),
    };
    if axes.is_empty() && reduce.noop_with_empty_axes {
        return if matches!(
            kind,
            Reduction::Sum | Reduction::Mean | Reduction::Max | Reduction::Min | Reduction::Prod
        ) {
            shape::same(context, node)
        } else {
            refuse("no axes")
        };
    }
    let mut reduced = vec![axes.is_empty(); dims.len()];
    for axis in axes {
        match axis_of(axis, dims.len()) {
            Some(axis) => reduced[axis] = true,
            None => return refuse("no such axis"),
        }
    }
    let (source, outer, n, inner) = run_of_axes(context, x, &dims, &reduced)?;
    let result = context.dims(output)?;
    let target = context.destination(output, &result, Fits::Dense)?;
    let operands = [
        Operand::Read(&source),
        Operand::Write(&target),
        Operand::Size(outer),
        Operand::Size(n),
        Operand::Size(inner),
        Operand::Int(kind as i64),
        Operand::Int(number as i64),
    ];
    context.planner.call(Builtin::Reduce, &operands, format!("{} over one run of axes", kind.name()));
    context.place(output, target);
    Ok(())
}

/// A dense operand in which the reduced axes are neighbours, and the sizes before, in and after them.
fn run_of_axes(
    context: &mut Context<'_, '_>,
    x: lathe_ir::ValueId,
    dims: &[Size],
    reduced: &[bool],
) -> Result<(crate::location::Location, Size, Size, Size), Refusal> {
    let marked: Vec<usize> =
        (0..dims.len()).filter(|&axis| reduced[axis] && dims[axis] != Size::ONE).collect();
    let sizes = &mut context.planner.sizes;
    let (Some(&first), Some(&last)) = (marked.first(), marked.last()) else {
        let outer = sizes.product(dims);
        return Ok((context.dense(x)?, outer, Size::ONE, Size::ONE));
    };
    if (first..=last).all(|axis| reduced[axis] || dims[axis] == Size::ONE) {
        let outer = sizes.product(&dims[..first]);
        let n = sizes.product(&dims[first..=last]);
        let inner = sizes.product(&dims[last + 1..]);
        return Ok((context.dense(x)?, outer, n, inner));
    }
    let (kept, gone): (Vec<usize>, Vec<usize>) = (0..dims.len()).partition(|&axis| !reduced[axis]);
    let Some(view) = context.location(x)?.transposed(&[&kept[..], &gone[..]].concat()) else {
        return Err(context.planner.bug("the axes do not fit the operand").into());
    };
    let target = context.planner.temporary(view.dtype, &view.dims, context.scope.depth);
    context.copy(&view, &target, "reduced axes moved to the end")?;
    let outer = context.planner.sizes.product(&view.dims[..kept.len()]);
    let n = context.planner.sizes.product(&view.dims[kept.len()..]);
    Ok((target, outer, n, Size::ONE))
}

pub(super) fn arg_reduce(context: &mut Context<'_, '_>, node: &Node, arg: &ArgReduce) -> Result<(), Refusal> {
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    let number = context.number(x)?;
    let dims = context.dims(x)?;
    let Some(axis) = axis_of(arg.axis, dims.len()) else { return refuse("no such axis") };
    let (outer, n, inner) = context.around(&dims, axis);
    let source = context.dense(x)?;
    let result = context.dims(output)?;
    let target = context.destination(output, &result, Fits::Dense)?;
    let operands = [
        Operand::Read(&source),
        Operand::Write(&target),
        Operand::Size(outer),
        Operand::Size(n),
        Operand::Size(inner),
        Operand::Int(i64::from(arg.min)),
        Operand::Int(i64::from(arg.select_last)),
        Operand::Int(number as i64),
    ];
    context.planner.call(Builtin::ArgReduce, &operands, "index of the extreme along the axis");
    context.place(output, target);
    Ok(())
}

pub(super) fn top_k(context: &mut Context<'_, '_>, node: &Node, top: &TopK) -> Result<(), Refusal> {
    let x = context.required(node, 0)?;
    let number = context.number(x)?;
    let dims = context.dims(x)?;
    let Some(axis) = axis_of(top.axis, dims.len()) else { return refuse("no such axis") };
    let (values, indices) = (context.output(node, 0)?, context.output(node, 1)?);
    let result = context.dims(values)?;
    let (outer, n, inner) = context.around(&dims, axis);
    let source = context.dense(x)?;
    let value_target = context.destination(values, &result, Fits::Dense)?;
    let index_target = context.destination(indices, &result, Fits::Dense)?;
    let operands = [
        Operand::Read(&source),
        Operand::Write(&value_target),
        Operand::Write(&index_target),
        Operand::Size(outer),
        Operand::Size(n),
        Operand::Size(inner),
        Operand::Size(result[axis]),
        Operand::Int(i64::from(top.largest)),
        Operand::Int(number as i64),
    ];
    context.planner.call(Builtin::TopK, &operands, "the size of the result is known");
    context.place(values, value_target);
    context.place(indices, index_target);
    Ok(())
}

pub(super) fn cum_sum(context: &mut Context<'_, '_>, node: &Node, sum: &CumSum) -> Result<(), Refusal> {
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    let number = context.number(x)?;
    let dims = context.dims(x)?;
    let axis = context.required(node, 1)?;
    let axis = match context.constants(axis).as_deref() {
        Some(&[axis]) => axis_of(axis, dims.len()),
        _ => None,
    };
    let Some(axis) = axis else { return refuse("the axis is not constant") };
    let (outer, n, inner) = context.around(&dims, axis);
    let source = context.dense(x)?;
    let target = context.destination(output, &dims, Fits::Dense)?;
    let operands = [
        Operand::Read(&source),
        Operand::Write(&target),
        Operand::Size(outer),
        Operand::Size(n),
        Operand::Size(inner),
        Operand::Int(i64::from(sum.exclusive)),
        Operand::Int(i64::from(sum.reverse)),
        Operand::Int(number as i64),
    ];
    context.planner.call(Builtin::CumSum, &operands, "running sum along the axis");
    context.place(output, target);
    Ok(())
}
