//! Quantised operators without a contributed case.

use lathe_proto::onnx::{ModelProto, OperatorSetIdProto};

use super::build::{float, floats, int, ints, model, node, run_floats, with};

/// QLinearAveragePool over windows of 2 x 2 of `x`, as u8 with steps of 0.5, to steps of 1.
fn pooled(dims: &str, channels_last: i64) -> ModelProto {
    const U8: i64 = 2;
    let step = |name: &str, value| with(node("Constant", &[], &[name]), [float("value_float", value)]);
    let attributes =
        [ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2]), int("channels_last", channels_last)];
    let mut pool = with(node("QLinearAveragePool", &["bytes", "half", "", "one"], &["pooled"]), attributes);
    pool.domain = Some("com.microsoft".into());
    let nodes = vec![
        step("half", 0.5),
        step("one", 1.0),
        with(node("Cast", &["x"], &["bytes"]), [int("to", U8)]),
        pool,
        with(node("Cast", &["pooled"], &["y"]), [int("to", 1)]),
    ];
    let mut model = model(17, &[("x", dims)], nodes, &["y"]);
    model.opset_import.push(OperatorSetIdProto { domain: Some("com.microsoft".into()), version: Some(1) });
    model
}

#[test]
fn averages_of_bytes_round_to_even() {
    let x = [2.0, 4.0, 10.0, 10.0, 6.0, 8.0, 10.0, 11.0];
    for (dims, shape, channels_last) in [("1,1,2,4", [1, 1, 2, 4], 0), ("1,2,4,1", [1, 2, 4, 1], 1)] {
        // 2.5 and 5.125.
        assert_eq!(run_floats(&pooled(dims, channels_last), &[floats(&x, &shape)]), [2.0, 5.0]);
    }
}
