//! Linear quantisation.

use lathe_ops::quant::{DequantizeLinear, MatMulInteger, QuantizeLinear};
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use super::matmul;
use crate::{Dim, IrError};

pub(super) fn quantize(cx: &mut Context<'_>, attributes: &QuantizeLinear) -> Outputs {
    cx.dtype_of(0, "a float or i32", |dtype| dtype.is_float() || dtype == DType::I32)?;
    scales(cx, attributes.axis, attributes.block_size)?;
    if let Some(zero_point) = cx.optional(2)
        && zero_point.ty.dtype != attributes.to
    {
        return Err(cx.bad(format!("the zero point must be {}", attributes.to)));
    }
    Ok(vec![Output::new(attributes.to, cx.ty(0)?.dims.clone())])
}

pub(super) fn dequantize(cx: &mut Context<'_>, attributes: &DequantizeLinear) -> Outputs {
    scales(cx, attributes.axis, attributes.block_size)?;
    if cx.optional(2).is_some() {
        cx.same_dtype(0, 2)?;
    }
    Ok(vec![Output::new(attributes.to, cx.ty(0)?.dims.clone())])
}

/// Scales are one number, one an index of the axis, or one a block along it.
fn scales(cx: &mut Context<'_>, axis: i64, block: usize) -> Result<(), IrError> {
    let (x, scale) = (cx.ty(0)?, cx.ty(1)?);
    cx.dtype_of(1, "a float", DType::is_float)?;
    if let Some(zero_point) = cx.optional(2) {
        if zero_point.ty.rank() != scale.rank() {
            return Err(cx.bad("scale and zero point must have one shape"));
        }
        for (a, b) in scale.dims.iter().zip(&zero_point.ty.dims) {
            cx.equal(a, b, "shape of scale and zero point")?;
        }
    }
    if block > 0 {
        let axis = cx.axis(axis, x.rank())?;
        let scale = cx.ranked(1, x.rank())?;
        let block = Dim::constant(cx.count(block)?);
        for (at, (size, scales)) in x.dims.iter().zip(&scale.dims).enumerate() {
            let wanted = if at == axis { size.ceil_div(&block) } else { size.clone() };
            cx.equal(scales, &wanted, "scales of the blocks")?;
        }
        return Ok(());
    }
    match &scale.dims[..] {
        [] => Ok(()),
        [one] if one.as_constant() == Some(1) => Ok(()),
        [count] => {
            let axis = cx.axis(axis, x.rank())?;
            cx.equal(count, &x.dims[axis], "scales along the axis").map(|_| ())
        }
        _ => Err(cx.bad("scales must have rank 0 or 1 where there are no blocks")),
    }
}

pub(super) fn dynamic_quantize(cx: &mut Context<'_>) -> Outputs {
    cx.dtype_of(0, "f32", |dtype| dtype == DType::F32)?;
    Ok(vec![
        Output::new(DType::U8, cx.ty(0)?.dims.clone()),
        Output::new(DType::F32, []),
        Output::new(DType::U8, []),
    ])
}

pub(super) fn map_bytes(cx: &mut Context<'_>) -> Outputs {
    for operand in [0, 1] {
        cx.dtype_of(operand, "u8 or i8", |dtype| matches!(dtype, DType::U8 | DType::I8))?;
    }
    let table = cx.ranked(1, 1)?;
    cx.equal(&table.dims[0], &Dim::constant(256), "size of the table")?;
    Ok(vec![Output::new(table.dtype, cx.ty(0)?.dims.clone())])
}

pub(super) fn matmul_integer(cx: &mut Context<'_>, attributes: &MatMulInteger) -> Outputs {
    bytes(cx)?;
    let dims = matmul::product_dims(cx)?;
    let one = Dim::constant(1);
    let columns = if cx.ty(1)?.rank() > 1 { dims.last().cloned().unwrap_or(one) } else { one };
    integer_result(cx, dims, &columns, attributes.to)
}

/// Operands of a product of 8-bit integers and their zero points.
pub(super) fn bytes(cx: &mut Context<'_>) -> Result<(), IrError> {
    for index in [0, 1] {
        cx.dtype_of(index, "i8 or u8", |dtype| matches!(dtype, DType::I8 | DType::U8))?;
        if cx.optional(index + 2).is_some() {
            cx.same_dtype(index, index + 2)?;
        }
    }
    Ok(())
}

/// The result of a product of integers with bias, scale and zero point for `channels` of its channels.
pub(super) fn integer_result(cx: &mut Context<'_>, dims: Vec<Dim>, channels: &Dim, to: DType) -> Outputs {
    let [bias, scale, zero] = [4, 5, 6].map(|index| cx.optional(index).map(|operand| operand.ty.clone()));
    if let Some(bias) = bias {
        cx.dtype_of(4, "i32", |dtype| dtype == DType::I32)?;
        match &bias.dims[..] {
            [count] => cx.equal(count, channels, "bias of the channels").map(|_| ())?,
            _ => return Err(cx.bad("the bias must have rank 1")),
        }
    }
    let fits = match to {
        DType::I32 => scale.is_none() && zero.is_none(),
        DType::F32 => scale.is_some() && zero.is_none(),
        DType::U8 | DType::I8 => scale.is_some() && zero.as_ref().is_none_or(|zero| zero.dtype == to),
        _ => return Err(cx.bad(format!("the result is i32, f32, u8 or i8, not {to}"))),
    };
    if !fits {
        return Err(cx.bad(format!("scale and zero point do not fit a result of {to}")));
    }
    if let Some(scale) = scale {
        cx.dtype_of(5, "f32", |dtype| dtype == DType::F32)?;
        match &scale.dims[..] {
            [] => {}
            [one] if one.as_constant() == Some(1) => {}
            [count] => cx.equal(count, channels, "scales of the channels").map(|_| ())?,
            _ => return Err(cx.bad("scales must have rank 0 or 1")),
        }
    }
    if zero.is_some_and(|zero| zero.rank() > 1 || zero.dims.iter().any(|dim| dim.as_constant() != Some(1))) {
        return Err(cx.bad("the zero point of the result must be one element"));
    }
    Ok(vec![Output::new(to, dims)])
}
