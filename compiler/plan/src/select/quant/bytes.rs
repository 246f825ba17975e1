//! Maps between bytes, and from floats to bytes.

use lathe_artifact::builtin::Builtin;
use lathe_ir::{Function, FunctionId, Module, Node, Operation, Source, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Unary};
use lathe_ops::quant::QuantizeLinear;
use lathe_tensor::DType;

use crate::error::{Refusal, refuse};
use crate::planner::Operand;
use crate::scope::{Context, Fits};

pub(in super::super) fn map_bytes(context: &mut Context<'_, '_>, node: &Node) -> Result<(), Refusal> {
    let (x, table, output) =
        (context.required(node, 0)?, context.required(node, 1)?, context.output(node, 0)?);
    let (source, table) = (context.dense(x)?, context.dense(table)?);
    let dims = context.dims(output)?;
    let target = context.destination(output, &dims, Fits::Dense)?;
    let count = context.planner.sizes.product(&dims);
    let operands =
        [Operand::Read(&source), Operand::Read(&table), Operand::Write(&target), Operand::Size(count)];
    context.planner.call(Builtin::MapBytes, &operands, "a table of 256 bytes");
    context.place(output, target);
    Ok(())
}

/// `clamp(round(x / scale) + zero)` to bytes, by one scale.
pub(super) fn quantize(
    context: &mut Context<'_, '_>,
    node: &Node,
    quantize: &QuantizeLinear,
) -> Result<(), Refusal> {
    let (x, scale, output) =
        (context.required(node, 0)?, context.required(node, 1)?, context.output(node, 0)?);
    let one = |context: &mut Context<'_, '_>, value| {
        let dims = context.dims(value)?;
        let count = context.planner.sizes.product(&dims);
        Ok::<_, Refusal>(context.planner.sizes.as_constant(count) == Some(1))
    };
    let zero = context.operand(node, 2);
    if !one(context, scale)? || matches!(zero, Some(zero) if !one(context, zero)?) {
        return refuse("more than one scale");
    }
    let source = context.location(x)?;
    if !source.is_dense(&mut context.planner.sizes) {
        return refuse("elements that do not lie side by side");
    }
    let scale = context.dense(scale)?;
    let zero = match zero {
        Some(zero) => Some(context.dense(zero)?),
        None => None,
    };
    let dims = context.dims(output)?;
    let target = context.destination(output, &dims, Fits::Dense)?;
    let count = context.planner.sizes.product(&dims);
    let operands = [
        Operand::Read(&source),
        Operand::Read(&scale),
        zero.as_ref().map_or(Operand::Null, Operand::Read),
        Operand::Write(&target),
        Operand::Size(count),
        Operand::Int(i64::from(quantize.to == DType::I8)),
    ];
    context.planner.call(Builtin::QuantizeBytes, &operands, "floats to bytes by one scale");
    context.place(output, target);
    Ok(())
}

/// A linear map between bytes and floats with constant scale and zero point.
#[derive(Clone, Copy)]
struct Map {
    /// The bytes or, where they are made, the floats.
    value: ValueId,
    scale: f32,
    zero: i64,
}

impl Map {
    fn of(module: &Module, body: &Function, node: &Node) -> Option<Self> {
        let constant = |index: usize| {
            let value = node.inputs.get(index).copied().flatten()?;
            match body.value(value).source {
                Source::Constant(id) => Some(&module.constant(id).tensor),
                _ => None,
            }
        };
        let scale = constant(1)?;
        let scale = *scale.to_slice::<f32>().ok()?.first().filter(|_| scale.len() == 1)?;
        let zero = match node.inputs.get(2).copied().flatten() {
            None => 0,
            Some(_) => {
                let zero = constant(2)?;
                let byte = *zero.bytes().first().filter(|_| zero.len() == 1)?;
                if zero.dtype() == DType::I8 { i64::from(byte as i8) } else { i64::from(byte) }
            }
        };
        Some(Self { value: node.inputs.first().copied().flatten()?, scale, zero })
    }
}

fn is_byte(dtype: DType) -> bool {
    matches!(dtype, DType::U8 | DType::I8)
}

/// A sum of two dequantised operands that is quantised: the maps of the operands and of the result, and whether a `relu` stands between.
fn sum(module: &Module, body: &Function) -> Option<([Map; 3], bool)> {
    let producer = |value: ValueId| {
        let (_, node) = body.producer(value)?;
        let Operation::Op(op) = &node.operation else { return None };
        Some((node, op))
    };
    let [(_, result)] = body.outputs() else { return None };
    let (quantize, Op::QuantizeLinear(attributes)) = producer(*result)? else { return None };
    let in_f32 = attributes.precision.is_none_or(|precision| precision == DType::F32);
    if !in_f32 || attributes.block_size != 0 || !is_byte(attributes.to) {
        return None;
    }
    let to = Map::of(module, body, quantize)?;
    let (mut sum, mut op) = producer(to.value)?;
    let positive = matches!(op, Op::Unary(Unary::Relu));
    if positive {
        (sum, op) = producer(sum.inputs.first().copied().flatten()?)?;
    }
    if !matches!(op, Op::Binary(Binary::Add)) {
        return None;
    }
    let operand = |index: usize| {
        let (node, Op::DequantizeLinear(attributes)) = producer(sum.inputs.get(index).copied().flatten()?)?
        else {
            return None;
        };
        let map = Map::of(module, body, node)?;
        let fits = attributes.to == DType::F32 && attributes.block_size == 0;
        (fits && is_byte(body.ty(map.value).dtype)).then_some(map)
    };
    Some(([operand(0)?, operand(1)?, to], positive))
}

/// A region that adds bytes, as the builtin for that; others refuse.
pub(in super::super) fn region(
    context: &mut Context<'_, '_>,
    node: &Node,
    body: FunctionId,
) -> Result<(), Refusal> {
    let module = context.planner.module;
    let function = module.function(body);
    let Some(([a, b, to], positive)) = sum(module, function) else {
        return refuse("no sum of bytes");
    };
    let output = context.output(node, 0)?;
    let dims = context.dims(output)?;
    let mut sources = Vec::with_capacity(2);
    for map in [a, b] {
        let index = function.inputs().iter().position(|input| *input == map.value);
        let Some(value) = index.and_then(|index| node.inputs.get(index).copied().flatten()) else {
            return refuse("an operand that is no operand of the region");
        };
        let location = context.location(value)?;
        if location.dims != dims || !location.is_dense(&mut context.planner.sizes) {
            return refuse("operands that broadcast or do not lie side by side");
        }
        sources.push((location, context.dtype(value)));
    }
    let target = context.destination(output, &dims, Fits::Dense)?;
    let count = context.planner.sizes.product(&dims);
    let signed = |dtype: DType| Operand::Int(i64::from(dtype == DType::I8));
    let low = if positive { to.zero } else { i64::from(i8::MIN) };
    let operands = [
        Operand::Read(&sources[0].0),
        Operand::Read(&sources[1].0),
        Operand::Write(&target),
        Operand::Size(count),
        signed(sources[0].1),
        signed(sources[1].1),
        signed(context.dtype(output)),
        Operand::Int(a.zero),
        Operand::Int(b.zero),
        Operand::Int(to.zero),
        Operand::Int(low),
        Operand::Float(f64::from(a.scale)),
        Operand::Float(f64::from(b.scale)),
        Operand::Float(f64::from(to.scale)),
    ];
    context.planner.call(Builtin::SumBytes, &operands, "bytes added in f32 and rounded once");
    context.place(output, target);
    Ok(())
}
