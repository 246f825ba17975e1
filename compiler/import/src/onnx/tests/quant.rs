//! Quantised operators without a contributed case.

use lathe_proto::onnx::{ModelProto, OperatorSetIdProto};

use super::build::{float, floats, import, int, ints, model, node, run_floats, with};

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

#[test]
fn products_of_few_bits_may_be_coarse_at_accuracy_level_4() {
    for (level, coarse) in [(0, false), (1, false), (4, true)] {
        let attributes = [("K", 32), ("N", 2), ("bits", 4), ("block_size", 32), ("accuracy_level", level)];
        let mut product = with(
            node("MatMulNBits", &["x", "w", "scales"], &["y"]),
            attributes.map(|(name, value)| int(name, value)),
        );
        product.domain = Some("com.microsoft".into());
        let cast = with(node("Cast", &["codes"], &["w"]), [int("to", 2)]);
        let inputs = [("x", "m,32"), ("codes", "2,1,16"), ("scales", "2,1")];
        let mut model = model(17, &inputs, vec![cast, product], &["y"]);
        model
            .opset_import
            .push(OperatorSetIdProto { domain: Some("com.microsoft".into()), version: Some(1) });
        let text = import(&model).expect("a model").to_string();
        assert_eq!(text.contains("coarse=true"), coarse, "{text}");
    }
}
