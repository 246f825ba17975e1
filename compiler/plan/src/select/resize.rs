//! Resampling of the last two axes.

use lathe_artifact::builtin::{Builtin, ResizeMode};
use lathe_artifact::layout::resize::{Coordinate, Rounding as RoundingCode};
use lathe_ir::{Node, Source};
use lathe_ops::resize::{AspectPolicy, Coordinates, Mode, Resize, Rounding};
use lathe_tensor::DType;

use super::{axis_of, resize_axes};
use crate::error::{Refusal, refuse};
use crate::planner::Operand;
use crate::scope::{Context, Fits};

/// The last two axes together where that is enough, else one axis after the other.
pub(super) fn resize(context: &mut Context<'_, '_>, node: &Node, resize: &Resize) -> Result<(), Refusal> {
    match last_axes(context, node, resize) {
        Err(Refusal::Evaluate(_)) => resize_axes::planned(context, node, resize),
        result => result,
    }
}

pub(super) fn mode_code(mode: Mode) -> ResizeMode {
    match mode {
        Mode::Nearest => ResizeMode::Nearest,
        Mode::Linear => ResizeMode::Linear,
        Mode::Cubic => ResizeMode::Cubic,
    }
}

pub(super) fn coordinate_code(coordinates: Coordinates) -> Coordinate {
    match coordinates {
        Coordinates::HalfPixel => Coordinate::HalfPixel,
        Coordinates::HalfPixelSymmetric => Coordinate::HalfPixelSymmetric,
        Coordinates::PytorchHalfPixel => Coordinate::PytorchHalfPixel,
        Coordinates::AlignCorners => Coordinate::AlignCorners,
        Coordinates::Asymmetric => Coordinate::Asymmetric,
        Coordinates::TfCropAndResize => Coordinate::TfCropAndResize,
    }
}

pub(super) fn rounding_code(rounding: Rounding) -> RoundingCode {
    match rounding {
        Rounding::RoundPreferFloor => RoundingCode::RoundPreferFloor,
        Rounding::RoundPreferCeil => RoundingCode::RoundPreferCeil,
        Rounding::Floor => RoundingCode::Floor,
        Rounding::Ceil => RoundingCode::Ceil,
    }
}

fn last_axes(context: &mut Context<'_, '_>, node: &Node, resize: &Resize) -> Result<(), Refusal> {
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    if context.dtype(x) != DType::F32 {
        return refuse(format!("no builtin for {} operands", context.dtype(x)));
    }
    if resize.coordinates == Coordinates::TfCropAndResize {
        return refuse("no builtin for regions of interest");
    }
    if resize.antialias || resize.exclude_outside || resize.policy != AspectPolicy::Stretch {
        return refuse("no builtin for antialiasing, excluded borders or kept proportions");
    }
    let (before, after) = (context.dims(x)?, context.dims(output)?);
    let rank = before.len();
    if resize.exact && resize.mode == Mode::Linear && rank == 3 {
        return refuse("exact where one axis follows the other");
    }
    if rank < 2 || before[..rank - 2] != after[..rank - 2] {
        return refuse("other axes than the last two are resized");
    }
    let [scale_h, scale_w] = scales(context, node, resize, rank)?;
    let planes = context.planner.sizes.product(&before[..rank - 2]);
    let source = context.dense(x)?;
    let target = context.destination(output, &after, Fits::Dense)?;
    let operands = [
        Operand::Read(&source),
        Operand::Write(&target),
        Operand::Size(planes),
        Operand::Size(before[rank - 2]),
        Operand::Size(before[rank - 1]),
        Operand::Size(after[rank - 2]),
        Operand::Size(after[rank - 1]),
        Operand::Float(scale_h),
        Operand::Float(scale_w),
        Operand::Int(mode_code(resize.mode).code()),
        Operand::Int(coordinate_code(resize.coordinates).code()),
        Operand::Int(rounding_code(resize.rounding).code()),
        Operand::Float(f64::from(resize.cubic_coefficient)),
    ];
    context.planner.call(Builtin::Resize, &operands, "the last two axes");
    context.place(output, target);
    Ok(())
}

/// Output over input of the last two axes; 0 where the builtin finds it from the sizes.
fn scales(
    context: &mut Context<'_, '_>,
    node: &Node,
    resize: &Resize,
    rank: usize,
) -> Result<[f64; 2], Refusal> {
    let given = match context.operand(node, 2) {
        Some(scales) => match context.scope.function.value(scales).source {
            Source::Constant(id) => {
                let tensor = &context.planner.module.constant(id).tensor;
                match tensor.to_slice::<f32>() {
                    Ok(elements) => elements.to_vec(),
                    Err(error) => return refuse(error.to_string()),
                }
            }
            _ => return refuse("the scales depend on data"),
        },
        None => Vec::new(),
    };
    if given.is_empty() {
        return Ok([0.0; 2]);
    }
    let axes = match &resize.axes {
        Some(axes) => axes.iter().map(|&axis| axis_of(axis, rank)).collect::<Option<Vec<_>>>(),
        None => Some((0..rank).collect()),
    };
    let Some(axes) = axes.filter(|axes| axes.len() == given.len()) else {
        return refuse("one scale an axis");
    };
    let mut scales = [1.0; 2];
    for (axis, scale) in axes.into_iter().zip(given) {
        match axis.checked_sub(rank - 2) {
            Some(place) => scales[place] = f64::from(scale),
            None if scale == 1.0 => {}
            None => return refuse("other axes than the last two are resized"),
        }
    }
    Ok(scales)
}
