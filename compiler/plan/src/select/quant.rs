//! Quantisation: loops for the linear maps, builtins for computed scales and products of integers.

mod bytes;
mod product;

use lathe_artifact::builtin::Builtin;
use lathe_artifact::region::{BinaryOp, UnaryOp, ValueIndex};
use lathe_ir::{Node, ValueId};
use lathe_ops::quant::{DequantizeLinear, QuantizeLinear};
use lathe_tensor::DType;

pub(super) use bytes::{map_bytes, region};
pub(super) use product::{conv_integer, matmul_integer};

use super::axis_of;
use super::elementwise::{load, read, store};
use crate::error::{Refusal, refuse};
use crate::location::Location;
use crate::planner::Operand;
use crate::region::RegionDraft;
use crate::scope::{Context, Fits};
use crate::size::Size;

/// A scale or zero point of the whole tensor or of an axis, for each element of the loop.
fn parameter(
    context: &mut Context<'_, '_>,
    draft: &mut RegionDraft,
    value: ValueId,
    axis: i64,
) -> Result<ValueIndex, Refusal> {
    let location = context.location(value)?;
    let rank = draft.dims().len();
    let location = match location.dims[..] {
        [] => location,
        [Size::ONE] => match location.reshaped(&mut context.planner.sizes, &[]) {
            Some(scalar) => scalar,
            None => return Err(context.planner.bug("one element has no scalar view").into()),
        },
        [size] => {
            let Some(axis) = axis_of(axis, rank) else { return refuse("no such axis") };
            if size != draft.dims()[axis] {
                return refuse("the number of scales is not the axis' size");
            }
            (axis + 1..rank).fold(location, |location, _| location.with_unit_axis(location.rank()))
        }
        _ => return refuse("scales of blocks"),
    };
    read(context, draft, &location)
}

fn is_small_integer(dtype: DType) -> bool {
    matches!(dtype, DType::U8 | DType::I8 | DType::U16 | DType::I16)
}

/// `clamp(round(x / scale) + zero)`, NaN as 0, in f32.
pub(super) fn quantize(
    context: &mut Context<'_, '_>,
    node: &Node,
    quantize: &QuantizeLinear,
) -> Result<(), Refusal> {
    let (x, scale) = (context.required(node, 0)?, context.required(node, 1)?);
    let output = context.output(node, 0)?;
    let in_f32 = quantize.precision.is_none_or(|precision| precision == DType::F32);
    if [context.dtype(x), context.dtype(scale)] != [DType::F32; 2] || !in_f32 {
        return refuse("quantisation in another dtype than f32");
    }
    if !is_small_integer(quantize.to) || quantize.block_size != 0 {
        return refuse(format!("no loop for blocks or {}", quantize.to));
    }
    if matches!(quantize.to, DType::U8 | DType::I8) {
        match bytes::quantize(context, node, quantize) {
            Err(Refusal::Evaluate(_)) => {}
            done => return done,
        }
    }
    let mut draft = RegionDraft::new(context.dims(output)?);
    let value = load(context, &mut draft, x)?;
    let scale = parameter(context, &mut draft, scale, quantize.axis)?;
    let zero = match context.operand(node, 2) {
        Some(zero_point) => Some(parameter(context, &mut draft, zero_point, quantize.axis)?),
        None => None,
    };
    let result = quantized(&mut draft, value, scale, zero, quantize.to);
    store(context, node, draft, &[(output, result)], "quantising loop")
}

/// `clamp(round(x / scale) + zero)` of f32 in a loop, NaN as 0.
pub(super) fn quantized(
    draft: &mut RegionDraft,
    x: ValueIndex,
    scale: ValueIndex,
    zero: Option<ValueIndex>,
    to: DType,
) -> ValueIndex {
    let quotient = draft.binary(BinaryOp::Div, x, scale);
    let rounded = draft.unary(UnaryOp::Round, quotient);
    let is_nan = draft.unary(UnaryOp::IsNan, quotient);
    let nothing = draft.number(DType::F32, 0.0);
    let mut value = draft.select(is_nan, nothing, rounded);
    if let Some(zero) = zero {
        let zero = draft.cast(zero, DType::F32);
        value = draft.binary(BinaryOp::Add, value, zero);
    }
    let bits = to.bits() as i32;
    let (low, high) = match to.is_signed_integer() {
        true => (-(2f64.powi(bits - 1)), 2f64.powi(bits - 1) - 1.0),
        false => (0.0, 2f64.powi(bits) - 1.0),
    };
    let (low, high) = (draft.number(DType::F32, low), draft.number(DType::F32, high));
    let raised = draft.binary(BinaryOp::Max, value, low);
    let clamped = draft.binary(BinaryOp::Min, raised, high);
    draft.cast(clamped, to)
}

