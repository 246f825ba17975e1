//! Symbolic sizes of whole models.

use lathe_proto::onnx::{GraphProto, ModelProto};

use super::build::*;
use crate::ImportOptions;
use prost::Message;

fn dims(module: &lathe_ir::Module) -> Vec<String> {
    let main = module.function(module.main().expect("main"));
    main.outputs().iter().flat_map(|(_, value)| &main.ty(*value).dims).map(ToString::to_string).collect()
}

#[test]
fn sizes_stay_symbolic_through_shape_arithmetic() {
    // reshape(x, [shape(x)[0], -1])
    let nodes = vec![
        node("Shape", &["x"], &["shape"]),
        node("Gather", &["shape", "zero"], &["first"]),
        node("Concat", &["first", "rest"], &["target"]),
        node("Reshape", &["x", "target"], &["y"]),
    ];
    let mut model = model(17, &[("x", "batch,seq,4")], nodes, &["y"]);
    let graph = model.graph.get_or_insert_with(GraphProto::default);
    graph.initializer.extend([constant("zero", &[1], &[0]), constant("rest", &[1], &[-1])]);
    let concat = &mut graph.node[2];
    concat.attribute.push(int("axis", 0));
    assert_eq!(dims(&import(&model).expect("valid")), ["batch", "4*seq"]);
    let options = ImportOptions { dims: vec![("seq".into(), 5)], ..Default::default() };
    assert_eq!(dims(&import_bytes(&model.encode_to_vec(), &options).expect("valid")), ["batch", "20"]);
}

#[test]
fn declared_outputs_are_hints() {
    let mut model = model(17, &[("x", "n")], vec![node("Relu", &["x"], &["y"])], &["y"]);
    let graph = model.graph.get_or_insert_with(GraphProto::default);
    graph.output = vec![value("y", lathe_proto::onnx::tensor_proto::DataType::Float, "7,7,7")];
    assert_eq!(dims(&import(&model).expect("valid")), ["n"]);
}

#[test]
fn broken_graphs_name_what_is_wrong() {
    let relu = |inputs: &[&str]| vec![node("Relu", inputs, &["y"])];
    let twice = || {
        let mut model = model(17, &[("x", "2"), ("x", "2")], relu(&["x"]), &["y"]);
        model.graph.get_or_insert_with(GraphProto::default).name = None;
        model
    };
    let without = |change: fn(&mut ModelProto)| {
        let mut model = model(17, &[("x", "2")], relu(&["x"]), &["y"]);
        change(&mut model);
        model
    };
    let cases = [
        (twice(), "input `x`: it is listed twice"),
        (model(17, &[("x", "2")], relu(&["z"]), &["y"]), "its input `z` is not defined"),
        (model(17, &[("x", "2")], relu(&["y"]), &["y"]), "cycle"),
        (model(17, &[("x", "2")], relu(&["x"]), &["y", "y"]), "output `y` is listed twice"),
        (model(17, &[("x", "2")], relu(&["x"]), &["z"]), "output `z`"),
        (model(17, &[("x", "2")], relu(&["x"]), &[]), "no outputs"),
        (model(17, &[("x", "-7")], relu(&["x"]), &["y"]), "size -7"),
        (without(|model| model.opset_import.clear()), "`opset_import` is missing"),
        (without(|model| model.ir_version = Some(1 << 40)), "IR version"),
        (without(|model| model.graph = None), "no graph"),
    ];
    for (model, expected) in cases {
        let message = refusal(&model);
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
    }
}

#[test]
fn memory_is_bounded() {
    let mut model = model(17, &[("x", "n")], vec![node("Add", &["x", "w"], &["y"])], &["y"]);
    let graph = model.graph.get_or_insert_with(GraphProto::default);
    let mut w = constant("w", &[100_000], &[]);
    (w.data_type, w.float_data) = (Some(1), vec![0.5; 100_000]);
    graph.initializer.push(w);
    let options = ImportOptions { max_memory: 100_000, ..Default::default() };
    let message = import_bytes(&model.encode_to_vec(), &options).expect_err("too large").to_string();
    assert!(message.contains("limit"), "{message}");
    import(&model).expect("enough memory");
}

#[test]
fn sizes_that_only_the_run_knows_may_be_reshaped() {
    let nodes = vec![
        node("NonZero", &["x"], &["places"]),
        node("Cast", &["places"], &["floats"]),
        node("Flatten", &["floats"], &["y"]),
    ];
    let mut model = model(17, &[("x", "a,b")], nodes, &["y"]);
    let graph = model.graph.get_or_insert_with(GraphProto::default);
    graph.node[1].attribute.push(int("to", 1));
    graph.node[2].attribute.push(int("axis", 2));
    let module = import(&model).expect("valid");
    lathe_ir::verify(&module).expect("valid");
    let main = module.main().expect("main");
    let x = lathe_tensor::Tensor::from_slice(&[0f32, 2.0, 3.0, 0.0, 5.0, 0.0], &[2, 3]).expect("a tensor");
    let options = lathe_ir::EvaluateOptions { check: true, ..Default::default() };
    let outputs = lathe_ir::evaluate(&module, main, &[x], &options).expect("evaluates");
    assert_eq!(outputs[0].shape(), [6, 1]);
}
