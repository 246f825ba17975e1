//! Pooling.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Unary};
use lathe_ops::pool::{AveragePool, LpPool, MaxPool, MaxUnpool};
use lathe_ops::reduce::{Reduce, ReduceKind};

use crate::error::Fault;
use crate::onnx::conv::{padding, spatial, window, window_or_ones};
use crate::onnx::node::{Node, Outputs, positive};

fn kernel(node: &Node<'_, '_>, spatial: usize) -> Result<Vec<usize>, Fault> {
    window(node, "kernel_shape", spatial)?.ok_or_else(|| Fault::bad("attribute `kernel_shape` is missing"))
}

/// MaxPool-1 to 22.
pub(crate) fn max_pool(node: &mut Node<'_, '_>) -> Outputs {
    let spatial = spatial(node, node.input(0)?)?;
    let op = MaxPool {
        kernel: kernel(node, spatial)?,
        strides: window_or_ones(node, "strides", spatial)?,
        dilations: window_or_ones(node, "dilations", spatial)?,
        padding: padding(node, spatial)?,
        ceil_mode: node.attributes.flag("ceil_mode", false)?,
        column_major: node.attributes.flag("storage_order", false)?,
    };
    node.direct(Op::MaxPool(op))
}

/// AveragePool-1 to 22.
pub(crate) fn average_pool(node: &mut Node<'_, '_>) -> Outputs {
    let op = average_of(node, node.input(0)?)?;
    node.direct(op)
}

/// What AveragePool's attributes say of `x [batch, channels, ...]`.
pub(crate) fn average_of(node: &Node<'_, '_>, x: ValueId) -> Result<Op, Fault> {
    let spatial = spatial(node, x)?;
    Ok(Op::AveragePool(AveragePool {
        kernel: kernel(node, spatial)?,
        strides: window_or_ones(node, "strides", spatial)?,
        dilations: window_or_ones(node, "dilations", spatial)?,
        padding: padding(node, spatial)?,
        ceil_mode: node.attributes.flag("ceil_mode", false)?,
        count_include_pad: node.attributes.flag("count_include_pad", false)?,
    }))
}

/// GlobalAveragePool and GlobalMaxPool, 1 and 22: reductions over all spatial axes.
pub(crate) fn global(node: &mut Node<'_, '_>) -> Outputs {
    let kind = if node.operator() == "GlobalMaxPool" { ReduceKind::Max } else { ReduceKind::Mean };
    let spatial = spatial(node, node.input(0)?)? as i64;
    let axes = Some((2..2 + spatial).collect());
    node.direct(Op::Reduce(Reduce { kind, axes, keep_dims: true, noop_with_empty_axes: false }))
}

/// The exponent of an Lp norm: a float in opset 1, an integer since.
fn exponent(node: &Node<'_, '_>) -> Result<f64, Fault> {
    if node.opset < 2 {
        let p = node.attributes.float_or("p", 2.0)?;
        return if p > 0.0 { Ok(f64::from(p)) } else { Err(Fault::bad(format!("attribute `p` is {p}"))) };
    }
    positive("p", node.attributes.int_or("p", 2)?).map(|p| p as f64)
}

/// LpPool-1 to 22.
pub(crate) fn lp_pool(node: &mut Node<'_, '_>) -> Outputs {
    let spatial = spatial(node, node.input(0)?)?;
    let op = LpPool {
        p: exponent(node)?,
        kernel: kernel(node, spatial)?,
        strides: window_or_ones(node, "strides", spatial)?,
        dilations: window_or_ones(node, "dilations", spatial)?,
        padding: padding(node, spatial)?,
        ceil_mode: node.attributes.flag("ceil_mode", false)?,
    };
    node.direct(Op::LpPool(op))
}

/// GlobalLpPool-1 to 22: `(sum of |x|^p)^(1/p)` over all spatial axes.
pub(crate) fn global_lp(node: &mut Node<'_, '_>) -> Outputs {
    let p = exponent(node)?;
    let x = node.input(0)?;
    let spatial = spatial(node, x)? as i64;
    let reduce = |kind| Reduce {
        kind,
        axes: Some((2..2 + spatial).collect()),
        keep_dims: true,
        noop_with_empty_axes: false,
    };
    if p == 2.0 {
        return node.direct(Op::Reduce(reduce(ReduceKind::L2)));
    }
    let size = node.unary(Unary::Abs, x)?;
    let (power, root) = (node.number_like(x, p)?, node.number_like(x, 1.0 / p)?);
    let powers = node.binary(Binary::Pow, size, power)?;
    let sum = node.add(Op::Reduce(reduce(ReduceKind::Sum)), &[powers])?;
    Ok(vec![node.binary(Binary::Pow, sum, root)?])
}

/// MaxUnpool-9 to 22.
pub(crate) fn max_unpool(node: &mut Node<'_, '_>) -> Outputs {
    let spatial = spatial(node, node.input(0)?)?;
    let op = MaxUnpool {
        kernel: kernel(node, spatial)?,
        strides: window_or_ones(node, "strides", spatial)?,
        padding: padding(node, spatial)?,
    };
    let mut inputs = node.inputs.clone();
    if let Some(shape) = node.optional(2) {
        inputs[2] = Some(node.as_i64(shape)?);
    }
    node.add_all(Op::MaxUnpool(op), &inputs, 1)
}
