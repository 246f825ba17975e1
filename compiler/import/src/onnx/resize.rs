//! Resampling.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::resize::{AspectPolicy, Coordinates, Mode, Resize, Rounding};
use lathe_tensor::Tensor;

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs, axis};

const MODES: [(&str, Mode); 3] =
    [("nearest", Mode::Nearest), ("linear", Mode::Linear), ("cubic", Mode::Cubic)];

/// Resize-10 to 19.
pub(crate) fn resize(node: &mut Node<'_, '_>) -> Outputs {
    if node.opset < 11 {
        return by_scales(node);
    }
    let x = node.input(0)?;
    let attributes = &node.attributes;
    let coordinates = attributes.choice(
        "coordinate_transformation_mode",
        &[
            ("half_pixel", Coordinates::HalfPixel),
            ("half_pixel_symmetric", Coordinates::HalfPixelSymmetric),
            ("pytorch_half_pixel", Coordinates::PytorchHalfPixel),
            ("align_corners", Coordinates::AlignCorners),
            ("asymmetric", Coordinates::Asymmetric),
            ("tf_crop_and_resize", Coordinates::TfCropAndResize),
        ],
    )?;
    let op = Resize {
        mode: attributes.choice("mode", &MODES)?,
        coordinates,
        rounding: attributes.choice(
            "nearest_mode",
            &[
                ("round_prefer_floor", Rounding::RoundPreferFloor),
                ("round_prefer_ceil", Rounding::RoundPreferCeil),
                ("floor", Rounding::Floor),
                ("ceil", Rounding::Ceil),
            ],
        )?,
        cubic_coefficient: attributes.float_or("cubic_coeff_a", -0.75)?,
        exclude_outside: attributes.flag("exclude_outside", false)?,
        extrapolation_value: attributes.float_or("extrapolation_value", 0.0)?,
        antialias: attributes.flag("antialias", false)?,
        axes: axes(node, x)?,
        policy: attributes.choice(
            "keep_aspect_ratio_policy",
            &[
                ("stretch", AspectPolicy::Stretch),
                ("not_larger", AspectPolicy::NotLarger),
                ("not_smaller", AspectPolicy::NotSmaller),
            ],
        )?,
        exact: node.importer.quantises_by_range,
    };
    let roi = given(node, 1).filter(|_| coordinates == Coordinates::TfCropAndResize);
    let (scales, sizes) = (given(node, 2), given(node, 3));
    if scales.is_some() == sizes.is_some() {
        let which =
            if scales.is_some() { "both `scales` and `sizes`" } else { "neither `scales` nor `sizes`" };
        return Err(Fault::bad(format!("it has {which}")));
    }
    let mut inputs = vec![Some(x), roi, scales];
    if let Some(sizes) = sizes {
        inputs.push(Some(node.as_i64(sizes)?));
    }
    node.add_all(Op::Resize(op), &inputs, 1)
}

/// An operand that is there and not empty: Resize-11 wants empty tensors for what is left out.
fn given(node: &Node<'_, '_>, index: usize) -> Option<ValueId> {
    let empty = |value: &ValueId| node.dims(*value).iter().any(|dim| dim.as_constant() == Some(0));
    node.optional(index).filter(|value| !empty(value))
}

fn axes(node: &Node<'_, '_>, x: ValueId) -> Result<Option<Vec<i64>>, Fault> {
    let Some(list) = node.attributes.ints("axes")? else { return Ok(None) };
    let rank = node.rank(x);
    let mut seen = vec![false; rank];
    for &entry in list {
        if std::mem::replace(&mut seen[axis(entry, rank)?], true) {
            return Err(Fault::bad(format!("attribute `axes` {list:?} names an axis twice")));
        }
    }
    Ok(Some(list.to_vec()))
}

/// Upsample-7 to 10.
pub(crate) fn upsample(node: &mut Node<'_, '_>) -> Outputs {
    by_scales(node)
}

/// Upsample and Resize-10: scales only, asymmetric, nearest rounds down.
fn by_scales(node: &mut Node<'_, '_>) -> Outputs {
    let op = Resize {
        mode: node.attributes.choice("mode", &[MODES[0], MODES[1], ("bilinear", Mode::Linear)])?,
        coordinates: Coordinates::Asymmetric,
        rounding: Rounding::Floor,
        cubic_coefficient: -0.75,
        exclude_outside: false,
        extrapolation_value: 0.0,
        antialias: false,
        axes: None,
        policy: AspectPolicy::Stretch,
        exact: node.importer.quantises_by_range,
    };
    let x = node.input(0)?;
    let scales = if node.operator() == "Upsample" && node.opset < 9 {
        node.at_most(1)?;
        let scales = node.attributes.floats("scales")?;
        let scales = scales.ok_or_else(|| Fault::bad("attribute `scales` is missing"))?;
        node.constant(Tensor::from_slice(scales, &[scales.len()])?)
    } else {
        node.at_most(2)?;
        node.input(1)?
    };
    node.add_all(Op::Resize(op), &[Some(x), None, Some(scales)], 1)
}
