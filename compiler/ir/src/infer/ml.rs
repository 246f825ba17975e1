//! Operators of ai.onnx.ml that are no arithmetic.

use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use crate::Dim;

pub(super) fn lookup(cx: &mut Context<'_>) -> Outputs {
    cx.same_dtype(0, 1)?;
    let dtype = cx.same_dtype(2, 3)?;
    let count = cx.ranked(1, 1)?.dims[0].clone();
    cx.equal(&cx.ranked(2, 1)?.dims[0], &count, "one value a key")?;
    let default = Dim::product(&cx.ty(3)?.dims);
    cx.equal(&default, &Dim::constant(1), "one default")?;
    Ok(vec![Output::new(dtype, cx.ty(0)?.dims.clone())])
}

pub(super) fn tree_ensemble(cx: &mut Context<'_>, targets: usize) -> Outputs {
    let x = cx.ranked(0, 2)?;
    if !matches!(x.dtype, DType::F32 | DType::F64) {
        return Err(cx.bad("trees compare f32 or f64"));
    }
    for index in [3, 6, 11] {
        cx.same_dtype(0, index)?;
    }
    for index in [1, 2, 7, 8, 9, 10] {
        cx.dtype_of(index, "i64", |dtype| dtype == DType::I64)?;
        cx.ranked(index, 1)?;
    }
    cx.dtype_of(4, "i64", |dtype| dtype == DType::I64)?;
    cx.dtype_of(5, "bool", |dtype| dtype == DType::Bool)?;
    let children = cx.ranked(4, 2)?;
    cx.equal(&children.dims[1], &Dim::constant(2), "children of a node")?;
    for index in [2, 3, 4, 5, 7] {
        cx.equal(&cx.ty(index)?.dims[0], &cx.ranked(1, 1)?.dims[0], "entries of the table of nodes")?;
    }
    let targets = Dim::constant(cx.count(targets)?);
    Ok(vec![Output::new(x.dtype, [x.dims[0].clone(), targets])])
}

pub(super) fn couple(cx: &mut Context<'_>, classes: usize) -> Outputs {
    let p = cx.ranked(0, 2)?;
    if p.dtype != DType::F32 || classes == 0 || classes > 1 << 16 {
        return Err(cx.bad("it takes f32, of at most 65536 classes"));
    }
    let pairs = cx.count(classes * (classes - 1) / 2)?;
    cx.equal(&p.dims[1], &Dim::constant(pairs), "pairs of classes")?;
    Ok(vec![Output::new(DType::F32, [p.dims[0].clone(), Dim::constant(classes as i64)])])
}
