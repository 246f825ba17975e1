//! Padding: a filled tensor with a copied box, or the builtin for the other modes.

use lathe_artifact::builtin::Builtin;
use lathe_ir::{Node, Source};
use lathe_ops::shape::{Pad, PadMode};

use super::{axis_of, shape};
use crate::error::{Refusal, refuse};
use crate::planner::Operand;
use crate::region::scalar_bits;
use crate::scope::{Context, Fits};
use crate::size::Size;

pub(super) fn pad(context: &mut Context<'_, '_>, node: &Node, pad: &Pad) -> Result<(), Refusal> {
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    let Some(bytes) = context.dtype(x).element_bytes() else {
        return refuse(format!("{} elements have no address", context.dtype(x)));
    };
    let dims = context.dims(x)?;
    let begins = begins(context, node, &dims)?;
    let result = context.dims(output)?;
    if begins.iter().all(|&begin| begin == Size::ZERO) && result == dims {
        return shape::same(context, node);
    }
    if pad.mode == PadMode::Constant {
        return constant(context, node, bytes, &dims, &begins, &result);
    }
    let mode = match pad.mode {
        PadMode::Constant => 0,
        PadMode::Edge => 1,
        PadMode::Reflect => 2,
        PadMode::Wrap => 3,
    };
    let source = context.dense(x)?;
    let target = context.destination(output, &result, Fits::Dense)?;
    let operands = [
        Operand::Read(&source),
        Operand::Write(&target),
        Operand::Int(bytes as i64),
        Operand::Int(dims.len() as i64),
        Operand::Dims(&dims),
        Operand::Dims(&result),
        Operand::Dims(&begins),
        Operand::Int(mode),
    ];
    context.planner.call(Builtin::Pad, &operands, "border cells from the inside");
    context.place(output, target);
    Ok(())
}

/// Cells before each axis; negative crops.
fn begins(context: &mut Context<'_, '_>, node: &Node, dims: &[Size]) -> Result<Vec<Size>, Refusal> {
    let pads = context.required(node, 1)?;
    let Some(pads) = context.known(pads) else { return refuse("the pads depend on data") };
    let axes = match context.operand(node, 3) {
        Some(axes) => context.constants(axes),
        None => Some((0..dims.len() as i64).collect()),
    };
    let Some(axes) = axes else { return refuse("the axes depend on data") };
    if pads.len() != 2 * axes.len() {
        return refuse("two pads an axis");
    }
    let mut begins = vec![Size::ZERO; dims.len()];
    for (index, axis) in axes.into_iter().enumerate() {
        match axis_of(axis, dims.len()) {
            Some(axis) => begins[axis] = pads[index],
            None => return refuse("no such axis"),
        }
    }
    Ok(begins)
}

fn constant(
    context: &mut Context<'_, '_>,
    node: &Node,
    bytes: usize,
    dims: &[Size],
    begins: &[Size],
    result: &[Size],
) -> Result<(), Refusal> {
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    let bits = match context.operand(node, 2) {
        None => 0,
        Some(value) => match context.scope.function.value(value).source {
            Source::Constant(id) => match scalar_bits(&context.planner.module.constant(id).tensor) {
                Some(bits) => bits,
                None => return refuse("the value is not one number"),
            },
            _ => return refuse("the value depends on data"),
        },
    };
    let target = context.destination(output, result, Fits::Dense)?;
    let count = context.planner.sizes.product(result);
    let mut from = context.location(x)?;
    let mut to = target.clone();
    for (axis, &begin) in begins.iter().enumerate() {
        let sizes = &mut context.planner.sizes;
        let negative = sizes.sub(Size::ZERO, begin);
        let (skipped, moved) = (sizes.max(negative, Size::ZERO), sizes.max(begin, Size::ZERO));
        let (left, room) = (sizes.sub(dims[axis], skipped), sizes.sub(result[axis], moved));
        let length = sizes.min(left, room);
        let length = sizes.max(length, Size::ZERO);
        from = from.sliced(sizes, axis, skipped, length, 1);
        to = to.sliced(sizes, axis, moved, length, 1);
    }
    shape::fill(context, &target, bytes, count, bits, "border cells");
    context.copy(&from, &to, "the box inside the border")?;
    context.place(output, target);
    Ok(())
}
