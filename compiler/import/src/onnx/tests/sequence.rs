//! Sequences and optionals: what is folded away, what stays, what is refused.

use lathe_ir::{EvaluateOptions, Module, Operation, evaluate};
use lathe_proto::onnx::tensor_proto::DataType;
use lathe_proto::onnx::{GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto, type_proto};
use lathe_tensor::value::{Form, Value};
use lathe_tensor::{DType, Tensor};

use super::build::*;

/// Ops of all functions that are about sequences.
fn sequence_ops(module: &Module) -> Vec<&'static str> {
    let functions = module.functions().map(|(_, function)| function);
    let nodes = functions.flat_map(|function| function.node_ids().filter_map(|id| function.node(id)));
    let names = nodes.filter_map(|node| match &node.operation {
        Operation::Op(op) => Some(op.name()),
        _ => None,
    });
    names.filter(|name| name.contains("sequence") || *name == "require").collect()
}

fn with_integers(mut model: ModelProto, constants: &[(&str, i64)]) -> ModelProto {
    for (name, element) in constants {
        model.graph.get_or_insert_default().initializer.push(constant(name, &[], &[*element]));
    }
    model
}

fn sequence_of(name: &str, element: ValueInfoProto) -> ValueInfoProto {
    let sequence = type_proto::Sequence { elem_type: element.r#type.map(Box::new) };
    let value = Some(type_proto::Value::SequenceType(Box::new(sequence)));
    ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { value, denotation: None }) }
}

fn optional_of(name: &str, element: ValueInfoProto) -> ValueInfoProto {
    let optional = type_proto::Optional { elem_type: element.r#type.map(Box::new) };
    let value = Some(type_proto::Value::OptionalType(Box::new(optional)));
    ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { value, denotation: None }) }
}

/// A model over a sequence `s` of vectors and an i64 `p`.
fn over_sequence(nodes: Vec<NodeProto>, outputs: &[&str]) -> ModelProto {
    let mut model = model(18, &[("x", "n")], nodes, outputs);
    let graph = model.graph.get_or_insert_default();
    graph.input.push(sequence_of("s", value("", DataType::Float, "k")));
    graph.input.push(value("p", DataType::Int64, ""));
    model
}

#[test]
fn known_pieces_leave_no_sequence() {
    let nodes = vec![
        node("SplitToSequence", &["x", "two"], &["chunks"]),
        node("SequenceAt", &["chunks", "one"], &["a"]),
        node("SequenceAt", &["chunks", "last"], &["b"]),
        node("SequenceInsert", &["chunks", "a", "one"], &["more"]),
        node("SequenceErase", &["more", "last"], &["less"]),
        with(node("ConcatFromSequence", &["less"], &["c"]), [int("axis", 0)]),
        node("SequenceLength", &["less"], &["count"]),
        with(node("Cast", &["count"], &["d"]), [int("to", 1)]),
    ];
    let model = model(18, &[("x", "5")], nodes, &["a", "b", "c", "d"]);
    let model = with_integers(model, &[("two", 2), ("one", 1), ("last", -1)]);
    assert!(sequence_ops(&import(&model).expect("a model")).is_empty());
    let results = run(&model, &[floats(&[0.0, 1.0, 2.0, 3.0, 4.0], &[5])]);
    let results: Vec<Vec<f32>> = results.iter().map(|y| y.to_slice().expect("f32").into_owned()).collect();
    assert_eq!(results, [vec![2.0, 3.0], vec![4.0], vec![0.0, 1.0, 2.0, 3.0, 2.0, 3.0], vec![3.0]]);
}

#[test]
fn long_lists_are_made_when_the_program_runs() {
    let nodes = vec![
        node("SplitToSequence", &["x"], &["rows"]),
        with(node("ConcatFromSequence", &["rows"], &["y"]), [int("axis", 0)]),
    ];
    let model = model(18, &[("x", "100000")], nodes, &["y"]);
    let module = import(&model).expect("a model");
    assert_eq!(sequence_ops(&module), ["split_to_sequence", "concat_from_sequence"]);
    let x: Vec<f32> = (0..100_000u32).map(|element| element as f32).collect();
    assert_eq!(run_floats(&model, &[floats(&x, &[100_000])]), x);
}

#[test]
fn pieces_of_one_size_are_slices() {
    let model = |place: i64| {
        let nodes =
            vec![node("SplitToSequence", &["x", "two"], &["s"]), node("SequenceAt", &["s", "p"], &["y"])];
        with_integers(model(18, &[("x", "n")], nodes, &["y"]), &[("two", 2), ("p", place)])
    };
    let x = floats(&[0.0, 1.0, 2.0, 3.0, 4.0], &[5]);
    for (place, expected) in [(1, &[2.0, 3.0][..]), (2, &[4.0]), (-1, &[4.0]), (-3, &[0.0, 1.0])] {
        assert_eq!(run_floats(&model(place), std::slice::from_ref(&x)), expected, "{place}");
    }
    for place in [3, -4] {
        let module = import(&model(place)).expect("a model");
        let main = module.main().expect("main");
        let error = evaluate(&module, main, std::slice::from_ref(&x), &EvaluateOptions::default());
        assert!(error.expect_err("outside").to_string().contains("inside a sequence of pieces"));
    }
}

