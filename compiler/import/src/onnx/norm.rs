//! Normalisations and softmax.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::conv::Padding;
use lathe_ops::elementwise::{Binary, Compare, Unary, Where};
use lathe_ops::norm::{BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RmsNorm, Rounding, Softmax};
use lathe_ops::pool::AveragePool;
use lathe_ops::reduce::{ArgReduce, Reduce, ReduceKind};
use lathe_ops::shape::{Range, Unsqueeze};
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs, axis, positive};
use crate::onnx::types::dtype;

fn epsilon(node: &Node<'_, '_>) -> Result<f32, Fault> {
    node.attributes.float_or("epsilon", 1e-5)
}

/// BatchNormalization-1 to 15. Before opset 14 more than one output means training.
pub(crate) fn batch_norm(node: &mut Node<'_, '_>) -> Outputs {
    let training = node.opset >= 14 && node.attributes.flag("training_mode", false)?;
    if node.opset < 14 && node.wanted > 1 {
        return Err(Fault::unsupported("training outputs of batch normalisation below opset 14"));
    }
    if node.opset < 9 && !node.attributes.flag("spatial", true)? {
        return Err(Fault::unsupported("batch normalisation with statistics a position (`spatial` 0)"));
    }
    if node.opset < 7 {
        node.attributes.ignore(&["is_test", "consumed_inputs"]);
    }
    let momentum = node.attributes.float_or("momentum", 0.9)?;
    node.direct(Op::BatchNorm(BatchNorm { epsilon: epsilon(node)?, momentum, training }))
}

/// The dtype that the statistics are computed in: f32 whatever the operands are, or at least as wide as they are.
fn check_stash(node: &Node<'_, '_>) -> Result<(), Fault> {
    let number = node.attributes.int_or("stash_type", 1)?;
    let stash = dtype(i32::try_from(number).unwrap_or(-1))?;
    let x = node.dtype(node.input(0)?);
    if stash == DType::F32 || stash == x && x == DType::F64 {
        return Ok(());
    }
    Err(Fault::unsupported(format!("statistics of {x} values in {stash}")))
}

/// LayerNormalization-17.
pub(crate) fn layer_norm(node: &mut Node<'_, '_>) -> Outputs {
    check_stash(node)?;
    let axis = node.attributes.int_or("axis", -1)?;
    node.direct(Op::LayerNorm(LayerNorm {
        axis,
        epsilon: epsilon(node)?,
        rounding: node.rounding(Rounding::Rows),
    }))
}

/// RMSNormalization-23.
pub(crate) fn rms_norm(node: &mut Node<'_, '_>) -> Outputs {
    check_stash(node)?;
    let axis = node.attributes.int_or("axis", -1)?;
    node.direct(Op::RmsNorm(RmsNorm {
        axis,
        epsilon: epsilon(node)?,
        rounding: node.rounding(Rounding::Rows),
    }))
}

/// InstanceNormalization-1 to 22.
pub(crate) fn instance_norm(node: &mut Node<'_, '_>) -> Outputs {
    if node.opset < 6 {
        node.attributes.ignore(&["consumed_inputs"]);
    }
    node.direct(Op::InstanceNorm(InstanceNorm { epsilon: epsilon(node)? }))
}

/// GroupNormalization: scale and bias per group in opset 18, per channel since 21.
pub(crate) fn group_norm(node: &mut Node<'_, '_>) -> Outputs {
    if node.opset >= 21 {
        check_stash(node)?;
    }
    let groups = positive("num_groups", node.attributes.required_int("num_groups")?)?;
    let per_group = node.opset < 21;
    node.direct(Op::GroupNorm(GroupNorm { groups, per_group, epsilon: epsilon(node)? }))
}

/// Softmax and LogSoftmax, 1 to 13. Below 13 the axes from `axis` on are one.
pub(crate) fn softmax(node: &mut Node<'_, '_>) -> Outputs {
    let log = node.operator() == "LogSoftmax";
    let x = node.input(0)?;
    let rank = node.rank(x);
    if node.opset >= 13 {
        let axis = node.attributes.int_or("axis", -1)?;
        return Ok(vec![node.add(Op::Softmax(Softmax { axis, log }), &[x])?]);
    }
    let first = match node.attributes.int_or("axis", 1)? {
        first if first == rank as i64 => rank,
        first => axis(first, rank)?,
    };
    if first + 1 == rank {
        return Ok(vec![node.add(Op::Softmax(Softmax { axis: -1, log }), &[x])?]);
    }
    let dims = node.dims(x).to_vec();
    let rows = node.reshape(x, vec![Dim::product(&dims[..first]), Dim::product(&dims[first..])])?;
    let result = node.add(Op::Softmax(Softmax { axis: -1, log }), &[rows])?;
    Ok(vec![node.reshape(result, dims)?])
}

/// Hardmax-1 to 13: 1 at the first largest element along the axis, 0 elsewhere. Below 13 the axes from `axis` on are one.
pub(crate) fn hardmax(node: &mut Node<'_, '_>) -> Outputs {
    let x = node.input(0)?;
    let dims = node.dims(x).to_vec();
    if node.opset >= 13 {
        let place = axis(node.attributes.int_or("axis", -1)?, dims.len())?;
        return Ok(vec![largest(node, x, place)?]);
    }
    let first = match node.attributes.int_or("axis", 1)? {
        first if first == dims.len() as i64 => dims.len(),
        first => axis(first, dims.len())?,
    };
    let rows = node.reshape(x, vec![Dim::product(&dims[..first]), Dim::product(&dims[first..])])?;
    let result = largest(node, rows, 1)?;
    Ok(vec![node.reshape(result, dims)?])
}

