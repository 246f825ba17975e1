//! Functions of the model, bodies of `If`, and what bounds both.

use std::time::Instant;

use lathe_ir::Operation;
use lathe_proto::onnx::tensor_proto::DataType;
use lathe_proto::onnx::{AttributeProto, GraphProto, ModelProto, NodeProto};
use lathe_tensor::Tensor;

use super::build::*;

fn with_functions(nodes: Vec<NodeProto>, functions: Vec<lathe_proto::onnx::FunctionProto>) -> ModelProto {
    ModelProto { functions, ..model(17, &[("x", "3")], nodes, &["y"]) }
}

#[test]
fn functions_are_inlined_with_their_attributes() {
    // scale(x) = x + concat(x[0:k]...) would be long: sum over `axis`, whose value is the call's.
    let sum = with(node("CumSum", &["a", "axis"], &["b"]), [reference("exclusive", "skip")]);
    let axis = with(node("Constant", &[], &["axis"]), [int("value_int", 0)]);
    let mut scan = function("Scan0", &["a"], vec![sum, axis], &["b"]);
    scan.attribute_proto.push(int("skip", 0));
    let calls = |attributes: Vec<AttributeProto>| vec![with(call("Scan0", &["x"], &["y"]), attributes)];
    let x = floats(&[1.0, 2.0, 3.0], &[3]);
    let plain = with_functions(calls(vec![]), vec![scan.clone()]);
    assert_eq!(run_floats(&plain, std::slice::from_ref(&x)), [1.0, 3.0, 6.0]);
    let skipping = with_functions(calls(vec![int("skip", 1)]), vec![scan.clone()]);
    assert_eq!(run_floats(&skipping, &[x]), [0.0, 1.0, 3.0]);
    let unknown = with_functions(calls(vec![int("other", 1)]), vec![scan.clone()]);
    assert!(refusal(&unknown).contains("`other`"));
    let crowded = with_functions(vec![call("Scan0", &["x", "x"], &["y"])], vec![scan]);
    assert!(refusal(&crowded).contains("2 inputs, its function declares 1"));
}

#[test]
fn functions_that_call_themselves_are_refused() {
    let a = function("A", &["a"], vec![call("B", &["a"], &["b"])], &["b"]);
    let b = function("B", &["a"], vec![call("A", &["a"], &["b"])], &["b"]);
    let model = with_functions(vec![call("A", &["x"], &["y"])], vec![a, b]);
    assert!(refusal(&model).contains("calls itself"));
}

#[test]
fn functions_that_explode_are_refused_at_once() {
    let level = |index: usize| {
        let callee = format!("F{}", index + 1);
        let body = |from: &str, to: &str| {
            if index == 16 { node("Relu", &[from], &[to]) } else { call(&callee, &[from], &[to]) }
        };
        let chain = (0..5).map(|step| body(&format!("v{step}"), &format!("v{}", step + 1))).collect();
        function(&format!("F{index}"), &["v0"], chain, &["v5"])
    };
    let model = with_functions(vec![call("F0", &["x"], &["y"])], (0..17).map(level).collect());
    let start = Instant::now();
    assert!(refusal(&model).contains("nodes, above the limit"));
    assert!(start.elapsed().as_secs() < 2);
}

/// `if c { x + k } else { x * x }`.
fn choice() -> ModelProto {
    let branch = |node: NodeProto| GraphProto {
        output: vec![output(&node.output[0])],
        node: vec![node],
        ..Default::default()
    };
    let bodies = [
        body("then_branch", branch(node("Add", &["x", "k"], &["sum"]))),
        body("else_branch", branch(node("Mul", &["x", "x"], &["square"]))),
    ];
    let mut model = model(17, &[("x", "n")], vec![with(node("If", &["c"], &["y"]), bodies)], &["y"]);
    let graph = model.graph.get_or_insert_with(GraphProto::default);
    graph.input.push(value("c", DataType::Bool, ""));
    let mut k = constant("k", &[], &[]);
    (k.data_type, k.float_data) = (Some(DataType::Float as i32), vec![10.0]);
    graph.initializer.push(k);
    model
}

