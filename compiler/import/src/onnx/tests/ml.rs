//! Classical models; the expected numbers are onnxruntime's (1.32).

use lathe_proto::onnx::attribute_proto::AttributeType;
use lathe_proto::onnx::tensor_proto::DataType;
use lathe_proto::onnx::{
    AttributeProto, ModelProto, OperatorSetIdProto, TypeProto, ValueInfoProto, type_proto,
};
use lathe_tensor::value::{Form, Value};
use lathe_tensor::{DType, Tensor};

use super::build::*;

fn list(name: &str, values: &[f32]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        floats: values.to_vec(),
        r#type: Some(AttributeType::Floats as i32),
        ..Default::default()
    }
}

fn words(name: &str, values: &[&str]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        strings: values.iter().map(|word| bytes::Bytes::copy_from_slice(word.as_bytes())).collect(),
        r#type: Some(AttributeType::Strings as i32),
        ..Default::default()
    }
}

/// A model of one operator over rows of two features.
fn classical(operator: &str, attributes: Vec<AttributeProto>, outputs: &[&str]) -> ModelProto {
    let mut node = with(node(operator, &["x"], outputs), attributes);
    node.domain = Some("ai.onnx.ml".into());
    let mut model = model(15, &[("x", "n,2")], vec![node], outputs);
    model.opset_import.push(OperatorSetIdProto { domain: Some("ai.onnx.ml".into()), version: Some(3) });
    model
}

fn rows() -> Tensor {
    floats(&[0.0, 1.0, 1.0, -1.0, 2.0, 0.5], &[3, 2])
}

#[track_caller]
fn close(found: &Tensor, expected: &[f32]) {
    let found = found.to_slice::<f32>().expect("f32");
    assert_eq!(found.len(), expected.len());
    let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-5 + 1e-4 * b.abs());
    assert!(near, "{found:?}, expected {expected:?}");
}

/// Labels and scores of the three rows.
#[track_caller]
fn classes(model: &ModelProto, labels: &[i64], scores: &[f32]) {
    let results = run(model, &[rows()]);
    assert_eq!(results[0].to_slice::<i64>().expect("i64")[..], *labels);
    close(&results[1], scores);
}

/// Two trees of two leaves: `x0 <= 0.5`, and `x1 > 0`.
fn trees() -> Vec<AttributeProto> {
    vec![
        ints("nodes_treeids", &[0, 0, 0, 1, 1, 1]),
        ints("nodes_nodeids", &[0, 1, 2, 0, 1, 2]),
        ints("nodes_featureids", &[0, 0, 0, 1, 0, 0]),
        list("nodes_values", &[0.5, 0.0, 0.0, 0.0, 0.0, 0.0]),
        words("nodes_modes", &["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_GT", "LEAF", "LEAF"]),
        ints("nodes_truenodeids", &[1, 0, 0, 1, 0, 0]),
        ints("nodes_falsenodeids", &[2, 0, 0, 2, 0, 0]),
    ]
}

fn forest(votes: &str, targets: &[i64], weights: &[f32], more: Vec<AttributeProto>) -> Vec<AttributeProto> {
    let votes = vec![
        ints(&format!("{votes}_treeids"), &[0, 0, 1, 1]),
        ints(&format!("{votes}_nodeids"), &[1, 2, 1, 2]),
        ints(&format!("{votes}_ids"), targets),
        list(&format!("{votes}_weights"), weights),
    ];
    [trees(), votes, more].concat()
}

