//! Strings.

use lathe_ops::text::TfIdf;
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use crate::{Dim, IrError};

fn strings(cx: &Context<'_>, index: usize) -> Result<(), IrError> {
    cx.dtype_of(index, "string", |dtype| dtype == DType::String)
}

pub(super) fn normalizer(cx: &mut Context<'_>) -> Outputs {
    strings(cx, 0)?;
    let mut dims = cx.ty(0)?.dims.clone();
    if !matches!(dims.len(), 1 | 2) {
        return Err(cx.bad("the operand must have one or two axes"));
    }
    if dims.len() == 2 {
        cx.equal(&dims[0], &Dim::constant(1), "rows of words")?;
        dims[0] = Dim::constant(1);
    }
    if let Some(last) = dims.last_mut() {
        *last = cx.fresh();
    }
    Ok(vec![Output::new(DType::String, dims)])
}

pub(super) fn split(cx: &mut Context<'_>) -> Outputs {
    strings(cx, 0)?;
    let x = cx.ty(0)?.dims.clone();
    let parts = [&x[..], &[cx.fresh()]].concat();
    Ok(vec![Output::new(DType::String, parts), Output::new(DType::I64, x)])
}

pub(super) fn concat(cx: &mut Context<'_>) -> Outputs {
    strings(cx, 0)?;
    strings(cx, 1)?;
    let dims = cx.broadcast_dims(&cx.ty(0)?.dims, &cx.ty(1)?.dims)?;
    Ok(vec![Output::new(DType::String, dims)])
}

pub(super) fn full_match(cx: &mut Context<'_>) -> Outputs {
    strings(cx, 0)?;
    Ok(vec![Output::new(DType::Bool, cx.ty(0)?.dims.clone())])
}

pub(super) fn tf_idf(cx: &mut Context<'_>, attributes: &TfIdf) -> Outputs {
    let x = cx.ty(0)?;
    let columns = match attributes.columns.iter().max() {
        Some(&last) => cx.count(last)?.saturating_add(1),
        None => 0,
    };
    let dims = match &x.dims[..] {
        [] | [_] => vec![Dim::constant(columns)],
        [rows, _] => vec![rows.clone(), Dim::constant(columns)],
        _ => return Err(cx.bad("the operand has more than two axes")),
    };
    Ok(vec![Output::new(DType::F32, dims)])
}
