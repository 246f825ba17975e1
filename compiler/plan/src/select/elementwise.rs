//! Elementwise ops and fused regions become loops.

use lathe_artifact::builtin::TileFunction;
use lathe_artifact::region::{BinaryOp, UnaryOp, ValueIndex};
use lathe_ir::{FunctionId, Node, Operation, Source, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Activation, Binary, Compare, Unary};
use lathe_tensor::DType;
use rustc_hash::FxHashMap;

use crate::error::{Refusal, refuse};
use crate::location::Location;
use crate::region::{RegionDraft, scalar_bits, supports};
use crate::scope::{Context, Fits};
use crate::size::Size;

/// Most instructions and operands of one loop.
const LARGEST_BODY: usize = 256;

/// One op as a loop.
pub(super) fn single(context: &mut Context<'_, '_>, node: &Node, op: &Op) -> Result<(), Refusal> {
    let output = context.output(node, 0)?;
    let dims = context.dims(output)?;
    let mut draft = RegionDraft::new(dims);
    let mut args = Vec::with_capacity(node.inputs.len());
    for operand in &node.inputs {
        args.push(match operand {
            Some(value) => Some(load(context, &mut draft, *value)?),
            None => None,
        });
    }
    let result = lower(&mut draft, op, &args, context.dtype(output)).map_err(Refusal::Evaluate)?;
    store(context, node, draft, &[(output, result)], "elementwise loop")
}

/// A fused region as a loop; node by node where the loop cannot express it.
pub(super) fn region(context: &mut Context<'_, '_>, node: &Node, body: FunctionId) -> Result<(), Refusal> {
    match fused(context, node, body) {
        Ok((draft, results)) => {
            let reason = format!("{} ops in one loop", context.planner.module.function(body).node_count());
            store(context, node, draft, &results, &reason)
        }
        Err(Refusal::Evaluate(_)) => context.inline(node, body),
        Err(failed) => Err(failed),
    }
}

type Results = Vec<(ValueId, ValueIndex)>;

fn fused(
    context: &mut Context<'_, '_>,
    node: &Node,
    body: FunctionId,
) -> Result<(RegionDraft, Results), Refusal> {
    if !context.planner.options.native {
        return refuse("native steps are turned off");
    }
    let function = context.planner.module.function(body);
    let output = context.output(node, 0)?;
    let dims = context.dims(output)?;
    for &other in &node.outputs {
        if context.dims(other)? != dims {
            return refuse("the outputs differ in size");
        }
    }
    let mut draft = RegionDraft::new(dims);
    let mut values: FxHashMap<ValueId, ValueIndex> = FxHashMap::default();
    for (&input, operand) in function.inputs().iter().zip(&node.inputs) {
        if let Some(operand) = operand {
            values.insert(input, load(context, &mut draft, *operand)?);
        }
    }
    let Some(order) = function.topological_order() else {
        return Err(context.planner.bug("the region has a cycle").into());
    };
    if order.len() > LARGEST_BODY {
        return refuse("the body is too large for one loop");
    }
    for id in order {
        let Some(inner) = function.node(id) else { continue };
        let Operation::Op(op) = &inner.operation else { return refuse("the body is not elementwise") };
        let mut args = Vec::with_capacity(inner.inputs.len());
        for operand in &inner.inputs {
            args.push(match operand {
                Some(value) => Some(body_value(context, &mut draft, function, &mut values, *value)?),
                None => None,
            });
        }
        let Some(&result) = inner.outputs.first() else { continue };
        let value = lower(&mut draft, op, &args, function.ty(result).dtype).map_err(Refusal::Evaluate)?;
        values.insert(result, value);
    }
    let mut results = Vec::new();
    for (&output, (_, value)) in node.outputs.iter().zip(function.outputs()) {
        results.push((output, body_value(context, &mut draft, function, &mut values, *value)?));
    }
    Ok((draft, results))
}

