//! Reductions and scans along axes.

use lathe_ops::reduce::{ArgReduce, Reduce, ReduceKind};
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use crate::Dim;

pub(super) fn reduce(cx: &mut Context<'_>, attributes: &Reduce) -> Outputs {
    let x = cx.ty(0)?;
    cx.dtype_of(0, "a number or bool", |dtype| dtype != DType::String)?;
    let axes = match cx.optional(1) {
        Some(_) => {
            cx.index_operand(1)?;
            match cx.integers(1) {
                Some(axes) => axes,
                None => return unknown_axes(cx, attributes),
            }
        }
        None => attributes.axes.clone().unwrap_or_default(),
    };
    if axes.is_empty() && attributes.noop_with_empty_axes {
        return Ok(vec![Output::new(x.dtype, x.dims.clone()).with(cx.elements(0))]);
    }
    let axes = match axes.is_empty() {
        true => (0..x.rank()).collect(),
        false => cx.axes(&axes, x.rank())?,
    };
    let dims = removed(&x.dims, &axes, attributes.keep_dims);
    let known = cx.elements(0).filter(|_| x.rank() <= 1).and_then(|elements| {
        if axes.is_empty() {
            return Some(elements);
        }
        reduce_elements(attributes.kind, &elements).map(|element| vec![element])
    });
    Ok(vec![Output::new(x.dtype, dims).with(known)])
}

fn reduce_elements(kind: ReduceKind, elements: &[Dim]) -> Option<Dim> {
    let (first, rest) = elements.split_first()?;
    let fold = |f: fn(&Dim, &Dim) -> Dim| Some(rest.iter().fold(first.clone(), |all, next| f(&all, next)));
    match kind {
        ReduceKind::Sum => fold(Dim::add),
        ReduceKind::Prod => fold(Dim::mul),
        ReduceKind::Min => fold(Dim::min),
        ReduceKind::Max => fold(Dim::max),
        _ => None,
    }
}

fn removed(dims: &[Dim], axes: &[usize], keep: bool) -> Vec<Dim> {
    let mut left = Vec::new();
    for (axis, dim) in dims.iter().enumerate() {
        match (axes.contains(&axis), keep) {
            (false, _) => left.push(dim.clone()),
            (true, true) => left.push(Dim::constant(1)),
            (true, false) => {}
        }
    }
    left
}

/// Which axes are reduced is known at run time only; how many must be known now where they are removed.
fn unknown_axes(cx: &mut Context<'_>, attributes: &Reduce) -> Outputs {
    let x = cx.ty(0)?;
    let removed = match cx.element_count(1) {
        // No axes: nothing is reduced, or everything is.
        Ok(0) if attributes.noop_with_empty_axes => return Ok(vec![Output::new(x.dtype, x.dims.clone())]),
        Ok(0) => x.rank(),
        Ok(count) => count,
        Err(_) if attributes.keep_dims => 0,
        Err(error) => return Err(error),
    };
    let rank = match attributes.keep_dims {
        true => x.rank(),
        false => x.rank().checked_sub(removed).ok_or_else(|| cx.bad(format!("{removed} axes to remove")))?,
    };
    let dims = cx.fresh_dims(rank);
    Ok(vec![Output::new(x.dtype, dims)])
}

pub(super) fn arg_reduce(cx: &mut Context<'_>, attributes: &ArgReduce) -> Outputs {
    let x = cx.ty(0)?;
    let axis = cx.axis(attributes.axis, x.rank())?;
    cx.at_least(&x.dims[axis], &Dim::constant(1), "an extreme needs an element")?;
    Ok(vec![Output::new(DType::I64, removed(&x.dims, &[axis], attributes.keep_dims))])
}

pub(super) fn top_k(cx: &mut Context<'_>, axis: i64) -> Outputs {
    let x = cx.ty(0)?;
    cx.index_operand(1)?;
    let axis = cx.axis(axis, x.rank())?;
    if cx.element_count(1)? != 1 {
        return Err(cx.bad("k must be one number"));
    }
    let size = match cx.elements(1) {
        Some(elements) => elements[0].clone(),
        None => cx.fresh(),
    };
    cx.at_least(&size, &Dim::constant(0), "k is not negative")?;
    cx.at_least(&x.dims[axis], &size, "k is at most the size of the axis")?;
    let mut dims = x.dims.clone();
    dims[axis] = size;
    Ok(vec![Output::new(x.dtype, dims.clone()), Output::new(DType::I64, dims)])
}

pub(super) fn cum_sum(cx: &mut Context<'_>) -> Outputs {
    let x = cx.ty(0)?;
    cx.index_operand(1)?;
    if cx.element_count(1)? != 1 {
        return Err(cx.bad("the axis must be one number"));
    }
    if let Some(axis) = cx.integers(1) {
        cx.axis(axis[0], x.rank())?;
    }
    Ok(vec![Output::new(x.dtype, x.dims.clone())])
}
