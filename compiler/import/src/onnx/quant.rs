//! Linear quantisation.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::quant::{DequantizeLinear, DynamicQuantizeLinear, MatMulInteger, QuantizeLinear};
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs};
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
    node.direct(Op::MatMulInteger(MatMulInteger {}))
}
