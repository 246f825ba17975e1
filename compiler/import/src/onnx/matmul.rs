//! Matrix products.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Binary;
use lathe_ops::matmul::MatMul;
use lathe_ops::shape::Transpose;

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs};

/// MatMul-1 to 13.
pub(crate) fn matmul(node: &mut Node<'_, '_>) -> Outputs {
    node.direct(Op::MatMul(MatMul::default()))
}

/// Gemm-1 to 13, `alpha * op(a) @ op(b) + beta * c`, as its parts: passes fold bias and transposes.
pub(crate) fn gemm(node: &mut Node<'_, '_>) -> Outputs {
    if node.opset < 7 {
        node.attributes.ignore(&["broadcast"]);
    }
    let (alpha, beta) = (node.attributes.float_or("alpha", 1.0)?, node.attributes.float_or("beta", 1.0)?);
    let a = matrix(node, 0, "transA")?;
    let b = matrix(node, 1, "transB")?;
    let mut product = node.add(Op::MatMul(MatMul::default()), &[a, b])?;
    product = scaled(node, product, alpha)?;
    let Some(c) = node.optional(2).filter(|_| beta != 0.0) else { return Ok(vec![product]) };
    check_addend(node.dims(c), node.dims(product))?;
    let c = scaled(node, c, beta)?;
    Ok(vec![node.binary(Binary::Add, product, c)?])
}

fn matrix(node: &mut Node<'_, '_>, index: usize, transposed: &str) -> Result<ValueId, Fault> {
    let x = node.input(index)?;
    if node.rank(x) != 2 {
        return Err(Fault::bad(format!("its input {index} has {} axes, not 2", node.rank(x))));
    }
    if !node.attributes.flag(transposed, false)? {
        return Ok(x);
    }
    node.add(Op::Transpose(Transpose { perm: vec![1, 0] }), &[x])
}

fn scaled(node: &mut Node<'_, '_>, x: ValueId, factor: f32) -> Result<ValueId, Fault> {
    if factor == 1.0 {
        return Ok(x);
    }
    if node.dtype(x).is_integer() && factor.fract() != 0.0 {
        return Err(Fault::unsupported(format!("a factor of {factor} of integers")));
    }
    let factor = node.number_like(x, f64::from(factor))?;
    node.binary(Binary::Mul, x, factor)
}

/// The addend broadcasts to the product and never the other way.
fn check_addend(c: &[Dim], product: &[Dim]) -> Result<(), Fault> {
    let fits = |(c, product): (&Dim, &Dim)| match (c.as_constant(), product.as_constant()) {
        (Some(c), Some(product)) => c == 1 || c == product,
        _ => true,
    };
    if c.len() > product.len() || !c.iter().rev().zip(product.iter().rev()).all(fits) {
        return Err(Fault::bad(format!("C {c:?} does not broadcast to the product {product:?}")));
    }
    Ok(())
}