fn body_value(
    context: &mut Context<'_, '_>,
    draft: &mut RegionDraft,
    function: &lathe_ir::Function,
    values: &mut FxHashMap<ValueId, ValueIndex>,
    value: ValueId,
) -> Result<ValueIndex, Refusal> {
    if let Some(&index) = values.get(&value) {
        return Ok(index);
    }
    let Source::Constant(id) = function.value(value).source else {
        return Err(context.planner.bug("a region's value was not made").into());
    };
    let index = constant(context, draft, id)?;
    values.insert(value, index);
    Ok(index)
}

/// The elements of a value, broadcast to the loop.
pub(super) fn load(
    context: &mut Context<'_, '_>,
    draft: &mut RegionDraft,
    value: ValueId,
) -> Result<ValueIndex, Refusal> {
    if let Source::Constant(id) = context.scope.function.value(value).source {
        return constant(context, draft, id);
    }
    if !supports(context.dtype(value)) {
        return refuse(format!("loops do not compute with {}", context.dtype(value)));
    }
    // Sizes are read from the dims table, without memory.
    if context.scope.places[value.index()].is_none()
        && let Some(known) = context.known(value)
        && let [size] = known[..]
    {
        let entry = context.planner.table.entry(&context.planner.sizes, size);
        return Ok(draft.dim(entry, context.dtype(value)));
    }
    let location = context.location(value)?;
    read(context, draft, &location)
}

pub(super) fn read(
    context: &mut Context<'_, '_>,
    draft: &mut RegionDraft,
    location: &Location,
) -> Result<ValueIndex, Refusal> {
    let dims = draft.dims().to_vec();
    match location.broadcast(&mut context.planner.sizes, &dims) {
        Some(location) => Ok(draft.read(location)),
        None => refuse("an operand has more axes than the loop"),
    }
}

fn constant(
    context: &mut Context<'_, '_>,
    draft: &mut RegionDraft,
    id: lathe_ir::ConstantId,
) -> Result<ValueIndex, Refusal> {
    let tensor = &context.planner.module.constant(id).tensor;
    if !supports(tensor.dtype()) {
        return refuse(format!("loops do not compute with {}", tensor.dtype()));
    }
    if let Some(bits) = scalar_bits(tensor) {
        return Ok(draft.bits(tensor.dtype(), bits));
    }
    let location = context.constant_location(id)?;
    read(context, draft, &location)
}

/// Writes the results: over an operand that dies where that is right, else where they are asked for.
pub(super) fn store(
    context: &mut Context<'_, '_>,
    node: &Node,
    mut draft: RegionDraft,
    results: &[(ValueId, ValueIndex)],
    reason: &str,
) -> Result<(), Refusal> {
    let mut taken = Vec::new();
    let mut places = Vec::new();
    let mut in_place = false;
    for &(output, result) in results {
        let dims = draft.dims().to_vec();
        let dtype = context.dtype(output);
        if !supports(dtype) || draft.dtype(result) != dtype {
            return refuse(format!("loops do not write {dtype}"));
        }
        let location = match context.requested(output, &dims, Fits::Any, 0)? {
            Some(location) => location,
            None => match dying(context, node, &draft, dtype, &dims, &taken) {
                Some(location) => {
                    in_place = true;
                    location
                }
                None => context.destination(output, &dims, Fits::Any)?,
            },
        };
        taken.push(location.buffer);
        places.push((output, location.clone()));
        draft.write(location, result);
    }
    let reason = if in_place { format!("{reason}, in place") } else { reason.to_string() };
    draft.emit(context.planner, reason);
    for (output, location) in places {
        context.place(output, location);
    }
    Ok(())
}

fn dying(
    context: &mut Context<'_, '_>,
    node: &Node,
    draft: &RegionDraft,
    dtype: DType,
    dims: &[Size],
    taken: &[crate::location::BufferId],
) -> Option<Location> {
    if !context.planner.options.in_place {
        return None;
    }
    let count = context.planner.sizes.product(dims);
    let bytes = context.planner.bytes(dtype, count);
    draft
        .inputs()
        .iter()
        .find(|input| {
            let uses = node
                .inputs
                .iter()
                .flatten()
                .filter(|value| {
                    context.scope.places[value.index()]
                        .as_ref()
                        .is_some_and(|place| place.buffer == input.buffer)
                })
                .count();
            input.dtype == dtype
                && input.offset == Size::ZERO
                && !taken.contains(&input.buffer)
                && context.planner.buffers[input.buffer.0 as usize].bytes == bytes
                && context.dies(input.buffer, uses)
                && input.is_dense(&mut context.planner.sizes)
                && draft.may_overwrite(input)
        })
        .cloned()
}

