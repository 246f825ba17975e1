//! RNN, GRU and LSTM: the products of the input with the weights of each direction, then a walk each.

mod quantised;

use lathe_artifact::builtin::{Activation, Builtin, RecurrentCell, RecurrentFunction, RecurrentWeights};
use lathe_ir::{ConstantId, Node, ValueId};
use lathe_ops::recurrent::{Direction, Gru, Lstm, Rnn};
use lathe_tensor::DType;

use super::matmul::{packed_location, rows};
use crate::error::{Refusal, refuse};
use crate::location::Location;
use crate::planner::{BufferKind, Operand};
use crate::scope::{Context, Fits};
use crate::size::Size;
use crate::weights::Packing;

/// Elements of the recurrent weights from which on a step of one row takes long enough that workers share it.
const WORTH_A_BARRIER: usize = 40_000;

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
    /// Rows of the input, all steps of all rows of the batch.
    x: Location,
    rows: Size,
    /// Elements from row to row of `x`.
    x_row: Size,
    outputs: [Option<(ValueId, Location)>; 3],
    seq: Size,
    batch: Size,
    input: usize,
    directions: i64,
    /// Elements between steps and between rows of the batch.
    gates_strides: [Size; 2],
    y_strides: [Size; 2],
    state_row: Size,
    functions: Vec<[Function; 3]>,
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
    let bytes = context.operand(node, 8).is_some();
    if bytes && [1, 2].into_iter().any(|index| constant(context, node, index).is_none()) {
        return refuse("no builtin for computed weights of bytes");
    }
    for (index, value) in node.inputs.iter().enumerate() {
        let Some(value) = *value else { continue };
        let found = context.dtype(value);
        let fits = match index {
            1 | 2 | 9 | 11 if bytes => matches!(found, DType::U8 | DType::I8),
            4 => found == DType::I32,
            _ => found == DType::F32,
        };
        if !fits {
            return refuse(format!("no builtin for {found} operands"));
        }
    }
    let layer = layer(context, node, attributes)?;
    // The products of all directions come first, so that no barrier stands between their walks.
    let input = if bytes { Some(quantised::input(context, node, &layer)?) } else { None };
    let mut gates = Vec::new();
    for direction in 0..layer.directions {
        gates.push(match &input {
            Some(input) => quantised::project(context, node, attributes, (&layer, input), direction)?,
            None => project(context, node, attributes, &layer, direction)?,
        });
    }
    for (direction, gates) in (0..).zip(&gates) {
        walk(context, node, attributes, &layer, (direction, gates))?;
    }
    for (value, target) in layer.outputs.into_iter().flatten() {
        context.place(value, target);
    }
    Ok(())
}

fn layer(context: &mut Context<'_, '_>, node: &Node, attributes: &Attributes<'_>) -> Result<Layer, Refusal> {
    let x = context.required(node, 0)?;
    let dims = context.dims(x)?;
    let &[first, second, _] = &dims[..] else { return refuse("x is [seq, batch, input]") };
    // The weights' size is known where the input's, which is the same, may not be.
    let weights = context.required(node, 1)?;
    let weights = context.dims(weights)?;
    let size = weights.last().and_then(|&size| context.planner.sizes.as_constant(size));
    let Some(size) = size.and_then(|size| usize::try_from(size).ok()) else {
        return refuse("the input's size is not constant");
    };
    let directions = if attributes.direction == Direction::Bidirectional { 2 } else { 1 };
    let functions = functions(attributes, directions as usize)?;
    let input = context.size_of(size as i64);
    let x = match context.operand(node, 8) {
        // Rounded as a whole, so that it lies together.
        Some(_) => context.dense(x)?,
        None => rows_of(context, x)?,
    };
    let Some((rows, x_row)) = rows(context, &x, input) else {
        return Err(context.planner.bug("rows do not merge").into());
    };
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
    let width = sizes.constant(attributes.hidden.saturating_mul(attributes.cell.gates()) as i64);
    let (gates_strides, y_strides, state_row) = match attributes.batch_first {
        true => ([width, sizes.mul(seq, width)], [state, sizes.mul(seq, state)], state),
        false => ([sizes.mul(batch, width), width], [sizes.mul(batch, state), hidden], hidden),
    };
    Ok(Layer {
        x,
        rows,
        x_row,
        outputs,
        seq,
        batch,
        input: size,
        directions,
        gates_strides,
        y_strides,
        state_row,
        functions,
    })
}

