//! Linear quantisation.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::elementwise::Binary;
use lathe_ops::matmul::MatMul;
use lathe_ops::quant::{ConvInteger, DequantizeLinear, DynamicQuantizeLinear, MatMulInteger, QuantizeLinear};
use lathe_ops::shape::Unsqueeze;
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::conv::{check_kernel, padding, spatial, window_or_ones};
use crate::onnx::node::{Node, Outputs, positive};
use crate::onnx::types::dtype;

/// A dtype attribute where 0 says "not given".
fn dtype_attribute(node: &Node<'_, '_>, name: &str) -> Result<Option<DType>, Fault> {
    match node.attributes.int_or(name, 0)? {
        0 => Ok(None),
        number => dtype(i32::try_from(number).unwrap_or(-1)).map(Some),
    }
}

fn block_size(node: &Node<'_, '_>) -> Result<usize, Fault> {
    let size = node.attributes.int_or("block_size", 0)?;
    usize::try_from(size).map_err(|_| Fault::bad(format!("attribute `block_size` is {size}")))
}

/// The operands, a zero point of one element under the shape of a scale of one element.
fn operands(node: &mut Node<'_, '_>) -> Result<Vec<Option<ValueId>>, Fault> {
    let mut inputs = node.inputs.clone();
    let scale = node.dims(node.input(1)?).to_vec();
    if let Some(zero_point) = node.optional(2)
        && node.rank(zero_point) != scale.len()
        && scale.iter().chain(node.dims(zero_point)).all(|dim| dim.as_constant() == Some(1))
    {
        inputs[2] = Some(node.reshape(zero_point, scale)?);
    }
    Ok(inputs)
}

/// QuantizeLinear-10 to 28.
pub(crate) fn quantize(node: &mut Node<'_, '_>) -> Outputs {
    let zero_point = node.optional(2).map(|zero_point| node.dtype(zero_point));
    let asked = dtype_attribute(node, "output_dtype")?;
    if let (Some(zero_point), Some(asked)) = (zero_point, asked)
        && zero_point != asked
    {
        return Err(Fault::bad(format!("`output_dtype` is {asked}, the zero point is {zero_point}")));
    }
    let op = QuantizeLinear {
        axis: node.attributes.int_or("axis", 1)?,
        block_size: block_size(node)?,
        to: zero_point.or(asked).unwrap_or(DType::U8),
        saturate: node.attributes.flag("saturate", true)?,
        precision: dtype_attribute(node, "precision")?,
    };
    let inputs = operands(node)?;
    node.add_all(Op::QuantizeLinear(op), &inputs, 1)
}

/// DequantizeLinear-10 to 28.
pub(crate) fn dequantize(node: &mut Node<'_, '_>) -> Outputs {
    let scale = node.dtype(node.input(1)?);
    let op = DequantizeLinear {
        axis: node.attributes.int_or("axis", 1)?,
        block_size: block_size(node)?,
        to: dtype_attribute(node, "output_dtype")?.unwrap_or(scale),
    };
    let inputs = operands(node)?;
    node.add_all(Op::DequantizeLinear(op), &inputs, 1)
}

/// DynamicQuantizeLinear-11.
pub(crate) fn dynamic_quantize(node: &mut Node<'_, '_>) -> Outputs {
    let x = node.input(0)?;
    node.add_all(Op::DynamicQuantizeLinear(DynamicQuantizeLinear {}), &[Some(x)], 3)
}

/// MatMulInteger-10.
pub(crate) fn matmul_integer(node: &mut Node<'_, '_>) -> Outputs {
    node.direct(Op::MatMulInteger(MatMulInteger::default()))
}

fn integer_conv(node: &Node<'_, '_>, x: ValueId, w: ValueId, to: DType) -> Result<ConvInteger, Fault> {
    let spatial = spatial(node, x)?;
    check_kernel(node, w, spatial)?;
    Ok(ConvInteger {
        strides: window_or_ones(node, "strides", spatial)?,
        dilations: window_or_ones(node, "dilations", spatial)?,
        padding: padding(node, spatial)?,
        groups: positive("group", node.attributes.int_or("group", 1)?)?,
        to,
    })
}

/// ConvInteger-10.
pub(crate) fn conv_integer(node: &mut Node<'_, '_>) -> Outputs {
    let op = integer_conv(node, node.input(0)?, node.input(1)?, DType::I32)?;
    node.direct(Op::ConvInteger(op))
}

impl Node<'_, '_> {
    /// `x` with `count` axes of size 1 at its end where it has rank 1 and more than one element; the scale of one element as a
    /// number.
    pub(crate) fn trailing(&mut self, x: ValueId, count: usize) -> Result<ValueId, Fault> {
        match &self.dims(x).to_vec()[..] {
            [one] if one.as_constant() == Some(1) => self.reshape(x, vec![]),
            [_] if count > 0 => {
                let axes = (1..=count as i64).collect();
                self.add(Op::Unsqueeze(Unsqueeze { axes: Some(axes) }), &[x])
            }
            _ => Ok(x),
        }
    }

