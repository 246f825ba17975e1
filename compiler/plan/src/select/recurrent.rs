//! RNN, GRU and LSTM: one step a direction.

use lathe_artifact::builtin::{Builtin, RecurrentCell, RecurrentFunction};
use lathe_ir::{ConstantId, Node, ValueId};
use lathe_ops::recurrent::{Direction, Gru, Lstm, Rnn};
use lathe_tensor::DType;

use super::matmul::packed_location;
use crate::error::{Refusal, refuse};
use crate::location::Location;
use crate::planner::{BufferKind, Operand};
use crate::scope::{Context, Fits};
use crate::size::Size;
use crate::weights::Packing;

/// The attributes of a layer of any kind.
struct Attributes<'a> {
    cell: RecurrentCell,
    hidden: usize,
    direction: Direction,
    batch_first: bool,
    names: &'a [String],
    alphas: &'a [f64],
    betas: &'a [f64],
    clip: Option<f32>,
    input_forget: bool,
    linear_before_reset: bool,
}

/// An activation with its parameters.
#[derive(Clone, Copy)]
struct Function {
    kind: RecurrentFunction,
    alpha: f64,
    beta: f64,
}

/// What all directions share.
struct Layer {
    x: Location,
    outputs: [Option<(ValueId, Location)>; 3],
    seq: Size,
    batch: Size,
    input: usize,
    directions: i64,
    /// Elements between steps and between rows of the batch.
    x_strides: [Size; 2],
    y_strides: [Size; 2],
    state_row: Size,
    functions: Vec<[Function; 3]>,
    /// Both weights are constants as they are.
    packed: bool,
}

/// The operands of one direction.
struct Weights {
    w: Location,
    r: Location,
    /// The last gate's part of `r`, where it is multiplied with another state.
    candidate: Option<Location>,
}

pub(super) fn lstm(context: &mut Context<'_, '_>, node: &Node, lstm: &Lstm) -> Result<(), Refusal> {
    let attributes = Attributes {
        cell: RecurrentCell::Lstm,
        hidden: lstm.hidden,
        direction: lstm.direction,
        batch_first: lstm.batch_first,
        names: &lstm.activations,
        alphas: &lstm.activation_alpha,
        betas: &lstm.activation_beta,
        clip: lstm.clip,
        input_forget: lstm.input_forget,
        linear_before_reset: false,
    };
    plan(context, node, &attributes)
}

pub(super) fn gru(context: &mut Context<'_, '_>, node: &Node, gru: &Gru) -> Result<(), Refusal> {
    let attributes = Attributes {
        cell: RecurrentCell::Gru,
        hidden: gru.hidden,
        direction: gru.direction,
        batch_first: gru.batch_first,
        names: &gru.activations,
        alphas: &gru.activation_alpha,
        betas: &gru.activation_beta,
        clip: gru.clip,
        input_forget: false,
        linear_before_reset: gru.linear_before_reset,
    };
    plan(context, node, &attributes)
}

pub(super) fn rnn(context: &mut Context<'_, '_>, node: &Node, rnn: &Rnn) -> Result<(), Refusal> {
    let attributes = Attributes {
        cell: RecurrentCell::Rnn,
        hidden: rnn.hidden,
        direction: rnn.direction,
        batch_first: rnn.batch_first,
        names: &rnn.activations,
        alphas: &rnn.activation_alpha,
        betas: &rnn.activation_beta,
        clip: rnn.clip,
        input_forget: false,
        linear_before_reset: false,
    };
    plan(context, node, &attributes)
}

fn plan(context: &mut Context<'_, '_>, node: &Node, attributes: &Attributes<'_>) -> Result<(), Refusal> {
    for (index, value) in node.inputs.iter().enumerate() {
        let Some(value) = *value else { continue };
        let (found, wanted) = (context.dtype(value), if index == 4 { DType::I32 } else { DType::F32 });
        if found != wanted {
            return refuse(format!("no builtin for {found} operands"));
        }
    }
    let layer = layer(context, node, attributes)?;
    for direction in 0..layer.directions {
        walk(context, node, attributes, &layer, direction)?;
    }
    for (value, target) in layer.outputs.into_iter().flatten() {
        context.place(value, target);
    }
    Ok(())
}

