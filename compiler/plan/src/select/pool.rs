//! Pooling over one or two spatial axes.

use lathe_artifact::builtin::Builtin;
use lathe_ir::Node;
use lathe_ops::conv::Padding;
use lathe_ops::pool::{AveragePool, MaxPool};
use lathe_tensor::DType;

use super::conv::{Geometry, Window, geometry, pads, window};
use crate::error::Refusal;
use crate::planner::Operand;
use crate::scope::Context;

/// Kinds of the builtin.
#[derive(Clone, Copy)]
enum Kind {
    Max = 0,
    Average = 1,
    AveragePadded = 2,
}

pub(super) fn max(context: &mut Context<'_, '_>, node: &Node, pool: &MaxPool) -> Result<(), Refusal> {
    context.require_one_output(node)?;
    let window = window(&pool.kernel, &pool.strides, &pool.dilations)?;
    emit(context, node, &pool.padding, window, Kind::Max)
}

pub(super) fn average(context: &mut Context<'_, '_>, node: &Node, pool: &AveragePool) -> Result<(), Refusal> {
    let window = window(&pool.kernel, &pool.strides, &pool.dilations)?;
    let kind = if pool.count_include_pad { Kind::AveragePadded } else { Kind::Average };
    emit(context, node, &pool.padding, window, kind)
}

fn emit(
    context: &mut Context<'_, '_>,
    node: &Node,
    padding: &Padding,
    window: Window<2>,
    kind: Kind,
) -> Result<(), Refusal> {
    let x = context.required(node, 0)?;
    let bytes = matches!((context.dtype(x), kind), (DType::U8 | DType::I8, Kind::Max));
    if !bytes {
        context.require_f32(node)?;
    }
    let Geometry { source, target, input, output } = geometry(context, node)?;
    let (begins, ends) = pads(context, padding, &window, [input[2], input[3]], [output[2], output[3]])?;
    let planes = context.planner.sizes.mul(input[0], input[1]);
    let mut operands = vec![
        Operand::Read(&source),
        Operand::Write(&target),
        Operand::Size(planes),
        Operand::Size(input[2]),
        Operand::Size(input[3]),
        Operand::Size(output[2]),
        Operand::Size(output[3]),
        Operand::Int(window.kernel[0]),
        Operand::Int(window.kernel[1]),
        Operand::Int(window.strides[0]),
        Operand::Int(window.strides[1]),
        Operand::Int(window.dilations[0]),
        Operand::Int(window.dilations[1]),
        Operand::Size(begins[0]),
        Operand::Size(begins[1]),
    ];
    if bytes {
        operands.push(Operand::Int(i64::from(source.dtype == DType::I8)));
        context.planner.call(Builtin::PoolBytes, &operands, "windows of each plane of bytes");
    } else {
        operands.extend([Operand::Size(ends[0]), Operand::Size(ends[1]), Operand::Int(kind as i64)]);
        context.planner.call(Builtin::Pool, &operands, "windows of each plane");
    }
    let output = context.output(node, 0)?;
    context.place(output, target);
    Ok(())
}
