//! Quantised operators.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, LeakyRelu, Unary, Where};
use lathe_ops::norm::Softmax;
use lathe_ops::quant::{DequantizeLinear, DynamicQuantizeLinear, MatMulInteger, QuantizeLinear};
use lathe_ops::recurrent::Lstm;
use lathe_ops::reduce::{Reduce, ReduceKind};
use lathe_ops::shape::{Concat, Transpose};
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs, axis};
use crate::onnx::pool;
use crate::onnx::recurrent::Layer;

impl Node<'_, '_> {
    /// `(x - zero_point) * scale`, the scale one number or one an index of `axis`.
    fn dequantised(
        &mut self,
        x: ValueId,
        scale: ValueId,
        zero: Option<ValueId>,
        axis: i64,
    ) -> Result<ValueId, Fault> {
        let op = DequantizeLinear { axis, block_size: 0, to: self.dtype(scale) };
        let scale = self.trailing(scale, 0)?;
        let zero = zero.map(|zero| self.trailing(zero, 0)).transpose()?;
        Ok(self.add_all(Op::DequantizeLinear(op), &[Some(x), Some(scale), zero], 1)?[0])
    }

    fn quantised(
        &mut self,
        x: ValueId,
        scale: ValueId,
        zero: Option<ValueId>,
        or: DType,
    ) -> Result<ValueId, Fault> {
        let to = zero.map_or(or, |zero| self.dtype(zero));
        let op = QuantizeLinear { axis: 1, block_size: 0, to, saturate: true, precision: None };
        let scale = self.trailing(scale, 0)?;
        let zero = zero.map(|zero| self.trailing(zero, 0)).transpose()?;
        Ok(self.add_all(Op::QuantizeLinear(op), &[Some(x), Some(scale), zero], 1)?[0])
    }
}

/// QLinearSigmoid, QLinearLeakyRelu, QLinearSoftmax, QLinearAveragePool and QLinearGlobalAveragePool: inputs `x, x_scale,
/// x_zero_point, y_scale, y_zero_point`.
pub(super) fn unary(node: &mut Node<'_, '_>) -> Outputs {
    let (x, x_scale, y_scale) = (node.input(0)?, node.input(1)?, node.input(3)?);
    let dtype = node.dtype(x);
    let wide = node.dequantised(x, x_scale, node.optional(2), 1)?;
    let y = match node.operator() {
        "QLinearSigmoid" => node.unary(Unary::Sigmoid, wide)?,
        "QLinearLeakyRelu" => {
            let alpha = node.attributes.float_or("alpha", 0.01)?;
            node.add(Op::LeakyRelu(LeakyRelu { alpha }), &[wide])?
        }
        "QLinearSoftmax" => {
            let place = axis(node.attributes.int_or("axis", -1)?, node.rank(wide))?;
            let dims = node.dims(wide).to_vec();
            // Before opset 13 softmax ran over all axes from that one on.
            if node.attributes.int_or("opset", 13)? < 13 && place + 1 != dims.len() {
                let (outer, inner) = dims.split_at(place);
                let product =
                    |dims: &[Dim]| dims.iter().fold(Dim::constant(1), |product, dim| product.mul(dim));
                let rows = node.reshape(wide, vec![product(outer), product(inner)])?;
                let rows = node.add(Op::Softmax(Softmax { axis: 1, log: false }), &[rows])?;
                node.reshape(rows, dims)?
            } else {
                node.add(Op::Softmax(Softmax { axis: place as i64, log: false }), &[wide])?
            }
        }
        "QLinearAveragePool" => average_pool(node, wide)?,
        _ => {
            let last = node.attributes.flag("channels_last", false)?;
            let rank = node.rank(wide) as i64;
            let axes = if last { (1..rank - 1).collect() } else { (2..rank).collect() };
            let op = Reduce {
                kind: ReduceKind::Mean,
                axes: Some(axes),
                keep_dims: true,
                noop_with_empty_axes: true,
            };
            node.add(Op::Reduce(op), &[wide])?
        }
    };
    Ok(vec![node.quantised(y, y_scale, node.optional(4), dtype)?])
}

/// AveragePool, whose channels may stand last.
fn average_pool(node: &mut Node<'_, '_>, x: ValueId) -> Result<ValueId, Fault> {
    if !node.attributes.flag("channels_last", false)? {
        let op = pool::average_of(node, x)?;
        return node.add(op, &[x]);
    }
    let rank = node.rank(x);
    let forth: Vec<usize> =
        [0, rank.saturating_sub(1)].into_iter().chain(1..rank.saturating_sub(1)).collect();
    let back: Vec<usize> = std::iter::once(0).chain(2..rank).chain([1]).collect();
    let x = node.add(Op::Transpose(Transpose { perm: forth }), &[x])?;
    let op = pool::average_of(node, x)?;
    let y = node.add(op, &[x])?;
    node.add(Op::Transpose(Transpose { perm: back }), &[y])
}