/// The instructions of an elementwise op; the reason where there are none.
pub(super) fn lower(
    draft: &mut RegionDraft,
    op: &Op,
    args: &[Option<ValueIndex>],
    result: DType,
) -> Result<ValueIndex, String> {
    let arg = |index: usize| {
        args.get(index).copied().flatten().ok_or_else(|| format!("operand {index} is missing"))
    };
    match op {
        Op::Unary(kind) => unary(draft, *kind, arg(0)?),
        Op::Binary(kind) => super::elementwise::binary(draft, *kind, arg(0)?, arg(1)?),
        Op::Compare(kind) => compare(draft, *kind, arg(0)?, arg(1)?),
        Op::LeakyRelu(leaky) => activation(draft, &Activation::LeakyRelu { alpha: leaky.alpha }, arg(0)?),
        Op::HardSigmoid(hard) => {
            activation(draft, &Activation::HardSigmoid { alpha: hard.alpha, beta: hard.beta }, arg(0)?)
        }
        Op::Gelu(gelu) => {
            activation(draft, if gelu.tanh { &Activation::GeluTanh } else { &Activation::Gelu }, arg(0)?)
        }
        Op::Clip(_) => {
            let mut value = arg(0)?;
            if let Some(low) = args.get(1).copied().flatten() {
                value = draft.binary(BinaryOp::Max, value, low);
            }
            if let Some(high) = args.get(2).copied().flatten() {
                value = draft.binary(BinaryOp::Min, value, high);
            }
            Ok(value)
        }
        Op::Where(_) => {
            let (condition, a, b) = (arg(0)?, arg(1)?, arg(2)?);
            Ok(draft.select(condition, a, b))
        }
        Op::Cast(cast) if supports(cast.to) => {
            let value = arg(0)?;
            Ok(draft.cast(value, cast.to))
        }
        Op::QuantizeLinear(map) => {
            let (x, scale) = (arg(0)?, arg(1)?);
            Ok(super::quant::quantized(draft, x, scale, args.get(2).copied().flatten(), map.to))
        }
        Op::DequantizeLinear(_) => {
            let (x, scale) = (arg(0)?, arg(1)?);
            Ok(super::quant::dequantized(draft, x, scale, args.get(2).copied().flatten()))
        }
        Op::Cast(_) => Err(format!("loops do not convert to {result}")),
        _ => Err("the op is not elementwise".into()),
    }
}

fn unary(draft: &mut RegionDraft, kind: Unary, a: ValueIndex) -> Result<ValueIndex, String> {
    let dtype = draft.dtype(a);
    let unsupported = || Err(format!("loops have no {} of {dtype}", kind.name()));
    let inline = match kind {
        Unary::Identity => return Ok(a),
        Unary::Relu if dtype != DType::Bool => UnaryOp::Relu,
        Unary::Not if dtype == DType::Bool => UnaryOp::Not,
        Unary::Abs if dtype.is_integer() && !dtype.is_signed_integer() => return Ok(a),
        Unary::Neg if dtype.is_signed_integer() => UnaryOp::Neg,
        Unary::Abs if dtype.is_signed_integer() => UnaryOp::Abs,
        Unary::Sign if dtype.is_signed_integer() => UnaryOp::Sign,
        _ if !dtype.is_float() => return unsupported(),
        Unary::Neg => UnaryOp::Neg,
        Unary::Abs => UnaryOp::Abs,
        Unary::Sign => UnaryOp::Sign,
        Unary::Sqrt => UnaryOp::Sqrt,
        Unary::Reciprocal => UnaryOp::Reciprocal,
        Unary::Floor => UnaryOp::Floor,
        Unary::Ceil => UnaryOp::Ceil,
        Unary::Round => UnaryOp::Round,
        Unary::IsNan => UnaryOp::IsNan,
        Unary::IsInf => {
            let magnitude = draft.unary(UnaryOp::Abs, a);
            let infinity = draft.number(dtype, f64::INFINITY);
            return Ok(draft.binary(BinaryOp::Equal, magnitude, infinity));
        }
        Unary::HardSwish => return activation(draft, &Activation::HardSwish, a),
        _ if dtype != DType::F32 => return unsupported(),
        _ => return tile_function(kind).map_or_else(unsupported, |function| Ok(draft.tile(function, a))),
    };
    Ok(draft.unary(inline, a))
}

