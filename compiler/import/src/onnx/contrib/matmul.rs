use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::conv::Conv;
use lathe_ops::elementwise::{Activation, Binary, Unary};
use lathe_ops::matmul::MatMul;
use lathe_ops::shape::Transpose;

use super::{activated, activation};
use crate::error::Fault;
use crate::onnx::conv::{check_kernel, padding, spatial, window_or_ones};
use crate::onnx::node::{Node, Outputs, positive};

/// `activation(conv(x, w, bias) + residual)`.
pub(super) fn fused_conv(node: &mut Node<'_, '_>) -> Outputs {
    let parameters = node.attributes.floats("activation_params")?.unwrap_or_default().to_vec();
    let spatial = spatial(node, node.input(0)?)?;
    check_kernel(node, node.input(1)?, spatial)?;
    let op = Conv {
        strides: window_or_ones(node, "strides", spatial)?,
        dilations: window_or_ones(node, "dilations", spatial)?,
        padding: padding(node, spatial)?,
        groups: positive("group", node.attributes.int_or("group", 1)?)?,
        activation: activation(node, &parameters)?,
    };
    node.direct(Op::Conv(op))
}

/// A Gemm and an activation.
pub(super) fn fused_gemm(node: &mut Node<'_, '_>) -> Outputs {
    let (alpha, beta) =
        (node.attributes.float("activation_alpha")?, node.attributes.float("activation_beta")?);
    let gamma = node.attributes.float("activation_gamma")?;
    let name = node.attributes.string("activation")?.unwrap_or("").to_string();
    let steps = matches!(&name[..], "Elu" | "Selu" | "Softplus" | "Softsign" | "ThresholdedRelu");
    let parameters: Vec<f32> = alpha.into_iter().chain(beta).collect();
    let activation = if steps { Activation::None } else { activation(node, &parameters)? };
    let [product] = crate::onnx::matmul::gemm(node)?[..] else { return Err(Fault::bad("it has no product")) };
    Ok(vec![match &name[..] {
        "Elu" => node.exponential_step(product, alpha.unwrap_or(1.0), 1.0)?,
        "Selu" => node.exponential_step(product, alpha.unwrap_or(1.673_263_2), gamma.unwrap_or(1.050_701))?,
        "Softplus" => node.unary(Unary::Softplus, product)?,
        "Softsign" => node.soft_sign(product)?,
        "ThresholdedRelu" => node.thresholded(product, alpha.unwrap_or(1.0))?,
        _ => activated(node, product, &activation)?,
    }])
}

/// `alpha * op(a) @ op(b)`.
pub(super) fn fused_matmul(node: &mut Node<'_, '_>) -> Outputs {
    let alpha = node.attributes.float_or("alpha", 1.0)?;
    let a = operand(node, 0, "transA", "transBatchA")?;
    let b = operand(node, 1, "transB", "transBatchB")?;
    let product = node.add(Op::MatMul(MatMul::default()), &[a, b])?;
    if alpha == 1.0 {
        return Ok(vec![product]);
    }
    let alpha = node.number_like(product, f64::from(alpha))?;
    Ok(vec![node.binary(Binary::Mul, product, alpha)?])
}

/// An operand with its last two axes exchanged, or its first axis moved before the last one.
fn operand(node: &mut Node<'_, '_>, index: usize, matrix: &str, batch: &str) -> Result<ValueId, Fault> {
    let (transposed, moved) = (node.attributes.flag(matrix, false)?, node.attributes.flag(batch, false)?);
    let x = node.input(index)?;
    let rank = node.rank(x);
    let mut perm: Vec<usize> = (0..rank).collect();
    if moved && rank > 2 {
        let first = perm.remove(0);
        perm.insert(rank - 2, first);
    }
    if transposed && rank > 1 {
        perm.swap(rank - 2, rank - 1);
    }
    if perm.iter().enumerate().all(|(to, from)| to == *from) {
        return Ok(x);
    }
    node.add(Op::Transpose(Transpose { perm }), &[x])
}