/// QLinearWhere: inputs `condition, x, x_scale, x_zero_point, y, y_scale, y_zero_point, z_scale, z_zero_point`.
pub(super) fn choose(node: &mut Node<'_, '_>) -> Outputs {
    let (condition, x, y, scale) = (node.input(0)?, node.input(1)?, node.input(4)?, node.input(7)?);
    let (x_scale, y_scale) = (node.input(2)?, node.input(5)?);
    let dtype = node.dtype(x);
    let x = node.dequantised(x, x_scale, node.optional(3), 1)?;
    let y = node.dequantised(y, y_scale, node.optional(6), 1)?;
    let z = node.add(Op::Where(Where {}), &[condition, x, y])?;
    Ok(vec![node.quantised(z, scale, node.optional(8), dtype)?])
}

/// QLinearAdd and QLinearMul: inputs `a, a_scale, a_zero_point, b, b_scale, b_zero_point, c_scale, c_zero_point`.
pub(super) fn binary(node: &mut Node<'_, '_>) -> Outputs {
    let kind = if node.operator() == "QLinearAdd" { Binary::Add } else { Binary::Mul };
    let (a, b, scale) = (node.input(0)?, node.input(3)?, node.input(6)?);
    let (a_scale, b_scale) = (node.input(1)?, node.input(4)?);
    let dtype = node.dtype(a);
    let a = node.dequantised(a, a_scale, node.optional(2), 1)?;
    let b = node.dequantised(b, b_scale, node.optional(5), 1)?;
    let c = node.binary(kind, a, b)?;
    Ok(vec![node.quantised(c, scale, node.optional(7), dtype)?])
}

/// QLinearConcat: inputs `y_scale, y_zero_point`, then each operand with its scale and zero point.
pub(super) fn concat(node: &mut Node<'_, '_>) -> Outputs {
    let axis = node.attributes.required_int("axis")?;
    let (scale, zero) = (node.input(0)?, node.input(1)?);
    let count = node.inputs.len().saturating_sub(2);
    if count == 0 || !count.is_multiple_of(3) {
        return Err(Fault::bad("each operand needs a scale and a zero point"));
    }
    let mut parts = Vec::with_capacity(count / 3);
    for first in (2..count + 2).step_by(3) {
        let (x, x_scale) = (node.input(first)?, node.input(first + 1)?);
        let x_zero = node.optional(first + 2);
        parts.push(node.dequantised(x, x_scale, x_zero, 1)?);
    }
    let whole = node.add(Op::Concat(Concat { axis }), &parts)?;
    Ok(vec![node.quantised(whole, scale, Some(zero), DType::U8)?])
}

/// The integer product as floats: `sums * scale + bias`.
fn scaled_product(
    node: &mut Node<'_, '_>,
    operands: [Option<ValueId>; 4],
    scales: [ValueId; 2],
    bias: Option<ValueId>,
) -> Result<ValueId, Fault> {
    let [a_scale, b_scale] = scales;
    let to = node.dtype(a_scale);
    let (a_scale, b_scale) = (node.trailing(a_scale, 0)?, node.trailing(b_scale, 0)?);
    let factor = node.binary(Binary::Mul, a_scale, b_scale)?;
    let scaled = if to == DType::F32 && node.rank(a_scale) == 0 && node.rank(b_scale) <= 1 {
        let [a, b, a_zero, b_zero] = operands;
        let op = Op::MatMulInteger(MatMulInteger { to });
        node.add_all(op, &[a, b, a_zero, b_zero, None, Some(factor)], 1)?[0]
    } else {
        let given = operands.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let op = Op::MatMulInteger(MatMulInteger::default());
        let product = node.add_all(op, &operands[..given], 1)?[0];
        let product = node.cast(product, to)?;
        node.binary(Binary::Mul, product, factor)?
    };
    node.plus(scaled, bias)
}

/// DynamicQuantizeMatMul: inputs `a, b, b_scale, b_zero_point?, bias?`; `a` is quantised by its own range.
pub(super) fn dynamic_matmul(node: &mut Node<'_, '_>) -> Outputs {
    let (a, b, b_scale) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let quantise = Op::DynamicQuantizeLinear(DynamicQuantizeLinear {});
    let parts = node.add_all(quantise, &[Some(a)], 3)?;
    let operands = [Some(parts[0]), Some(b), Some(parts[2]), node.optional(3)];
    let bias = node.optional(4);
    Ok(vec![scaled_product(node, operands, [parts[1], b_scale], bias)?])
}