/// The function of the same name.
fn tile_function(kind: Unary) -> Option<TileFunction> {
    TileFunction::from_name(kind.name())
}

pub(super) fn binary(
    draft: &mut RegionDraft,
    kind: Binary,
    a: ValueIndex,
    b: ValueIndex,
) -> Result<ValueIndex, String> {
    let dtype = draft.dtype(a);
    let logical = matches!(kind, Binary::And | Binary::Or | Binary::Xor);
    if logical != (dtype == DType::Bool) {
        return Err(format!("loops have no {} of {dtype}", kind.name()));
    }
    let op = match kind {
        Binary::Add => BinaryOp::Add,
        Binary::Sub => BinaryOp::Sub,
        Binary::Mul => BinaryOp::Mul,
        Binary::Div => BinaryOp::Div,
        Binary::Min => BinaryOp::Min,
        Binary::Max => BinaryOp::Max,
        Binary::And => BinaryOp::And,
        Binary::Or => BinaryOp::Or,
        Binary::Xor => BinaryOp::Xor,
        Binary::Pow => return power(draft, a, b),
        Binary::Mod | Binary::FMod => return remainder(draft, kind, a, b),
        Binary::BitAnd | Binary::BitOr | Binary::BitXor | Binary::ShiftLeft | Binary::ShiftRight => {
            return Err(format!("loops have no {}", kind.name()));
        }
    };
    Ok(draft.binary(op, a, b))
}

/// Powers by a constant that products and roots express.
fn power(draft: &mut RegionDraft, a: ValueIndex, b: ValueIndex) -> Result<ValueIndex, String> {
    let dtype = draft.dtype(a);
    let exponent = match draft.as_constant(b) {
        Some((DType::F32, bits)) => f64::from(f32::from_bits(bits as u32)),
        Some((DType::F64, bits)) => f64::from_bits(bits),
        Some((DType::I64, bits)) => bits as i64 as f64,
        Some((DType::I32, bits)) => f64::from(bits as i32),
        _ => return Err("the exponent is not a constant".into()),
    };
    match exponent {
        1.0 => Ok(a),
        2.0 => Ok(draft.binary(BinaryOp::Mul, a, a)),
        3.0 => {
            let square = draft.binary(BinaryOp::Mul, a, a);
            Ok(draft.binary(BinaryOp::Mul, square, a))
        }
        0.5 if dtype.is_float() => Ok(draft.unary(UnaryOp::Sqrt, a)),
        -1.0 if dtype.is_float() => Ok(draft.unary(UnaryOp::Reciprocal, a)),
        _ => Err(format!("loops have no power of {exponent}")),
    }
}

/// Integer remainders: `mod` has the divisor's sign, `fmod` the dividend's.
fn remainder(
    draft: &mut RegionDraft,
    kind: Binary,
    a: ValueIndex,
    b: ValueIndex,
) -> Result<ValueIndex, String> {
    let dtype = draft.dtype(a);
    if !dtype.is_integer() {
        return Err(format!("loops have no {} of {dtype}", kind.name()));
    }
    let quotient = draft.binary(BinaryOp::Div, a, b);
    let product = draft.binary(BinaryOp::Mul, quotient, b);
    let rest = draft.binary(BinaryOp::Sub, a, product);
    if kind == Binary::FMod || !dtype.is_signed_integer() {
        return Ok(rest);
    }
    let zero = draft.number(dtype, 0.0);
    let exact = draft.binary(BinaryOp::Equal, rest, zero);
    let inexact = draft.unary(UnaryOp::Not, exact);
    let rest_negative = draft.binary(BinaryOp::Less, rest, zero);
    let divisor_negative = draft.binary(BinaryOp::Less, b, zero);
    let differs = draft.binary(BinaryOp::Xor, rest_negative, divisor_negative);
    let fix = draft.binary(BinaryOp::And, inexact, differs);
    let fixed = draft.binary(BinaryOp::Add, rest, b);
    Ok(draft.select(fix, fixed, rest))
}

