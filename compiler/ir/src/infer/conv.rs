//! Convolutions.

use lathe_ops::conv::{Conv, ConvTranspose, Padding};
use lathe_ops::deform_conv::DeformConv;
use lathe_ops::quant::ConvInteger;
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use super::quant;
use crate::{Dim, IrError};

/// The windows of a convolution or pooling along its spatial axes.
pub(super) struct Windows<'a> {
    /// Sizes of the kernel, one a spatial axis.
    pub(super) kernel: &'a [Dim],
    pub(super) strides: &'a [usize],
    pub(super) dilations: &'a [usize],
    pub(super) padding: &'a Padding,
    /// Round up where the last window sticks out of the end.
    pub(super) ceil_mode: bool,
}

impl Windows<'_> {
    /// Checks that there is one of each for `axes` spatial axes.
    fn check(&self, cx: &Context<'_>, axes: usize) -> Result<(), IrError> {
        let lists = [
            ("kernel sizes", self.kernel.len()),
            ("strides", self.strides.len()),
            ("dilations", self.dilations.len()),
        ];
        let pads = match self.padding {
            Padding::Explicit { begins, ends } => [("pads", begins.len()), ("pads", ends.len())],
            _ => [("pads", axes); 2],
        };
        for (what, count) in lists.into_iter().chain(pads) {
            if count != axes {
                return Err(cx.bad(format!("{count} {what} for {axes} spatial axes")));
            }
        }
        if self.strides.contains(&0) || self.dilations.contains(&0) {
            return Err(cx.bad("strides and dilations must be at least 1"));
        }
        Ok(())
    }

    /// Cells that the dilated kernel spans along an axis.
    fn extent(&self, cx: &Context<'_>, axis: usize) -> Result<Dim, IrError> {
        let one = Dim::constant(1);
        Ok(self.kernel[axis].sub(&one).scale(cx.count(self.dilations[axis])?).add(&one))
    }

    /// Sizes of the result's spatial axes.
    pub(super) fn outputs(&self, cx: &mut Context<'_>, spatial: &[Dim]) -> Result<Vec<Dim>, IrError> {
        self.check(cx, spatial.len())?;
        let one = Dim::constant(1);
        let mut sizes = Vec::with_capacity(spatial.len());
        for (axis, size) in spatial.iter().enumerate() {
            cx.at_least(&self.kernel[axis], &one, "kernel sizes are at least 1")?;
            let stride = Dim::constant(cx.count(self.strides[axis])?);
            let Padding::Explicit { begins, ends } = self.padding else {
                sizes.push(size.ceil_div(&stride));
                continue;
            };
            let extent = self.extent(cx, axis)?;
            let begin = Dim::constant(begins[axis]);
            let padded = size.add(&begin).add(&Dim::constant(ends[axis]));
            cx.at_least(&padded, &extent, "the padded input holds the kernel")?;
            let room = padded.sub(&extent);
            sizes.push(if self.ceil_mode {
                // The last window must begin inside the input or its leading padding.
                let all = room.ceil_div(&stride).add(&one);
                all.min(&size.add(&begin).ceil_div(&stride))
            } else {
                room.floor_div(&stride).add(&one)
            });
        }
        Ok(sizes)
    }
}

fn channels_first<'a>(cx: &Context<'a>, index: usize) -> Result<&'a [Dim], IrError> {
    let ty = cx.ty(index)?;
    if ty.rank() < 3 {
        return Err(cx.bad(format!("operand {index} must have rank 3 or more, not {}", ty.rank())));
    }
    Ok(&ty.dims)
}

fn check_operands(cx: &Context<'_>) -> Result<DType, IrError> {
    cx.dtype_of(0, "a float", DType::is_float)?;
    for index in 1..cx.inputs.len() {
        if cx.optional(index).is_some() {
            cx.same_dtype(0, index)?;
        }
    }
    cx.same_dtype(0, 1)
}

pub(super) fn conv(cx: &mut Context<'_>, attributes: &Conv) -> Outputs {
    let dtype = check_operands(cx)?;
    let x = channels_first(cx, 0)?;
    let w = &cx.ranked(1, x.len())?.dims;
    let groups = group_count(cx, attributes.groups)?;
    cx.equal(&x[1], &w[1].scale(groups), "input channels")?;
    whole_groups(cx, &w[0], groups)?;
    let windows = Windows {
        kernel: &w[2..],
        strides: &attributes.strides,
        dilations: &attributes.dilations,
        padding: &attributes.padding,
        ceil_mode: false,
    };
    let mut dims = vec![x[0].clone(), w[0].clone()];
    dims.extend(windows.outputs(cx, &x[2..])?);
    bias(cx, &w[0])?;
    if let Some(residual) = cx.optional(3) {
        if residual.ty.rank() != dims.len() {
            return Err(cx.bad("the residual must have the result's rank"));
        }
        cx.broadcasts_to(&residual.ty.dims, &dims, "residual")?;
    }
    Ok(vec![Output::new(dtype, dims)])
}

fn group_count(cx: &Context<'_>, groups: usize) -> Result<i64, IrError> {
    match cx.count(groups)? {
        0 => Err(cx.bad("there must be at least one group")),
        groups => Ok(groups),
    }
}

