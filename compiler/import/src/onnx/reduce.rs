//! Reductions and scans.

use lathe_ops::Op;
use lathe_ops::reduce::{ArgReduce, CumProd, CumSum, Reduce, ReduceKind, TopK};
use lathe_tensor::Tensor;

use crate::error::Fault;
use crate::onnx::node::{List, Node, Outputs};

/// ReduceSum-1 to 13 and the other reductions, 1 to 28: axes are an operand since opset 13 and 18.
pub(crate) fn reduce(node: &mut Node<'_, '_>) -> Outputs {
    let kind = match node.operator() {
        "ReduceL1" => ReduceKind::L1,
        "ReduceL2" => ReduceKind::L2,
        "ReduceLogSum" => ReduceKind::LogSum,
        "ReduceLogSumExp" => ReduceKind::LogSumExp,
        "ReduceMax" => ReduceKind::Max,
        "ReduceMean" => ReduceKind::Mean,
        "ReduceMin" => ReduceKind::Min,
        "ReduceProd" => ReduceKind::Prod,
        "ReduceSumSquare" => ReduceKind::SumSquare,
        _ => ReduceKind::Sum,
    };
    let input_since = if kind == ReduceKind::Sum { 13 } else { 18 };
    let keep_dims = node.attributes.flag("keepdims", true)?;
    let noop_with_empty_axes =
        node.opset >= input_since && node.attributes.flag("noop_with_empty_axes", false)?;
    let (axes, operand) = match node.list("axes", 1, input_since)? {
        List::None if noop_with_empty_axes => (Some(Vec::new()), None),
        List::Known(axes) if axes.is_empty() && !noop_with_empty_axes => (None, None),
        list => list.split(),
    };
    let x = node.input(0)?;
    let inputs: Vec<_> = [Some(x), operand].into_iter().take(1 + usize::from(operand.is_some())).collect();
    node.add_all(Op::Reduce(Reduce { kind, axes, keep_dims, noop_with_empty_axes }), &inputs, 1)
}

/// ArgMax and ArgMin, 1 to 13.
pub(crate) fn arg_reduce(node: &mut Node<'_, '_>) -> Outputs {
    let op = ArgReduce {
        min: node.operator() == "ArgMin",
        axis: node.attributes.int_or("axis", 0)?,
        keep_dims: node.attributes.flag("keepdims", true)?,
        select_last: node.attributes.flag("select_last_index", false)?,
    };
    node.direct(Op::ArgReduce(op))
}

/// TopK-1 has `k` as an attribute, TopK-10 and later as an operand.
pub(crate) fn top_k(node: &mut Node<'_, '_>) -> Outputs {
    let op = TopK {
        axis: node.attributes.int_or("axis", -1)?,
        largest: node.attributes.flag("largest", true)?,
        sorted: node.attributes.flag("sorted", true)?,
    };
    let x = node.input(0)?;
    let k = if node.opset < 10 {
        node.at_most(1)?;
        let k = node.attributes.required_int("k")?;
        node.constant(Tensor::from_slice(&[k], &[1]).map_err(Fault::from)?)
    } else {
        let k = node.input(1)?;
        node.as_i64(k)?
    };
    node.add_all(Op::TopK(op), &[Some(x), Some(k)], 2)
}

/// CumSum-11 and 14.
pub(crate) fn cum_sum(node: &mut Node<'_, '_>) -> Outputs {
    let op = CumSum {
        exclusive: node.attributes.flag("exclusive", false)?,
        reverse: node.attributes.flag("reverse", false)?,
    };
    let (x, axis) = (node.input(0)?, node.input(1)?);
    let axis = node.as_i64(axis)?;
    Ok(vec![node.add(Op::CumSum(op), &[x, axis])?])
}

/// CumProd-26.
pub(crate) fn cum_prod(node: &mut Node<'_, '_>) -> Outputs {
    let op = CumProd {
        exclusive: node.attributes.flag("exclusive", false)?,
        reverse: node.attributes.flag("reverse", false)?,
    };
    let (x, axis) = (node.input(0)?, node.input(1)?);
    let axis = node.as_i64(axis)?;
    Ok(vec![node.add(Op::CumProd(op), &[x, axis])?])
}
