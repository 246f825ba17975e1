//! Pooling.

use lathe_ops::conv::Padding;
use lathe_ops::pool::{AveragePool, MaxPool};
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
