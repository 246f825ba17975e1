use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Gelu, Unary};

use crate::onnx::node::{Node, Outputs};

/// FastGelu (by tanh), BiasGelu and Gelu (by erf), the first two of the sum with a bias.
pub(super) fn gelu(node: &mut Node<'_, '_>) -> Outputs {
    let tanh = node.operator() == "FastGelu";
    let (x, bias) = (node.input(0)?, node.optional(1));
    let x = node.plus(x, bias)?;
    Ok(vec![node.add(Op::Gelu(Gelu { tanh }), &[x])?])
}

/// `x * sigmoid(alpha * x)`.
pub(super) fn quick_gelu(node: &mut Node<'_, '_>) -> Outputs {
    let alpha = node.attributes.float_or("alpha", 1.702)?;
    let x = node.input(0)?;
    if alpha == 1.0 {
        return Ok(vec![node.unary(Unary::Silu, x)?]);
    }
    let alpha = node.number_like(x, f64::from(alpha))?;
    let scaled = node.binary(Binary::Mul, x, alpha)?;
    let gate = node.unary(node.sigmoid(), scaled)?;
    Ok(vec![node.binary(Binary::Mul, x, gate)?])
}
