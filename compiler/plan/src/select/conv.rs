//! Convolutions over one or two spatial axes. Constant weights are packed at compile time.

use lathe_artifact::builtin::Builtin;
use lathe_artifact::layout::PackedConv;
use lathe_ir::Node;
use lathe_ops::conv::{Conv, ConvTranspose, Padding};
use lathe_ops::elementwise::Activation;

use super::matmul::{activation_code, packed_location};
use crate::error::{Refusal, refuse};
use crate::location::Location;
use crate::planner::{BufferKind, Operand};
use crate::scope::{Context, Fits};
use crate::size::Size;
use crate::weights::Packing;

/// A window over `N` spatial axes; leading ones may have size 1.
#[derive(Clone, Copy)]
pub(super) struct Window<const N: usize> {
    pub kernel: [i64; N],
    pub strides: [i64; N],
    pub dilations: [i64; N],
}

/// Attributes of up to `N` axes as `N`, the leading ones `first`; `None` where there are more.
fn padded<const N: usize, T: Copy>(axes: &[T], first: T) -> Option<[T; N]> {
    let missing = N.checked_sub(axes.len()).filter(|&missing| missing < N)?;
    Some(std::array::from_fn(|axis| axis.checked_sub(missing).map_or(first, |axis| axes[axis])))
}

pub(super) fn window<const N: usize>(
    kernel: &[usize],
    strides: &[usize],
    dilations: &[usize],
) -> Result<Window<N>, Refusal> {
    let numbers = |axes: &[usize]| padded(axes, 1).map(|axes: [usize; N]| axes.map(|value| value as i64));
    match (numbers(kernel), numbers(strides), numbers(dilations)) {
        (Some(kernel), Some(strides), Some(dilations)) => Ok(Window { kernel, strides, dilations }),
        _ => refuse(format!("the builtin has up to {N} spatial axes")),
    }
}

/// `[batch, channels, height, width]` of an image of one or two spatial axes.
pub(super) fn image(dims: &[Size]) -> Option<[Size; 4]> {
    match *dims {
        [batch, channels, width] => Some([batch, channels, Size::ONE, width]),
        [batch, channels, height, width] => Some([batch, channels, height, width]),
        _ => None,
    }
}

/// Cells before and after each axis.
pub(super) fn pads<const N: usize>(
    context: &mut Context<'_, '_>,
    padding: &Padding,
    window: &Window<N>,
    input: [Size; N],
    output: [Size; N],
) -> Result<([Size; N], [Size; N]), Refusal> {
    if let Padding::Explicit { begins, ends } = padding {
        let both = (padded(begins, 0), padded(ends, 0));
        let (Some(begins), Some(ends)) = both else {
            return refuse(format!("the builtin has up to {N} spatial axes"));
        };
        return Ok((begins.map(|pad| context.size_of(pad)), ends.map(|pad| context.size_of(pad))));
    }
    let (mut begins, mut ends) = ([Size::ZERO; N], [Size::ZERO; N]);
    for axis in 0..N {
        let sizes = &mut context.planner.sizes;
        // The last window begins at `(output - 1) * stride` and covers `(kernel - 1) * dilation + 1` cells.
        let last = sizes.add_constant(output[axis], -1);
        let last = sizes.mul_constant(last, window.strides[axis]);
        let reach = sizes.add_constant(last, (window.kernel[axis] - 1) * window.dilations[axis] + 1);
        let total = sizes.sub(reach, input[axis]);
        let total = sizes.max(total, Size::ZERO);
        let two = sizes.constant(2);
        let half = sizes.floor_div(total, two);
        let rest = sizes.sub(total, half);
        (begins[axis], ends[axis]) = if *padding == Padding::SameUpper { (half, rest) } else { (rest, half) };
    }
    Ok((begins, ends))
}

