//! What changed between opsets.

use lathe_ir::Operation;
use lathe_ops::Op;
use lathe_proto::onnx::{GraphProto, ModelProto};

use super::build::*;

const X: [f32; 6] = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0];

fn x() -> lathe_tensor::Tensor {
    floats(&X, &[2, 3])
}

fn one(opset: i64, node: lathe_proto::onnx::NodeProto) -> ModelProto {
    model(opset, &[("x", "2,3")], vec![node], &["y"])
}

fn with_constant(mut model: ModelProto, name: &str, elements: &[i64]) -> ModelProto {
    let dims = [elements.len() as i64];
    model.graph.get_or_insert_with(GraphProto::default).initializer.push(constant(name, &dims, elements));
    model
}

#[test]
fn clip_bounds_move_to_operands() {
    let clipped = [0.0, 0.0, 0.0, 1.0, 2.0, 2.0];
    let old = with(node("Clip", &["x"], &["y"]), [float("min", 0.0), float("max", 2.0)]);
    assert_eq!(run_floats(&one(6, old.clone()), &[x()]), clipped);
    assert!(refusal(&one(11, old)).contains("unknown attribute `min`"));
}

#[test]
fn slice_attributes_become_operands() {
    let old =
        with(node("Slice", &["x"], &["y"]), [ints("starts", &[1]), ints("ends", &[9]), ints("axes", &[1])]);
    assert_eq!(run_floats(&one(9, old), &[x()]), [-1.0, 0.0, 2.0, 3.0]);
    let new = with_constant(one(13, node("Slice", &["x", "one", "nine", "one"], &["y"])), "one", &[1]);
    assert_eq!(run_floats(&with_constant(new, "nine", &[9]), &[x()]), [-1.0, 0.0, 2.0, 3.0]);
}

#[test]
fn axes_of_reductions_and_squeezes_become_operands() {
    let sums = [-3.0, 6.0];
    let old = with(node("ReduceSum", &["x"], &["y"]), [ints("axes", &[1]), int("keepdims", 0)]);
    assert_eq!(run_floats(&one(11, old), &[x()]), sums);
    let new = with(node("ReduceSum", &["x", "one"], &["y"]), [int("keepdims", 0)]);
    assert_eq!(run_floats(&with_constant(one(13, new), "one", &[1]), &[x()]), sums);
    let unsqueeze = with(node("Unsqueeze", &["x"], &["y"]), [ints("axes", &[0])]);
    assert_eq!(run(&one(11, unsqueeze.clone()), &[x()])[0].shape(), [1, 2, 3]);
    assert!(refusal(&one(13, unsqueeze)).contains("axes"));
    let too_many = with_constant(one(11, node("Squeeze", &["x", "one"], &["y"])), "one", &[1]);
    assert!(refusal(&too_many).contains("in opset 11 at most 1"));
}

#[test]
fn an_empty_list_of_axes_reduces_all_or_nothing() {
    let sum = |attributes: Vec<_>| with(node("ReduceSum", &["x", "none"], &["y"]), attributes);
    let all = with_constant(one(13, sum(vec![])), "none", &[]);
    assert_eq!(run_floats(&all, &[x()]), [3.0]);
    let nothing = with_constant(one(13, sum(vec![int("noop_with_empty_axes", 1)])), "none", &[]);
    assert_eq!(run_floats(&nothing, &[x()]), X);
}

#[test]
fn softmax_flattens_below_opset_13() {
    let softmax = with(node("Softmax", &["x"], &["y"]), [int("axis", 0)]);
    let sum = |values: &[f32]| values.iter().sum::<f32>();
    // All six elements are one row.
    assert!((sum(&run_floats(&one(11, softmax.clone()), &[x()])) - 1.0).abs() < 1e-6);
    // Three columns.
    assert!((sum(&run_floats(&one(13, softmax), &[x()])) - 3.0).abs() < 1e-6);
}

#[test]
fn old_broadcasts_stand_at_an_axis() {
    let add = with(node("Add", &["x", "b"], &["y"]), [int("broadcast", 1), int("axis", 0)]);
    let inputs = [("x", "2,3"), ("b", "2")];
    let sum = run_floats(&model(6, &inputs, vec![add], &["y"]), &[x(), floats(&[10.0, 20.0], &[2])]);
    assert_eq!(sum, [8.0, 9.0, 10.0, 21.0, 22.0, 23.0]);
}

