//! Pooling.

use lathe_ops::conv::Padding;
use lathe_ops::pool::{AveragePool, LpPool, MaxPool, MaxUnpool};
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use super::conv::Windows;
use crate::{Dim, IrError};

pub(super) fn max_pool(cx: &mut Context<'_>, attributes: &MaxPool) -> Outputs {
    let MaxPool { kernel, strides, dilations, padding, ceil_mode, .. } = attributes;
    let dims = pooled(cx, kernel, strides, dilations, padding, *ceil_mode)?;
    Ok(vec![Output::new(cx.ty(0)?.dtype, dims.clone()), Output::new(DType::I64, dims)])
}

pub(super) fn average_pool(cx: &mut Context<'_>, attributes: &AveragePool) -> Outputs {
    let AveragePool { kernel, strides, dilations, padding, ceil_mode, .. } = attributes;
    cx.dtype_of(0, "a float", DType::is_float)?;
    let dims = pooled(cx, kernel, strides, dilations, padding, *ceil_mode)?;
    Ok(vec![Output::new(cx.ty(0)?.dtype, dims)])
}

pub(super) fn lp_pool(cx: &mut Context<'_>, attributes: &LpPool) -> Outputs {
    let LpPool { kernel, strides, dilations, padding, ceil_mode, .. } = attributes;
    cx.dtype_of(0, "a float", DType::is_float)?;
    let dims = pooled(cx, kernel, strides, dilations, padding, *ceil_mode)?;
    Ok(vec![Output::new(cx.ty(0)?.dtype, dims)])
}

pub(super) fn max_unpool(cx: &mut Context<'_>, attributes: &MaxUnpool) -> Outputs {
    let x = cx.ty(0)?;
    cx.index_operand(1)?;
    let axes = x.rank().saturating_sub(2);
    let MaxUnpool { kernel, strides, padding } = attributes;
    if axes == 0 || kernel.len() != axes || strides.len() != axes {
        return Err(cx.bad(format!("{} kernel sizes for {axes} spatial axes", kernel.len())));
    }
    for (a, b) in x.dims.iter().zip(&cx.ranked(1, x.rank())?.dims) {
        cx.equal(a, b, "shape of the indices")?;
    }
    if cx.optional(2).is_some() {
        cx.index_operand(2)?;
        if cx.element_count(2)? != x.rank() {
            return Err(cx.bad("the output shape has another rank"));
        }
        let dims = match cx.elements(2) {
            Some(dims) => dims,
            None => cx.fresh_dims(x.rank()),
        };
        return Ok(vec![Output::new(x.dtype, dims)]);
    }
    let mut dims = x.dims[..2].to_vec();
    for (axis, size) in x.dims[2..].iter().enumerate() {
        let pads = match padding {
            Padding::Explicit { begins, ends } => match (begins.get(axis), ends.get(axis)) {
                (Some(begin), Some(end)) => begin.saturating_add(*end),
                _ => return Err(cx.bad("there is not a pad for each spatial axis")),
            },
            _ => 0,
        };
        let [stride, kernel] = [cx.count(strides[axis])?, cx.count(kernel[axis])?];
        let steps = size.sub(&Dim::constant(1)).scale(stride);
        dims.push(steps.add(&Dim::constant(kernel.saturating_sub(pads))));
    }
    Ok(vec![Output::new(x.dtype, dims)])
}

fn pooled(
    cx: &mut Context<'_>,
    kernel: &[usize],
    strides: &[usize],
    dilations: &[usize],
    padding: &Padding,
    ceil_mode: bool,
) -> Result<Vec<Dim>, IrError> {
    let x = cx.ty(0)?;
    if x.rank() < 3 {
        return Err(cx.bad(format!("the input must have rank 3 or more, not {}", x.rank())));
    }
    let kernel =
        kernel.iter().map(|&size| cx.count(size).map(Dim::constant)).collect::<Result<Vec<_>, _>>()?;
    let windows = Windows { kernel: &kernel, strides, dilations, padding, ceil_mode };
    let mut dims = x.dims[..2].to_vec();
    dims.extend(windows.outputs(cx, &x.dims[2..])?);
    Ok(dims)
}