pub(super) fn conv(context: &mut Context<'_, '_>, node: &Node, conv: &Conv) -> Result<(), Refusal> {
    let weights = weights(context, node)?;
    if weights.shape.len() == 5 {
        return volume(context, node, conv, &weights);
    }
    let [out_channels, channels, ref kernel @ ..] = weights.shape[..] else {
        return refuse("weights without channels");
    };
    let window: Window<2> = window(kernel, &conv.strides, &conv.dilations)?;
    let Geometry { source, target, input, output } = geometry(context, node)?;
    let (begins, _) = pads(context, &conv.padding, &window, [input[2], input[3]], [output[2], output[3]])?;
    let packing = Packing::Conv {
        out_channels,
        channels: channels.saturating_mul(conv.groups),
        groups: conv.groups,
        kernel_h: window.kernel[0] as usize,
        kernel_w: window.kernel[1] as usize,
        transposed: None,
    };
    let weight = packed_weights(context, node, &weights, packing)?;
    let reason =
        format!("{out_channels} channels of {}x{}: packed blocks", window.kernel[0], window.kernel[1]);
    let call = Call { builtin: Builtin::Conv, source, weight, target, input, output, window, begins };
    emit(context, node, call, conv.groups, &conv.activation, &reason)
}

/// A convolution over three axes: the cells of the first count as channels.
fn volume(context: &mut Context<'_, '_>, node: &Node, conv: &Conv, weights: &Weights) -> Result<(), Refusal> {
    let (x, y) = (context.required(node, 0)?, context.output(node, 0)?);
    let [out_channels, channels, ref kernel @ ..] = weights.shape[..] else {
        return refuse("weights without channels");
    };
    let window: Window<3> = window(kernel, &conv.strides, &conv.dilations)?;
    let (input, output) = (context.dims(x)?, context.dims(y)?);
    let ([batch, all_channels, before @ ..], [_, outs, after @ ..]) = (&input[..], &output[..]) else {
        return Err(context.planner.bug("an image without channels").into());
    };
    let (Ok(before), Ok(after)) = (<[Size; 3]>::try_from(before), <[Size; 3]>::try_from(after)) else {
        return Err(context.planner.bug("image and kernel differ in rank").into());
    };
    let (begins, _) = pads(context, &conv.padding, &window, before, after)?;
    let packing = Packing::Conv {
        out_channels,
        channels: channels.saturating_mul(conv.groups).saturating_mul(kernel[0]),
        groups: conv.groups,
        kernel_h: kernel[1],
        kernel_w: kernel[2],
        transposed: None,
    };
    if packing.conv_layout().is_some_and(|layout| layout.is_depthwise()) {
        return refuse("one channel a group and one cell of depth");
    }
    let weight = packed_weights(context, node, weights, packing)?;
    let source = context.dense(x)?;
    let (bias, residual) = epilogue_operands(context, node, &output)?;
    let target = context.destination(y, &output, Fits::Dense)?;
    let (code, alpha, beta) = activation_code(&conv.activation);
    let mut operands = vec![
        Operand::Read(&source),
        Operand::Read(&weight),
        bias.as_ref().map_or(Operand::Null, Operand::Read),
        residual.as_ref().map_or(Operand::Null, Operand::Read),
        Operand::Write(&target),
        Operand::Size(*batch),
        Operand::Size(*all_channels),
    ];
    operands.extend(before.map(Operand::Size));
    operands.push(Operand::Size(*outs));
    operands.extend(after.map(Operand::Size));
    operands.push(Operand::Int(conv.groups as i64));
    for axes in [window.kernel, window.strides, window.dilations] {
        operands.extend(axes.map(Operand::Int));
    }
    operands.extend(begins.map(Operand::Size));
    operands.extend([Operand::Int(code as i64), Operand::Float(alpha), Operand::Float(beta)]);
    let reason = format!("{out_channels} channels of {kernel:?}: packed blocks, depths as channels");
    context.planner.call(Builtin::ConvVolume, &operands, reason);
    context.place(y, target);
    Ok(())
}