#[test]
fn sequences_of_any_length_are_three_tensors() {
    let nodes =
        vec![node("SequenceInsert", &["s", "x", "p"], &["t"]), node("SequenceAt", &["t", "p"], &["y"])];
    let model = over_sequence(nodes, &["t", "y"]);
    let module = import(&model).expect("a model");
    lathe_ir::verify(&module).expect("valid");
    let main = module.main().expect("main");
    let composites = module.function(main).composites();
    let (input, output) = (&composites.inputs[0], &composites.outputs[0]);
    assert_eq!((input.first, input.name.as_str(), output.first), (1, "s", 0));
    let again = lathe_ir::parse(&module.to_string()).expect("it parses");
    assert_eq!(again.function(again.main().expect("main")).composites(), composites);
    let tensor = |elements: &[f32]| Value::Tensor(floats(elements, &[elements.len()]));
    let given = Value::Sequence(vec![tensor(&[1.0]), tensor(&[2.0, 3.0])]);
    let parts = input.form.parts_of(&given).expect("parts");
    let inputs = [vec![floats(&[7.0, 8.0, 9.0], &[3])], parts, vec![Tensor::scalar(-1i64)]].concat();
    let results = evaluate(&module, main, &inputs, &EvaluateOptions { check: true, ..Default::default() });
    let results = results.expect("an evaluation");
    let Value::Sequence(values) = output.form.value_of(&results[..3]).expect("a sequence") else { panic!() };
    assert!(
        matches!(&values[1], Value::Tensor(tensor) if tensor.to_slice::<f32>().expect("f32")[..] == [7.0, 8.0, 9.0])
    );
    assert_eq!(results[3].to_slice::<f32>().expect("f32")[..], [2.0, 3.0]);
    let outside = [inputs[..4].to_vec(), vec![Tensor::scalar(3i64)]].concat();
    let error =
        evaluate(&module, main, &outside, &EvaluateOptions::default()).expect_err("outside").to_string();
    assert!(error.contains("index 3 lies outside axis 0 of size 2"), "{error}");
}

#[test]
fn places_outside_are_refused_where_they_are_known() {
    let at = |place: i64| {
        let nodes =
            vec![node("SequenceConstruct", &["x", "x"], &["s"]), node("SequenceAt", &["s", "p"], &["y"])];
        with_integers(model(18, &[("x", "3")], nodes, &["y"]), &[("p", place)])
    };
    assert_eq!(run_floats(&at(-2), &[floats(&[1.0, 2.0, 3.0], &[3])]), [1.0, 2.0, 3.0]);
    for place in [2, -3, i64::MAX, i64::MIN] {
        assert!(refusal(&at(place)).contains("outside a sequence of 2"), "{place}");
    }
    let erase = vec![
        node("SequenceEmpty", &[], &["s"]),
        node("SequenceErase", &["s"], &["t"]),
        node("SequenceLength", &["t"], &["y"]),
    ];
    assert!(refusal(&model(18, &[("x", "3")], erase, &["y"])).contains("sequence of 0"));
    for (split, reason) in [(0, "must be positive"), (-1, "must be positive")] {
        let cut = vec![node("SplitToSequence", &["x", "p"], &["s"]), node("SequenceLength", &["s"], &["y"])];
        let cut = with_integers(model(18, &[("x", "3")], cut, &["y"]), &[("p", split)]);
        assert!(refusal(&cut).contains(reason));
    }
}

#[test]
fn kinds_of_values_are_told_apart() {
    let add = over_sequence(vec![node("Add", &["s", "x"], &["y"])], &["y"]);
    assert!(refusal(&add).contains("its input 0 is a sequence, not a tensor"));
    let length = over_sequence(vec![node("SequenceLength", &["x"], &["y"])], &["y"]);
    assert!(refusal(&length).contains("its input 0 is a tensor, not a sequence"));
    let mixed = over_sequence(vec![node("SequenceInsert", &["s", "p"], &["y"])], &["y"]);
    assert!(refusal(&mixed).contains("one dtype"));
    let mut unknown = over_sequence(vec![node("SequenceAt", &["u", "p"], &["y"])], &["y"]);
    let mut element = value("", DataType::Float, "");
    if let Some(type_proto::Value::TensorType(tensor)) =
        element.r#type.as_mut().and_then(|ty| ty.value.as_mut())
    {
        tensor.shape = None;
    }
    unknown.graph.get_or_insert_default().input.push(sequence_of("u", element));
    assert!(refusal(&unknown).contains("declare their shape"));
}

