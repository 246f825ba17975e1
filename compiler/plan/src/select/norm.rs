//! Normalisations and softmax.

use lathe_artifact::builtin::{Builtin, NormRounding};
use lathe_artifact::region::{BinaryOp, UnaryOp};
use lathe_ir::{Node, ValueId};
use lathe_ops::norm::{BatchNorm, GroupNorm, LayerNorm, RmsNorm, Rounding, Softmax};

use super::{axis_of, elementwise};
use crate::error::{Refusal, refuse};
use crate::location::Location;
use crate::planner::Operand;
use crate::region::RegionDraft;
use crate::scope::{Context, Fits};
use crate::size::Size;

/// A scale or bias of exactly `count` elements.
fn vector(
    context: &mut Context<'_, '_>,
    value: ValueId,
    count: Size,
    what: &str,
) -> Result<Location, Refusal> {
    let location = context.dense(value)?;
    if context.planner.sizes.product(&location.dims) != count {
        return refuse(format!("the {what} is broadcast"));
    }
    Ok(location)
}

pub(super) fn layer_norm(
    context: &mut Context<'_, '_>,
    node: &Node,
    norm: &LayerNorm,
) -> Result<(), Refusal> {
    rows(context, node, norm.axis, norm.epsilon, (false, norm.rounding))
}

pub(super) fn rms_norm(context: &mut Context<'_, '_>, node: &Node, norm: &RmsNorm) -> Result<(), Refusal> {
    rows(context, node, norm.axis, norm.epsilon, (true, norm.rounding))
}

/// Norms of the axes from `axis` on, with a mean or (`rms`) without.
fn rows(
    context: &mut Context<'_, '_>,
    node: &Node,
    axis: i64,
    epsilon: f32,
    (rms, rounding): (bool, Rounding),
) -> Result<(), Refusal> {
    let rounding = match rounding {
        Rounding::Free | Rounding::Rows => NormRounding::Rows,
        Rounding::Quotient => NormRounding::Quotient,
        Rounding::Factor => NormRounding::Factor,
        Rounding::Ascending => NormRounding::Ascending,
    };
    context.require_f32(node)?;
    context.require_one_output(node)?;
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    let dims = context.dims(x)?;
    let Some(axis) = axis_of(axis, dims.len()) else { return refuse("no such axis") };
    let rows = context.planner.sizes.product(&dims[..axis]);
    let cols = context.planner.sizes.product(&dims[axis..]);
    let mut vectors = [None, None];
    for (index, what) in [(1, "scale"), (2, "bias")] {
        if let Some(value) = context.operand(node, index) {
            vectors[index - 1] = Some(vector(context, value, cols, what)?);
        }
    }
    let source = context.dense(x)?;
    let target = context.destination(output, &dims, Fits::Dense)?;
    let operands = [
        Operand::Read(&source),
        Operand::Null,
        vectors[0].as_ref().map_or(Operand::Null, Operand::Read),
        vectors[1].as_ref().map_or(Operand::Null, Operand::Read),
        Operand::Write(&target),
        Operand::Null,
        Operand::Size(rows),
        Operand::Size(cols),
        Operand::Float(f64::from(epsilon)),
        Operand::Int(i64::from(rms)),
        Operand::Int(rounding.code()),
    ];
    context.planner.call(Builtin::LayerNorm, &operands, "rows normalised in one pass");
    context.place(output, target);
    Ok(())
}

pub(super) fn softmax(context: &mut Context<'_, '_>, node: &Node, softmax: &Softmax) -> Result<(), Refusal> {
    context.require_f32(node)?;
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    let dims = context.dims(x)?;
    let Some(axis) = axis_of(softmax.axis, dims.len()) else { return refuse("no such axis") };
    let (outer, n, inner) = context.around(&dims, axis);
    let source = context.dense(x)?;
    let target = context.destination(output, &dims, Fits::Dense)?;
    let operands = [
        Operand::Read(&source),
        Operand::Null,
        Operand::Write(&target),
        Operand::Size(outer),
        Operand::Size(n),
        Operand::Size(inner),
        Operand::Int(i64::from(softmax.log)),
        Operand::Float(1.0),
        Operand::Int(1),
        Operand::Int(1),
    ];
    context.planner.call(Builtin::Softmax, &operands, "rows of the axis");
    context.place(output, target);
    Ok(())
}

