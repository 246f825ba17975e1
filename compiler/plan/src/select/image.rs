//! Pictures.

use lathe_artifact::builtin::{Builtin, GridBorder, GridInterpolation};
use lathe_ir::Node;
use lathe_ops::image::{Border, GridSample, Interpolation, NonMaxSuppression, RoiAlign};
use lathe_tensor::DType;

use super::dynamic;
use crate::error::{Refusal, refuse};
use crate::planner::Operand;
use crate::scope::{Context, Fits};
use crate::size::Size;

/// Boxes that overlap no better one: as many rows as there may be are collected, then those that were found are copied.
pub(super) fn non_max_suppression(
    context: &mut Context<'_, '_>,
    node: &Node,
    suppression: &NonMaxSuppression,
) -> Result<(), Refusal> {
    let (boxes, scores) = (context.required(node, 0)?, context.required(node, 1)?);
    let output = context.output(node, 0)?;
    for (index, value) in node.inputs.iter().enumerate() {
        let Some(value) = *value else { continue };
        let (found, wanted) = (context.dtype(value), if index == 2 { DType::I64 } else { DType::F32 });
        if found != wanted {
            return refuse(format!("no builtin for {found} operands"));
        }
        let count = context.dims(value)?;
        if index >= 2 && context.planner.sizes.product(&count) != Size::ONE {
            return refuse("a limit that is not one number");
        }
    }
    dynamic::require_symbols(context, output)?;
    let &[batch, classes, count] = &context.dims(scores)?[..] else {
        return Err(context.planner.bug("scores are not [batch, classes, boxes]").into());
    };
    // A class gives as many boxes as it has, or as is allowed.
    let allowed = context.operand(node, 2).map_or(Some(vec![0]), |limit| context.constants(limit));
    let of_class = match allowed.as_deref() {
        Some(&[allowed]) => {
            let allowed = context.size_of(allowed.max(0));
            context.planner.sizes.min(count, allowed)
        }
        _ => count,
    };
    let most = context.planner.sizes.product(&[batch, classes, of_class]);
    let (boxes, scores) = (context.dense(boxes)?, context.dense(scores)?);
    let mut limits = [None, None, None];
    for (index, limit) in limits.iter_mut().enumerate() {
        if let Some(value) = context.operand(node, index + 2) {
            *limit = Some(context.dense(value)?);
        }
    }
    let three = context.size_of(3);
    let found = context.planner.temporary(DType::I64, &[Size::ONE], context.scope.depth);
    let collected = context.planner.temporary(DType::I64, &[most, three], context.scope.depth);
    let [max_boxes, iou_threshold, score_threshold] =
        limits.each_ref().map(|limit| limit.as_ref().map_or(Operand::Null, Operand::Read));
    let operands = [
        Operand::Read(&boxes),
        Operand::Read(&scores),
        max_boxes,
        iou_threshold,
        score_threshold,
        Operand::Update(&collected),
        Operand::Write(&found),
        Operand::Size(batch),
        Operand::Size(classes),
        Operand::Size(count),
        Operand::Int(i64::from(suppression.center_point_box)),
    ];
    context.planner.call(Builtin::NonMaxSuppression, &operands, "boxes of each class, best first");
    dynamic::begin_stage(context, node, output, &found, 0..1)?;
    let dims = context.dims(output)?;
    let target = context.destination(output, &dims, Fits::Any)?;
    let from = crate::location::Location { dims, ..collected };
    context.copy(&from, &target, "as many as were found")?;
    context.place(output, target);
    Ok(())
}

pub(super) fn grid_sample(
    context: &mut Context<'_, '_>,
    node: &Node,
    sample: &GridSample,
) -> Result<(), Refusal> {
    context.require_f32(node)?;
    let (x, grid) = (context.required(node, 0)?, context.required(node, 1)?);
    let output = context.output(node, 0)?;
    let dims = context.dims(x)?;
    let [batch, channels, space @ ..] = &dims[..] else { return refuse("a picture without channels") };
    let mut sizes = [Size::ONE; 3];
    let Some(first) = 3usize.checked_sub(space.len()).filter(|first| *first < 3) else {
        return refuse("the builtin has up to 3 spatial axes");
    };
    sizes[first..].copy_from_slice(space);
    let result = context.dims(output)?;
    let points = context.planner.sizes.product(&result[2..]);
    let interpolation = match sample.interpolation {
        Interpolation::Nearest => GridInterpolation::Nearest,
        Interpolation::Linear => GridInterpolation::Linear,
        Interpolation::Cubic => GridInterpolation::Cubic,
    };
    let border = match sample.border {
        Border::Zeros => GridBorder::Zeros,
        Border::Clamp => GridBorder::Clamp,
        Border::Reflect => GridBorder::Reflect,
    };
    let (x, grid) = (context.dense(x)?, context.dense(grid)?);
    let target = context.destination(output, &result, Fits::Dense)?;
    let operands = [
        Operand::Read(&x),
        Operand::Read(&grid),
        Operand::Write(&target),
        Operand::Size(*batch),
        Operand::Size(*channels),
        Operand::Size(sizes[0]),
        Operand::Size(sizes[1]),
        Operand::Size(sizes[2]),
        Operand::Int(space.len() as i64),
        Operand::Size(points),
        Operand::Int(interpolation.code()),
        Operand::Int(border.code()),
        Operand::Int(i64::from(sample.align_corners)),
    ];
    context.planner.call(Builtin::GridSample, &operands, "each point of all channels");
    context.place(output, target);
    Ok(())
}

pub(super) fn roi_align(context: &mut Context<'_, '_>, node: &Node, roi: &RoiAlign) -> Result<(), Refusal> {
    let (x, boxes, indices) =
        (context.required(node, 0)?, context.required(node, 1)?, context.required(node, 2)?);
    let output = context.output(node, 0)?;
    for value in [x, boxes] {
        if context.dtype(value) != DType::F32 {
            return refuse(format!("no builtin for {} operands", context.dtype(value)));
        }
    }
    let index_bytes = match context.dtype(indices) {
        DType::I32 => 4,
        DType::I64 => 8,
        other => return refuse(format!("no builtin for {other} indices")),
    };
    let (dims, result) = (context.dims(x)?, context.dims(output)?);
    let (&[batch, channels, height, width], &[regions, ..]) = (&dims[..], &result[..]) else {
        return Err(context.planner.bug("a picture has four axes").into());
    };
    let (x, boxes, indices) = (context.dense(x)?, context.dense(boxes)?, context.dense(indices)?);
    let target = context.destination(output, &result, Fits::Dense)?;
    let operands = [
        Operand::Read(&x),
        Operand::Read(&boxes),
        Operand::Read(&indices),
        Operand::Write(&target),
        Operand::Size(batch),
        Operand::Size(channels),
        Operand::Size(height),
        Operand::Size(width),
        Operand::Size(regions),
        Operand::Int(roi.size[0] as i64),
        Operand::Int(roi.size[1] as i64),
        Operand::Int(roi.sampling as i64),
        Operand::Float(f64::from(roi.spatial_scale)),
        Operand::Int(i64::from(roi.max)),
        Operand::Int(i64::from(roi.half_pixel)),
        Operand::Int(index_bytes),
    ];
    context.planner.call(Builtin::RoiAlign, &operands, "each channel of all regions");
    context.place(output, target);
    Ok(())
}
