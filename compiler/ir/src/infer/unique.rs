//! Distinct elements or slices: how many there are is known from data.

use lathe_ops::unique::Unique;
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use crate::Dim;

pub(super) fn unique(cx: &mut Context<'_>, attributes: &Unique) -> Outputs {
    let x = cx.ty(0)?;
    let count = cx.fresh();
    let (dims, all) = match attributes.axis {
        None => (vec![count.clone()], Dim::product(&x.dims)),
        Some(axis) => {
            let axis = cx.axis(axis, x.rank())?;
            let mut dims = x.dims.clone();
            dims[axis] = count.clone();
            (dims, x.dims[axis].clone())
        }
    };
    Ok(vec![
        Output::new(x.dtype, dims),
        Output::new(DType::I64, [count.clone()]),
        Output::new(DType::I64, [all]),
        Output::new(DType::I64, [count]),
    ])
}
