//! Linear quantisation.

use lathe_ops::quant::{DequantizeLinear, QuantizeLinear};
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

pub(super) fn matmul_integer(cx: &mut Context<'_>) -> Outputs {
    for index in [0, 1] {
        cx.dtype_of(index, "i8 or u8", |dtype| matches!(dtype, DType::I8 | DType::U8))?;
        if cx.optional(index + 2).is_some() {
            cx.same_dtype(index, index + 2)?;
        }
    }
    Ok(vec![Output::new(DType::I32, matmul::product_dims(cx)?)])
}