    /// Sums of quantised products as quantised values: `saturate(round(sums * factor) + zero_point)`, in f32.
    pub(crate) fn requantised(
        &mut self,
        sums: ValueId,
        factor: ValueId,
        zero_point: ValueId,
    ) -> Result<ValueId, Fault> {
        let to = self.dtype(zero_point);
        let sums = self.cast(sums, DType::F32)?;
        let scaled = self.binary(Binary::Mul, sums, factor)?;
        let one = self.number(DType::F32, 1.0)?;
        let zero_point = self.trailing(zero_point, 0)?;
        let op = QuantizeLinear { axis: 1, block_size: 0, to, saturate: true, precision: None };
        self.add(Op::QuantizeLinear(op), &[scaled, one, zero_point])
    }
}

/// The factor of sums of products: `a_scale * b_scale / y_scale`, one number or one a channel.
fn factor(node: &mut Node<'_, '_>, scales: [usize; 3]) -> Result<ValueId, Fault> {
    let mut given = Vec::with_capacity(3);
    for index in scales {
        let scale = node.input(index)?;
        let scale = node.cast(scale, DType::F32)?;
        given.push(node.trailing(scale, 0)?);
    }
    let &[a_scale, b_scale, y_scale] = &given[..] else { return Err(Fault::bad("its scales are missing")) };
    let product = node.binary(Binary::Mul, a_scale, b_scale)?;
    node.binary(Binary::Div, product, y_scale)
}

/// QLinearMatMul-10 and 21: the integer product of operands less their zero points, times `a_scale * b_scale / y_scale`. A scale
/// of rank 1 is one a row of `a`, one a column of `b`.
pub(crate) fn q_linear_matmul(node: &mut Node<'_, '_>) -> Outputs {
    let (a, b, y_zero) = (node.input(0)?, node.input(3)?, node.input(7)?);
    let (a_zero, b_zero) = (node.input(2)?, node.input(5)?);
    let is_one = |node: &Node<'_, '_>, index: usize| -> Result<bool, Fault> {
        let value = node.input(index)?;
        Ok(node.dims(value).iter().all(|dim| dim.as_constant() == Some(1)))
    };
    if !is_one(node, 7)? {
        return Err(Fault::unsupported("a zero point of the result for each row"));
    }
    let integers = node.dtype(a).is_integer() && node.dtype(b).is_integer();
    let small = matches!(node.dtype(y_zero), DType::U8 | DType::I8);
    if integers && small && is_one(node, 1)? && is_one(node, 6)? && node.rank(node.input(4)?) <= 1 {
        let scale = factor(node, [1, 4, 6])?;
        let y_zero = node.trailing(y_zero, 0)?;
        let op = Op::MatMulInteger(MatMulInteger { to: node.dtype(y_zero) });
        let operands = [Some(a), Some(b), Some(a_zero), Some(b_zero), None, Some(scale), Some(y_zero)];
        return node.add_all(op, &operands, 1);
    }
    let mut scales = Vec::with_capacity(3);
    for (index, trailing) in [(1, 1), (4, 0), (6, 1)] {
        let scale = node.input(index)?;
        let scale = node.cast(scale, DType::F32)?;
        scales.push(node.trailing(scale, trailing)?);
    }
    let &[a_scale, b_scale, y_scale] = &scales[..] else { return Err(Fault::bad("its scales are missing")) };
    if !integers {
        return float_product(node, [a, a_zero, a_scale], [b, b_zero, b_scale], [y_zero, y_scale]);
    }
    let sums = node.add(Op::MatMulInteger(MatMulInteger::default()), &[a, b, a_zero, b_zero])?;
    let factor = node.binary(Binary::Mul, a_scale, b_scale)?;
    let factor = node.binary(Binary::Div, factor, y_scale)?;
    Ok(vec![node.requantised(sums, factor, y_zero)?])
}

/// The same for floats of 8 bits, by way of f32.
fn float_product(
    node: &mut Node<'_, '_>,
    a: [ValueId; 3],
    b: [ValueId; 3],
    [y_zero, y_scale]: [ValueId; 2],
) -> Outputs {
    let wide = |node: &mut Node<'_, '_>, [x, zero, scale]: [ValueId; 3]| -> Result<ValueId, Fault> {
        let (x, zero) = (node.cast(x, DType::F32)?, node.cast(zero, DType::F32)?);
        let centered = node.binary(Binary::Sub, x, zero)?;
        node.binary(Binary::Mul, centered, scale)
    };
    let (a, b) = (wide(node, a)?, wide(node, b)?);
    let product = node.add(Op::MatMul(MatMul::default()), &[a, b])?;
    let one = node.number(DType::F32, 1.0)?;
    let factor = node.binary(Binary::Div, one, y_scale)?;
    Ok(vec![node.requantised(product, factor, y_zero)?])
}

/// QLinearConv-10: the integer convolution plus the bias, times `x_scale * w_scale / y_scale`, the weight's scale one a channel.
pub(crate) fn q_linear_conv(node: &mut Node<'_, '_>) -> Outputs {
    let (x, w) = (node.input(0)?, node.input(3)?);
    let (x_zero, w_zero, y_zero) = (node.input(2)?, node.input(5)?, node.input(7)?);
    let scale = factor(node, [1, 4, 6])?;
    let y_zero = node.trailing(y_zero, 0)?;
    let op = integer_conv(node, x, w, node.dtype(y_zero))?;
    let bias = node.optional(8);
    let operands = [Some(x), Some(w), Some(x_zero), Some(w_zero), bias, Some(scale), Some(y_zero)];
    node.add_all(Op::ConvInteger(op), &operands, 1)
}
