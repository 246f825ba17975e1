//! Products and convolutions of 8-bit integers. Constant operands are packed at compile time, computed ones before the product.

use lathe_artifact::builtin::{Builtin, IntegerResult};
use lathe_artifact::layout::{PackedIntegerConv, PackedIntegers};
use lathe_ir::{Node, ValueId};
use lathe_ops::quant::{ConvInteger, MatMulInteger};
use lathe_tensor::DType;

use super::super::conv::{Geometry, Window, geometry, image, pads, window};
use super::super::matmul::packed_location;
use crate::error::{Refusal, refuse};
use crate::location::Location;
use crate::planner::{BufferKind, Operand};
use crate::scope::{Context, Fits};
use crate::size::Size;
use crate::weights::Packing;

/// An operand with one element, or one for each of something.
struct Parameter {
    location: Option<Location>,
    count: Size,
}

impl Parameter {
    /// Operand `index` of a node, which has one element or `each`.
    fn of(
        context: &mut Context<'_, '_>,
        node: &Node,
        index: usize,
        each: Size,
        what: &str,
    ) -> Result<Self, Refusal> {
        let Some(value) = context.operand(node, index) else {
            return Ok(Self { location: None, count: Size::ZERO });
        };
        let count = match context.dims(value)?[..] {
            [] => Size::ONE,
            [size] if size == Size::ONE || size == each => size,
            _ => return refuse(format!("{what} of other sizes than one or one a row, column or channel")),
        };
        Ok(Self { location: Some(context.dense(value)?), count })
    }

    fn operand(&self) -> Operand<'_> {
        self.location.as_ref().map_or(Operand::Null, Operand::Read)
    }
}

/// What becomes of the sums: bias, scale, zero point, and the result's dtype.
struct Results {
    bias: Parameter,
    scale: Parameter,
    zero: Parameter,
    to: IntegerResult,
}

impl Results {
    fn of(context: &mut Context<'_, '_>, node: &Node, channels: Size, to: DType) -> Result<Self, Refusal> {
        let Some(to) = IntegerResult::from_name(to.name()) else {
            return refuse(format!("no results of {to}"));
        };
        Ok(Self {
            bias: Parameter::of(context, node, 4, channels, "a bias")?,
            scale: Parameter::of(context, node, 5, channels, "scales")?,
            zero: Parameter::of(context, node, 6, Size::ONE, "a zero point")?,
            to,
        })
    }
}

/// Whether operands 0 and 1 are bytes.
fn require_bytes(context: &Context<'_, '_>, operands: [ValueId; 2]) -> Result<[DType; 2], Refusal> {
    let dtypes = operands.map(|operand| context.dtype(operand));
    match dtypes.iter().find(|dtype| !matches!(dtype, DType::I8 | DType::U8)) {
        Some(dtype) => refuse(format!("an operand of {dtype}")),
        None => Ok(dtypes),
    }
}

/// The constant sizes of a location.
fn numbers(context: &Context<'_, '_>, dims: &[Size]) -> Option<Vec<usize>> {
    dims.iter().map(|&size| usize::try_from(context.planner.sizes.as_constant(size)?).ok()).collect()
}

/// An operand in a packed layout.
struct Packed {
    location: Location,
    reason: String,
}

/// The whole constant that a location is, if it is one.
fn whole_constant(context: &Context<'_, '_>, location: &Location) -> Option<lathe_ir::ConstantId> {
    match context.planner.buffers[location.buffer.0 as usize].kind {
        BufferKind::Constant(constant, Packing::Dense) if location.offset == Size::ZERO => Some(constant),
        _ => None,
    }
}

/// Matrices `[k, n]` in panels, packed at compile time where they are a constant.
fn packed(
    context: &mut Context<'_, '_>,
    location: &Location,
    [count, k, n]: [Size; 3],
) -> Result<Packed, Refusal> {
    let unsigned = location.dtype == DType::U8;
    let sizes = numbers(context, &[count, k, n]);
    if let (Some(constant), Some(&[1, k, n])) = (whole_constant(context, location), sizes.as_deref()) {
        let location = packed_location(context, constant, Packing::Integers { k, n, unsigned })?;
        return Ok(Packed { location, reason: constant_reason(unsigned) });
    }
    let bytes = packed_bytes(context, [count, k, n]);
    Ok(pack(context, location, bytes, [count, k, n], [0, 1, 1]))
}

/// The weights of a convolution, packed at compile time where they are a constant.
fn packed_conv(
    context: &mut Context<'_, '_>,
    location: &Location,
    layout: PackedIntegerConv,
) -> Result<Packed, Refusal> {
    let unsigned = location.dtype == DType::U8;
    if let Some(constant) = whole_constant(context, location) {
        let location = packed_location(context, constant, Packing::IntegerConv { layout, unsigned })?;
        return Ok(Packed { location, reason: constant_reason(unsigned) });
    }
    let length = match layout.packed_len().map(i64::try_from) {
        Ok(Ok(length)) => context.size_of(length),
        _ => return refuse("the weights are too large to pack"),
    };
    let sizes = [1, layout.k() as i64, layout.out_channels as i64].map(|size| context.size_of(size));
    let [rows, columns] = layout.kernel;
    Ok(pack(context, location, length, sizes, [layout.groups, rows, columns].map(|size| size as i64)))
}