/// `(x - zero) * scale`, rounded once.
pub(super) fn dequantize(
    context: &mut Context<'_, '_>,
    node: &Node,
    dequantize: &DequantizeLinear,
) -> Result<(), Refusal> {
    let (x, scale) = (context.required(node, 0)?, context.required(node, 1)?);
    let output = context.output(node, 0)?;
    if dequantize.to != DType::F32 || context.dtype(scale) != DType::F32 || dequantize.block_size != 0 {
        return refuse("no loop for blocks or for another result than f32");
    }
    let dtype = context.dtype(x);
    if !is_small_integer(dtype) && dtype != DType::I32 {
        return refuse(format!("no loop for {dtype}"));
    }
    let mut draft = RegionDraft::new(context.dims(output)?);
    let value = load(context, &mut draft, x)?;
    let zero = match context.operand(node, 2) {
        Some(zero_point) => Some(parameter(context, &mut draft, zero_point, dequantize.axis)?),
        None => None,
    };
    let scale = parameter(context, &mut draft, scale, dequantize.axis)?;
    let result = dequantized(&mut draft, value, scale, zero);
    store(context, node, draft, &[(output, result)], "dequantising loop")
}

/// `(x - zero) * scale` of small integers or i32 in a loop, rounded once to f32.
pub(super) fn dequantized(
    draft: &mut RegionDraft,
    x: ValueIndex,
    scale: ValueIndex,
    zero: Option<ValueIndex>,
) -> ValueIndex {
    // Differences of small integers are exact in f32, those of i32 in f64.
    let (whole, float) =
        if is_small_integer(draft.dtype(x)) { (DType::I32, DType::F32) } else { (DType::I64, DType::F64) };
    let mut value = draft.cast(x, whole);
    if let Some(zero) = zero {
        let zero = draft.cast(zero, whole);
        value = draft.binary(BinaryOp::Sub, value, zero);
    }
    let value = draft.cast(value, float);
    let scale = draft.cast(scale, float);
    let product = draft.binary(BinaryOp::Mul, value, scale);
    draft.cast(product, DType::F32)
}

pub(super) fn dynamic_quantize(context: &mut Context<'_, '_>, node: &Node) -> Result<(), Refusal> {
    let x = context.required(node, 0)?;
    let outputs = [context.output(node, 0)?, context.output(node, 1)?, context.output(node, 2)?];
    let source = context.dense(x)?;
    let mut targets = Vec::new();
    for output in outputs {
        let dims = context.dims(output)?;
        targets.push(context.destination(output, &dims, Fits::Dense)?);
    }
    quantise_dynamically(context, &source, [&targets[0], &targets[1], &targets[2]]);
    for (output, target) in outputs.into_iter().zip(targets) {
        context.place(output, target);
    }
    Ok(())
}

/// Rounds a dense source to u8 by its range: the bytes, their scale and their zero point.
pub(super) fn quantise_dynamically(
    context: &mut Context<'_, '_>,
    source: &Location,
    [bytes, scale, zero]: [&Location; 3],
) {
    let count = context.planner.sizes.product(&source.dims);
    let room = context.size_of(128);
    let partial = context.planner.temporary(DType::F32, &[room], context.scope.depth);
    let operands = |phase: i64| {
        [
            Operand::Read(source),
            Operand::Update(&partial),
            Operand::Write(bytes),
            Operand::Write(scale),
            Operand::Write(zero),
            Operand::Size(count),
            Operand::Int(phase),
        ]
    };
    context.planner.call(Builtin::DynamicQuantize, &operands(0), "the range of the data");
    // The second call updates what the first has written, so that a barrier stands between them.
    context.planner.call(Builtin::DynamicQuantize, &operands(1), "rounded to that range");
}