#[test]
fn group_norm_scales_by_group_then_by_channel() {
    for (opset, per_group) in [(18, true), (21, false)] {
        let norm = with(node("GroupNormalization", &["x", "s", "s"], &["y"]), [int("num_groups", 2)]);
        let scale = if per_group { "2" } else { "4" };
        let module =
            import(&model(opset, &[("x", "1,4,3"), ("s", scale)], vec![norm], &["y"])).expect("valid");
        let main = module.function(module.main().expect("main"));
        let found = main.node_ids().filter_map(|id| main.node(id)).any(|node| {
            matches!(&node.operation, Operation::Op(Op::GroupNorm(norm)) if norm.per_group == per_group)
        });
        assert!(found, "opset {opset}");
    }
}

#[test]
fn dropout_keeps_everything_unless_it_trains() {
    let outputs =
        run(&model(12, &[("x", "2,3")], vec![node("Dropout", &["x"], &["y", "m"])], &["y", "m"]), &[x()]);
    assert_eq!(*outputs[0].to_slice::<f32>().expect("f32"), X);
    assert_eq!(outputs[1].bytes(), [1; 6]);
    let training = model(
        13,
        &[("x", "100,100"), ("r", "")],
        vec![
            node("IsNaN", &["r"], &["no"]),
            node("Not", &["no"], &["t"]),
            node("Dropout", &["x", "r", "t"], &["y"]),
        ],
        &["y"],
    );
    let ones = floats(&vec![1.0; 10_000], &[100, 100]);
    let kept = run_floats(&training, &[ones, floats(&[0.25], &[])]);
    let zeros = kept.iter().filter(|value| **value == 0.0).count();
    assert!((2_300..2_700).contains(&zeros), "{zeros} of 10000 dropped");
    assert!(kept.iter().all(|value| *value == 0.0 || (value - 4.0 / 3.0).abs() < 1e-6));
}

#[test]
fn pad_and_upsample_attributes_become_operands() {
    let pad = with(node("Pad", &["x"], &["y"]), [ints("pads", &[0, 1, 0, 0]), float("value", 7.0)]);
    assert_eq!(run_floats(&one(2, pad), &[x()]), [7.0, -2.0, -1.0, 0.0, 7.0, 1.0, 2.0, 3.0]);
    let upsample = with(node("Upsample", &["x"], &["y"]), [text("mode", "nearest")]);
    assert!(refusal(&one(7, upsample)).contains("`scales` is missing"));
}

#[test]
fn counts_attributes_and_types_are_checked() {
    let cases = [
        (one(13, node("Concat", &["x"], &["y"])), "attribute `axis` is missing"),
        (one(13, node("Add", &["x"], &["y"])), "takes 2 inputs, it has 1"),
        (one(13, node("Relu", &["x"], &["y", "z"])), "takes 1 outputs, it has 2"),
        (one(13, with(node("Relu", &["x"], &["y"]), [int("alpha", 1)])), "unknown attribute `alpha`"),
        (one(13, with(node("LeakyRelu", &["x"], &["y"]), [int("alpha", 1)])), "of type INT, not FLOAT"),
        (one(13, with(node("Cast", &["x"], &["y"]), [int("to", 9999)])), "unknown data type 9999"),
        (one(13, with(node("Transpose", &["x"], &["y"]), [ints("perm", &[0, 0])])), "no permutation"),
        (one(13, node("Gelu", &["x"], &["y"])), "Gelu-13"),
        (one(13, node("Frobnicate", &["x"], &["y"])), "Frobnicate-13 (node `n_y`)"),
        (one(29, node("Relu", &["x"], &["y"])), "opset 29"),
    ];
    for (model, expected) in cases {
        let message = refusal(&model);
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
    }
}

#[test]
fn all_unsupported_operators_are_reported() {
    let branch = |operator: &str| {
        let nodes = vec![node(operator, &["x"], &["b"])];
        GraphProto { node: nodes, output: vec![output("b")], ..Default::default() }
    };
    let bodies = [body("then_branch", branch("Alpha")), body("else_branch", branch("Relu"))];
    let nodes = vec![
        node("Beta", &["x"], &["z"]),
        with(node("If", &["z"], &["y"]), bodies),
        call("Gamma", &["y"], &["w"]),
    ];
    let message = refusal(&model(13, &[("x", "2")], nodes, &["w"]));
    for operator in ["Alpha-13 (node `n_b`)", "Beta-13 (node `n_z`)", "local.Gamma-1 (node `n_w`)"] {
        assert!(message.contains(operator), "{operator} is not in {message}");
    }
}
