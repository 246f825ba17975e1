//! Shapes and their elements; reshape, squeeze, transpose, concat.

use lathe_ops::shape::{ConstantOfShape, ShapeOf};
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use super::known;
use crate::{Answer, Dim, IrError};

pub(super) fn shape_of(cx: &mut Context<'_>, attributes: &ShapeOf) -> Outputs {
    let dims = &cx.ty(0)?.dims;
    let rank = dims.len() as i64;
    let clamp = |axis: i64| (if axis < 0 { axis.saturating_add(rank) } else { axis }).clamp(0, rank) as usize;
    let (start, end) = (clamp(attributes.start), attributes.end.map_or(dims.len(), clamp));
    let sizes = dims.get(start..end).unwrap_or(&[]).to_vec();
    Ok(vec![Output::new(DType::I64, [Dim::constant(sizes.len() as i64)]).with(Some(sizes))])
}

pub(super) fn size(cx: &mut Context<'_>) -> Outputs {
    let count = Dim::product(&cx.ty(0)?.dims);
    Ok(vec![Output::new(DType::I64, []).with(Some(vec![count]))])
}

pub(super) fn reshape(cx: &mut Context<'_>, allow_zero: bool) -> Outputs {
    let x = cx.input(0)?;
    cx.index_operand(1)?;
    if cx.ty(1)?.rank() > 1 {
        return Err(cx.bad("the shape must have rank 1"));
    }
    let dims = match cx.elements(1) {
        Some(elements) => reshaped(cx, &x.ty.dims, &elements, allow_zero)?,
        None => {
            let rank = cx.element_count(1)?;
            cx.fresh_dims(rank)
        }
    };
    Ok(vec![Output::new(x.ty.dtype, dims).with(cx.elements(0))])
}

fn reshaped(
    cx: &mut Context<'_>,
    from: &[Dim],
    shape: &[Dim],
    allow_zero: bool,
) -> Result<Vec<Dim>, IrError> {
    let mut inferred = None;
    let mut dims = Vec::with_capacity(shape.len());
    for (axis, size) in shape.iter().enumerate() {
        dims.push(match size.as_constant() {
            Some(0) if !allow_zero => from.get(axis).cloned().ok_or_else(|| {
                cx.bad(format!("the shape copies axis {axis}, which the input does not have"))
            })?,
            Some(-1) if inferred.is_some() => return Err(cx.bad("the shape has more than one -1")),
            Some(-1) => {
                inferred = Some(axis);
                Dim::constant(1)
            }
            _ => {
                cx.at_least(size, &Dim::constant(0), "sizes of the new shape")?;
                if !allow_zero {
                    not_a_copy(cx, size, from.get(axis))?;
                }
                size.clone()
            }
        });
    }
    // What stands on both sides cancels first: it may be too complex to divide by.
    let mut rest = from.to_vec();
    let mut divisors = Vec::new();
    for dim in &dims {
        match rest.iter().position(|other| other == dim) {
            Some(position) => {
                rest.remove(position);
            }
            None => divisors.push(dim.clone()),
        }
    }
    let (count, divisor) = (Dim::product(&rest), Dim::product(&divisors));
    let Some(axis) = inferred else {
        if count.equals(&divisor) != Answer::Yes {
            let (before, after) = (Dim::product(from), Dim::product(&dims));
            cx.equal(&before, &after, "reshape keeps the number of elements")?;
        }
        return Ok(dims);
    };
    if divisor.as_constant() == Some(0) {
        return Err(cx.bad("the -1 of the shape has no value, because another size is 0"));
    }
    dims[axis] = match count.exact_quotient(&divisor) {
        Some(quotient) => quotient,
        None => {
            let quotient = count.floor_div(&divisor);
            cx.equal(&count, &quotient.mul(&divisor), "the -1 of a reshape divides without rest")?;
            quotient
        }
    };
    Ok(dims)
}

