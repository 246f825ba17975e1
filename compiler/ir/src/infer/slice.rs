//! Ops that cut, repeat and extend axes.

use lathe_ops::shape::Split;
use lathe_tensor::{DType, Tensor};

use super::context::{Context, Output, Outputs};
use super::known;
use crate::{Answer, Dim, IrError};

/// Exporters write "to the end" as the largest i32 or i64.
const TO_THE_END: i64 = i32::MAX as i64;

/// No size reaches so far: bounds beyond are the same bound, and arithmetic on them cannot overflow.
const FAR: i64 = 1 << 48;

pub(super) fn slice(cx: &mut Context<'_>) -> Outputs {
    let x = cx.ty(0)?;
    for index in 1..5 {
        cx.index_operand(index)?;
    }
    let axes = match cx.optional(3) {
        Some(_) => match cx.integers(3) {
            Some(axes) => axes,
            None => return unknown_axes(cx, 1),
        },
        None => (0..cx.element_count(1)? as i64).collect(),
    };
    let count = axes.len();
    let mut places = Vec::new();
    for &axis in &axes {
        places.push(cx.axis(axis, x.rank())?);
    }
    cx.axes(&axes, x.rank())?;
    let operand = |cx: &Context<'_>, index: usize| match cx.elements(index) {
        Some(elements) if elements.len() != count => {
            Err(cx.bad(format!("operand {index} has {} elements for {count} axes", elements.len())))
        }
        elements => Ok(elements),
    };
    let (starts, ends) = (operand(cx, 1)?, operand(cx, 2)?);
    let steps = match cx.optional(4) {
        Some(_) => operand(cx, 4)?,
        None => Some(vec![Dim::constant(1); count]),
    };
    let mut dims = x.dims.clone();
    for (index, &axis) in places.iter().enumerate() {
        let of = |list: &Option<Vec<Dim>>| list.as_ref().and_then(|list| list.get(index)).cloned();
        let cut = match (of(&starts), of(&ends), of(&steps).and_then(|step| step.as_constant())) {
            (_, _, Some(0)) => return Err(cx.bad("a step is 0")),
            (Some(start), Some(end), Some(step)) => sliced(cx, &x.dims[axis], &start, &end, step)?,
            _ => None,
        };
        dims[axis] = cut.unwrap_or_else(|| cx.fresh());
    }
    let known = match (cx.elements(0), x.rank(), &places[..]) {
        (Some(elements), 1, [0]) => {
            let first = |list: &Option<Vec<Dim>>| list.as_ref()?.first()?.as_constant();
            let bounds = first(&starts).zip(first(&ends)).zip(first(&steps));
            bounds.map(|((start, end), step)| pick(&elements, start, end, step))
        }
        (elements, _, []) => elements,
        _ => None,
    };
    Ok(vec![Output::new(x.dtype, dims).with(known)])
}

/// Which axes change is known at run time only; operand 1 has `entries` elements for each of them.
fn unknown_axes(cx: &mut Context<'_>, entries: i64) -> Outputs {
    let x = cx.ty(0)?;
    let (given, axes) = (Dim::product(&cx.ty(1)?.dims), Dim::product(&cx.ty(3)?.dims));
    cx.equal(&given, &axes.scale(entries), "entries for each axis")?;
    let dims = cx.fresh_dims(x.rank());
    Ok(vec![Output::new(x.dtype, dims)])
}

/// The elements that a constant slice takes.
fn pick(elements: &[Dim], start: i64, end: i64, step: i64) -> Vec<Dim> {
    let size = elements.len() as i64;
    let resolve = |index: i64| if index < 0 { index.saturating_add(size) } else { index };
    let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
    let (mut at, end) =
        (resolve(start).clamp(if step > 0 { 0 } else { low }, high), resolve(end).clamp(low, high));
    let mut taken = Vec::new();
    while (step > 0 && at < end) || (step < 0 && at > end) {
        taken.extend(elements.get(at as usize).cloned());
        at = at.saturating_add(step);
    }
    taken
}