pub(super) fn conv_transpose(
    context: &mut Context<'_, '_>,
    node: &Node,
    conv: &ConvTranspose,
) -> Result<(), Refusal> {
    let weights = weights(context, node)?;
    let [channels, outs, ref kernel @ ..] = weights.shape[..] else {
        return refuse("weights without channels");
    };
    if weights.constant.is_none() || kernel.len() > 2 || conv.exact {
        return transposed_cells(context, node, conv, &weights.shape);
    }
    let window: Window<2> = window(kernel, &conv.strides, &conv.dilations)?;
    let Geometry { source, target, input, output } = geometry(context, node)?;
    let begins = cropped(context, conv, &window, [input[2], input[3]], [output[2], output[3]])?;
    let out_channels = outs.saturating_mul(conv.groups);
    let steps = |axis: usize| (window.strides[axis] as usize, window.dilations[axis] as usize);
    let packing = Packing::Conv {
        out_channels,
        channels,
        groups: conv.groups,
        kernel_h: window.kernel[0] as usize,
        kernel_w: window.kernel[1] as usize,
        transposed: Some((steps(0).0, steps(1).0, steps(0).1, steps(1).1)),
    };
    let weight = packed_weights(context, node, &weights, packing)?;
    let call =
        Call { builtin: Builtin::ConvTranspose, source, weight, target, input, output, window, begins };
    emit(context, node, call, conv.groups, &conv.activation, "cells of equal residue: packed classes")
}

/// What is cropped before each axis of a transposed convolution (ONNX ConvTranspose-22).
fn cropped<const N: usize>(
    context: &mut Context<'_, '_>,
    conv: &ConvTranspose,
    window: &Window<N>,
    input: [Size; N],
    output: [Size; N],
) -> Result<[Size; N], Refusal> {
    if let (Padding::Explicit { .. }, None) = (&conv.padding, &conv.output_shape) {
        return Ok(pads(context, &conv.padding, window, input, output)?.0);
    }
    let extra: Option<Vec<i64>> =
        conv.output_padding.iter().map(|&extra| i64::try_from(extra).ok()).collect();
    let Some(extra) = extra.and_then(|extra| padded::<N, _>(&extra, 0)) else {
        return refuse(format!("the builtin has up to {N} spatial axes"));
    };
    let mut begins = [Size::ZERO; N];
    for axis in 0..N {
        let sizes = &mut context.planner.sizes;
        // The last cell of the input reaches `(input - 1) * stride + (kernel - 1) * dilation + 1` cells.
        let steps = sizes.add_constant(input[axis], -1);
        let steps = sizes.max(steps, Size::ZERO);
        let steps = sizes.mul_constant(steps, window.strides[axis]);
        let reach = (window.kernel[axis] - 1) * window.dilations[axis] + 1 + extra[axis];
        let full = sizes.add_constant(steps, reach);
        let total = sizes.sub(full, output[axis]);
        let total = sizes.max(total, Size::ZERO);
        let two = sizes.constant(2);
        let half = sizes.floor_div(total, two);
        begins[axis] = if conv.padding == Padding::SameUpper { half } else { sizes.sub(total, half) };
    }
    Ok(begins)
}