#[test]
fn branches_take_what_they_capture() {
    let x = floats(&[1.0, 2.0], &[2]);
    let bool = |value| Tensor::from_bools(&[value], &[]).expect("a bool");
    assert_eq!(run_floats(&choice(), &[x.clone(), bool(true)]), [11.0, 12.0]);
    assert_eq!(run_floats(&choice(), &[x, bool(false)]), [1.0, 4.0]);
    let module = import(&choice()).expect("valid");
    // Constants are shared, not passed: the branches take `x` only.
    assert!(module.functions().skip(1).all(|(_, function)| function.inputs().len() == 1));
    assert_eq!(module.functions().count(), 3);
}

#[test]
fn known_conditions_leave_one_branch() {
    let mut model = choice();
    let graph = model.graph.get_or_insert_with(GraphProto::default);
    graph.input.pop();
    graph.initializer.push(constant("one", &[1], &[1]));
    graph.node.insert(0, node("Shape", &["x"], &["shape"]));
    graph.node.insert(1, node("Size", &["shape"], &["rank"]));
    graph.node.insert(2, node("Equal", &["rank", "one"], &["c"]));
    let module = import(&model).expect("valid");
    assert_eq!(module.functions().count(), 1);
    assert_eq!(run_floats(&model, &[floats(&[1.0], &[1])]), [11.0]);
}

#[test]
fn branches_of_other_ranks_are_chosen_by_a_guard() {
    let branch = |node: NodeProto| GraphProto {
        output: vec![output(&node.output[0])],
        node: vec![node],
        ..Default::default()
    };
    let bodies = [
        body("then_branch", branch(node("Squeeze", &["x", "one"], &["thin"]))),
        body("else_branch", branch(node("Identity", &["x"], &["same"]))),
    ];
    let nodes = vec![
        node("Shape", &["x"], &["shape"]),
        node("Gather", &["shape", "one"], &["size"]),
        node("Equal", &["size", "one"], &["c"]),
        with(node("If", &["c"], &["y"]), bodies),
    ];
    let mut model = model(17, &[("x", "a,b")], nodes, &["y"]);
    model.graph.get_or_insert_with(GraphProto::default).initializer.push(constant("one", &[1], &[1]));
    assert_eq!(run(&model, &[floats(&[1.0, 2.0], &[2, 1])])[0].shape(), [2]);
    let module = import(&model).expect("valid");
    let main = module.main().expect("main");
    assert!(module.functions().all(|(_, function)| {
        function
            .node_ids()
            .filter_map(|id| function.node(id))
            .all(|node| !matches!(node.operation, Operation::If { .. }))
    }));
    let wide = floats(&[1.0, 2.0], &[1, 2]);
    assert!(lathe_ir::evaluate(&module, main, &[wide], &Default::default()).is_err());
}

fn nested(levels: usize) -> ModelProto {
    let mut graph = GraphProto {
        node: vec![node("Relu", &["x"], &["v0"])],
        output: vec![output("v0")],
        ..Default::default()
    };
    for level in 1..=levels {
        let bodies = [
            body("then_branch", graph.clone()),
            body("else_branch", {
                let relu = node("Relu", &["x"], &["other"]);
                GraphProto { node: vec![relu], output: vec![output("other")], ..Default::default() }
            }),
        ];
        let name = format!("v{level}");
        let choose = with(node("If", &["c"], &[&name]), bodies);
        graph = GraphProto { node: vec![choose], output: vec![output(&name)], ..Default::default() };
    }
    graph.input = vec![value("x", DataType::Float, "2"), value("c", DataType::Bool, "")];
    ModelProto { graph: Some(graph), ..model(17, &[], vec![], &[]) }
}

#[test]
fn nesting_is_bounded() {
    let yes = Tensor::from_bools(&[true], &[]).expect("a bool");
    assert_eq!(run_floats(&nested(20), &[floats(&[-1.0, 1.0], &[2]), yes]), [0.0, 1.0]);
    assert!(refusal(&nested(200)).contains("nested too deeply"));
}

#[test]
fn long_chains_import_in_linear_time() {
    let chain = |length: usize| {
        let name = |step: usize| if step == 0 { "x".to_string() } else { format!("v{step}") };
        let nodes = (0..length).map(|step| node("Relu", &[&name(step)], &[&name(step + 1)])).collect();
        model(17, &[("x", "n")], nodes, &[&name(length)])
    };
    let start = Instant::now();
    let module = import(&chain(20_000)).expect("valid");
    assert_eq!(module.function(module.main().expect("main")).node_count(), 20_000);
    assert!(start.elapsed().as_secs_f64() < 5.0, "took {:?}", start.elapsed());
}