#[test]
fn trees_choose_classes() {
    let classify = |targets: &[i64], weights: &[f32], more| {
        classical("TreeEnsembleClassifier", forest("class", targets, weights, more), &["y", "z"])
    };
    let three = vec![ints("classlabels_int64s", &[7, 8, 9]), text("post_transform", "SOFTMAX")];
    let scores = [0.307196, 0.186324, 0.506480, 0.087049, 0.825901, 0.087049, 0.199908, 0.256687, 0.543406];
    classes(&classify(&[0, 1, 2, 1], &[0.5, 0.25, 1.0, 2.0], three), &[9, 8, 9], &scores);
    let labels = || ints("classlabels_int64s", &[7, 8]);
    let two = vec![labels(), text("post_transform", "LOGISTIC"), list("base_values", &[0.1])];
    let scores = [0.167982, 0.832018, 0.895669, 0.104331, 0.299433, 0.700567];
    classes(&classify(&[0; 4], &[0.5, -0.25, 1.0, -2.0], two), &[8, 7, 8], &scores);
    let shares = classify(&[0; 4], &[0.5, 0.25, 0.1, 0.2], vec![labels()]);
    classes(&shares, &[8, 7, 7], &[0.4, 0.6, 0.55, 0.45, 0.65, 0.35]);
}

#[test]
fn trees_add_up() {
    let more =
        vec![int("n_targets", 2), text("aggregate_function", "AVERAGE"), list("base_values", &[1.0, 2.0])];
    let attributes = forest("target", &[0, 1, 1, 0], &[0.5, -0.25, 1.0, -2.0], more);
    let model = classical("TreeEnsembleRegressor", attributes, &["y"]);
    // The last row has no vote for target 0: the base value is added all the same, as the standard says.
    close(&run(&model, &[rows()])[0], &[1.25, 2.5, 0.0, 1.875, 1.0, 2.375]);
}

#[test]
fn trees_that_are_none_are_refused() {
    let refused = |index: usize, attribute: AttributeProto| {
        let mut attributes = forest("target", &[0; 4], &[1.0; 4], vec![]);
        attributes[index] = attribute;
        refusal(&classical("TreeEnsembleRegressor", attributes, &["y"]))
    };
    assert!(refused(1, ints("nodes_nodeids", &[0, 1, 1, 0, 1, 2])).contains("two nodes 1"));
    assert!(refused(5, ints("nodes_truenodeids", &[9, 0, 0, 1, 0, 0])).contains("no node 9"));
    assert!(
        refused(4, words("nodes_modes", &["MAYBE", "LEAF", "LEAF", "BRANCH_GT", "LEAF", "LEAF"]))
            .contains("`MAYBE`")
    );
    assert!(refused(8, ints("target_nodeids", &[1, 0, 1, 2])).contains("no leaf"));
    assert!(refused(2, ints("nodes_featureids", &[0])).contains("not 6"));
    assert!(refused(5, ints("nodes_truenodeids", &[0, 0, 0, 1, 0, 0])).contains("cycle"));
}

#[test]
fn lines_divide_classes() {
    let attributes = vec![
        list("coefficients", &[1.0, -2.0]),
        list("intercepts", &[0.5]),
        ints("classlabels_ints", &[3, 4]),
        text("post_transform", "LOGISTIC"),
    ];
    let scores = [0.817574, 0.182426, 0.029312, 0.970688, 0.182426, 0.817574];
    classes(&classical("LinearClassifier", attributes, &["y", "z"]), &[3, 4, 4], &scores);
}

