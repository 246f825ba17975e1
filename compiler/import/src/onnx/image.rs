//! Pictures.

use lathe_ops::Op;
use lathe_ops::image::{
    AffineGrid, Border, Col2Im, GridSample, ImageDecoder, Interpolation, MaxRoiPool, NonMaxSuppression,
    Pixels, RoiAlign,
};
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs, positive};

/// GridSample-16 to 22; opset 20 renamed the modes.
pub(crate) fn grid_sample(node: &mut Node<'_, '_>) -> Outputs {
    let modes = [
        ("linear", Interpolation::Linear),
        ("bilinear", Interpolation::Linear),
        ("nearest", Interpolation::Nearest),
        ("cubic", Interpolation::Cubic),
        ("bicubic", Interpolation::Cubic),
    ];
    let borders = [("zeros", Border::Zeros), ("border", Border::Clamp), ("reflection", Border::Reflect)];
    let op = GridSample {
        interpolation: node.attributes.choice("mode", &modes)?,
        border: node.attributes.choice("padding_mode", &borders)?,
        align_corners: node.attributes.flag("align_corners", false)?,
    };
    node.direct(Op::GridSample(op))
}

/// AffineGrid-20.
pub(crate) fn affine_grid(node: &mut Node<'_, '_>) -> Outputs {
    let align_corners = node.attributes.flag("align_corners", false)?;
    let (theta, size) = (node.input(0)?, node.input(1)?);
    let size = node.as_i64(size)?;
    Ok(vec![node.add(Op::AffineGrid(AffineGrid { align_corners }), &[theta, size])?])
}

/// RoiAlign-10 to 22: before opset 16 pixel centres were whole numbers.
pub(crate) fn roi_align(node: &mut Node<'_, '_>) -> Outputs {
    let words = [("half_pixel", true), ("output_half_pixel", false)];
    let half_pixel = match node.opset {
        ..16 => false,
        _ => node.attributes.choice("coordinate_transformation_mode", &words)?,
    };
    let size = |name: &str| positive(name, node.attributes.int_or(name, 1)?);
    let sampling = node.attributes.int_or("sampling_ratio", 0)?;
    let op = RoiAlign {
        size: [size("output_height")?, size("output_width")?],
        sampling: if sampling == 0 { 0 } else { positive("sampling_ratio", sampling)? },
        spatial_scale: node.attributes.float_or("spatial_scale", 1.0)?,
        max: node.attributes.choice("mode", &[("avg", false), ("max", true)])?,
        half_pixel,
    };
    node.direct(Op::RoiAlign(op))
}

/// MaxRoiPool-1 and 22.
pub(crate) fn max_roi_pool(node: &mut Node<'_, '_>) -> Outputs {
    let &[rows, columns] = node.attributes.required_ints("pooled_shape")? else {
        return Err(Fault::bad("attribute `pooled_shape` is not two sizes"));
    };
    let op = MaxRoiPool {
        size: [positive("pooled_shape", rows)?, positive("pooled_shape", columns)?],
        spatial_scale: node.attributes.float_or("spatial_scale", 1.0)?,
    };
    node.direct(Op::MaxRoiPool(op))
}

/// NonMaxSuppression-10 and 11.
pub(crate) fn non_max_suppression(node: &mut Node<'_, '_>) -> Outputs {
    let center_point_box = node.attributes.flag("center_point_box", false)?;
    let mut inputs = node.inputs.clone();
    if let Some(limit) = node.optional(2) {
        inputs[2] = Some(node.as_i64(limit)?);
    }
    node.add_all(Op::NonMaxSuppression(NonMaxSuppression { center_point_box }), &inputs, 1)
}

/// Col2Im-18.
pub(crate) fn col2im(node: &mut Node<'_, '_>) -> Outputs {
    let sizes = |name: &str, least: i64| -> Result<Vec<usize>, Fault> {
        let list = node.attributes.ints(name)?.unwrap_or_default();
        list.iter().map(|&size| if size == 0 && least == 0 { Ok(0) } else { positive(name, size) }).collect()
    };
    let op =
        Col2Im { strides: sizes("strides", 1)?, dilations: sizes("dilations", 1)?, pads: sizes("pads", 0)? };
    let (x, image, block) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let (image, block) = (node.as_i64(image)?, node.as_i64(block)?);
    Ok(vec![node.add(Op::Col2Im(op), &[x, image, block])?])
}

/// ImageDecoder-20.
pub(crate) fn image_decoder(node: &mut Node<'_, '_>) -> Outputs {
    let words = [("RGB", Pixels::Rgb), ("BGR", Pixels::Bgr), ("Grayscale", Pixels::Grayscale)];
    let pixels = node.attributes.choice("pixel_format", &words)?;
    let x = node.input(0)?;
    if node.dtype(x) != DType::U8 {
        return Err(Fault::bad(format!("its input is {}, not the u8 of a file", node.dtype(x))));
    }
    Ok(vec![node.add(Op::ImageDecoder(ImageDecoder { pixels }), &[x])?])
}