/// `If(c)` with an optional `x` or nothing, and what `more` makes of it.
fn either(more: Vec<NodeProto>, outputs: &[&str]) -> ModelProto {
    let graph =
        |nodes, result: &str| GraphProto { node: nodes, output: vec![output(result)], ..Default::default() };
    let some = graph(vec![node("Optional", &["x"], &["a"])], "a");
    let mut nothing = node("Optional", &[], &["b"]);
    nothing.attribute.push(lathe_proto::onnx::AttributeProto {
        name: Some("type".into()),
        tp: value("", DataType::Float, "n").r#type,
        r#type: Some(lathe_proto::onnx::attribute_proto::AttributeType::TypeProto as i32),
        ..Default::default()
    });
    let branches = [body("then_branch", some), body("else_branch", graph(vec![nothing], "b"))];
    let nodes = [vec![with(node("If", &["c"], &["o"]), branches)], more].concat();
    let mut model = model(18, &[("x", "n")], nodes, outputs);
    model.graph.get_or_insert_default().input.push(value("c", DataType::Bool, ""));
    model
}

#[test]
fn an_empty_optional_has_no_element() {
    let model = either(vec![node("OptionalGetElement", &["o"], &["y"])], &["y"]);
    let module = import(&model).expect("a model");
    let inputs = |there| [floats(&[1.0, 2.0], &[2]), Tensor::from_bools(&[there], &[]).expect("a bool")];
    let main = module.main().expect("main");
    let there = evaluate(&module, main, &inputs(true), &EvaluateOptions::default()).expect("an element");
    assert_eq!(there[0].to_slice::<f32>().expect("f32")[..], [1.0, 2.0]);
    let error = evaluate(&module, main, &inputs(false), &EvaluateOptions::default()).expect_err("nothing");
    assert!(error.to_string().contains("the optional is empty"), "{error}");
    let nothing =
        vec![node("OptionalHasElement", &[], &["h"]), with(node("Cast", &["h"], &["y"]), [int("to", 1)])];
    assert_eq!(
        run_floats(&super::build::model(18, &[("x", "1")], nothing, &["y"]), &[floats(&[0.0], &[1])]),
        [0.0]
    );
}

#[test]
fn optional_inputs_are_a_flag_and_a_tensor() {
    let mut model = model(18, &[("x", "1")], vec![node("OptionalHasElement", &["o"], &["y"])], &["y"]);
    model.graph.get_or_insert_default().input.push(optional_of("o", value("", DataType::Float, "3")));
    let module = import(&model).expect("a model");
    let composites = module.function(module.main().expect("main")).composites();
    let form = Form::Optional(Box::new(Form::Tensor { dtype: DType::F32, rank: 1 }));
    assert_eq!((composites.inputs[0].first, &composites.inputs[0].form), (1, &form));
    let nested = optional_of("q", optional_of("", value("", DataType::Float, "3")));
    model.graph.get_or_insert_default().input.push(nested);
    assert!(refusal(&model).contains("an optional of an optional"));
}

/// `If(c)` with a scalar or a vector of one element, and what `more` makes of it.
fn scalar_or_vector(more: Vec<NodeProto>) -> ModelProto {
    let graph = |from: &str, result: &str| GraphProto {
        node: vec![node("Identity", &[from], &[result])],
        output: vec![output(result)],
        ..Default::default()
    };
    let branches = [body("then_branch", graph("scalar", "a")), body("else_branch", graph("vector", "b"))];
    let nodes = [vec![with(node("If", &["c"], &["v"]), branches)], more].concat();
    let mut model = model(18, &[("x", "n"), ("scalar", ""), ("vector", "1")], nodes, &["y"]);
    model.graph.get_or_insert_default().input.push(value("c", DataType::Bool, ""));
    model
}

#[test]
fn ranks_that_data_decides_may_broadcast_but_not_show() {
    let twice = vec![node("Add", &["v", "v"], &["w"]), node("Mul", &["x", "w"], &["y"])];
    let model = scalar_or_vector(twice);
    for (there, expected) in [(true, [6.0, 12.0]), (false, [10.0, 20.0])] {
        let c = Tensor::from_bools(&[there], &[]).expect("a bool");
        let inputs = [floats(&[1.0, 2.0], &[2]), floats(&[3.0], &[]), floats(&[5.0], &[1]), c];
        assert_eq!(run_floats(&model, &inputs), expected);
    }
    for operator in ["Shape", "Softmax", "Identity"] {
        let shown = scalar_or_vector(vec![node(operator, &["v"], &["y"])]);
        assert!(refusal(&shown).contains("where the rank counts"), "{operator}");
    }
}

#[test]
fn squeezed_axes_that_are_not_named_must_not_be_one() {
    let model = model(18, &[("x", "n,1,3")], vec![node("Squeeze", &["x"], &["y"])], &["y"]);
    let module = import(&model).expect("a model");
    let main = module.main().expect("main");
    let run = |rows: usize| {
        let x = floats(&vec![1.0; rows * 3], &[rows, 1, 3]);
        evaluate(&module, main, &[x], &EvaluateOptions::default())
    };
    assert_eq!(run(2).expect("two rows")[0].shape(), [2, 3]);
    assert!(run(1).expect_err("one row").to_string().contains("name the axes"));
}