/// Axes that an op removes or inserts.
enum Axes {
    None,
    Known(Vec<i64>),
    /// Known at run time only, but for their number.
    Count(usize),
}

/// Requires that a size means itself: one that turns out as 0 would copy the input's size at its place.
fn not_a_copy(cx: &mut Context<'_>, size: &Dim, copied: Option<&Dim>) -> Result<(), IrError> {
    let one = Dim::constant(1);
    match copied {
        None => cx.at_least(size, &one, "a 0 in the new shape copies a size that is not there"),
        Some(copied) if copied == size => Ok(()),
        Some(copied) => {
            let copied_at_zero = copied.mul(&one.sub(&size.min(&one)));
            cx.equal(&copied_at_zero, &Dim::constant(0), "a 0 in the new shape copies another size")
                .map(|_| ())
        }
    }
}

/// Axes from the attribute or from operand 1.
fn axes(cx: &Context<'_>, attribute: Option<&[i64]>) -> Result<Axes, IrError> {
    if cx.optional(1).is_none() {
        return Ok(attribute.map_or(Axes::None, |axes| Axes::Known(axes.to_vec())));
    }
    cx.index_operand(1)?;
    Ok(match cx.integers(1) {
        Some(axes) => Axes::Known(axes),
        None => Axes::Count(cx.element_count(1)?),
    })
}

pub(super) fn squeeze(cx: &mut Context<'_>, attribute: Option<&[i64]>) -> Outputs {
    let x = cx.ty(0)?;
    let one = Dim::constant(1);
    let axes = match axes(cx, attribute)? {
        Axes::Known(axes) => cx.axes(&axes, x.rank())?,
        Axes::Count(count) => {
            let rank =
                x.rank().checked_sub(count).ok_or_else(|| cx.bad(format!("{count} axes to remove")))?;
            let dims = cx.fresh_dims(rank);
            return Ok(vec![Output::new(x.dtype, dims)]);
        }
        Axes::None => {
            let mut axes = Vec::new();
            for (axis, dim) in x.dims.iter().enumerate() {
                match dim.equals(&one) {
                    Answer::Yes => axes.push(axis),
                    Answer::No => {}
                    Answer::Unknown => {
                        return Err(cx.unsupported(format!(
                            "the rank depends on whether axis {axis} of size {dim} is 1; fix that size or name the axes"
                        )));
                    }
                }
            }
            axes
        }
    };
    let mut dims = Vec::new();
    for (axis, dim) in x.dims.iter().enumerate() {
        if axes.contains(&axis) {
            cx.equal(dim, &one, "squeezed sizes are 1")?;
        } else {
            dims.push(dim.clone());
        }
    }
    Ok(vec![Output::new(x.dtype, dims).with(cx.elements(0))])
}

pub(super) fn unsqueeze(cx: &mut Context<'_>, attribute: Option<&[i64]>) -> Outputs {
    let x = cx.ty(0)?;
    let axes = match axes(cx, attribute)? {
        Axes::Known(axes) => cx.axes(&axes, x.rank().saturating_add(axes.len()))?,
        Axes::Count(count) => {
            let dims = cx.fresh_dims(x.rank().saturating_add(count));
            return Ok(vec![Output::new(x.dtype, dims)]);
        }
        Axes::None => return Err(cx.bad("the axes are missing")),
    };
    let mut dims = x.dims.clone();
    for axis in axes {
        dims.insert(axis, Dim::constant(1));
    }
    Ok(vec![Output::new(x.dtype, dims).with(cx.elements(0))])
}

pub(super) fn transpose(cx: &mut Context<'_>, perm: &[usize]) -> Outputs {
    let x = cx.ty(0)?;
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..x.rank()) {
        return Err(cx.bad(format!("{perm:?} does not permute {} axes", x.rank())));
    }
    let dims: Vec<_> = perm.iter().map(|&axis| x.dims[axis].clone()).collect();
    let known = if x.rank() <= 1 { cx.elements(0) } else { None };
    Ok(vec![Output::new(x.dtype, dims).with(known)])
}