/// Size of a slice of an axis of size `dim`; `None` where the sign of a bound is not known.
fn sliced(
    cx: &mut Context<'_>,
    dim: &Dim,
    start: &Dim,
    end: &Dim,
    step: i64,
) -> Result<Option<Dim>, IrError> {
    let zero = Dim::constant(0);
    let near = |index: &Dim| match index.as_constant() {
        Some(index) => Dim::constant(index.clamp(-FAR, FAR)),
        None => index.clone(),
    };
    let (start, end) = (&near(start), &near(end));
    let is_negative = |index: &Dim| match index.at_least(0) {
        Answer::Yes => Some(false),
        Answer::No => Some(true),
        Answer::Unknown => None,
    };
    let (Some(start_negative), Some(end_negative)) = (is_negative(start), is_negative(end)) else {
        return Ok((step > 0).then(|| sliced_by_sign(dim, start, end, step)));
    };
    let beyond = |index: &Dim, cx: &mut Context<'_>| -> Result<bool, IrError> {
        match (index.as_constant(), dim.as_constant()) {
            (Some(index), Some(size)) => Ok(index >= size),
            (Some(FAR), None) => Ok(true),
            (Some(index), None) if index >= TO_THE_END => {
                cx.at_least(&Dim::constant(index), dim, "a slice to the end")?;
                Ok(true)
            }
            _ => Ok(index.equals(dim) == Answer::Yes),
        }
    };
    let Some(magnitude) = step.checked_abs() else {
        return Err(cx.bad(format!("step {step} is too large")));
    };
    let length = if step > 0 {
        let to_end = !end_negative && beyond(end, cx)?;
        if start_negative && to_end {
            start.scale(-1).min(dim)
        } else {
            // A start beyond the end needs no clamp: the length is negative then.
            let from = match start_negative {
                // "From the beginning", as the smallest i64: no size reaches so far.
                true if start.as_constant() == Some(-FAR) => zero.clone(),
                true => dim.add(start).max(&zero),
                false => start.clone(),
            };
            let to = match (to_end, end_negative) {
                (true, _) => dim.clone(),
                (_, true) => dim.add(end),
                _ => end.min(dim),
            };
            to.sub(&from)
        }
    } else {
        let last = dim.sub(&Dim::constant(1));
        let from = match start_negative {
            true => dim.add(start),
            false if beyond(start, cx)? => last,
            false => start.min(&last),
        };
        let whole = end.as_constant().is_some_and(|end| end <= -TO_THE_END);
        let to = match end_negative {
            true if whole => Dim::constant(-1),
            true => dim.add(end).max(&Dim::constant(-1)),
            false => end.clone(),
        };
        from.sub(&to)
    };
    Ok(Some(length.ceil_div(&Dim::constant(magnitude)).max(&zero)))
}

/// Size of a slice with a positive step whose bounds may be negative or not: the sign is part of the expression.
fn sliced_by_sign(dim: &Dim, start: &Dim, end: &Dim, step: i64) -> Dim {
    let (zero, one) = (Dim::constant(0), Dim::constant(1));
    let place = |bound: &Dim| {
        // 1 for a negative bound, else 0.
        let negative = bound.scale(-1).max(&zero).min(&one);
        bound.add(&negative.mul(dim)).max(&zero).min(dim)
    };
    let length = place(end).sub(&place(start)).max(&zero);
    length.ceil_div(&Dim::constant(step))
}

pub(super) fn split(cx: &mut Context<'_>, attributes: &Split) -> Outputs {
    let x = cx.ty(0)?;
    let axis = cx.axis(attributes.axis, x.rank())?;
    let whole = &x.dims[axis];
    let sizes = match cx.optional(1) {
        Some(_) => {
            cx.index_operand(1)?;
            let count = cx.element_count(1)?;
            if count != attributes.outputs {
                return Err(cx.bad(format!("{count} sizes for {} outputs", attributes.outputs)));
            }
            let sizes = match cx.elements(1) {
                Some(sizes) => sizes,
                None => cx.fresh_dims(count),
            };
            let total = sizes.iter().fold(Dim::constant(0), |sum, size| sum.add(size));
            cx.equal(&total, whole, "the pieces add up to the axis")?;
            sizes
        }
        None => {
            let count = cx.count(attributes.outputs)?;
            if count == 0 {
                return Err(cx.bad("a split has at least one output"));
            }
            let piece = whole.ceil_div(&Dim::constant(count));
            let last = whole.sub(&piece.scale(count - 1));
            let mut sizes = vec![piece; attributes.outputs - 1];
            sizes.push(last);
            sizes
        }
    };
    let elements = cx.elements(0).filter(|_| x.rank() == 1);
    let mut at = 0usize;
    let mut outputs = Vec::with_capacity(sizes.len());
    for size in sizes {
        cx.at_least(&size, &Dim::constant(0), "the size of a piece")?;
        let end = size.as_constant().and_then(|size| at.checked_add(usize::try_from(size).ok()?));
        let known = elements.as_ref().zip(end).and_then(|(all, end)| all.get(at..end)).map(<[Dim]>::to_vec);
        at = end.unwrap_or(usize::MAX);
        let mut dims = x.dims.clone();
        dims[axis] = size;
        outputs.push(Output::new(x.dtype, dims).with(known));
    }
    Ok(outputs)
}

