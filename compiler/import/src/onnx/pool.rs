//! Pooling.

use lathe_ops::Op;
use lathe_ops::pool::{AveragePool, MaxPool};
use lathe_ops::reduce::{Reduce, ReduceKind};

use crate::error::Fault;
use crate::onnx::conv::{padding, spatial, window, window_or_ones};
use crate::onnx::node::{Node, Outputs};

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
    let spatial = spatial(node, node.input(0)?)?;
    let op = AveragePool {
        kernel: kernel(node, spatial)?,
        strides: window_or_ones(node, "strides", spatial)?,
        dilations: window_or_ones(node, "dilations", spatial)?,
        padding: padding(node, spatial)?,
        ceil_mode: node.attributes.flag("ceil_mode", false)?,
        count_include_pad: node.attributes.flag("count_include_pad", false)?,
    };
    node.direct(Op::AveragePool(op))
}

/// GlobalAveragePool and GlobalMaxPool, 1 and 22: reductions over all spatial axes.
pub(crate) fn global(node: &mut Node<'_, '_>) -> Outputs {
    let kind = if node.operator() == "GlobalMaxPool" { ReduceKind::Max } else { ReduceKind::Mean };
    let spatial = spatial(node, node.input(0)?)? as i64;
    let axes = Some((2..2 + spatial).collect());
    node.direct(Op::Reduce(Reduce { kind, axes, keep_dims: true, noop_with_empty_axes: false }))
}