fn layer(context: &mut Context<'_, '_>, node: &Node, attributes: &Attributes<'_>) -> Result<Layer, Refusal> {
    let x = context.required(node, 0)?;
    let dims = context.dims(x)?;
    let &[first, second, input] = &dims[..] else { return refuse("x is [seq, batch, input]") };
    let Some(size) = context.planner.sizes.as_constant(input).and_then(|size| usize::try_from(size).ok())
    else {
        return refuse("the input's size is not constant");
    };
    let directions = if attributes.direction == Direction::Bidirectional { 2 } else { 1 };
    let functions = functions(attributes, directions as usize)?;
    let packed = [1, 2].into_iter().all(|index| constant(context, node, index).is_some());
    let x = context.dense(x)?;
    let mut outputs = [None, None, None];
    for (index, &value) in node.outputs.iter().enumerate().take(3) {
        if context.scope.remaining[value.index()] > 0 {
            let dims = context.dims(value)?;
            let target = context.destination(value, &dims, Fits::Dense)?;
            outputs[index] = Some((value, target));
        }
    }
    let (seq, batch) = if attributes.batch_first { (second, first) } else { (first, second) };
    let sizes = &mut context.planner.sizes;
    let hidden = sizes.constant(attributes.hidden as i64);
    let state = sizes.mul_constant(hidden, directions);
    let (x_strides, y_strides, state_row) = match attributes.batch_first {
        true => ([input, sizes.mul(seq, input)], [state, sizes.mul(seq, state)], state),
        false => ([sizes.mul(batch, input), input], [sizes.mul(batch, state), hidden], hidden),
    };
    let input = size;
    Ok(Layer {
        x,
        outputs,
        seq,
        batch,
        input,
        directions,
        x_strides,
        y_strides,
        state_row,
        functions,
        packed,
    })
}

/// The functions f, g and h of each direction. Parameters go in order to the functions that take them.
fn functions(attributes: &Attributes<'_>, directions: usize) -> Result<Vec<[Function; 3]>, Refusal> {
    let defaults = match attributes.cell {
        RecurrentCell::Rnn => &["tanh"][..],
        RecurrentCell::Gru => &["sigmoid", "tanh"],
        RecurrentCell::Lstm => &["sigmoid", "tanh", "tanh"],
    };
    let names: Vec<String> = match attributes.names {
        [] => defaults.repeat(directions).iter().map(ToString::to_string).collect(),
        names => names.iter().map(|name| name.to_ascii_lowercase()).collect(),
    };
    if names.len() != defaults.len() * directions {
        return refuse("another number of activations");
    }
    let (mut alphas, mut betas) = (attributes.alphas.iter(), attributes.betas.iter());
    let plain = Function { kind: RecurrentFunction::Tanh, alpha: 0.0, beta: 0.0 };
    let mut functions = vec![[plain; 3]; directions];
    for (index, name) in names.iter().enumerate() {
        let Some(kind) = RecurrentFunction::from_name(name) else {
            return refuse(format!("no builtin for the activation `{name}`"));
        };
        let (alpha, beta) = kind.parameters();
        let alpha = alpha.map_or(0.0, |default| alphas.next().copied().unwrap_or(default));
        let beta = beta.map_or(0.0, |default| betas.next().copied().unwrap_or(default));
        functions[index / defaults.len()][index % defaults.len()] = Function { kind, alpha, beta };
    }
    Ok(functions)
}

/// Row `index` of an axis.
fn row(context: &mut Context<'_, '_>, location: &Location, axis: usize, index: i64) -> Location {
    let index = context.size_of(index);
    location.sliced(&mut context.planner.sizes, axis, index, Size::ONE, 1)
}

/// The constant that a weight is, whole and as it is.
fn constant(context: &mut Context<'_, '_>, node: &Node, operand: usize) -> Option<ConstantId> {
    let location = context.location(context.operand(node, operand)?).ok()?;
    let whole = location.offset == Size::ZERO && location.is_dense(&mut context.planner.sizes);
    match context.planner.buffers[location.buffer.0 as usize].kind {
        BufferKind::Constant(constant, Packing::Dense) if whole => Some(constant),
        _ => None,
    }
}