/// MatMulIntegerToFloat: inputs `a, b, a_scale, b_scale, a_zero_point?, b_zero_point?, bias?`.
pub(super) fn matmul_to_float(node: &mut Node<'_, '_>) -> Outputs {
    let (a, b, a_scale, b_scale) = (node.input(0)?, node.input(1)?, node.input(2)?, node.input(3)?);
    let operands = [Some(a), Some(b), node.optional(4), node.optional(5)];
    let bias = node.optional(6);
    Ok(vec![scaled_product(node, operands, [a_scale, b_scale], bias)?])
}

/// QGemm: inputs `a, a_scale, a_zero_point, b, b_scale, b_zero_point, c?, y_scale?, y_zero_point?`; `c` is added to the integer
/// sums; without a scale the result is float.
pub(super) fn gemm(node: &mut Node<'_, '_>) -> Outputs {
    let alpha = node.attributes.float_or("alpha", 1.0)?;
    let mut matrix = |index: usize, name: &str| -> Result<ValueId, Fault> {
        let transposed = node.attributes.flag(name, false)?;
        let x = node.input(index)?;
        if transposed { node.add(Op::Transpose(Transpose { perm: vec![1, 0] }), &[x]) } else { Ok(x) }
    };
    let (a, b) = (matrix(0, "transA")?, matrix(3, "transB")?);
    let (a_scale, b_scale) = (node.input(1)?, node.input(4)?);
    let (a_scale, b_scale) = (node.trailing(a_scale, 0)?, node.trailing(b_scale, 0)?);
    let mut factor = node.binary(Binary::Mul, a_scale, b_scale)?;
    if alpha != 1.0 {
        let alpha = node.number_like(factor, f64::from(alpha))?;
        factor = node.binary(Binary::Mul, factor, alpha)?;
    }
    let y_zero = match (node.optional(7), node.optional(8)) {
        (Some(y_scale), Some(y_zero)) => {
            let y_scale = node.trailing(y_scale, 0)?;
            factor = node.binary(Binary::Div, factor, y_scale)?;
            Some(node.trailing(y_zero, 0)?)
        }
        (None, _) => None,
        (Some(_), None) => return Err(Fault::bad("the zero point of the result is missing")),
    };
    let (a_zero, b_zero, bias) = (node.optional(2), node.optional(5), node.optional(6));
    let to = y_zero.map_or(DType::F32, |zero| node.dtype(zero));
    let by_column = match bias {
        Some(bias) => node.dims(b).get(1..) == Some(node.dims(bias)),
        None => true,
    };
    if by_column && node.dtype(factor) == DType::F32 && node.rank(factor) <= 1 {
        let op = Op::MatMulInteger(MatMulInteger { to });
        return node.add_all(op, &[Some(a), Some(b), a_zero, b_zero, bias, Some(factor), y_zero], 1);
    }
    let op = Op::MatMulInteger(MatMulInteger::default());
    let sums = node.add_all(op, &[Some(a), Some(b), a_zero, b_zero], 1)?[0];
    let sums = node.plus(sums, bias)?;
    match y_zero {
        Some(y_zero) => Ok(vec![node.requantised(sums, factor, y_zero)?]),
        None => {
            let sums = node.cast(sums, node.dtype(factor))?;
            Ok(vec![node.binary(Binary::Mul, sums, factor)?])
        }
    }
}

/// DynamicQuantizeLSTM: an LSTM whose weights are bytes, `[directions, input, 4 * hidden]`; inputs 8 to 11 are their scales and
/// zero points, one a direction or one a column of each.
pub(super) fn dynamic_lstm(node: &mut Node<'_, '_>) -> Outputs {
    let input_forget = node.attributes.flag("input_forget", false)?;
    let Layer { hidden, direction, activations, activation_alpha, activation_beta, clip, batch_first } =
        Layer::of(node, 3)?;
    let mut inputs = vec![Some(node.input(0)?)];
    for index in [1, 2] {
        let weights = node.input(index)?;
        inputs.push(Some(node.add(Op::Transpose(Transpose { perm: vec![0, 2, 1] }), &[weights])?));
    }
    inputs.extend((3..8).map(|index| node.optional(index)));
    for scale in [8, 10] {
        inputs.extend([Some(node.input(scale)?), node.optional(scale + 1)]);
    }
    let given = inputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    let op = Lstm {
        hidden,
        direction,
        activations,
        activation_alpha,
        activation_beta,
        clip,
        input_forget,
        batch_first,
    };
    let wanted = node.wanted.max(1);
    node.add_all(Op::Lstm(op), &inputs[..given], wanted)
}
