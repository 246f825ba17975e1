//! Rotary position embedding.

use lathe_artifact::builtin::Builtin;
use lathe_ir::Node;
use lathe_ops::position::RotaryEmbedding;
use lathe_tensor::DType;

use super::attention::{heads_of, result};
use crate::error::{Refusal, refuse};
use crate::planner::Operand;
use crate::scope::Context;
use crate::size::Size;

pub(super) fn rotary_embedding(
    context: &mut Context<'_, '_>,
    node: &Node,
    op: &RotaryEmbedding,
) -> Result<(), Refusal> {
    let [value, cos, sin] = [0, 1, 2].map(|index| context.required(node, index));
    let x = heads_of(context, value?, op.heads)?;
    let mut tables = Vec::new();
    for table in [cos?, sin?] {
        if context.dtype(table) != DType::F32 {
            return refuse("the tables are not f32");
        }
        tables.push(context.dense(table)?);
    }
    if tables[0].dims != tables[1].dims {
        return refuse("the tables differ in sizes");
    }
    let [batch, heads, seq, dim] = [0, 1, 2, 3].map(|axis| x.dim(axis));
    let (ids, table_rows) = match context.operand(node, 3) {
        None => (None, Size::ZERO),
        Some(ids) if context.dtype(ids) == DType::I64 => {
            let location = context.location(ids)?;
            let Some(whole) = location.broadcast(&mut context.planner.sizes, &[batch, seq]) else {
                return refuse("positions of more than 2 axes");
            };
            (Some(whole), tables[0].dims[0])
        }
        Some(_) => return refuse("the positions are not i64"),
    };
    let half = tables[0].dims.last().copied().unwrap_or(Size::ZERO);
    let rotary = context.planner.sizes.mul_constant(half, 2);
    let table_batch = match (&ids, &tables[0].dims[..]) {
        (None, &[_, places, _]) if places != seq => return refuse("the tables repeat over places"),
        (None, &[rows, ..]) => {
            let step = context.planner.sizes.mul(seq, half);
            context.planner.sizes.broadcast_stride(rows, step, batch)
        }
        _ => Size::ZERO,
    };
    let output = context.output(node, 0)?;
    let (target, y) = result(context, output, op.heads)?;
    let mut operands = vec![Operand::Read(&x.location), Operand::Read(&tables[0]), Operand::Read(&tables[1])];
    operands.push(ids.as_ref().map_or(Operand::Null, Operand::Read));
    operands.push(Operand::Write(&y.location));
    operands.extend([batch, heads, seq, dim, rotary].map(Operand::Size));
    operands.push(Operand::Int(i64::from(op.interleaved)));
    operands.extend([&x, &y].into_iter().flat_map(|side| (0..3).map(|axis| side.stride(axis))));
    operands.extend([table_batch, half, table_rows].map(Operand::Size));
    let steps = ids.as_ref().map_or([Size::ZERO; 2], |ids| [ids.strides[0], ids.strides[1]]);
    operands.extend(steps.map(Operand::Size));
    context.planner.call(Builtin::Rotary, &operands, "heads rotated where they are read");
    context.place(output, target);
    Ok(())
}
