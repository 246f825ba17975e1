//! Resampling.

use lathe_ops::resize::{AspectPolicy, Resize};
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use crate::{Dim, IrError};

pub(super) fn resize(cx: &mut Context<'_>, attributes: &Resize) -> Outputs {
    let x = cx.ty(0)?;
    let axes = match &attributes.axes {
        Some(axes) => {
            cx.axes(axes, x.rank())?;
            axes.iter().map(|&axis| cx.axis(axis, x.rank())).collect::<Result<Vec<_>, _>>()?
        }
        None => (0..x.rank()).collect(),
    };
    let index = match (cx.optional(2), cx.optional(3)) {
        (_, Some(_)) => 3,
        (Some(_), None) => 2,
        (None, None) => return Err(cx.bad("neither scales nor sizes are given")),
    };
    let count = cx.element_count(index)?;
    if count != axes.len() {
        return Err(cx.bad(format!("{count} scales or sizes for {} axes", axes.len())));
    }
    let mut dims = x.dims.clone();
    let resized = if index == 3 {
        cx.index_operand(3)?;
        sizes(cx, attributes, &axes)?
    } else {
        scales(cx, &axes)?
    };
    for (axis, size) in axes.into_iter().zip(resized) {
        dims[axis] = match size {
            Some(size) => size,
            None => cx.fresh(),
        };
    }
    for dim in &dims {
        cx.at_least(dim, &Dim::constant(0), "sizes of the result")?;
    }
    Ok(vec![Output::new(x.dtype, dims)])
}

fn sizes(cx: &mut Context<'_>, attributes: &Resize, axes: &[usize]) -> Result<Vec<Option<Dim>>, IrError> {
    let Some(sizes) = cx.elements(3) else { return Ok(vec![None; axes.len()]) };
    if attributes.policy == AspectPolicy::Stretch {
        return Ok(sizes.into_iter().map(Some).collect());
    }
    let x = cx.ty(0)?;
    let pairs: Option<Vec<_>> = axes
        .iter()
        .zip(&sizes)
        .map(|(&axis, size)| Some((x.dims[axis].as_constant()?, size.as_constant()?)))
        .collect();
    let Some(pairs) = pairs else { return Ok(vec![None; axes.len()]) };
    let ratios = pairs.iter().map(|&(from, to)| to as f32 / from as f32);
    let scale = match attributes.policy {
        AspectPolicy::NotLarger => ratios.fold(f32::INFINITY, f32::min),
        _ => ratios.fold(0.0, f32::max),
    };
    if !scale.is_finite() {
        return Err(cx.bad("an axis of size 0 has no proportion to keep"));
    }
    let scaled = |from: i64| Some(Dim::constant((scale * from as f32).round() as i64));
    Ok(pairs.into_iter().map(|(from, _)| scaled(from)).collect())
}

fn scales(cx: &mut Context<'_>, axes: &[usize]) -> Result<Vec<Option<Dim>>, IrError> {
    cx.dtype_of(2, "f32", |dtype| dtype == DType::F32)?;
    let Some(scales) = cx.input(2)?.constant.as_ref() else { return Ok(vec![None; axes.len()]) };
    let scales = scales.to_slice::<f32>().map_err(|error| cx.bad(error))?;
    let x = cx.ty(0)?;
    let mut resized = Vec::with_capacity(axes.len());
    for (&axis, &scale) in axes.iter().zip(scales.iter()) {
        if !scale.is_finite() || scale <= 0.0 {
            return Err(cx.bad(format!("scale {scale} is not positive")));
        }
        resized.push(scaled(cx, &x.dims[axis], scale)?);
    }
    Ok(resized)
}

/// `floor(dim * scale)`, exactly for constants, integers and their reciprocals.
fn scaled(cx: &Context<'_>, dim: &Dim, scale: f32) -> Result<Option<Dim>, IrError> {
    const LARGEST: f32 = (1u64 << 24) as f32;
    if let Some(size) = dim.as_constant() {
        let scaled = (size as f32 * scale).floor();
        if scaled >= (1u64 << 48) as f32 {
            return Err(cx.bad(format!("size {size} times scale {scale} is too large")));
        }
        return Ok(Some(Dim::constant(scaled as i64)));
    }
    if scale.fract() == 0.0 && scale <= LARGEST {
        return Ok(Some(dim.scale(scale as i64)));
    }
    let inverse = scale.recip();
    if inverse.fract() == 0.0 && inverse.recip() == scale && inverse <= LARGEST && exact_reciprocal(inverse) {
        return Ok(Some(dim.floor_div(&Dim::constant(inverse as i64))));
    }
    Ok(None)
}

/// Whether `floor(size * (1 / divisor))` in f32 is `floor(size / divisor)`: always for powers of two.
fn exact_reciprocal(divisor: f32) -> bool {
    (divisor as u32).is_power_of_two()
}