/// Inference: `(x - mean) * (scale / sqrt(var + epsilon)) + bias`, by channel.
pub(super) fn batch_norm(
    context: &mut Context<'_, '_>,
    node: &Node,
    norm: &BatchNorm,
) -> Result<(), Refusal> {
    if norm.training {
        return refuse("training statistics");
    }
    context.require_f32(node)?;
    context.require_one_output(node)?;
    let output = context.output(node, 0)?;
    let dims = context.dims(output)?;
    if dims.len() < 2 {
        return refuse("no channel axis");
    }
    let mut draft = RegionDraft::new(dims.clone());
    let x = context.required(node, 0)?;
    let x = elementwise::load(context, &mut draft, x)?;
    let mut channels = Vec::new();
    for index in 1..5 {
        let value = context.required(node, index)?;
        let mut location = vector(context, value, dims[1], "statistic")?;
        location.dims = vec![dims[1]];
        location.strides = vec![Size::ONE];
        for _ in 2..dims.len() {
            location = location.with_unit_axis(location.rank());
        }
        channels.push(elementwise::read(context, &mut draft, &location)?);
    }
    let (scale, bias, mean, var) = (channels[0], channels[1], channels[2], channels[3]);
    let epsilon = draft.number(lathe_tensor::DType::F32, f64::from(norm.epsilon));
    let spread = draft.binary(BinaryOp::Add, var, epsilon);
    let deviation = draft.unary(UnaryOp::Sqrt, spread);
    let factor = draft.binary(BinaryOp::Div, scale, deviation);
    let centred = draft.binary(BinaryOp::Sub, x, mean);
    let scaled = draft.binary(BinaryOp::Mul, centred, factor);
    let result = draft.binary(BinaryOp::Add, scaled, bias);
    elementwise::store(context, node, draft, &[(output, result)], "by channel in one loop")
}

pub(super) fn instance_norm(context: &mut Context<'_, '_>, node: &Node, epsilon: f32) -> Result<(), Refusal> {
    let x = context.required(node, 0)?;
    let dims = context.dims(x)?;
    if dims.len() < 2 {
        return refuse("no channel axis");
    }
    grouped(context, node, epsilon, dims[1], Size::ONE)
}

pub(super) fn group_norm(
    context: &mut Context<'_, '_>,
    node: &Node,
    norm: &GroupNorm,
) -> Result<(), Refusal> {
    let x = context.required(node, 0)?;
    let dims = context.dims(x)?;
    let channels = dims.get(1).and_then(|&size| context.planner.sizes.as_constant(size));
    let groups = norm.groups as i64;
    match channels {
        Some(channels) if groups > 0 && channels % groups == 0 && (!norm.per_group || channels == groups) => {
            let (groups, each) = (context.size_of(groups), context.size_of(channels / groups));
            grouped(context, node, norm.epsilon, groups, each)
        }
        _ => refuse("scales by group, or a channel count that is not constant"),
    }
}

fn grouped(
    context: &mut Context<'_, '_>,
    node: &Node,
    epsilon: f32,
    groups: Size,
    each: Size,
) -> Result<(), Refusal> {
    context.require_f32(node)?;
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    let dims = context.dims(x)?;
    let channels = dims[1];
    let (scale, bias) = (context.required(node, 1)?, context.required(node, 2)?);
    let scale = vector(context, scale, channels, "scale")?;
    let bias = vector(context, bias, channels, "bias")?;
    let rows = context.planner.sizes.mul(dims[0], groups);
    let spatial = context.planner.sizes.product(&dims[2..]);
    let cols = context.planner.sizes.mul(each, spatial);
    let source = context.dense(x)?;
    let target = context.destination(output, &dims, Fits::Dense)?;
    let operands = [
        Operand::Read(&source),
        Operand::Read(&scale),
        Operand::Read(&bias),
        Operand::Write(&target),
        Operand::Size(rows),
        Operand::Size(cols),
        Operand::Size(groups),
        Operand::Size(each),
        Operand::Float(f64::from(epsilon)),
    ];
    context.planner.call(Builtin::GroupNorm, &operands, "groups of channels normalised in one pass");
    context.place(output, target);
    Ok(())
}