/// A value as rows that products read.
fn rows_of(context: &mut Context<'_, '_>, x: ValueId) -> Result<Location, Refusal> {
    let location = context.location(x)?;
    if context.fits(&location, Fits::Rows) { Ok(location) } else { context.dense(x) }
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

/// The products of the input with a direction's weights, all steps at once.
fn project(
    context: &mut Context<'_, '_>,
    node: &Node,
    attributes: &Attributes<'_>,
    layer: &Layer,
    direction: i64,
) -> Result<Location, Refusal> {
    let (k, n) = (layer.input, attributes.hidden.saturating_mul(attributes.cell.gates()));
    let [input, width] = [k, n].map(|size| context.size_of(size as i64));
    let gates = context.planner.temporary(DType::F32, &[layer.rows, width], context.scope.depth);
    if let Some(constant) = constant(context, node, 1) {
        let offset = (direction as usize).saturating_mul(n).saturating_mul(k);
        let packing = Packing::Matrix { k, n, transposed: true, offset };
        let weights = packed_location(context, constant, packing)?;
        let operands = [
            Operand::Read(&layer.x),
            Operand::Read(&weights),
            Operand::Null,
            Operand::Null,
            Operand::Write(&gates),
            Operand::Size(layer.rows),
            Operand::Size(width),
            Operand::Size(input),
            Operand::Size(layer.x_row),
            Operand::Size(Size::ZERO),
            Operand::Size(width),
            Operand::Int(Activation::None as i64),
            Operand::Float(0.0),
            Operand::Float(0.0),
        ];
        let reason = format!("input of all steps, weights constant [{k}, {n}]: packed panels");
        context.planner.call(Builtin::MatMulPacked, &operands, reason);
        return Ok(gates);
    }
    let weights = context.required(node, 1)?;
    let weights = context.dense(weights)?;
    let weights = row(context, &weights, 0, direction);
    let operands = [
        Operand::Read(&layer.x),
        Operand::Read(&weights),
        Operand::Write(&gates),
        Operand::Int(0),
        Operand::Dims(&[]),
        Operand::Dims(&[]),
        Operand::Dims(&[]),
        Operand::Dims(&[]),
        Operand::Size(layer.rows),
        Operand::Size(width),
        Operand::Size(input),
        Operand::Size(layer.x_row),
        Operand::Size(Size::ONE),
        Operand::Size(Size::ONE),
        Operand::Size(input),
        Operand::Size(width),
        Operand::Float(1.0),
    ];
    context.planner.call(Builtin::MatMulStrided, &operands, "input of all steps, weights computed");
    Ok(gates)
}

/// The recurrent weights of a direction, and how they are stored.
fn recurrent_weights(
    context: &mut Context<'_, '_>,
    node: &Node,
    attributes: &Attributes<'_>,
    layer: &Layer,
    direction: i64,
) -> Result<(Location, RecurrentWeights), Refusal> {
    let (k, gates) = (attributes.hidden, attributes.cell.gates() as i64);
    let value = context.required(node, 2)?;
    let dtype = context.dtype(value);
    let Some(constant) = constant(context, node, 2) else {
        let location = context.dense(value)?;
        return Ok((row(context, &location, 0, direction), RecurrentWeights::Plain));
    };
    // One matrix a gate, padded to whole panels, so that the cells find the sums of their units side by side.
    let count = (layer.directions * gates) as usize;
    let (packing, form) = match dtype {
        DType::I8 => (integers(count, k, k, false), RecurrentWeights::Signed),
        DType::U8 => (integers(count, k, k, true), RecurrentWeights::Unsigned),
        _ => (Packing::Matrices { count, k, n: k, transposed: true }, RecurrentWeights::Panels),
    };
    Ok((packed_part(context, constant, packing, (layer.directions, direction))?, form))
}

/// The packing of matrices of bytes.
fn integers(count: usize, k: usize, n: usize, unsigned: bool) -> Packing {
    Packing::IntegerMatrices { count, k, n, unsigned }
}

/// The part of a direction of packed weights.
fn packed_part(
    context: &mut Context<'_, '_>,
    constant: ConstantId,
    packing: Packing,
    (directions, direction): (i64, i64),
) -> Result<Location, Refusal> {
    let whole = packed_location(context, constant, packing)?;
    let length = context.size_of(packed_length(packing) / directions);
    let start = context.planner.sizes.mul_constant(length, direction);
    Ok(whole.sliced(&mut context.planner.sizes, 0, start, length, 1))
}

/// Elements of a packed form.
fn packed_length(packing: Packing) -> i64 {
    packing.packed_len().and_then(Result::ok).and_then(|length| i64::try_from(length).ok()).unwrap_or(0)
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
    (direction, gates): (i64, &Location),
) -> Result<(), Refusal> {
    let (r, form) = recurrent_weights(context, node, attributes, layer, direction)?;
    let [r_scale, r_zero] = quantised::parameters(context, node, attributes, 10, direction)?;
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
    let multiplied =
        attributes.cell.gates().saturating_mul(attributes.hidden).saturating_mul(attributes.hidden);
    let shared = (form != RecurrentWeights::Plain && multiplied >= WORTH_A_BARRIER).then(|| {
        let dims = [context.size_of(3), layer.batch, context.size_of(attributes.hidden as i64)];
        context.planner.temporary(DType::F32, &dims, context.scope.depth)
    });
    let reverse = attributes.direction == Direction::Reverse || direction == 1;
    let mut operands = vec![
        Operand::Read(gates),
        Operand::Read(&r),
        r_scale.operand(),
        r_zero.operand(),
        read(bias),
        read(initial_h),
        read(initial_c),
        read(peephole),
        read(lengths),
        update(&outputs[0]),
        update(&outputs[1]),
        update(&outputs[2]),
        update(&shared),
        Operand::Size(layer.seq),
        Operand::Size(layer.batch),
        Operand::Int(attributes.hidden as i64),
        Operand::Size(layer.gates_strides[0]),
        Operand::Size(layer.gates_strides[1]),
        Operand::Size(layer.y_strides[0]),
        Operand::Size(layer.y_strides[1]),
        Operand::Size(layer.state_row),
        Operand::Int(attributes.cell.code()),
        Operand::Int(form.code()),
        Operand::Size(r_scale.count),
        Operand::Size(r_zero.count),
        Operand::Int(direction),
        Operand::Int(layer.directions),
        Operand::Int(i64::from(reverse)),
        Operand::Int(i64::from(attributes.input_forget)),
        Operand::Int(i64::from(attributes.linear_before_reset)),
        Operand::Float(attributes.clip.map_or(f64::INFINITY, f64::from)),
    ];
    for function in layer.functions[direction as usize] {
        operands.push(Operand::Int(function.kind.code()));
        operands.extend([Operand::Float(function.alpha), Operand::Float(function.beta)]);
    }
    let reason = match form {
        RecurrentWeights::Plain => "weights computed: packed by the walk, one a direction",
        RecurrentWeights::Panels => "weights constant: packed panels a gate, one walk a direction",
        _ => "weights constant bytes: packed panels a gate, states rounded in each step",
    };
    context.planner.call(Builtin::Recurrent, &operands, reason);
    Ok(())
}