pub(super) fn tile(cx: &mut Context<'_>) -> Outputs {
    let x = cx.ty(0)?;
    cx.index_operand(1)?;
    let count = cx.element_count(1)?;
    if count != x.rank() {
        return Err(cx.bad(format!("{count} repeats for rank {}", x.rank())));
    }
    let dims = match cx.elements(1) {
        Some(repeats) => {
            for repeat in &repeats {
                cx.at_least(repeat, &Dim::constant(0), "repeats are not negative")?;
            }
            x.dims.iter().zip(&repeats).map(|(dim, repeat)| dim.mul(repeat)).collect()
        }
        None => cx.fresh_dims(count),
    };
    let known = match (cx.elements(0), known::small_count(&dims)) {
        (Some(elements), Some(count)) if x.rank() <= 1 && !elements.is_empty() => {
            Some(elements.iter().cycle().take(count).cloned().collect())
        }
        _ => None,
    };
    Ok(vec![Output::new(x.dtype, dims).with(known)])
}

pub(super) fn pad(cx: &mut Context<'_>) -> Outputs {
    let x = cx.ty(0)?;
    cx.index_operand(1)?;
    if cx.optional(2).is_some() {
        cx.same_dtype(0, 2)?;
    }
    let axes = match cx.optional(3) {
        Some(_) => {
            cx.index_operand(3)?;
            match cx.integers(3) {
                Some(axes) => axes,
                None => return unknown_axes(cx, 2),
            }
        }
        None => (0..x.rank() as i64).collect(),
    };
    let mut places = Vec::new();
    for &axis in &axes {
        places.push(cx.axis(axis, x.rank())?);
    }
    cx.axes(&axes, x.rank())?;
    let count = Dim::constant(2 * places.len() as i64);
    cx.equal(&Dim::product(&cx.ty(1)?.dims), &count, "two pads for each axis")?;
    let mut dims = x.dims.clone();
    let pads = cx.elements(1);
    for (index, &axis) in places.iter().enumerate() {
        dims[axis] = match &pads {
            Some(pads) => {
                let (begin, end) = (&pads[index], &pads[index + places.len()]);
                let zero = Dim::constant(0);
                let cropped = begin.min(&zero).add(&end.min(&zero)).scale(-1);
                cx.at_least(&dims[axis].clone(), &cropped, "pads crop at most the whole axis")?;
                dims[axis].add(begin).add(end)
            }
            None => cx.fresh(),
        };
        cx.at_least(&dims[axis].clone(), &Dim::constant(0), "the padded size")?;
    }
    Ok(vec![Output::new(x.dtype, dims)])
}

pub(super) fn range(cx: &mut Context<'_>) -> Outputs {
    let dtype = cx.same_dtype(0, 1)?;
    cx.same_dtype(0, 2)?;
    for index in 0..3 {
        if Dim::product(&cx.ty(index)?.dims).equals(&Dim::constant(1)) == Answer::No {
            return Err(cx.bad(format!("operand {index} must be a scalar")));
        }
    }
    let first = |index: usize| cx.elements(index)?.first().cloned();
    let (size, known) = match (first(0), first(1), first(2).and_then(|delta| delta.as_constant())) {
        (_, _, Some(0)) => return Err(cx.bad("delta is 0")),
        (Some(start), Some(limit), Some(delta)) => {
            let size = limit.sub(&start).ceil_div(&Dim::constant(delta)).max(&Dim::constant(0));
            let count = known::small_count(std::slice::from_ref(&size));
            let element = |index: usize| start.add(&Dim::constant(delta).scale(index as i64));
            (Some(size), count.map(|count| (0..count).map(element).collect()))
        }
        _ => (float_count(cx)?, None),
    };
    let size = size.unwrap_or_else(|| cx.fresh());
    Ok(vec![Output::new(dtype, [size]).with(known)])
}

/// Number of elements of a range of constant floats: `max(ceil((limit - start) / delta), 0)` in the operands' dtype.
fn float_count(cx: &Context<'_>) -> Result<Option<Dim>, IrError> {
    let read = |index: usize| {
        let tensor: &Tensor = cx.optional(index)?.constant.as_ref()?;
        match tensor.dtype() {
            DType::F32 => tensor.to_slice::<f32>().ok()?.first().map(|&value| f64::from(value)),
            DType::F64 => tensor.to_slice::<f64>().ok()?.first().copied(),
            _ => None,
        }
    };
    let (Some(start), Some(limit), Some(delta)) = (read(0), read(1), read(2)) else { return Ok(None) };
    let single = cx.ty(0)?.dtype == DType::F32;
    let count = if single {
        f64::from((limit as f32 - start as f32) / delta as f32).ceil()
    } else {
        ((limit - start) / delta).ceil()
    };
    if !count.is_finite() || count >= (1u64 << 48) as f64 {
        return Err(cx.bad(format!("from {start} to {limit} by {delta} has no usable number of elements")));
    }
    Ok(Some(Dim::constant(count.max(0.0) as i64)))
}