/// A transposed convolution with weights that are computed, or over three axes.
fn transposed_cells(
    context: &mut Context<'_, '_>,
    node: &Node,
    conv: &ConvTranspose,
    shape: &[usize],
) -> Result<(), Refusal> {
    let (x, y) = (context.required(node, 0)?, context.output(node, 0)?);
    let window: Window<3> = window(&shape[2..], &conv.strides, &conv.dilations)?;
    let (before, after) = (context.dims(x)?, context.dims(y)?);
    let space = |dims: &[Size]| padded::<3, _>(dims.get(2..).unwrap_or_default(), Size::ONE);
    let (Some(input), Some(output)) = (space(&before), space(&after)) else {
        return refuse("the builtin has up to 3 spatial axes");
    };
    let begins = cropped(context, conv, &window, input, output)?;
    let weight = context.required(node, 1)?;
    let (source, weight) = (context.dense(x)?, context.dense(weight)?);
    let (bias, residual) = epilogue_operands(context, node, &after)?;
    if residual.is_some() {
        return refuse("a residual of a transposed convolution");
    }
    let target = context.destination(y, &after, Fits::Dense)?;
    let (code, alpha, beta) = activation_code(&conv.activation);
    let mut operands = vec![
        Operand::Read(&source),
        Operand::Read(&weight),
        bias.as_ref().map_or(Operand::Null, Operand::Read),
        Operand::Write(&target),
        Operand::Size(before[0]),
        Operand::Size(before[1]),
    ];
    operands.extend(input.map(Operand::Size));
    operands.push(Operand::Size(after[1]));
    operands.extend(output.map(Operand::Size));
    operands.push(Operand::Int(conv.groups as i64));
    for axes in [window.kernel, window.strides, window.dilations] {
        operands.extend(axes.map(Operand::Int));
    }
    operands.extend(begins.map(Operand::Size));
    operands.extend([Operand::Int(code as i64), Operand::Float(alpha), Operand::Float(beta)]);
    operands.push(Operand::Int(i64::from(conv.exact)));
    context.planner.call(Builtin::ConvTransposeCells, &operands, "weights as they are, cell by cell");
    context.place(y, target);
    Ok(())
}

/// A convolution with everything but its epilogue.
struct Call {
    builtin: Builtin,
    source: Location,
    weight: Location,
    target: Location,
    input: [Size; 4],
    output: [Size; 4],
    window: Window<2>,
    begins: [Size; 2],
}

fn emit(
    context: &mut Context<'_, '_>,
    node: &Node,
    call: Call,
    groups: usize,
    activation: &Activation,
    reason: &str,
) -> Result<(), Refusal> {
    let (bias, residual) = epilogue_operands(context, node, &call.target.dims)?;
    let (code, alpha, beta) = activation_code(activation);
    let (input, output, window) = (call.input, call.output, call.window);
    let operands = [
        Operand::Read(&call.source),
        Operand::Read(&call.weight),
        bias.as_ref().map_or(Operand::Null, Operand::Read),
        residual.as_ref().map_or(Operand::Null, Operand::Read),
        Operand::Write(&call.target),
        Operand::Size(input[0]),
        Operand::Size(input[1]),
        Operand::Size(input[2]),
        Operand::Size(input[3]),
        Operand::Size(output[1]),
        Operand::Size(output[2]),
        Operand::Size(output[3]),
        Operand::Int(groups as i64),
        Operand::Int(window.kernel[0]),
        Operand::Int(window.kernel[1]),
        Operand::Int(window.strides[0]),
        Operand::Int(window.strides[1]),
        Operand::Int(window.dilations[0]),
        Operand::Int(window.dilations[1]),
        Operand::Size(call.begins[0]),
        Operand::Size(call.begins[1]),
        Operand::Int(code as i64),
        Operand::Float(alpha),
        Operand::Float(beta),
    ];
    context.planner.call(call.builtin, &operands, reason);
    let output = context.output(node, 0)?;
    context.place(output, call.target);
    Ok(())
}

/// Bias and residual, the latter of the result's sizes.
fn epilogue_operands(
    context: &mut Context<'_, '_>,
    node: &Node,
    result: &[Size],
) -> Result<(Option<Location>, Option<Location>), Refusal> {
    let mut operands = [None, None];
    for (index, operand) in operands.iter_mut().enumerate() {
        if let Some(value) = context.operand(node, index + 2) {
            *operand = Some(context.dense(value)?);
        }
    }
    let [bias, residual] = operands;
    if residual.as_ref().is_some_and(|residual| residual.dims != result) {
        return refuse("the residual is broadcast");
    }
    Ok((bias, residual))
}

/// Source and target images with their sizes.
pub(super) struct Geometry {
    pub source: Location,
    pub target: Location,
    pub input: [Size; 4],
    pub output: [Size; 4],
}