fn constant_reason(unsigned: bool) -> String {
    format!("constant of {} packed", if unsigned { DType::U8 } else { DType::I8 })
}

/// An operand packed where it is computed.
fn pack(
    context: &mut Context<'_, '_>,
    location: &Location,
    bytes: Size,
    [count, k, n]: [Size; 3],
    [groups, kernel_h, kernel_w]: [i64; 3],
) -> Packed {
    let packed = context.planner.temporary(DType::U8, &[bytes], context.scope.depth);
    let operands = [
        Operand::Read(location),
        Operand::Update(&packed),
        Operand::Size(count),
        Operand::Size(k),
        Operand::Size(n),
        Operand::Int(groups),
        Operand::Int(kernel_h),
        Operand::Int(kernel_w),
        Operand::Int(i64::from(location.dtype == DType::U8)),
    ];
    context.planner.call(Builtin::PackIntegers, &operands, "computed operand packed");
    Packed { location: packed, reason: "computed operand".into() }
}

/// Bytes of packed matrices.
fn packed_bytes(context: &mut Context<'_, '_>, [count, k, n]: [Size; 3]) -> Size {
    let sizes = &mut context.planner.sizes;
    let mut whole = |size: Size, unit: usize| {
        let unit = unit as i64;
        let more = sizes.add_constant(size, unit - 1);
        let divisor = sizes.constant(unit);
        let units = sizes.floor_div(more, divisor);
        sizes.mul_constant(units, unit)
    };
    // Whole words of 4 along `k`, and a sum of 4 bytes a column.
    let depth = whole(k, PackedIntegers::DEPTH);
    let columns = whole(n, PackedIntegers::PANEL);
    let column = sizes.add_constant(depth, 4);
    sizes.product(&[count, columns, column])
}

/// A location with these sizes, by copies where it repeats.
fn expanded(context: &mut Context<'_, '_>, value: ValueId, dims: &[Size]) -> Result<Location, Refusal> {
    let location = context.location(value)?;
    let Some(wide) = location.broadcast(&mut context.planner.sizes, dims) else {
        return refuse("operands have more axes than the product");
    };
    if wide.is_dense(&mut context.planner.sizes) {
        return Ok(wide);
    }
    let target = context.planner.temporary(wide.dtype, dims, context.scope.depth);
    context.copy(&wide, &target, "rows of the product one after another")?;
    Ok(target)
}

pub(in super::super) fn matmul_integer(
    context: &mut Context<'_, '_>,
    node: &Node,
    product: &MatMulInteger,
) -> Result<(), Refusal> {
    let (a, b, output) = (context.required(node, 0)?, context.required(node, 1)?, context.output(node, 0)?);
    let [a_dtype, b_dtype] = require_bytes(context, [a, b])?;
    let (a_dims, b_dims, dims) = (context.dims(a)?, context.dims(b)?, context.dims(output)?);
    let (Some(&k), Some(column_axis)) = (a_dims.last(), b_dims.len().checked_sub(1)) else {
        return refuse("a scalar has no rows");
    };
    let n = if column_axis > 0 { b_dims[column_axis] } else { Size::ONE };
    let row_axes = usize::from(a_dims.len() > 1) + usize::from(column_axis > 0);
    let batch_axes = dims[..dims.len().saturating_sub(row_axes)].to_vec();
    let m = if a_dims.len() > 1 { a_dims[a_dims.len() - 2] } else { Size::ONE };
    let one_matrix = b_dims[..column_axis.saturating_sub(1)].iter().all(|&size| size == Size::ONE);
    let a_zero = Parameter::of(context, node, 2, m, "zero points")?;
    let b_zero = Parameter::of(context, node, 3, n, "zero points")?;
    let results = Results::of(context, node, n, product.to)?;
    let batch = context.planner.sizes.product(&batch_axes);
    let row_dims = if a_dims.len() > 1 { vec![m, k] } else { vec![k] };
    let left = expanded(context, a, &[&batch_axes[..], &row_dims].concat())?;
    let right = if one_matrix {
        let right = context.dense(b)?;
        packed(context, &right, [Size::ONE, k, n])?
    } else {
        let right = expanded(context, b, &[&batch_axes[..], &[k, n]].concat())?;
        packed(context, &right, [batch, k, n])?
    };
    // Rows of all matrices are one another's neighbours where they share the right operand.
    let (batch, m) = match one_matrix && a_zero.count != m {
        true => (Size::ONE, context.planner.sizes.mul(batch, m)),
        false => (batch, m),
    };
    let target = context.destination(output, &dims, Fits::Dense)?;
    let operands = [
        Operand::Read(&left),
        Operand::Read(&right.location),
        a_zero.operand(),
        b_zero.operand(),
        results.bias.operand(),
        results.scale.operand(),
        results.zero.operand(),
        Operand::Write(&target),
        Operand::Size(batch),
        Operand::Size(m),
        Operand::Size(n),
        Operand::Size(k),
        Operand::Int(i64::from(!one_matrix)),
        Operand::Int(i64::from(a_dtype == DType::I8)),
        Operand::Int(i64::from(b_dtype == DType::U8)),
        Operand::Size(a_zero.count),
        Operand::Size(b_zero.count),
        Operand::Size(results.scale.count),
        Operand::Int(results.to.code()),
    ];
    context.planner.call(
        Builtin::MatMulInteger,
        &operands,
        format!("bytes to {}: {}", results.to.name(), right.reason),
    );
    context.place(output, target);
    Ok(())
}

