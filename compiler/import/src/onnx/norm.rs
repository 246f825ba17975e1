//! Normalisations and softmax.

use lathe_ir::Dim;
use lathe_ops::Op;
use lathe_ops::norm::{BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RmsNorm, Softmax};
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
    node.direct(Op::LayerNorm(LayerNorm { axis, epsilon: epsilon(node)? }))
}

/// RMSNormalization-23.
pub(crate) fn rms_norm(node: &mut Node<'_, '_>) -> Outputs {
    check_stash(node)?;
    let axis = node.attributes.int_or("axis", -1)?;
    node.direct(Op::RmsNorm(RmsNorm { axis, epsilon: epsilon(node)? }))
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