pub(super) fn geometry(context: &mut Context<'_, '_>, node: &Node) -> Result<Geometry, Refusal> {
    let (x, y) = (context.required(node, 0)?, context.output(node, 0)?);
    let (before, after) = (context.dims(x)?, context.dims(y)?);
    let (Some(input), Some(output)) = (image(&before), image(&after)) else {
        return refuse("the builtin has one or two spatial axes");
    };
    let source = context.dense(x)?;
    let target = context.destination(y, &after, Fits::Dense)?;
    Ok(Geometry { source, target, input, output })
}

/// The weights of a convolution.
struct Weights {
    /// The constant that they are, whole and as it is.
    constant: Option<lathe_ir::ConstantId>,
    shape: Vec<usize>,
}

fn weights(context: &mut Context<'_, '_>, node: &Node) -> Result<Weights, Refusal> {
    context.require_f32(node)?;
    let weight = context.required(node, 1)?;
    let location = context.location(weight)?;
    let shape: Option<Vec<_>> = location
        .dims
        .iter()
        .map(|&size| context.planner.sizes.as_constant(size).and_then(|size| usize::try_from(size).ok()))
        .collect();
    let Some(shape) = shape else { return refuse("the kernel's size is not constant") };
    if !(3..=5).contains(&shape.len()) {
        return refuse("the builtin has up to 3 spatial axes");
    }
    let whole = location.offset == Size::ZERO && location.is_dense(&mut context.planner.sizes);
    let constant = match context.planner.buffers[location.buffer.0 as usize].kind {
        BufferKind::Constant(constant, Packing::Dense) if whole => Some(constant),
        _ => None,
    };
    Ok(Weights { constant, shape })
}

/// The weights in the layout of the builtin: packed at compile time, or by copies where they are computed.
fn packed_weights(
    context: &mut Context<'_, '_>,
    node: &Node,
    weights: &Weights,
    packing: Packing,
) -> Result<Location, Refusal> {
    if let Some(constant) = weights.constant {
        return packed_location(context, constant, packing);
    }
    let Some(layout) = packing.conv_layout().filter(|layout| layout.transposed.is_none()) else {
        return refuse("the weights are computed");
    };
    let weight = context.required(node, 1)?;
    let source = context.dense(weight)?;
    if layout.is_depthwise() {
        return Ok(source);
    }
    let length = match layout.packed_len() {
        Ok(length) => context.size_of(length as i64),
        Err(error) => return refuse(error.to_string()),
    };
    let packed = context.planner.temporary(lathe_tensor::DType::F32, &[length], context.scope.depth);
    let (groups, outs) = (layout.groups as i64, layout.group_out_channels() as i64);
    let (lanes, blocks) = (PackedConv::ROWS as i64, layout.row_blocks() as i64);
    let k = layout.group_channels() as i64 * (layout.kernel_h * layout.kernel_w) as i64;
    let rest = outs % lanes;
    if rest > 0 {
        super::shape::fill(context, &packed, 4, length, 0, "channels beyond the last");
    }
    // Blocks of rows, each `[k][lanes]`: the whole ones, then the last.
    for (first, count, width) in [(0, outs / lanes, lanes), (blocks - 1, i64::from(rest > 0), rest)] {
        if count == 0 {
            continue;
        }
        let mut numbers = |values: [i64; 4]| values.map(|value| context.size_of(value)).to_vec();
        let dims = numbers([groups, count, k, width]);
        let from = (numbers([outs * k, lanes * k, 1, k]), numbers([first * lanes * k, 0, 0, 0])[0]);
        let to =
            (numbers([blocks * k * lanes, k * lanes, lanes, 1]), numbers([first * k * lanes, 0, 0, 0])[0]);
        let boxed = |location: &Location, (strides, offset): (Vec<Size>, Size)| Location {
            dims: dims.clone(),
            strides,
            offset,
            ..location.clone()
        };
        let mut from = boxed(&source, from);
        from.offset = context.planner.sizes.add(from.offset, source.offset);
        let to = boxed(&packed, to);
        context.copy(&from, &to, "computed weights packed in blocks of rows")?;
    }
    Ok(packed)
}