fn largest(node: &mut Node<'_, '_>, x: ValueId, place: usize) -> Result<ValueId, Fault> {
    let argmax = ArgReduce { min: false, axis: place as i64, keep_dims: true, select_last: false };
    let index = node.add(Op::ArgReduce(argmax), &[x])?;
    let size = node.sizes(vec![node.dims(x)[place].clone()])?;
    let size = node.reshape(size, vec![])?;
    let (zero, one) = (node.number(DType::I64, 0.0)?, node.number(DType::I64, 1.0)?);
    let count = node.add(Op::Range(Range {}), &[zero, size, one])?;
    let trailing = (1..(node.rank(x) - place) as i64).collect();
    let count = node.add(Op::Unsqueeze(Unsqueeze { axes: Some(trailing) }), &[count])?;
    let hot = node.add(Op::Compare(Compare::Equal), &[index, count])?;
    node.cast(hot, node.dtype(x))
}

/// LpNormalization-1 and 22: `x / |x|_p` along an axis, 0 where the norm is 0.
pub(crate) fn lp_norm(node: &mut Node<'_, '_>) -> Outputs {
    let kind = match node.attributes.int_or("p", 2)? {
        1 => ReduceKind::L1,
        2 => ReduceKind::L2,
        p => return Err(Fault::bad(format!("attribute `p` is {p}, not 1 or 2"))),
    };
    let axes = Some(vec![node.attributes.int_or("axis", -1)?]);
    let x = node.input(0)?;
    let reduce = Reduce { kind, axes, keep_dims: true, noop_with_empty_axes: false };
    let size = node.add(Op::Reduce(reduce), &[x])?;
    let zero = node.number_like(x, 0.0)?;
    let none = node.add(Op::Compare(Compare::Equal), &[size, zero])?;
    let quotient = node.binary(Binary::Div, x, size)?;
    Ok(vec![node.add(Op::Where(Where {}), &[none, zero, quotient])?])
}

/// LRN-1 and 13: `x / (bias + alpha / size * sum of squares of the channels around)^beta`: the sum is an average over a window
/// along the channels, padding counted.
pub(crate) fn local_response(node: &mut Node<'_, '_>) -> Outputs {
    let size = positive("size", node.attributes.required_int("size")?)?;
    let alpha = node.attributes.float_or("alpha", 1e-4)?;
    let (beta, bias) = (node.attributes.float_or("beta", 0.75)?, node.attributes.float_or("bias", 1.0)?);
    let x = node.input(0)?;
    let dims = node.dims(x).to_vec();
    let [batch, channels, spatial @ ..] = &dims[..] else {
        return Err(Fault::bad("its input needs a batch and a channel axis"));
    };
    let square = node.binary(Binary::Mul, x, x)?;
    let plane = vec![batch.clone(), Dim::constant(1), channels.clone(), Dim::product(spatial)];
    let plane = node.reshape(square, plane)?;
    let before = ((size - 1) / 2) as i64;
    let after = size as i64 - 1 - before;
    let pool = AveragePool {
        kernel: vec![size, 1],
        strides: vec![1, 1],
        dilations: vec![1, 1],
        padding: Padding::Explicit { begins: vec![before, 0], ends: vec![after, 0] },
        ceil_mode: false,
        count_include_pad: true,
    };
    let mean = node.add(Op::AveragePool(pool), &[plane])?;
    let mean = node.reshape(mean, dims)?;
    let (alpha, bias) = (node.number_like(x, f64::from(alpha))?, node.number_like(x, f64::from(bias))?);
    let scaled = node.binary(Binary::Mul, mean, alpha)?;
    let base = node.binary(Binary::Add, scaled, bias)?;
    let beta = node.number_like(x, f64::from(beta))?;
    let divisor = node.binary(Binary::Pow, base, beta)?;
    Ok(vec![node.binary(Binary::Div, x, divisor)?])
}

/// MeanVarianceNormalization-9 and 13: `(x - mean) / (deviation + 1e-9)` over axes.
pub(crate) fn mean_variance(node: &mut Node<'_, '_>) -> Outputs {
    let axes = node.attributes.ints("axes")?.unwrap_or(&[0, 2, 3]).to_vec();
    let x = node.input(0)?;
    let mean = |node: &mut Node<'_, '_>, x: ValueId| {
        let axes = Some(axes.clone());
        let reduce = Reduce { kind: ReduceKind::Mean, axes, keep_dims: true, noop_with_empty_axes: false };
        node.add(Op::Reduce(reduce), &[x])
    };
    let centre = mean(node, x)?;
    let centered = node.binary(Binary::Sub, x, centre)?;
    let square = node.binary(Binary::Mul, centered, centered)?;
    let variance = mean(node, square)?;
    let deviation = node.unary(Unary::Sqrt, variance)?;
    let epsilon = node.number_like(x, 1e-9)?;
    let divisor = node.binary(Binary::Add, deviation, epsilon)?;
    Ok(vec![node.binary(Binary::Div, centered, divisor)?])
}
