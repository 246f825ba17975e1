//! Pictures.

use lathe_ops::image::{Col2Im, ImageDecoder, Pixels};
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use super::conv::Windows;
use crate::Dim;

pub(super) fn grid_sample(cx: &mut Context<'_>) -> Outputs {
    cx.dtype_of(0, "a float", DType::is_float)?;
    let x = cx.ty(0)?;
    let rank = x.rank();
    if rank < 3 {
        return Err(cx.bad("the input needs batch, channels and space"));
    }
    let grid = cx.ranked(1, rank)?;
    cx.equal(&x.dims[0], &grid.dims[0], "batch sizes")?;
    cx.equal(&grid.dims[rank - 1], &Dim::constant(rank as i64 - 2), "coordinates of a point")?;
    let dims = [&x.dims[..2], &grid.dims[1..rank - 1]].concat();
    Ok(vec![Output::new(x.dtype, dims)])
}

pub(super) fn affine_grid(cx: &mut Context<'_>) -> Outputs {
    cx.dtype_of(0, "a float", DType::is_float)?;
    cx.index_operand(1)?;
    let theta = cx.ranked(0, 3)?;
    let axes = cx.element_count(1)?.checked_sub(2).filter(|axes| matches!(axes, 2 | 3));
    let Some(axes) = axes else { return Err(cx.bad("the sizes must be of 2 or 3 axes of space")) };
    let space = match cx.elements(1) {
        Some(sizes) => sizes[2..].to_vec(),
        None => cx.fresh_dims(axes),
    };
    let points = Dim::constant(axes as i64);
    cx.equal(&theta.dims[1], &points, "rows of a map")?;
    cx.equal(&theta.dims[2], &Dim::constant(axes as i64 + 1), "columns of a map")?;
    let dims = [&theta.dims[..1], &space, &[points]].concat();
    Ok(vec![Output::new(theta.dtype, dims)])
}

/// The channels of regions of a picture, each of the same size.
fn regions(cx: &mut Context<'_>, columns: i64, size: [usize; 2]) -> Outputs {
    cx.dtype_of(0, "a float", DType::is_float)?;
    let (x, boxes) = (cx.ranked(0, 4)?, cx.ranked(1, 2)?);
    cx.equal(&boxes.dims[1], &Dim::constant(columns), "numbers of a region")?;
    let [rows, columns] = [cx.count(size[0])?, cx.count(size[1])?].map(Dim::constant);
    Ok(vec![Output::new(x.dtype, [boxes.dims[0].clone(), x.dims[1].clone(), rows, columns])])
}

pub(super) fn roi_align(cx: &mut Context<'_>, size: [usize; 2]) -> Outputs {
    cx.index_operand(2)?;
    let count = cx.ranked(2, 1)?.dims[0].clone();
    cx.equal(&cx.ranked(1, 2)?.dims[0], &count, "one batch index a region")?;
    regions(cx, 4, size)
}

pub(super) fn max_roi_pool(cx: &mut Context<'_>, size: [usize; 2]) -> Outputs {
    regions(cx, 5, size)
}

pub(super) fn non_max_suppression(cx: &mut Context<'_>) -> Outputs {
    cx.dtype_of(0, "a float", DType::is_float)?;
    let (boxes, scores) = (cx.ranked(0, 3)?, cx.ranked(1, 3)?);
    cx.equal(&boxes.dims[0], &scores.dims[0], "batch sizes")?;
    cx.equal(&boxes.dims[1], &scores.dims[2], "boxes and their scores")?;
    cx.equal(&boxes.dims[2], &Dim::constant(4), "numbers of a box")?;
    let count = cx.fresh();
    Ok(vec![Output::new(DType::I64, [count, Dim::constant(3)])])
}

pub(super) fn col2im(cx: &mut Context<'_>, attributes: &Col2Im) -> Outputs {
    cx.dtype_of(0, "a float", DType::is_float)?;
    (1..3).try_for_each(|index| cx.index_operand(index))?;
    let x = cx.ranked(0, 3)?;
    let rank = cx.element_count(1)?;
    let image = match cx.elements(1) {
        Some(sizes) => sizes,
        None => cx.fresh_dims(rank),
    };
    let channels = match cx.elements(2) {
        Some(block) => {
            if attributes.strides.is_empty() && attributes.dilations.is_empty() && attributes.pads.is_empty()
            {
                let ones = vec![1; block.len()];
                let zeros = vec![0; block.len()];
                let padding = lathe_ops::conv::Padding::Explicit { begins: zeros.clone(), ends: zeros };
                let windows = Windows {
                    kernel: &block,
                    strides: &ones,
                    dilations: &ones,
                    padding: &padding,
                    ceil_mode: false,
                };
                let outputs = windows.outputs(cx, &image)?;
                cx.equal(&x.dims[2], &Dim::product(&outputs), "blocks of the picture")?;
            }
            let cells = Dim::product(&block);
            match cells.as_constant() {
                Some(0) => return Err(cx.bad("a block without cells")),
                _ => x.dims[1].floor_div(&cells),
            }
        }
        None => cx.fresh(),
    };
    let dims = [&[x.dims[0].clone(), channels], &image[..]].concat();
    Ok(vec![Output::new(x.dtype, dims)])
}

pub(super) fn image_decoder(cx: &mut Context<'_>, attributes: &ImageDecoder) -> Outputs {
    cx.dtype_of(0, "u8", |dtype| dtype == DType::U8)?;
    cx.ranked(0, 1)?;
    let channels = if attributes.pixels == Pixels::Grayscale { 1 } else { 3 };
    let [height, width] = [cx.fresh(), cx.fresh()];
    Ok(vec![Output::new(DType::U8, [height, width, Dim::constant(channels)])])
}
