//! Normalisations: the type of the first operand.

use lathe_ops::norm::{BatchNorm, GroupNorm};
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use crate::{Dim, IrError, ValueType};

fn like_input(ty: &ValueType) -> Output {
    Output::new(ty.dtype, ty.dims.clone())
}

fn float_input<'a>(cx: &Context<'a>) -> Result<&'a ValueType, IrError> {
    cx.dtype_of(0, "a float", DType::is_float)?;
    cx.ty(0)
}

/// The size of axis 1, the channels.
fn channels<'a>(cx: &Context<'a>) -> Result<&'a Dim, IrError> {
    let ty = float_input(cx)?;
    ty.dims.get(1).ok_or_else(|| cx.bad("the input needs a channel axis"))
}

/// Requires operands `indices` to be `[size]`.
fn vectors(
    cx: &mut Context<'_>,
    indices: std::ops::Range<usize>,
    size: &Dim,
    reason: &str,
) -> Result<(), IrError> {
    for index in indices {
        let vector = cx.ranked(index, 1)?;
        cx.equal(&vector.dims[0], size, reason)?;
    }
    Ok(())
}

pub(super) fn batch_norm(cx: &mut Context<'_>, attributes: &BatchNorm) -> Outputs {
    let x = float_input(cx)?;
    let one = Dim::constant(1);
    let channels = x.dims.get(1).unwrap_or(&one);
    vectors(cx, 1..5, channels, "statistics have one element a channel")?;
    let mut outputs = vec![like_input(x)];
    if attributes.training {
        let statistics = Output::new(cx.ty(3)?.dtype, [channels.clone()]);
        outputs.extend([statistics.clone(), statistics]);
    }
    Ok(outputs)
}

pub(super) fn layer_norm(cx: &mut Context<'_>, axis: i64) -> Outputs {
    let x = float_input(cx)?;
    let axis = normalised(cx, x, axis)?;
    if let Some(bias) = cx.optional(2) {
        cx.broadcasts_to(&bias.ty.dims, &x.dims, "bias")?;
    }
    let mut statistics = x.dims.clone();
    statistics[axis..].fill(Dim::constant(1));
    // Statistics of narrow floats are kept in f32 (ONNX `stash_type` 1).
    let dtype = if x.dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let statistics = Output::new(dtype, statistics);
    Ok(vec![like_input(x), statistics.clone(), statistics])
}

pub(super) fn rms_norm(cx: &mut Context<'_>, axis: i64) -> Outputs {
    let x = float_input(cx)?;
    normalised(cx, x, axis)?;
    Ok(vec![like_input(x)])
}

/// The first normalised axis; checks that the scale fits.
fn normalised(cx: &mut Context<'_>, x: &ValueType, axis: i64) -> Result<usize, IrError> {
    let axis = cx.axis(axis, x.rank())?;
    cx.dtype_of(1, "a float", DType::is_float)?;
    cx.broadcasts_to(&cx.ty(1)?.dims, &x.dims, "scale")?;
    Ok(axis)
}

pub(super) fn instance_norm(cx: &mut Context<'_>) -> Outputs {
    let channels = channels(cx)?;
    vectors(cx, 1..3, channels, "scale and bias have one element a channel")?;
    Ok(vec![like_input(cx.ty(0)?)])
}

pub(super) fn group_norm(cx: &mut Context<'_>, attributes: &GroupNorm) -> Outputs {
    let channels = channels(cx)?;
    let groups = Dim::constant(cx.count(attributes.groups)?);
    if groups == Dim::constant(0) {
        return Err(cx.bad("there must be at least one group"));
    }
    cx.equal(&channels.modulo(&groups), &Dim::constant(0), "channels are a multiple of the groups")?;
    let size = if attributes.per_group { &groups } else { channels };
    vectors(cx, 1..3, size, "size of scale and bias")?;
    Ok(vec![like_input(cx.ty(0)?)])
}

pub(super) fn softmax(cx: &mut Context<'_>, axis: i64) -> Outputs {
    let x = float_input(cx)?;
    if x.rank() > 0 {
        cx.axis(axis, x.rank())?;
    }
    Ok(vec![like_input(x)])
}
