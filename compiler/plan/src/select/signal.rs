//! Fourier transforms that round as onnxruntime's.

use lathe_artifact::builtin::Builtin;
use lathe_artifact::layout::FOURIER_POINTS;
use lathe_ir::{Node, ValueId};
use lathe_ops::signal::{Dft, Stft};
use lathe_tensor::DType;

use super::axis_of;
use crate::error::{Refusal, refuse};
use crate::location::Location;
use crate::planner::Operand;
use crate::scope::{Context, Fits};
use crate::size::Size;

/// What both transforms hand to the builtin.
struct Frames {
    window: Option<Location>,
    /// `[outer, length, inner]` of the operand.
    around: (Size, Size, Size),
    frames: Size,
    step: i64,
    count: i64,
    kept: i64,
    inverse: bool,
}

/// A length that the builtin's memory holds.
fn length(count: i64) -> Result<i64, Refusal> {
    let points = usize::try_from(count).ok().filter(|&count| count > 0).and_then(|count| {
        if count.is_power_of_two() { Some(count) } else { (2 * count - 1).checked_next_power_of_two() }
    });
    match points {
        Some(points) if points <= FOURIER_POINTS => Ok(count),
        _ => refuse(format!("a transform of length {count}")),
    }
}

/// The one number that an operand is known to hold.
fn number(context: &mut Context<'_, '_>, value: Option<ValueId>, what: &str) -> Result<i64, Refusal> {
    match value.and_then(|value| context.constants(value)).as_deref() {
        Some(&[number]) => Ok(number),
        _ => refuse(format!("{what} is not known")),
    }
}

fn constant(context: &Context<'_, '_>, size: Size, what: &str) -> Result<i64, Refusal> {
    match context.planner.sizes.as_constant(size) {
        Some(size) => Ok(size),
        None => refuse(format!("{what} is not constant")),
    }
}

pub(super) fn stft(context: &mut Context<'_, '_>, node: &Node, stft: &Stft) -> Result<(), Refusal> {
    if !stft.exact {
        return refuse("no builtin but for exact transforms");
    }
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    let dims = context.dims(x)?;
    let &[batch, size, _] = &dims[..] else { return refuse("the signal is not [batch, length, parts]") };
    let step = context.operand(node, 1);
    let step = number(context, step, "the distance of frames")?;
    let window = match context.operand(node, 2) {
        Some(window) if context.dtype(window) != DType::F32 => return refuse("a window that is not f32"),
        Some(window) => Some(context.dense(window)?),
        None => None,
    };
    let result = context.dims(output)?;
    let &[_, frames, kept, _] = &result[..] else { return refuse("the result is not known") };
    let kept = constant(context, kept, "the number of frequencies")?;
    let given = context.operand(node, 3);
    let count = match (given, &window) {
        (Some(_), _) => number(context, given, "the length of a frame")?,
        (None, Some(window)) => {
            let size = context.planner.sizes.product(&window.dims);
            constant(context, size, "the length of the window")?
        }
        (None, None) => constant(context, size, "the length of the signal")?,
    };
    if step < 1 || window.as_ref().is_some_and(|window| window.dims != [context.size_of(count)]) {
        return refuse("frames or a window that do not fit");
    }
    let around = (batch, size, Size::ONE);
    let count = length(count)?;
    place(context, (x, output), Frames { window, around, frames, step, count, kept, inverse: false })
}

pub(super) fn dft(context: &mut Context<'_, '_>, node: &Node, dft: &Dft) -> Result<(), Refusal> {
    if !dft.exact || (dft.inverse && dft.onesided) {
        return refuse("no builtin but for exact transforms to all frequencies or from them");
    }
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    let dims = context.dims(x)?;
    let axis = match (dft.axis, context.operand(node, 2)) {
        (Some(axis), _) => axis,
        (None, axis) => number(context, axis, "the axis")?,
    };
    let Some(axis) = axis_of(axis, dims.len()).filter(|axis| axis + 1 < dims.len()) else {
        return refuse("no such axis");
    };
    let around = context.around(&dims[..dims.len() - 1], axis);
    let count = match context.operand(node, 1) {
        None => constant(context, around.1, "the length of the signal")?,
        given => number(context, given, "the length of the transform")?,
    };
    let result = context.dims(output)?;
    let kept = constant(context, result[axis], "the number of frequencies")?;
    let count = length(count)?;
    let frames =
        Frames { window: None, around, frames: Size::ONE, step: 1, count, kept, inverse: dft.inverse };
    place(context, (x, output), frames)
}

fn place(
    context: &mut Context<'_, '_>,
    (x, output): (ValueId, ValueId),
    frames: Frames,
) -> Result<(), Refusal> {
    if context.dtype(x) != DType::F32 {
        return refuse(format!("no builtin for signals of {}", context.dtype(x)));
    }
    let parts = context.dims(x)?.last().copied().unwrap_or(Size::ONE);
    let source = context.dense(x)?;
    let dims = context.dims(output)?;
    let target = context.destination(output, &dims, Fits::Dense)?;
    let (outer, length, inner) = frames.around;
    let operands = [
        Operand::Read(&source),
        frames.window.as_ref().map_or(Operand::Null, Operand::Read),
        Operand::Write(&target),
        Operand::Size(outer),
        Operand::Size(length),
        Operand::Size(inner),
        Operand::Size(parts),
        Operand::Size(frames.frames),
        Operand::Int(frames.step),
        Operand::Int(frames.count),
        Operand::Int(frames.kept),
        Operand::Int(i64::from(frames.inverse)),
    ];
    context.planner.call(Builtin::Fourier, &operands, "16 signals side by side");
    context.place(output, target);
    Ok(())
}
