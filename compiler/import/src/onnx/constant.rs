//! Constants written as nodes (ONNX Constant-1 to 25, ConstantOfShape-9 to 25).

use lathe_ops::Op;
use lathe_ops::shape::ConstantOfShape;
use lathe_tensor::{DType, Tensor};

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs};

pub(crate) fn constant(node: &mut Node<'_, '_>) -> Outputs {
    let mut values = Vec::new();
    let attributes = &node.attributes;
    if let Some(proto) = attributes.tensor("value")? {
        values.push(node.importer.tensors.dense(proto)?);
    }
    if let Some(proto) = attributes.sparse_tensor("sparse_value")? {
        values.push(node.importer.tensors.sparse(proto)?);
    }
    if let Some(value) = attributes.float("value_float")? {
        values.push(Tensor::scalar(value));
    }
    if let Some(list) = attributes.floats("value_floats")? {
        values.push(Tensor::from_slice(list, &[list.len()])?);
    }
    if let Some(value) = attributes.int("value_int")? {
        values.push(Tensor::scalar(value));
    }
    if let Some(list) = attributes.ints("value_ints")? {
        values.push(Tensor::from_slice(list, &[list.len()])?);
    }
    if let Some(value) = attributes.byte_string("value_string")? {
        values.push(Tensor::from_strings(vec![value], &[])?);
    }
    if let Some(list) = attributes.byte_strings("value_strings")? {
        let count = list.len();
        values.push(Tensor::from_strings(list, &[count])?);
    }
    let given = values.len();
    match values.pop() {
        Some(tensor) if given == 1 => Ok(vec![node.constant(tensor)]),
        _ => Err(Fault::bad(format!("it has {given} value attributes, not one"))),
    }
}

pub(crate) fn constant_of_shape(node: &mut Node<'_, '_>) -> Outputs {
    let (dtype, bits) = match node.attributes.tensor("value")? {
        None => (DType::F32, 0),
        Some(proto) => element(&node.importer.tensors.dense(proto)?)?,
    };
    let shape = node.input(0)?;
    let shape = node.as_i64(shape)?;
    Ok(vec![node.add(Op::ConstantOfShape(ConstantOfShape { dtype, bits }), &[shape])?])
}

/// The only element of a tensor, in the low bits.
fn element(tensor: &Tensor) -> Result<(DType, u64), Fault> {
    let bytes = tensor.bytes();
    if tensor.len() != 1 || bytes.len() > 8 || tensor.dtype() == DType::String {
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        return Err(Fault::bad(format!("its value is a {dtype} tensor of shape {shape:?}, not one number")));
    }
    let mut padded = [0; 8];
    padded[..bytes.len()].copy_from_slice(bytes);
    Ok((tensor.dtype(), u64::from_le_bytes(padded)))
}
