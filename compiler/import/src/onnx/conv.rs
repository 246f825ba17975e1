//! Convolutions, and what all operators with windows share.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::conv::{Conv, ConvTranspose, Padding};
use lathe_ops::deform_conv::DeformConv;
use lathe_ops::elementwise::{Activation, Unary};
use lathe_ops::shape::{Concat, Pad, PadMode, Slice};

use crate::error::{Fault, quote};
use crate::onnx::node::{Node, Outputs, positive};

/// Padding of more cells than this is a mistake.
const MAX_PAD: i64 = i32::MAX as i64;

/// Number of spatial axes of `x[batch, channels, spatial...]`.
pub(crate) fn spatial(node: &Node<'_, '_>, x: ValueId) -> Result<usize, Fault> {
    match node.rank(x) {
        rank @ 3.. => Ok(rank - 2),
        rank => {
            Err(Fault::bad(format!("its input has {rank} axes: batch, channels and space take at least 3")))
        }
    }
}

/// An attribute with a positive size for each spatial axis.
pub(crate) fn window(node: &Node<'_, '_>, name: &str, spatial: usize) -> Result<Option<Vec<usize>>, Fault> {
    let Some(list) = node.attributes.ints(name)? else { return Ok(None) };
    check_length(name, list.len(), spatial)?;
    list.iter().map(|&size| positive(name, size)).collect::<Result<_, _>>().map(Some)
}

/// Steps and distances, 1 where not given.
pub(crate) fn window_or_ones(node: &Node<'_, '_>, name: &str, spatial: usize) -> Result<Vec<usize>, Fault> {
    Ok(window(node, name, spatial)?.unwrap_or_else(|| vec![1; spatial]))
}

fn check_length(name: &str, length: usize, spatial: usize) -> Result<(), Fault> {
    if length != spatial {
        let reason = format!("attribute {} has {length} entries for {spatial} spatial axes", quote(name));
        return Err(Fault::bad(reason));
    }
    Ok(())
}

/// `auto_pad` and `pads`.
pub(crate) fn padding(node: &Node<'_, '_>, spatial: usize) -> Result<Padding, Fault> {
    #[derive(Clone, Copy, PartialEq)]
    enum Auto {
        NotSet,
        Valid,
        Upper,
        Lower,
    }
    let words = [
        ("NOTSET", Auto::NotSet),
        ("VALID", Auto::Valid),
        ("SAME_UPPER", Auto::Upper),
        ("SAME_LOWER", Auto::Lower),
    ];
    let auto = match node.attributes.string("auto_pad")? {
        Some("") => Auto::NotSet,
        _ => node.attributes.choice("auto_pad", &words)?,
    };
    let zeros = vec![0; 2 * spatial];
    let pads = node.attributes.ints("pads")?.unwrap_or(&zeros);
    if pads.len() != 2 * spatial {
        return Err(Fault::bad(format!(
            "attribute `pads` has {} entries for {spatial} spatial axes",
            pads.len()
        )));
    }
    if let Some(pad) = pads.iter().find(|pad| pad.checked_abs().is_none_or(|pad| pad > MAX_PAD)) {
        return Err(Fault::bad(format!("attribute `pads` has {pad}")));
    }
    let pads = if auto == Auto::Valid { &zeros } else { pads };
    let (begins, ends) = pads.split_at(spatial);
    Ok(match auto {
        Auto::Upper => Padding::SameUpper,
        Auto::Lower => Padding::SameLower,
        _ => Padding::Explicit { begins: begins.to_vec(), ends: ends.to_vec() },
    })
}

/// Checks `kernel_shape` against the weight's spatial axes, where both are known.
pub(crate) fn check_kernel(node: &Node<'_, '_>, weight: ValueId, spatial: usize) -> Result<(), Fault> {
    let Some(kernel) = window(node, "kernel_shape", spatial)? else { return Ok(()) };
    let sizes = node.dims(weight).iter().skip(2).map(|dim| dim.as_constant());
    let fits = sizes.zip(&kernel).all(|(size, &kernel)| size.is_none_or(|size| size == kernel as i64));
    if !fits || node.rank(weight) != spatial + 2 {
        let dims = node.dims(weight);
        return Err(Fault::bad(format!("`kernel_shape` {kernel:?} does not fit the weight {dims:?}")));
    }
    Ok(())
}