#[test]
fn vectors_vote_in_pairs() {
    let vectors = |more: Vec<AttributeProto>| {
        let attributes = vec![
            text("kernel_type", "RBF"),
            list("kernel_params", &[0.5, 0.0, 0.0]),
            list("coefficients", &[1.0, -1.0, 0.5, 0.25, -0.5, 1.0]),
            list("support_vectors", &[0.0, 0.0, 1.0, 1.0, 2.0, 0.0]),
            ints("vectors_per_class", &[1, 1, 1]),
            list("rho", &[0.1, -0.2, 0.3]),
            ints("classlabels_ints", &[0, 1, 2]),
        ];
        classical("SVMClassifier", [attributes, more].concat(), &["y", "z"])
    };
    let scores = [0.1, -0.007325, 0.078820, 0.332544, 0.075910, 0.600212, -0.315828, 0.271107, 0.914866];
    classes(&vectors(vec![]), &[0, 0, 1], &scores);
    let sigmoids = vec![list("prob_a", &[-1.0, -1.5, -2.0]), list("prob_b", &[0.1, 0.2, 0.3])];
    let shares = [0.308339, 0.318064, 0.373597, 0.365291, 0.385989, 0.248720, 0.304705, 0.534001, 0.161293];
    classes(&vectors(sigmoids), &[0, 0, 1], &shares);
    let curve = vec![
        text("kernel_type", "POLY"),
        list("kernel_params", &[0.5, 1.0, 2.0]),
        list("coefficients", &[1.0, -1.0]),
        list("support_vectors", &[0.0, 1.0, 1.0, 1.0]),
        list("rho", &[0.25]),
        int("n_supports", 2),
    ];
    close(&run(&classical("SVMRegressor", curve, &["y"]), &[rows()])[0], &[0.25, -0.5, -3.25]);
}

#[test]
fn maps_are_keys_and_values() {
    let zip = classical("ZipMap", vec![words("classlabels_strings", &["no", "yes"])], &["z"]);
    let module = import(&zip).expect("a model");
    let main = module.main().expect("main");
    let output = module.function(main).composites().outputs[0].clone();
    let options = lathe_ir::EvaluateOptions::default();
    let parts = lathe_ir::evaluate(&module, main, &[rows()], &options).expect("maps");
    let Value::Sequence(maps) = output.form.value_of(&parts).expect("maps") else { panic!("a sequence") };
    assert!(matches!(&maps[1], Value::Map { keys, values } if keys.strings().expect("words")[1] == b"yes"
        && values.to_slice::<f32>().expect("f32")[..] == [1.0, -1.0]));

    let mut vectorize =
        with(node("DictVectorizer", &["m"], &["y"]), [words("string_vocabulary", &["a", "c", "b"])]);
    vectorize.domain = Some("ai.onnx.ml".into());
    let mut model = model(15, &[], vec![vectorize], &["y"]);
    model.opset_import.push(OperatorSetIdProto { domain: Some("ai.onnx.ml".into()), version: Some(1) });
    let element = value("", DataType::Float, "").r#type.map(Box::new);
    let map = type_proto::Map { key_type: Some(DataType::String as i32), value_type: element };
    let ty = TypeProto { value: Some(type_proto::Value::MapType(Box::new(map))), denotation: None };
    model
        .graph
        .get_or_insert_default()
        .input
        .push(ValueInfoProto { name: Some("m".into()), r#type: Some(ty) });
    let keys = Tensor::from_strings(vec![b"b".to_vec(), b"a".to_vec()], &[2]).expect("words");
    let form = Form::Map { keys: DType::String, values: DType::F32 };
    let parts = form.parts_of(&Value::Map { keys, values: floats(&[4.0, 8.0], &[2]) }).expect("parts");
    assert_eq!(run_floats(&model, &parts), [8.0, 0.0, 4.0]);
}

#[test]
fn categories_may_be_asked_for() {
    let encode = |zeros: i64| {
        let attributes = vec![ints("cats_int64s", &[2, 0, 1]), int("zeros", zeros)];
        classical("OneHotEncoder", attributes, &["y"])
    };
    let x = |last: f32| floats(&[1.5, last], &[1, 2]);
    let hot = [0.0, 0.0, 1.0, 1.0, 0.0, 0.0];
    assert_eq!(run_floats(&encode(0), &[x(2.0)]), hot);
    assert_eq!(run_floats(&encode(1), &[x(7.0)]), [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
    let module = import(&encode(0)).expect("a model");
    let main = module.main().expect("main");
    let error = lathe_ir::evaluate(&module, main, &[x(7.0)], &lathe_ir::EvaluateOptions::default());
    assert!(error.expect_err("no category").to_string().contains("has no category"));
}
