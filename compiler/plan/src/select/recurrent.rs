//! LSTM: one step a direction.

use lathe_artifact::builtin::Builtin;
use lathe_ir::{ConstantId, Node, ValueId};
use lathe_ops::recurrent::{Direction, Lstm};
use lathe_tensor::DType;

use super::matmul::packed_location;
use crate::error::{Refusal, refuse};
use crate::location::Location;
use crate::planner::{BufferKind, Operand};
use crate::scope::{Context, Fits};
use crate::size::Size;
use crate::weights::Packing;

/// What all directions share.
struct Layer {
    x: Location,
    outputs: [Option<(ValueId, Location)>; 3],
    seq: Size,
    batch: Size,
    input: usize,
    hidden: usize,
    directions: i64,
}

pub(super) fn lstm(context: &mut Context<'_, '_>, node: &Node, lstm: &Lstm) -> Result<(), Refusal> {
    context.require_f32(node)?;
    let standard = |index: usize, name: &str| {
        let expected = ["sigmoid", "tanh", "tanh"][index % 3];
        name.eq_ignore_ascii_case(expected)
    };
    let default_activations = lstm.activations.iter().enumerate().all(|(index, name)| standard(index, name));
    if !default_activations || lstm.clip.is_some() || lstm.input_forget || lstm.batch_first {
        return refuse("the builtin has default activations, no clip and the sequence first");
    }
    if context.operand(node, 4).is_some() || context.operand(node, 7).is_some() {
        return refuse("the builtin has neither sequence lengths nor peepholes");
    }
    let layer = layer(context, node, lstm)?;
    for direction in 0..layer.directions {
        let reverse = lstm.direction == Direction::Reverse || direction == 1;
        walk(context, node, &layer, direction, reverse)?;
    }
    for (value, target) in layer.outputs.into_iter().flatten() {
        context.place(value, target);
    }
    Ok(())
}

fn layer(context: &mut Context<'_, '_>, node: &Node, lstm: &Lstm) -> Result<Layer, Refusal> {
    let x = context.required(node, 0)?;
    let dims = context.dims(x)?;
    let &[seq, batch, input] = &dims[..] else { return refuse("x is [seq, batch, input]") };
    let Some(input) = context.planner.sizes.as_constant(input).and_then(|size| usize::try_from(size).ok())
    else {
        return refuse("the input's size is not constant");
    };
    let x = context.dense(x)?;
    let mut outputs = [None, None, None];
    for (index, &value) in node.outputs.iter().enumerate().take(3) {
        if context.scope.remaining[value.index()] > 0 {
            let dims = context.dims(value)?;
            let target = context.destination(value, &dims, Fits::Dense)?;
            outputs[index] = Some((value, target));
        }
    }
    let directions = if lstm.direction == Direction::Bidirectional { 2 } else { 1 };
    Ok(Layer { x, outputs, seq, batch, input, hidden: lstm.hidden, directions })
}

/// Row `index` of the first axis.
fn row(context: &mut Context<'_, '_>, location: &Location, axis: usize, index: i64) -> Location {
    let index = context.size_of(index);
    location.sliced(&mut context.planner.sizes, axis, index, Size::ONE, 1)
}

fn weights(
    context: &mut Context<'_, '_>,
    node: &Node,
    operand: usize,
    k: usize,
    layer: &Layer,
    direction: i64,
) -> Result<Location, Refusal> {
    let value = context.required(node, operand)?;
    let location = context.location(value)?;
    let constant: ConstantId = match context.planner.buffers[location.buffer.0 as usize].kind {
        BufferKind::Constant(constant, Packing::Dense) if location.is_dense(&mut context.planner.sizes) => {
            constant
        }
        _ => return refuse("the weights are computed"),
    };
    let n = layer.hidden.saturating_mul(4);
    let offset = (direction as usize).saturating_mul(n).saturating_mul(k);
    packed_location(context, constant, Packing::Matrix { k, n, transposed: true, offset })
}

fn walk(
    context: &mut Context<'_, '_>,
    node: &Node,
    layer: &Layer,
    direction: i64,
    reverse: bool,
) -> Result<(), Refusal> {
    let w = weights(context, node, 1, layer.input, layer, direction)?;
    let r = weights(context, node, 2, layer.hidden, layer, direction)?;
    let mut optional = [None, None, None];
    for (place, operand) in [(0, 3), (1, 5), (2, 6)] {
        if let Some(value) = context.operand(node, operand) {
            let location = context.dense(value)?;
            optional[place] = Some(row(context, &location, 0, direction));
        }
    }
    let mut outputs = [None, None, None];
    for (index, target) in layer.outputs.iter().enumerate() {
        if let Some((_, target)) = target {
            let axis = usize::from(index == 0);
            let mut piece = row(context, target, axis, direction);
            // Directions write apart from one another.
            piece.parts.push((u32::MAX - index as u32, direction as u32));
            outputs[index] = Some(piece);
        }
    }
    let hidden = context.size_of(layer.hidden as i64);
    let gate = context.planner.sizes.mul_constant(hidden, 4);
    let gates = context.planner.temporary(DType::F32, &[layer.seq, layer.batch, gate], context.scope.depth);
    let step = context.planner.sizes.mul(layer.batch, hidden);
    let y_stride = context.planner.sizes.mul_constant(step, layer.directions);
    let operands = [
        Operand::Read(&layer.x),
        Operand::Read(&w),
        Operand::Read(&r),
        optional[0].as_ref().map_or(Operand::Null, Operand::Read),
        optional[1].as_ref().map_or(Operand::Null, Operand::Read),
        optional[2].as_ref().map_or(Operand::Null, Operand::Read),
        outputs[0].as_ref().map_or(Operand::Null, Operand::Update),
        outputs[1].as_ref().map_or(Operand::Null, Operand::Write),
        outputs[2].as_ref().map_or(Operand::Null, Operand::Write),
        Operand::Update(&gates),
        Operand::Size(layer.seq),
        Operand::Size(layer.batch),
        Operand::Int(layer.input as i64),
        Operand::Int(layer.hidden as i64),
        Operand::Size(y_stride),
        Operand::Int(i64::from(reverse)),
    ];
    context.planner.call(Builtin::Lstm, &operands, "weights constant: packed panels, one walk a direction");
    Ok(())
}