/// Room for the image by residues of the strides, padded, four channels to a word, and a panel more, for whole panels of pixels are read.
fn planes(
    context: &mut Context<'_, '_>,
    window: &Window<2>,
    layout: PackedIntegerConv,
    batch: Size,
    output: [Size; 4],
) -> Location {
    let sizes = &mut context.planner.sizes;
    let depth = PackedIntegerConv::DEPTH;
    let words = layout.groups.saturating_mul(layout.channels.div_ceil(depth));
    let mut size = sizes.mul_constant(batch, words as i64);
    for axis in 0..2 {
        let (kernel, stride) = (window.kernel[axis], window.strides[axis]);
        let length = sizes.add_constant(output[2 + axis], (kernel - 1) * window.dilations[axis] / stride);
        size = sizes.mul(size, length);
        size = sizes.mul_constant(size, kernel.min(stride));
    }
    let size = sizes.add_constant(size, PackedIntegers::PANEL as i64);
    let size = sizes.mul_constant(size, depth as i64);
    context.planner.temporary(DType::U8, &[size], context.scope.depth)
}

pub(in super::super) fn conv_integer(
    context: &mut Context<'_, '_>,
    node: &Node,
    conv: &ConvInteger,
) -> Result<(), Refusal> {
    let (x, w) = (context.required(node, 0)?, context.required(node, 1)?);
    let [x_dtype, w_dtype] = require_bytes(context, [x, w])?;
    let w_dims = context.dims(w)?;
    let (Some(weights), x_dims) = (numbers(context, &w_dims), context.dims(x)?) else {
        return refuse("the kernel's size is not constant");
    };
    let [out_channels, ins, ref kernel @ ..] = weights[..] else { return refuse("weights without channels") };
    if image(&x_dims).is_none() {
        return refuse("the builtin has one or two spatial axes");
    }
    let window = window::<2>(kernel, &conv.strides, &conv.dilations)?;
    let channels = w_dims[0];
    let x_zero = Parameter::of(context, node, 2, Size::ONE, "zero points")?;
    let w_zero = Parameter::of(context, node, 3, channels, "zero points")?;
    let results = Results::of(context, node, channels, conv.to)?;
    let kernel = window.kernel.map(|size| size as usize);
    let layout = PackedIntegerConv { out_channels, channels: ins, groups: conv.groups, kernel };
    let weight = context.dense(w)?;
    let weight = packed_conv(context, &weight, layout)?;
    let Geometry { source, target, input, output } = geometry(context, node)?;
    let (begins, _) = pads(context, &conv.padding, &window, [input[2], input[3]], [output[2], output[3]])?;
    let planes = match layout.is_alone() {
        true => None,
        false => Some(planes(context, &window, layout, input[0], output)),
    };
    let operands = |phase: i64| {
        let mut operands = vec![
            Operand::Read(&source),
            Operand::Read(&weight.location),
            x_zero.operand(),
            w_zero.operand(),
            results.bias.operand(),
            results.scale.operand(),
            results.zero.operand(),
            planes.as_ref().map_or(Operand::Null, Operand::Update),
            Operand::Write(&target),
        ];
        operands.extend(input.map(Operand::Size));
        operands.extend(output[1..].iter().map(|&size| Operand::Size(size)));
        operands.push(Operand::Int(conv.groups as i64));
        for axes in [window.kernel, window.strides, window.dilations] {
            operands.extend(axes.map(Operand::Int));
        }
        operands.extend(begins.map(Operand::Size));
        operands.extend([
            Operand::Int(i64::from(x_dtype == DType::I8)),
            Operand::Int(i64::from(w_dtype == DType::U8)),
            Operand::Size(w_zero.count),
            Operand::Size(results.scale.count),
            Operand::Int(results.to.code()),
            Operand::Int(phase),
        ]);
        operands
    };
    if planes.is_some() {
        context.planner.call(
            Builtin::ConvInteger,
            &operands(0),
            "the image, padded and by strides, four channels a word",
        );
    }
    let reason = format!("bytes to {}, {:?}: {}", results.to.name(), window.kernel, weight.reason);
    context.planner.call(Builtin::ConvInteger, &operands(1), reason);
    let output = context.output(node, 0)?;
    context.place(output, target);
    Ok(())
}
