//! Convolutions, and what all operators with windows share.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::conv::{Conv, ConvTranspose, Padding};
use lathe_ops::elementwise::Activation;

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
fn check_kernel(node: &Node<'_, '_>, weight: ValueId, spatial: usize) -> Result<(), Fault> {
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
    };
    node.direct(Op::ConvTranspose(op))
}
