//! Reading and writing by index.

use lathe_ops::gather::Reduction;
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use crate::Dim;

pub(super) fn gather(cx: &mut Context<'_>, axis: i64) -> Outputs {
    let (x, indices) = (cx.ty(0)?, cx.ty(1)?);
    cx.index_operand(1)?;
    if x.rank() == 0 {
        return Err(cx.bad("a scalar has no axis to gather from"));
    }
    let axis = cx.axis(axis, x.rank())?;
    let dims = [&x.dims[..axis], &indices.dims[..], &x.dims[axis + 1..]].concat();
    let known = match (cx.elements(0), cx.integers(1)) {
        (Some(elements), Some(indices)) if x.rank() == 1 => {
            let size = elements.len() as i64;
            let mut taken = Vec::with_capacity(indices.len());
            for index in indices {
                let place = if index < 0 { index.saturating_add(size) } else { index };
                match usize::try_from(place).ok().and_then(|place| elements.get(place)) {
                    Some(element) => taken.push(element.clone()),
                    None => return Err(cx.bad(format!("index {index} is outside of {size} elements"))),
                }
            }
            Some(taken)
        }
        _ => None,
    };
    Ok(vec![Output::new(x.dtype, dims).with(known)])
}

pub(super) fn gather_elements(cx: &mut Context<'_>, axis: i64) -> Outputs {
    let x = cx.ty(0)?;
    cx.index_operand(1)?;
    let axis = cx.axis(axis, x.rank())?;
    let indices = cx.ranked(1, x.rank())?;
    for (at, (size, read)) in x.dims.iter().zip(&indices.dims).enumerate() {
        if at != axis {
            cx.at_least(size, read, "indices lie within the data")?;
        }
    }
    Ok(vec![Output::new(x.dtype, indices.dims.clone())])
}

pub(super) fn gather_nd(cx: &mut Context<'_>, batch_dims: usize) -> Outputs {
    let (x, indices) = (cx.ty(0)?, cx.ty(1)?);
    cx.index_operand(1)?;
    let Some((depth, leading)) = indices.dims.split_last() else {
        return Err(cx.bad("the indices need an axis of tuples"));
    };
    if batch_dims > leading.len() || batch_dims > x.rank() {
        return Err(cx.bad(format!("{batch_dims} batch axes are more than the operands have")));
    }
    let depth = tuple_size(cx, depth)?;
    if depth == 0 || depth > x.rank() - batch_dims {
        return Err(cx.bad(format!("tuples of {depth} indices do not fit rank {}", x.rank())));
    }
    for (a, b) in x.dims.iter().zip(leading).take(batch_dims) {
        cx.equal(a, b, "batch sizes")?;
    }
    let dims = [leading, &x.dims[batch_dims + depth..]].concat();
    Ok(vec![Output::new(x.dtype, dims)])
}

fn tuple_size(cx: &Context<'_>, dim: &Dim) -> Result<usize, crate::IrError> {
    let size = dim.as_constant().ok_or_else(|| cx.rank_depends_on_data(1))?;
    usize::try_from(size).map_err(|_| cx.bad("a size is negative"))
}

pub(super) fn scatter_elements(cx: &mut Context<'_>, axis: i64, reduction: Reduction) -> Outputs {
    let x = cx.ty(0)?;
    cx.index_operand(1)?;
    cx.same_dtype(0, 2)?;
    cx.axis(axis, x.rank())?;
    let (indices, updates) = (cx.ranked(1, x.rank())?, cx.ranked(2, x.rank())?);
    for (a, b) in indices.dims.iter().zip(&updates.dims) {
        cx.equal(a, b, "indices and updates have one shape")?;
    }
    let known = match (cx.elements(0), cx.integers(1), cx.elements(2)) {
        (Some(elements), Some(places), Some(new)) if x.rank() == 1 && reduction == Reduction::Replace => {
            replaced(elements, &places, &new)
        }
        _ => None,
    };
    Ok(vec![Output::new(x.dtype, x.dims.clone()).with(known)])
}

/// Elements of which some are replaced; of two for one place the later stays.
fn replaced(mut elements: Vec<Dim>, places: &[i64], new: &[Dim]) -> Option<Vec<Dim>> {
    let size = elements.len() as i64;
    for (place, new) in places.iter().zip(new) {
        let place = if *place < 0 { place.saturating_add(size) } else { *place };
        *elements.get_mut(usize::try_from(place).ok()?)? = new.clone();
    }
    Some(elements)
}

pub(super) fn scatter_nd(cx: &mut Context<'_>) -> Outputs {
    let (x, indices) = (cx.ty(0)?, cx.ty(1)?);
    cx.index_operand(1)?;
    cx.same_dtype(0, 2)?;
    let Some((depth, leading)) = indices.dims.split_last() else {
        return Err(cx.bad("the indices need an axis of tuples"));
    };
    let depth = tuple_size(cx, depth)?;
    if depth > x.rank() {
        return Err(cx.bad(format!("tuples of {depth} indices do not fit rank {}", x.rank())));
    }
    let wanted = [leading, &x.dims[depth..]].concat();
    let updates = cx.ranked(2, wanted.len())?;
    for (a, b) in wanted.iter().zip(&updates.dims) {
        cx.equal(a, b, "sizes of the updates")?;
    }
    Ok(vec![Output::new(x.dtype, x.dims.clone())])
}

pub(super) fn non_zero(cx: &mut Context<'_>) -> Outputs {
    let rank = Dim::constant(cx.ty(0)?.rank() as i64);
    let count = cx.fresh();
    Ok(vec![Output::new(DType::I64, [rank, count])])
}
