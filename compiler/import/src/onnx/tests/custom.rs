//! Operators that an app brings.

use std::sync::Arc;

use lathe_ir::{CustomOp, CustomOps, CustomOutput, EvaluateOptions, evaluate};
use lathe_proto::onnx::{ModelProto, NodeProto};
use lathe_tensor::{DType, Tensor};
use prost::Message;

use super::build::{float, floats, import_bytes, ints, model, node, with};
use crate::ImportOptions;

/// `Scaled` multiplies, `Positive` keeps the elements above 0.
fn registered() -> Arc<CustomOps> {
    let text = |error: lathe_tensor::TensorError| error.to_string();
    let scaled = CustomOp::new(
        "local",
        "Scaled",
        1,
        |node| Ok(vec![CustomOutput::from(node.input(0)?)]),
        move |call| {
            let x = call.input(0)?;
            let factor = call.attributes["factor"].as_f64().ok_or("it has no factor")? as f32;
            let cells: Vec<f32> = x.to_slice::<f32>().map_err(text)?.iter().map(|x| x * factor).collect();
            Ok(vec![Tensor::from_slice(&cells, x.shape()).map_err(text)?])
        },
    );
    let positive = CustomOp::new(
        "local",
        "Positive",
        1,
        |_| Ok(vec![CustomOutput { dtype: DType::F32, dims: vec![None] }]),
        move |call| {
            let x = call.input(0)?.to_slice::<f32>().map_err(text)?;
            let cells: Vec<f32> = x.iter().copied().filter(|x| *x > 0.0).collect();
            Ok(vec![Tensor::from_slice(&cells, &[cells.len()]).map_err(text)?])
        },
    );
    let newer = CustomOp::new("local", "Newer", 2, |_| Ok(Vec::new()), |_| Ok(Vec::new()));
    Arc::new(CustomOps::new().with(scaled).with(positive).with(newer))
}

fn local(node: NodeProto) -> NodeProto {
    NodeProto { domain: Some("local".into()), ..node }
}

fn import(model: &ModelProto, custom: Arc<CustomOps>) -> Result<lathe_ir::Module, crate::ImportError> {
    import_bytes(&model.encode_to_vec(), &ImportOptions { custom, ..ImportOptions::default() })
}

#[test]
fn registered_operators_are_nodes_like_others() {
    let nodes = vec![
        with(local(node("Scaled", &["x"], &["a"])), [float("factor", 0.5)]),
        local(node("Positive", &["a"], &["b"])),
        node("Relu", &["b"], &["y"]),
    ];
    let model = model(17, &[("x", "n")], nodes, &["y"]);
    let module = import(&model, registered()).expect("a model");
    let reread = lathe_ir::parse_custom(&module.to_string(), &|_, _, _| None, registered()).expect("parses");
    assert_eq!(reread.to_string(), module.to_string());
    let x = floats(&[-2.0, 4.0, 1.0], &[3]);
    let main = module.main().expect("main");
    let y = evaluate(&module, main, &[x], &EvaluateOptions::default()).expect("an evaluation");
    assert_eq!(y[0].to_slice::<f32>().expect("f32")[..], [2.0, 0.5]);
}

#[test]
fn others_are_refused() {
    let plain = model(17, &[("x", "n")], vec![local(node("Scaled", &["x"], &["y"]))], &["y"]);
    let reason = import(&plain, Arc::default()).expect_err("unknown").to_string();
    assert!(reason.contains("local.Scaled-1"), "{reason}");
    let newer = model(17, &[("x", "n")], vec![local(node("Newer", &["x"], &["y"]))], &["y"]);
    let reason = import(&newer, registered()).expect_err("opset 1 of its domain").to_string();
    assert!(reason.contains("local.Newer-1"), "{reason}");
    let missing = model(17, &[], vec![local(node("Scaled", &[], &["y"]))], &["y"]);
    let reason = import(&missing, registered()).expect_err("no operand").to_string();
    assert!(reason.contains("local.Scaled: input 0 is missing"), "{reason}");
    // Operators that Lathe knows keep their meaning.
    let known = CustomOp::new("", "Relu", 1, |_| Err("never asked".into()), |_| Ok(Vec::new()));
    let relu = model(17, &[("x", "n")], vec![node("Relu", &["x"], &["y"])], &["y"]);
    import(&relu, Arc::new(CustomOps::new().with(known))).expect("the standard's");
    let odd = with(node("Relu", &["x"], &["y"]), [ints("alpha", &[1])]);
    import(&model(17, &[("x", "n")], vec![odd], &["y"]), registered()).expect_err("an unknown attribute");
}