fn weights(
    context: &mut Context<'_, '_>,
    node: &Node,
    attributes: &Attributes<'_>,
    layer: &Layer,
    direction: i64,
) -> Result<Weights, Refusal> {
    let hidden = attributes.hidden;
    let rows = hidden.saturating_mul(attributes.cell.gates());
    // The candidate of a GRU is multiplied with the masked state.
    let split = attributes.cell == RecurrentCell::Gru && !attributes.linear_before_reset;
    let before = if split { 2 * hidden } else { rows };
    let mut part = |operand: usize, k: usize, first: usize, n: usize| -> Result<Location, Refusal> {
        if !layer.packed {
            let value = context.required(node, operand)?;
            let location = context.dense(value)?;
            return Ok(row(context, &location, 0, direction));
        }
        let Some(constant) = constant(context, node, operand) else {
            return Err(context.planner.bug("a weight is no constant any more").into());
        };
        let offset = (direction as usize).saturating_mul(rows).saturating_add(first).saturating_mul(k);
        packed_location(context, constant, Packing::Matrix { k, n, transposed: true, offset })
    };
    let w = part(1, layer.input, 0, rows)?;
    let r = part(2, hidden, 0, before)?;
    let candidate = if split { Some(part(2, hidden, before, hidden)?) } else { None };
    Ok(Weights { w, r, candidate })
}

/// An operand that may be absent.
fn read(location: &Option<Location>) -> Operand<'_> {
    location.as_ref().map_or(Operand::Null, Operand::Read)
}

/// A result that nobody may want.
fn update(location: &Option<Location>) -> Operand<'_> {
    location.as_ref().map_or(Operand::Null, Operand::Update)
}

fn walk(
    context: &mut Context<'_, '_>,
    node: &Node,
    attributes: &Attributes<'_>,
    layer: &Layer,
    direction: i64,
) -> Result<(), Refusal> {
    let Weights { w, r, candidate } = weights(context, node, attributes, layer, direction)?;
    let state_axis = usize::from(attributes.batch_first);
    let y_axis = if attributes.batch_first { 2 } else { 1 };
    let mut optional = [None, None, None, None, None];
    for (place, (operand, axis)) in [(3, 0), (5, state_axis), (6, state_axis), (7, 0)].into_iter().enumerate()
    {
        if let Some(value) = context.operand(node, operand) {
            let location = context.dense(value)?;
            optional[place] = Some(row(context, &location, axis, direction));
        }
    }
    if let Some(lengths) = context.operand(node, 4) {
        optional[4] = Some(context.dense(lengths)?);
    }
    let [bias, initial_h, initial_c, peephole, lengths] = &optional;
    let mut outputs = [None, None, None];
    for (index, target) in layer.outputs.iter().enumerate() {
        if let Some((_, target)) = target {
            let mut piece = row(context, target, if index == 0 { y_axis } else { state_axis }, direction);
            // Directions write apart from one another.
            piece.parts.push((u32::MAX - index as u32, direction as u32));
            outputs[index] = Some(piece);
        }
    }
    let width = context.size_of(attributes.hidden.saturating_mul(attributes.cell.gates()) as i64);
    let work = context.planner.temporary(DType::F32, &[layer.seq, layer.batch, width], context.scope.depth);
    let reverse = attributes.direction == Direction::Reverse || direction == 1;
    let mut operands = vec![
        Operand::Read(&layer.x),
        Operand::Read(&w),
        Operand::Read(&r),
        read(&candidate),
        read(bias),
        read(initial_h),
        read(initial_c),
        read(peephole),
        read(lengths),
        update(&outputs[0]),
        update(&outputs[1]),
        update(&outputs[2]),
        Operand::Update(&work),
        Operand::Size(layer.seq),
        Operand::Size(layer.batch),
        Operand::Int(layer.input as i64),
        Operand::Int(attributes.hidden as i64),
        Operand::Size(layer.x_strides[0]),
        Operand::Size(layer.x_strides[1]),
        Operand::Size(layer.y_strides[0]),
        Operand::Size(layer.y_strides[1]),
        Operand::Size(layer.state_row),
        Operand::Int(attributes.cell.code()),
        Operand::Int(i64::from(layer.packed)),
        Operand::Int(i64::from(reverse)),
        Operand::Int(i64::from(attributes.input_forget)),
        Operand::Int(i64::from(attributes.linear_before_reset)),
        Operand::Float(attributes.clip.map_or(f64::INFINITY, f64::from)),
    ];
    for function in layer.functions[direction as usize] {
        operands.push(Operand::Int(function.kind.code()));
        operands.extend([Operand::Float(function.alpha), Operand::Float(function.beta)]);
    }
    let reason = match layer.packed {
        true => "weights constant: packed panels, one walk a direction",
        false => "weights computed: read as they are, one walk a direction",
    };
    context.planner.call(Builtin::Recurrent, &operands, reason);
    Ok(())
}