fn whole_groups(cx: &mut Context<'_>, channels: &Dim, groups: i64) -> Result<(), IrError> {
    let rest = channels.modulo(&Dim::constant(groups));
    cx.equal(&rest, &Dim::constant(0), "channels are a multiple of the groups").map(|_| ())
}

fn bias(cx: &mut Context<'_>, channels: &Dim) -> Result<(), IrError> {
    if cx.optional(2).is_some() {
        let bias = cx.ranked(2, 1)?;
        cx.equal(&bias.dims[0], channels, "bias")?;
    }
    Ok(())
}

pub(super) fn conv_transpose(cx: &mut Context<'_>, attributes: &ConvTranspose) -> Outputs {
    let dtype = check_operands(cx)?;
    let x = channels_first(cx, 0)?;
    let w = &cx.ranked(1, x.len())?.dims;
    let groups = group_count(cx, attributes.groups)?;
    cx.equal(&x[1], &w[0], "input channels")?;
    whole_groups(cx, &w[0], groups)?;
    let windows = Windows {
        kernel: &w[2..],
        strides: &attributes.strides,
        dilations: &attributes.dilations,
        padding: &attributes.padding,
        ceil_mode: false,
    };
    let spatial = &x[2..];
    windows.check(cx, spatial.len())?;
    let channels = w[1].scale(groups);
    let mut dims = vec![x[0].clone(), channels.clone()];
    if !attributes.output_padding.is_empty() && attributes.output_padding.len() != spatial.len() {
        return Err(cx.bad(format!(
            "{} output pads for {} spatial axes",
            attributes.output_padding.len(),
            spatial.len()
        )));
    }
    for (axis, size) in spatial.iter().enumerate() {
        let stride = cx.count(attributes.strides[axis])?;
        cx.at_least(size, &Dim::constant(1), "a transposed convolution needs an element to spread")?;
        dims.push(match (&attributes.output_shape, &attributes.padding) {
            (Some(sizes), _) => match sizes.get(axis) {
                Some(&size) => Dim::constant(cx.count(size)?),
                None => return Err(cx.bad(format!("the output shape has {} sizes", sizes.len()))),
            },
            (None, Padding::Explicit { begins, ends }) => {
                let extra = attributes.output_padding.get(axis).copied().unwrap_or(0);
                let grown = size.sub(&Dim::constant(1)).scale(stride).add(&windows.extent(cx, axis)?);
                let grown = grown.add(&Dim::constant(cx.count(extra)?));
                grown.sub(&Dim::constant(begins[axis])).sub(&Dim::constant(ends[axis]))
            }
            (None, _) => size.scale(stride),
        });
    }
    for dim in &dims[2..] {
        cx.at_least(dim, &Dim::constant(0), "sizes of the result")?;
    }
    bias(cx, &channels)?;
    Ok(vec![Output::new(dtype, dims)])
}

/// A convolution whose cells lie at offsets, and its integer form: their operands and the sizes of the result.
fn windowed(
    cx: &mut Context<'_>,
    [strides, dilations]: [&[usize]; 2],
    padding: &Padding,
    groups: usize,
) -> Result<Vec<Dim>, IrError> {
    let x = channels_first(cx, 0)?;
    let w = &cx.ranked(1, x.len())?.dims;
    let groups = group_count(cx, groups)?;
    cx.equal(&x[1], &w[1].scale(groups), "input channels")?;
    whole_groups(cx, &w[0], groups)?;
    let windows = Windows { kernel: &w[2..], strides, dilations, padding, ceil_mode: false };
    let mut dims = vec![x[0].clone(), w[0].clone()];
    dims.extend(windows.outputs(cx, &x[2..])?);
    Ok(dims)
}

pub(super) fn deform_conv(cx: &mut Context<'_>, attributes: &DeformConv) -> Outputs {
    let dtype = check_operands(cx)?;
    let DeformConv { strides, dilations, padding, groups, offset_groups } = attributes;
    let dims = windowed(cx, [strides, dilations], padding, *groups)?;
    let rank = dims.len();
    let cells = Dim::product(&cx.ty(1)?.dims[2..]).scale(group_count(cx, *offset_groups)?);
    let mut shaped = |index: usize, channels: Dim, reason: &str| -> Result<(), IrError> {
        if cx.optional(index).is_none() {
            return Ok(());
        }
        let found = &cx.ranked(index, rank)?.dims;
        let wanted = [&[dims[0].clone(), channels], &dims[2..]].concat();
        found.iter().zip(&wanted).try_for_each(|(a, b)| cx.equal(a, b, reason).map(|_| ()))
    };
    shaped(2, cells.scale(rank as i64 - 2), "offsets")?;
    shaped(4, cells, "masks")?;
    if cx.optional(3).is_some() {
        let bias = cx.ranked(3, 1)?;
        cx.equal(&bias.dims[0], &dims[1], "bias")?;
    }
    Ok(vec![Output::new(dtype, dims)])
}

pub(super) fn conv_integer(cx: &mut Context<'_>, attributes: &ConvInteger) -> Outputs {
    quant::bytes(cx)?;
    let ConvInteger { strides, dilations, padding, groups, to } = attributes;
    let dims = windowed(cx, [strides, dilations], padding, *groups)?;
    let channels = dims[1].clone();
    quant::integer_result(cx, dims, &channels, *to)
}