pub(super) fn concat(cx: &mut Context<'_>, axis: i64) -> Outputs {
    let first = cx.ty(0)?;
    if first.rank() == 0 {
        return Err(cx.bad("scalars cannot be joined"));
    }
    let axis = cx.axis(axis, first.rank())?;
    let mut dims = first.dims.clone();
    let mut elements = cx.elements(0).filter(|_| first.rank() == 1);
    for index in 1..cx.inputs.len() {
        cx.same_dtype(0, index)?;
        let other = cx.ranked(index, first.rank())?;
        for (at, dim) in other.dims.iter().enumerate() {
            dims[at] = match at == axis {
                true => dims[at].add(dim),
                false => cx.equal(&dims[at].clone(), dim, "sizes beside the joined axis")?,
            };
        }
        let more = cx.elements(index);
        elements = elements.zip(more).map(|(all, more)| [all, more].concat());
        elements = elements.filter(|all| all.len() <= known::MAX_KNOWN);
    }
    Ok(vec![Output::new(first.dtype, dims).with(elements)])
}

pub(super) fn expand(cx: &mut Context<'_>) -> Outputs {
    let x = cx.ty(0)?;
    cx.index_operand(1)?;
    let dims = match cx.elements(1) {
        Some(shape) => {
            for size in &shape {
                cx.at_least(size, &Dim::constant(0), "sizes to expand to")?;
            }
            cx.broadcast_dims(&x.dims, &shape)?
        }
        None => {
            let rank = cx.element_count(1)?.max(x.rank());
            let mut dims = cx.fresh_dims(rank);
            // A size that is not 1 stays. One size at least is the run's, which then checks them all.
            let sizes = &mut dims[rank - x.rank()..];
            let kept = |dim: &Dim| dim.as_constant().is_some_and(|size| size != 1);
            if rank > x.rank() || !x.dims.iter().all(kept) {
                let pairs = sizes.iter_mut().zip(&x.dims);
                pairs.filter(|(_, own)| kept(own)).for_each(|(size, own)| *size = own.clone());
            }
            dims
        }
    };
    let repeated = match (cx.elements(0).as_deref(), known::small_count(&dims)) {
        (Some([one]), Some(count)) => Some(vec![one.clone(); count]),
        (elements, _) if x.dims == dims => elements.map(<[Dim]>::to_vec),
        _ => None,
    };
    Ok(vec![Output::new(x.dtype, dims).with(repeated)])
}

pub(super) fn constant_of_shape(cx: &mut Context<'_>, attributes: &ConstantOfShape) -> Outputs {
    cx.index_operand(0)?;
    let dims = match cx.elements(0) {
        Some(dims) => dims,
        None => {
            let rank = cx.element_count(0)?;
            cx.fresh_dims(rank)
        }
    };
    for dim in &dims {
        cx.at_least(dim, &Dim::constant(0), "sizes are not negative")?;
    }
    let element = match attributes.dtype {
        DType::I64 => Some(attributes.bits as i64),
        DType::I32 => Some((attributes.bits as i32).into()),
        DType::Bool => Some((attributes.bits & 0xff != 0).into()),
        _ => None,
    };
    let count = known::small_count(&dims);
    let known = element.zip(count).map(|(element, count)| vec![Dim::constant(element); count]);
    Ok(vec![Output::new(attributes.dtype, dims).with(known)])
}

pub(super) fn trilu(cx: &mut Context<'_>) -> Outputs {
    let x = cx.ty(0)?;
    if x.rank() < 2 {
        return Err(cx.bad(format!("a triangle needs rank 2 or more, not {}", x.rank())));
    }
    if cx.optional(1).is_some() {
        cx.index_operand(1)?;
    }
    Ok(vec![Output::new(x.dtype, x.dims.clone())])
}
