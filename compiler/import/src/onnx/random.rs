//! Operators that draw at random: Dropout.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Compare, Unary, Where};
use lathe_ops::shape::{ConstantOfShape, Range, ShapeOf, Size};
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::elementwise::ignore_consumed;
use crate::onnx::node::{Node, Outputs};

/// Dropout-1 to 22: the identity and a mask of ones, unless training is asked for, which opset 12 made an operand.
pub(crate) fn dropout(node: &mut Node<'_, '_>) -> Outputs {
    ignore_consumed(node);
    if node.opset < 12 {
        node.at_most(1)?;
        node.attributes.ignore(&["ratio", "is_test"]);
    }
    let seed = node.attributes.int_or("seed", 0)?;
    let x = node.input(0)?;
    match node.optional(2) {
        Some(training) if node.known_bool(training) != Some(false) => drop_out(node, x, training, seed),
        _ => identity(node, x),
    }
}

fn identity(node: &mut Node<'_, '_>, x: ValueId) -> Outputs {
    let mut outputs = vec![node.unary(Unary::Identity, x)?];
    if node.wanted > 1 {
        // Below opset 10 the mask has the data's dtype.
        let dtype = if node.opset < 10 { node.dtype(x) } else { DType::Bool };
        let shape = node.add(Op::Shape(ShapeOf { start: 0, end: None }), &[x])?;
        let ones =
            node.add(Op::ConstantOfShape(ConstantOfShape { dtype: DType::Bool, bits: 1 }), &[shape])?;
        outputs.push(node.cast(ones, dtype)?);
    }
    Ok(outputs)
}

/// `x * mask / (1 - ratio)` where training holds: element `i` is kept where a number in `[0, 1)` that hashes `i` and the seed is
/// at least `ratio`.
fn drop_out(node: &mut Node<'_, '_>, x: ValueId, training: ValueId, seed: i64) -> Outputs {
    let ratio = match node.optional(1) {
        Some(ratio) => node.cast(ratio, DType::F64)?,
        None => node.number(DType::F64, 0.5)?,
    };
    let drawn = uniform(node, x, seed)?;
    let kept = node.add(Op::Compare(Compare::GreaterOrEqual), &[drawn, ratio])?;
    let idle = node.unary(Unary::Not, training)?;
    let mask = node.binary(Binary::Or, kept, idle)?;
    let (zero, one) = (node.number_like(x, 0.0)?, node.number(DType::F64, 1.0)?);
    let share = node.binary(Binary::Sub, one, ratio)?;
    let scale = node.binary(Binary::Div, one, share)?;
    let scale = node.add(Op::Where(Where {}), &[training, scale, one])?;
    let scale = node.cast(scale, node.dtype(x))?;
    let left = node.add(Op::Where(Where {}), &[mask, x, zero])?;
    Ok(vec![node.binary(Binary::Mul, left, scale)?, mask])
}

/// A number in `[0, 1)` for each element of `x`: the fraction of a large multiple of a sine.
fn uniform(node: &mut Node<'_, '_>, x: ValueId, seed: i64) -> Result<ValueId, Fault> {
    let count = node.add(Op::Size(Size {}), &[x])?;
    let (zero, one) = (node.number(DType::I64, 0.0)?, node.number(DType::I64, 1.0)?);
    let index = node.add(Op::Range(Range {}), &[zero, count, one])?;
    let index = node.cast(index, DType::F64)?;
    let shift = node.number(DType::F64, (seed % 65_536) as f64 * 78.233)?;
    let step = node.number(DType::F64, 12.9898)?;
    let spread = node.number(DType::F64, 43_758.545_3)?;
    let angle = node.binary(Binary::Mul, index, step)?;
    let angle = node.binary(Binary::Add, angle, shift)?;
    let sine = node.unary(Unary::Sin, angle)?;
    let large = node.binary(Binary::Mul, sine, spread)?;
    let whole = node.unary(Unary::Floor, large)?;
    let fraction = node.binary(Binary::Sub, large, whole)?;
    let dims = node.dims(x).to_vec();
    node.reshape(fraction, dims)
}
