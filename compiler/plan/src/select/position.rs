//! Position encodings.

use lathe_artifact::builtin::Builtin;
use lathe_ir::Node;
use lathe_ops::position::RotaryEmbedding;
use lathe_tensor::DType;

use crate::error::{Refusal, refuse};
use crate::location::Location;
use crate::planner::Operand;
use crate::scope::{Context, Fits};
use crate::size::Size;

pub(super) fn rotary_embedding(
    context: &mut Context<'_, '_>,
    node: &Node,
    rotary: &RotaryEmbedding,
) -> Result<(), Refusal> {
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    let (cos, sin) = (context.required(node, 1)?, context.required(node, 2)?);
    for value in [x, cos, sin] {
        if context.dtype(value) != DType::F32 {
            return refuse(format!("no builtin for {} operands", context.dtype(value)));
        }
    }
    let dims = context.dims(x)?;
    let mut source = context.location(x)?;
    if source.strides.last() != Some(&Size::ONE) {
        source = context.dense(x)?;
    }
    let target = context.destination(output, &dims, Fits::Columns)?;
    let (Some(from), Some(to)) = (by_heads(context, &source, rotary), by_heads(context, &target, rotary))
    else {
        return refuse("the heads do not divide the last axis, or its size is not known");
    };
    let rotated = match rotary.rotary_dim {
        Some(size) if size > 0 => context.size_of(size as i64),
        _ => from.dims[3],
    };
    let (cos, sin) = (context.dense(cos)?, context.dense(sin)?);
    let positions = match context.operand(node, 3) {
        Some(ids) if context.dtype(ids) != DType::I64 => {
            return refuse(format!("no builtin for {} positions", context.dtype(ids)));
        }
        Some(ids) if context.dims(ids)? != [from.dims[0], from.dims[2]] => {
            return refuse("the positions are broadcast");
        }
        Some(ids) => Some(context.dense(ids)?),
        None => None,
    };
    let table_batch = match (&positions, &cos.dims[..]) {
        (None, [rows, seq, half]) if *seq == from.dims[2] => {
            let stride = context.planner.sizes.mul(*seq, *half);
            context.planner.sizes.broadcast_stride(*rows, stride, from.dims[0])
        }
        (None, _) => return refuse("the tables are broadcast"),
        _ => Size::ZERO,
    };
    let operands = [
        Operand::Read(&source),
        Operand::Read(&cos),
        Operand::Read(&sin),
        positions.as_ref().map_or(Operand::Null, Operand::Read),
        Operand::Write(&target),
        Operand::Size(from.dims[0]),
        Operand::Size(from.dims[1]),
        Operand::Size(from.dims[2]),
        Operand::Size(from.dims[3]),
        Operand::Size(rotated),
        Operand::Int(i64::from(rotary.interleaved)),
        Operand::Size(from.strides[0]),
        Operand::Size(from.strides[1]),
        Operand::Size(from.strides[2]),
        Operand::Size(to.strides[0]),
        Operand::Size(to.strides[1]),
        Operand::Size(to.strides[2]),
        Operand::Size(table_batch),
        Operand::Size(cos.dims[0]),
    ];
    context.planner.call(Builtin::RotaryEmbedding, &operands, "pairs rotated where they lie");
    context.place(output, target);
    Ok(())
}

/// The location as `[batch, heads, seq, head_dim]`, also where it is `[batch, seq, heads * head_dim]`.
fn by_heads(
    context: &mut Context<'_, '_>,
    location: &Location,
    rotary: &RotaryEmbedding,
) -> Option<Location> {
    let [batch, seq, hidden] = location.dims[..] else { return Some(location.clone()) };
    let heads = i64::try_from(rotary.heads?).ok().filter(|heads| *heads > 0)?;
    let hidden = context.planner.sizes.as_constant(hidden).filter(|hidden| hidden % heads == 0)?;
    let (heads, head_dim) = (context.size_of(heads), context.size_of(hidden / heads));
    let split = location.reshaped(&mut context.planner.sizes, &[batch, seq, heads, head_dim])?;
    split.transposed(&[0, 2, 1, 3])
}
