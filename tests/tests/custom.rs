//! An app's own operators, from the model file through an artifact to the runtime alone.

use std::path::Path;
use std::sync::Arc;

use lathe::{CustomCall, CustomFunctions, CustomOp, CustomOps, CustomOutput, DType, LoadOptions, Tensor};
use lathe_artifact::SealKeys;
use lathe_artifact::key::UserKey;
use lathe_proto::onnx::attribute_proto::AttributeType;
use lathe_proto::onnx::tensor_shape_proto::{Dimension, dimension};
use lathe_proto::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    ValueInfoProto, tensor_proto::DataType, type_proto,
};
use prost::Message;

fn node(domain: &str, operator: &str, input: &str, output: &str) -> NodeProto {
    NodeProto {
        domain: Some(domain.into()),
        op_type: Some(operator.into()),
        name: Some(format!("n_{output}")),
        input: vec![input.into()],
        output: vec![output.into()],
        ..Default::default()
    }
}

/// `y = Relu(Peaks(Smooth(x) + Smooth(x)))` with `x: f32[batch, samples]`.
fn model() -> ModelProto {
    let dim =
        |name: &str| Dimension { value: Some(dimension::Value::DimParam(name.into())), denotation: None };
    let shape = TensorShapeProto { dim: vec![dim("batch"), dim("samples")] };
    let tensor = type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape: Some(shape) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None };
    let mut smooth = node("com.example", "Smooth", "x", "a");
    smooth.attribute.push(AttributeProto {
        name: Some("width".into()),
        i: Some(2),
        r#type: Some(AttributeType::Int as i32),
        ..Default::default()
    });
    let mut add = node("", "Add", "a", "b");
    add.input.push("a".into());
    let nodes = vec![smooth, add, node("com.example", "Peaks", "b", "c"), node("", "Relu", "c", "y")];
    let import =
        |domain: &str, version| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
    let graph = GraphProto {
        node: nodes,
        input: vec![ValueInfoProto { name: Some("x".into()), r#type: Some(ty) }],
        output: vec![ValueInfoProto { name: Some("y".into()), r#type: None }],
        ..Default::default()
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![import("", 17), import("com.example", 3)],
        graph: Some(graph),
        ..Default::default()
    }
}

/// Means of `width` neighbours along the last axis, which gets shorter.
fn smooth(call: &CustomCall<'_>) -> Result<Vec<Tensor>, String> {
    let x = call.input(0)?;
    let width = call.attributes["width"].as_u64().ok_or("it has no width")? as usize;
    let cells = x.to_slice::<f32>().map_err(|error| error.to_string())?;
    let &[batch, samples] = x.shape() else { return Err("it needs two axes".into()) };
    let rows = cells.chunks_exact(samples.max(1));
    let means = rows.flat_map(|row| row.windows(width).map(|part| part.iter().sum::<f32>() / width as f32));
    let means: Vec<f32> = means.collect();
    let shape = [batch, (samples + 1).saturating_sub(width)];
    Ok(vec![Tensor::from_slice(&means, &shape).map_err(|error| error.to_string())?])
}

/// The elements above 1: how many there are only the data tells.
fn peaks(call: &CustomCall<'_>) -> Result<Vec<Tensor>, String> {
    let cells = call.input(0)?.to_slice::<f32>().map_err(|error| error.to_string())?;
    let peaks: Vec<f32> = cells.iter().copied().filter(|cell| *cell > 1.0).collect();
    Ok(vec![Tensor::from_slice(&peaks, &[peaks.len()]).map_err(|error| error.to_string())?])
}

fn registered() -> Arc<CustomOps> {
    let shortened = |node: &lathe::CustomNode<'_>| {
        let ty = node.input(0)?;
        let width = node.attributes["width"].as_i64().ok_or("it has no width")?;
        let [batch, samples] = &ty.dims[..] else { return Err("it needs two axes".into()) };
        let shorter = samples.add(&lathe::Dim::constant(1 - width));
        Ok(vec![CustomOutput::new(ty.dtype, [batch.clone(), shorter])])
    };
    let counted = |_: &lathe::CustomNode<'_>| Ok(vec![CustomOutput { dtype: DType::F32, dims: vec![None] }]);
    let smooth = CustomOp::new("com.example", "Smooth", 1, shortened, smooth);
    Arc::new(CustomOps::new().with(smooth).with(CustomOp::new("com.example", "Peaks", 3, counted, peaks)))
}

fn written(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("model.onnx");
    std::fs::write(&path, model().encode_to_vec()).expect("a file");
    path
}

fn options(custom: Arc<CustomOps>) -> LoadOptions {
    let compile = lathe::CompileOptions { custom, ..Default::default() };
    LoadOptions { compile, cache: None, ..LoadOptions::default() }
}

fn check(model: &lathe::Model) {
    for workers in [1, 2] {
        let team = lathe::Team::new(workers).expect("a team");
        let mut session = lathe::Session::with_team(model, &team).expect("a session");
        for (row, expected) in
            [(vec![0.0, 1.0, 3.0, -1.0], vec![4.0, 2.0]), (vec![2.0, 2.0], vec![4.0]), (vec![0.0], vec![])]
        {
            let x = Tensor::from_slice::<f32>(&row, &[1, row.len()]).expect("fits");
            let outputs = session.run(&[("x", &x)]).expect("a run");
            assert_eq!(outputs.tensors()[0].to_slice::<f32>().expect("f32")[..], expected[..], "{row:?}");
        }
    }
}

#[test]
fn an_app_runs_models_with_its_own_operators() {
    let directory = tempfile::tempdir().expect("a folder");
    let path = written(directory.path());
    let model = lathe::load(&path, &options(registered())).expect("a model");
    check(&model);
    let error = lathe::load(&path, &options(Arc::default())).expect_err("unknown operators").to_string();
    for part in ["com.example.Smooth-3", "com.example.Peaks-3"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn artifacts_name_the_operators_that_they_need() {
    let directory = tempfile::tempdir().expect("a folder");
    let path = written(directory.path());
    let artifact = lathe::compile(&path, &options(registered()).compile).expect("an artifact");
    let load = |custom: CustomFunctions| {
        let runtime = lathe_runtime::LoadOptions { custom, ..Default::default() };
        lathe_runtime::Model::from_artifact(artifact.clone(), &runtime)
    };
    let functions = CustomFunctions::new().with("com.example", "Smooth", smooth);
    let error = load(functions.clone()).expect_err("no function for Peaks").to_string();
    assert!(error.contains("com.example.Peaks") && error.contains("n_c"), "{error}");
    check(&load(functions.with("com.example", "Peaks", peaks)).expect("a model"));
    // An untrusted artifact is compiled again from its IR, which needs the shapes too.
    let file = directory.path().join("model.lathe");
    let user = UserKey::load_or_create_at(&directory.path().join("key")).expect("another's key");
    artifact.write(&file, &SealKeys { user, sign: None }).expect("a file");
    check(&lathe::load(&file, &options(registered())).expect("a model"));
    let error = lathe::load(&file, &options(Arc::default())).expect_err("unregistered").to_string();
    assert!(error.contains("com.example.Smooth"), "{error}");
}