/// Conv-1 to 22.
pub(crate) fn conv(node: &mut Node<'_, '_>) -> Outputs {
    let spatial = spatial(node, node.input(0)?)?;
    check_kernel(node, node.input(1)?, spatial)?;
    let op = Conv {
        strides: window_or_ones(node, "strides", spatial)?,
        dilations: window_or_ones(node, "dilations", spatial)?,
        padding: padding(node, spatial)?,
        groups: positive("group", node.attributes.int_or("group", 1)?)?,
        activation: Activation::None,
    };
    node.direct(Op::Conv(op))
}

/// ConvTranspose-1 to 22.
pub(crate) fn conv_transpose(node: &mut Node<'_, '_>) -> Outputs {
    let spatial = spatial(node, node.input(0)?)?;
    check_kernel(node, node.input(1)?, spatial)?;
    let output_shape = match node.attributes.ints("output_shape")? {
        // Some exporters write batch and channels too.
        Some(list) if list.len() == spatial + 2 => Some(&list[2..]),
        list => list,
    };
    let sizes = |name: &str, list: &[i64]| -> Result<Vec<usize>, Fault> {
        check_length(name, list.len(), spatial)?;
        list.iter().map(|&size| if size == 0 { Ok(0) } else { positive(name, size) }).collect()
    };
    let op = ConvTranspose {
        strides: window_or_ones(node, "strides", spatial)?,
        dilations: window_or_ones(node, "dilations", spatial)?,
        padding: padding(node, spatial)?,
        output_padding: match node.attributes.ints("output_padding")? {
            Some(list) => sizes("output_padding", list)?,
            None => vec![0; spatial],
        },
        output_shape: output_shape.map(|list| sizes("output_shape", list)).transpose()?,
        groups: positive("group", node.attributes.int_or("group", 1)?)?,
        activation: Activation::None,
        exact: node.importer.quantises_by_range,
    };
    node.direct(Op::ConvTranspose(op))
}

/// DeformConv-19 and 22.
pub(crate) fn deform_conv(node: &mut Node<'_, '_>) -> Outputs {
    let spatial = spatial(node, node.input(0)?)?;
    check_kernel(node, node.input(1)?, spatial)?;
    let op = DeformConv {
        strides: window_or_ones(node, "strides", spatial)?,
        dilations: window_or_ones(node, "dilations", spatial)?,
        padding: padding(node, spatial)?,
        groups: positive("group", node.attributes.int_or("group", 1)?)?,
        offset_groups: positive("offset_group", node.attributes.int_or("offset_group", 1)?)?,
    };
    node.direct(Op::DeformConv(op))
}

/// CausalConvWithState-27: a depthwise convolution over what came before, the state, and the input; the new state is the end
/// of both.
pub(crate) fn causal_conv(node: &mut Node<'_, '_>) -> Outputs {
    let silu = [("none", false), ("silu", true), ("swish", true)];
    let silu = node.attributes.choice("activation", &silu)?;
    node.attributes.ignore(&["ndim"]);
    let (x, weight) = (node.input(0)?, node.input(1)?);
    if node.rank(x) != 3 || node.rank(weight) != 3 {
        return Err(Fault::bad("input and weight need three axes"));
    }
    let sizes = (node.dims(weight)[0].as_constant(), node.dims(weight)[2].as_constant());
    let (Some(channels), Some(kernel)) = sizes else {
        return Err(Fault::unsupported("a weight whose sizes only the run knows"));
    };
    let kernel = positive("weight", kernel)? as i64;
    let whole = match node.optional(3) {
        Some(past) => node.add(Op::Concat(Concat { axis: 2 }), &[past, x])?,
        None => {
            let pads = node.ints(&[0, 0, kernel - 1, 0, 0, 0])?;
            node.add(Op::Pad(Pad { mode: PadMode::Constant }), &[x, pads])?
        }
    };
    let conv = Conv {
        strides: vec![1],
        dilations: vec![1],
        padding: Padding::Explicit { begins: vec![0], ends: vec![0] },
        groups: positive("channels", channels)?,
        activation: Activation::None,
    };
    let mut result = node.add_all(Op::Conv(conv), &[Some(whole), Some(weight), node.optional(2)], 1)?[0];
    if silu {
        result = node.unary(Unary::Silu, result)?;
    }
    let start = if kernel == 1 { i64::MAX } else { 1 - kernel };
    let (start, end) = (node.ints(&[start])?, node.ints(&[i64::MAX])?);
    let (axis, step) = (node.ints(&[2])?, node.ints(&[1])?);
    Ok(vec![result, node.add(Op::Slice(Slice {}), &[whole, start, end, axis, step])?])
}
