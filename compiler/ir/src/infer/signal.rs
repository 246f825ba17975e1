//! Signals. Complex numbers are a last axis of two.

use lathe_ops::signal::{Dft, Stft};
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use crate::{Dim, IrError};

/// The number of operand `index`, or a size that only the run knows.
fn number(cx: &mut Context<'_>, index: usize) -> Result<Dim, IrError> {
    cx.index_operand(index)?;
    if cx.element_count(index)? != 1 {
        return Err(cx.bad(format!("operand {index} must be one number")));
    }
    Ok(match cx.elements(index) {
        Some(elements) => elements[0].clone(),
        None => cx.fresh(),
    })
}

/// Frequencies of a real signal: `size / 2 + 1`.
fn half(size: &Dim) -> Dim {
    size.floor_div(&Dim::constant(2)).add(&Dim::constant(1))
}

pub(super) fn dft(cx: &mut Context<'_>, attributes: &Dft) -> Outputs {
    cx.dtype_of(0, "a float", DType::is_float)?;
    let x = cx.ty(0)?;
    let Some(axis) = attributes.axis else {
        cx.index_operand(2)?;
        let count = x.rank().checked_sub(1).ok_or_else(|| cx.bad("a scalar is no signal"))?;
        let parts = if attributes.inverse && attributes.onesided { 1 } else { 2 };
        // Without a length all sizes stay, but those of a half.
        let mut dims = match cx.optional(1).is_none() && !attributes.onesided {
            true => x.dims[..count].to_vec(),
            false => cx.fresh_dims(count),
        };
        dims.push(Dim::constant(parts));
        return Ok(vec![Output::new(x.dtype, dims)]);
    };
    let axis = cx.axis(axis, x.rank())?;
    if axis + 1 == x.rank() {
        return Err(cx.bad("the axis is that of the complex parts"));
    }
    let from_half = attributes.inverse && attributes.onesided;
    let size = match cx.optional(1) {
        // A length that a half is taken of must be a size of its own to be read off the result.
        Some(_) if cx.elements(1).is_none() && attributes.onesided && !attributes.inverse => {
            cx.index_operand(1)?;
            None
        }
        Some(_) => Some(number(cx, 1)?),
        None if from_half => Some(x.dims[axis].sub(&Dim::constant(1)).scale(2)),
        None => Some(x.dims[axis].clone()),
    };
    let kept = match (size, attributes.onesided && !attributes.inverse) {
        (None, _) => cx.fresh(),
        (Some(size), true) => half(&size),
        (Some(size), false) => size,
    };
    let mut dims = x.dims.clone();
    let last = dims.len() - 1;
    (dims[axis], dims[last]) = (kept, Dim::constant(if from_half { 1 } else { 2 }));
    Ok(vec![Output::new(x.dtype, dims)])
}

pub(super) fn stft(cx: &mut Context<'_>, attributes: &Stft) -> Outputs {
    cx.dtype_of(0, "a float", DType::is_float)?;
    let x = cx.ranked(0, 3)?;
    cx.index_operand(1)?;
    let step = cx.elements(1).map(|elements| elements[0].clone());
    let frame = match (cx.optional(3), cx.optional(2)) {
        (Some(_), _) => {
            cx.index_operand(3)?;
            cx.elements(3).map(|elements| elements[0].clone())
        }
        (None, Some(_)) => Some(cx.ranked(2, 1)?.dims[0].clone()),
        (None, None) => Some(x.dims[1].clone()),
    };
    let one = Dim::constant(1);
    let frames = match (&step, &frame) {
        (Some(step), Some(frame)) if step.at_least(1) == crate::Answer::Yes => {
            cx.at_least(&x.dims[1], frame, "the signal holds a frame")?;
            x.dims[1].sub(frame).floor_div(step).add(&one)
        }
        _ => cx.fresh(),
    };
    let kept = match (frame, attributes.onesided) {
        (None, _) => cx.fresh(),
        (Some(frame), true) => half(&frame),
        (Some(frame), false) => frame,
    };
    Ok(vec![Output::new(x.dtype, [x.dims[0].clone(), frames, kept, Dim::constant(2)])])
}

pub(super) fn mel_weight_matrix(cx: &mut Context<'_>, to: DType) -> Outputs {
    let bins = number(cx, 0)?;
    cx.index_operand(1)?;
    let rows = match cx.elements(1) {
        Some(elements) => half(&elements[0]),
        None => cx.fresh(),
    };
    Ok(vec![Output::new(to, [rows, bins])])
}
