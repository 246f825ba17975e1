//! Small models, written to a temporary file and imported.

use bytes::Bytes;
use lathe_ir::{EvaluateOptions, Module, evaluate};
use lathe_proto::onnx::attribute_proto::AttributeType;
use lathe_proto::onnx::tensor_shape_proto::{Dimension, dimension};
use lathe_proto::onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, tensor_proto::DataType, type_proto,
};
use lathe_tensor::Tensor;
use prost::Message;

use crate::{ImportError, ImportOptions, import_onnx};

/// `outputs = operator(inputs)`, named after its first output.
pub(super) fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(operator.into()),
        name: outputs.first().map(|output| format!("n_{output}")),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: outputs.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

/// A node with attributes.
pub(super) fn with(mut node: NodeProto, attributes: impl IntoIterator<Item = AttributeProto>) -> NodeProto {
    node.attribute.extend(attributes);
    node
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind as i32), ..Default::default() }
}

pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

pub(super) fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        s: Some(Bytes::copy_from_slice(value.as_bytes())),
        ..attribute(name, AttributeType::String)
    }
}

pub(super) fn body(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(graph), ..attribute(name, AttributeType::Graph) }
}

/// The attribute `name` is the function's attribute `from`.
pub(super) fn reference(name: &str, from: &str) -> AttributeProto {
    AttributeProto { ref_attr_name: Some(from.into()), ..attribute(name, AttributeType::Int) }
}

/// A size that is named, given, or nothing.
pub(super) fn dim(text: &str) -> Dimension {
    let value = match text.parse() {
        Ok(size) => Some(dimension::Value::DimValue(size)),
        Err(_) if text.is_empty() => None,
        Err(_) => Some(dimension::Value::DimParam(text.into())),
    };
    Dimension { value, denotation: None }
}

/// A value of a data type, its sizes written `batch,3,?`.
pub(super) fn value(name: &str, data_type: DataType, dims: &str) -> ValueInfoProto {
    let dim = if dims.is_empty() { Vec::new() } else { dims.split(',').map(dim).collect() };
    let tensor =
        type_proto::Tensor { elem_type: Some(data_type as i32), shape: Some(TensorShapeProto { dim }) };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { value, denotation: None }) }
}

pub(super) fn output(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.into()), r#type: None }
}

/// An i64 initialiser.
pub(super) fn constant(name: &str, dims: &[i64], elements: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(DataType::Int64 as i32),
        dims: dims.to_vec(),
        int64_data: elements.to_vec(),
        ..Default::default()
    }
}

pub(super) fn imports(opset: i64) -> Vec<OperatorSetIdProto> {
    let import =
        |domain: &str, version| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
    vec![import("", opset), import("local", 1)]
}

/// A model of one graph with f32 inputs `name: dims` and the given outputs.
pub(super) fn model(
    opset: i64,
    inputs: &[(&str, &str)],
    nodes: Vec<NodeProto>,
    outputs: &[&str],
) -> ModelProto {
    let graph = GraphProto {
        node: nodes,
        input: inputs.iter().map(|(name, dims)| value(name, DataType::Float, dims)).collect(),
        output: outputs.iter().map(|name| output(name)).collect(),
        ..Default::default()
    };
    ModelProto { ir_version: Some(8), opset_import: imports(opset), graph: Some(graph), ..Default::default() }
}

pub(super) fn function(
    name: &str,
    inputs: &[&str],
    nodes: Vec<NodeProto>,
    outputs: &[&str],
) -> FunctionProto {
    FunctionProto {
        name: Some(name.into()),
        domain: Some("local".into()),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: outputs.iter().map(ToString::to_string).collect(),
        node: nodes,
        opset_import: imports(17),
        ..Default::default()
    }
}

pub(super) fn call(name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto { domain: Some("local".into()), ..node(name, inputs, outputs) }
}

pub(super) fn import_bytes(bytes: &[u8], options: &ImportOptions) -> Result<Module, ImportError> {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("model.onnx");
    std::fs::write(&path, bytes).expect("write");
    import_onnx(&path, options)
}

pub(super) fn import(model: &ModelProto) -> Result<Module, ImportError> {
    import_bytes(&model.encode_to_vec(), &ImportOptions::default())
}

/// The message that refuses a model.
pub(super) fn refusal(model: &ModelProto) -> String {
    let message = import(model).expect_err("a refusal").to_string();
    assert!(message.contains("model.onnx"), "no file in: {message}");
    message
}

/// The outputs of a model for inputs.
pub(super) fn run(model: &ModelProto, inputs: &[Tensor]) -> Vec<Tensor> {
    let module = import(model).expect("a valid model");
    let main = module.main().expect("main");
    let options = EvaluateOptions { check: true, ..Default::default() };
    evaluate(&module, main, inputs, &options).expect("an evaluation")
}

pub(super) fn floats(elements: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(elements, shape).expect("a tensor")
}

/// The elements of the only output.
pub(super) fn run_floats(model: &ModelProto, inputs: &[Tensor]) -> Vec<f32> {
    let outputs = run(model, inputs);
    outputs[0].to_slice::<f32>().expect("f32").into_owned()
}