fn compare(
    draft: &mut RegionDraft,
    kind: Compare,
    a: ValueIndex,
    b: ValueIndex,
) -> Result<ValueIndex, String> {
    if draft.dtype(a) == DType::Bool {
        if kind != Compare::Equal {
            return Err("loops do not order bools".into());
        }
        let differs = draft.binary(BinaryOp::Xor, a, b);
        return Ok(draft.unary(UnaryOp::Not, differs));
    }
    Ok(match kind {
        Compare::Equal => draft.binary(BinaryOp::Equal, a, b),
        Compare::Less => draft.binary(BinaryOp::Less, a, b),
        Compare::LessOrEqual => draft.binary(BinaryOp::LessOrEqual, a, b),
        Compare::Greater => draft.binary(BinaryOp::Less, b, a),
        Compare::GreaterOrEqual => draft.binary(BinaryOp::LessOrEqual, b, a),
    })
}

/// The instructions of an activation.
pub(super) fn activation(
    draft: &mut RegionDraft,
    activation: &Activation,
    x: ValueIndex,
) -> Result<ValueIndex, String> {
    let dtype = draft.dtype(x);
    if !dtype.is_float() {
        return Err(format!("no activation of {dtype}"));
    }
    let tile = match activation {
        Activation::None => return Ok(x),
        Activation::Relu => return Ok(draft.unary(UnaryOp::Relu, x)),
        Activation::LeakyRelu { alpha } => {
            let (zero, slope) = (draft.number(dtype, 0.0), draft.number(dtype, f64::from(*alpha)));
            let negative = draft.binary(BinaryOp::Less, x, zero);
            let scaled = draft.binary(BinaryOp::Mul, x, slope);
            return Ok(draft.select(negative, scaled, x));
        }
        Activation::HardSigmoid { alpha, beta } => return Ok(hard_sigmoid(draft, x, *alpha, *beta)),
        Activation::HardSwish => {
            let gate = hard_sigmoid(draft, x, 1.0 / 6.0, 0.5);
            return Ok(draft.binary(BinaryOp::Mul, x, gate));
        }
        Activation::Clip { min, max } => {
            let (low, high) = (draft.number(dtype, f64::from(*min)), draft.number(dtype, f64::from(*max)));
            let raised = draft.binary(BinaryOp::Max, x, low);
            return Ok(draft.binary(BinaryOp::Min, raised, high));
        }
        Activation::Sigmoid => TileFunction::Sigmoid,
        Activation::Tanh => TileFunction::Tanh,
        Activation::Gelu => TileFunction::Gelu,
        Activation::GeluTanh => TileFunction::GeluTanh,
        Activation::Silu => TileFunction::Silu,
    };
    if dtype != DType::F32 {
        return Err(format!("loops have no {} of {dtype}", tile.name()));
    }
    Ok(draft.tile(tile, x))
}

/// `clamp(alpha * x + beta, 0, 1)`.
fn hard_sigmoid(draft: &mut RegionDraft, x: ValueIndex, alpha: f32, beta: f32) -> ValueIndex {
    let dtype = draft.dtype(x);
    let (slope, offset) = (draft.number(dtype, f64::from(alpha)), draft.number(dtype, f64::from(beta)));
    let (zero, one) = (draft.number(dtype, 0.0), draft.number(dtype, 1.0));
    let scaled = draft.binary(BinaryOp::Mul, x, slope);
    let line = draft.binary(BinaryOp::Add, scaled, offset);
    let raised = draft.binary(BinaryOp::Max, line, zero);
    draft.binary(BinaryOp::Min, raised, one)
}
