use insta::assert_snapshot;

use super::check;

const LAYER_NORM: &str = r#"graph "main" (x: f32[n, 4]) {
  scale = const f32[4] [1.0, 2.0, 3.0, 4.0]
  bias = const f32[4] [0.5, 0.5, 0.5, 0.25]
  eps = const f32[] 0.00001
  two = const f32[] 2.0
  %0 = reduce x {axes=[AXIS],keep_dims=true,kind="mean",noop_with_empty_axes=false} // "mean"
  %1 = sub x, %0      // "center"
  %2 = pow %1, two    // "square"
  %3 = reduce %2 {axes=[-1],keep_dims=true,kind="mean",noop_with_empty_axes=false} // "variance"
  %4 = add %3, eps    // "epsilon"
  %5 = sqrt %4        // "deviation"
  %6 = div %1, %5     // "normalise"
  %7 = mul %6, scale  // "scale"
  %8 = add %7, bias   // "bias"
  return %8 as y
}"#;

fn constants_named(text: &str, names: &[&str]) -> String {
    names.iter().enumerate().fold(text.to_string(), |text, (index, name)| {
        text.replace(&format!(" {name} ="), &format!(" c{index} ="))
            .replace(&format!(", {name} "), &format!(", c{index} "))
    })
}

fn layer_norm(axis: &str) -> String {
    constants_named(&LAYER_NORM.replace("AXIS", axis), &["scale", "bias", "eps", "two"])
}

#[test]
fn layer_norm_is_recognised() {
    assert_snapshot!(check("fuse_layer_norm", &layer_norm("-1")));
}

#[test]
fn layer_norm_over_another_axis_is_refused() {
    assert_snapshot!(check("fuse_layer_norm", &layer_norm("0")));
}

#[test]
fn layer_norm_with_a_value_used_elsewhere_is_refused() {
    assert_snapshot!(check(
        "fuse_layer_norm",
        &layer_norm("-1").replace("return %8 as y", "return %8 as y, %5 as deviation")
    ));
}

fn softmax(sum_axis: &str) -> String {
    r#"graph "main" (x: f32[n, 4]) {
  %0 = reduce x {axes=[1],keep_dims=true,kind="max",noop_with_empty_axes=false}   // "max"
  %1 = sub x, %0  // "shift"
  %2 = exp %1     // "exp"
  %3 = reduce %2 {axes=[AXIS],keep_dims=true,kind="sum",noop_with_empty_axes=false} // "sum"
  %4 = div %2, %3 // "divide"
  return %4 as y
}"#
    .replace("AXIS", sum_axis)
}

#[test]
fn softmax_is_recognised() {
    assert_snapshot!(check("fuse_softmax", &softmax("-1")));
}

#[test]
fn softmax_over_two_axes_is_refused() {
    assert_snapshot!(check("fuse_softmax", &softmax("0")));
}

#[test]
fn softmax_with_a_value_used_elsewhere_is_refused() {
    assert_snapshot!(check(
        "fuse_softmax",
        &softmax("1").replace("return %4 as y", "return %4 as y, %2 as exp")
    ));
}

const GELU: &str = r#"graph "main" (x: f32[n]) {
  c0 = const f32[] 1.4142135
  c1 = const f32[] 1.0
  c2 = const f32[] 0.5
  %0 = div x, c0   // "divide"
  %1 = erf %0      // "erf"
  %2 = add %1, c1  // "plus one"
  %3 = mul x, %2   // "gate"
  %4 = mul %3, c2  // "half"
  return %4 as y
}"#;

#[test]
fn gelu_by_erf_is_recognised() {
    assert_snapshot!(check("fuse_gelu", GELU));
}

#[test]
fn gelu_with_another_constant_is_not() {
    assert_snapshot!(check("fuse_gelu", &GELU.replace("1.4142135", "1.5")));
}

#[test]
fn gelu_with_a_value_used_elsewhere_is_refused() {
    assert_snapshot!(check("fuse_gelu", &GELU.replace("return %4 as y", "return %4 as y, %1 as erf")));
}

#[test]
fn gelu_that_is_quantised_by_its_range_is_refused() {
    let gated = "%9 = mul %4, x\n  %10, %11, %12 = dynamic_quantize_linear %9\n  return %10 as y";
    assert_snapshot!(check("fuse_gelu", &GELU.replace("return %4 as y", gated)));
}

#[test]
fn gelu_by_tanh_is_recognised() {
    assert_snapshot!(check(
        "fuse_gelu",
        r#"graph "main" (x: f32[n]) {
  c0 = const f32[] 3.0
  c1 = const f32[] 0.044715
  c2 = const f32[] 0.7978845608
  c3 = const f32[] 1.0
  c4 = const f32[] 0.5
  %0 = mul x, c4   // "half"
  %1 = pow x, c0   // "cube"
  %2 = mul c1, %1  // "weight"
  %3 = add x, %2   // "inner"
  %4 = mul %3, c2  // "scale"
  %5 = tanh %4     // "tanh"
  %6 = add c3, %5  // "plus one"
  %7 = mul %0, %6  // "product"
  return %7 as y
}"#
    ));
}

#[test]
fn silu_is_recognised_and_refused() {
    let text = r#"graph "main" (x: f32[n]) {
  %0 = sigmoid x   // "sigmoid"
  %1 = mul %0, x   // "product"
  return %1 as y
}"#;
    assert_snapshot!(check("fuse_silu", text));
    assert_snapshot!(check("fuse_silu", &text.replace("return %1 as y", "return %1 as y, %0 as gate")));
}

#[test]
fn hard_swish_is_recognised_and_refused() {
    let text = r#"graph "main" (x: f32[n]) {
  c0 = const f32[] 3.0
  c1 = const f32[] 0.0
  c2 = const f32[] 6.0
  %0 = add x, c0        // "plus three"
  %1 = clip %0, c1, c2  // "clip"
  %2 = mul x, %1        // "product"
  %3 = div %2, c2       // "sixth"
  return %3 as y
}"#;
    assert_snapshot!(check("fuse_hard_swish", text));
    assert_snapshot!(check(
        "fuse_hard_swish",
        &text.replace("return %3 as y", "return %3 as y, %1 as clipped")
    ));
}

#[test]
fn products_with_constant_weights_become_linear() {
    assert_snapshot!(check(
        "fuse_linear",
        r#"graph "main" (x: f32[n, 2], v: f32[2], z: f32[2, 2, 2]) {
  c0 = const f32[2, 3] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
  c1 = const f32[2, 2, 2] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
  %0 = matmul x, c0  // "linear"
  %1 = matmul v, c0  // "vector"
  %2 = matmul z, c1  // "batched"
  return %0 as a, %1 as b, %2 as c
}"#
    ));
}

const LAYER: &str = r#"graph "main" (x: f32[n, 2, 4, 4]) {
  c0 = const f32[2, 2, 1, 1] [1.0, 2.0, 3.0, 4.0]
  c1 = const f32[2] [0.5, 0.25]
  c2 = const f32[1, 2, 1, 1] [2.0, 4.0]
  %0 = conv x, c0, c1 {activation="none",dilations=[1,1],groups=1,padding={"explicit":{"begins":[0,0],"ends":[0,0]}},strides=[1,1]} // "conv"
  %1 = mul %0, c2  // "times"
  %2 = add c2, %1  // "plus"
  return %2 as y
}"#;

#[test]
fn affine_maps_fold_into_weights() {
    assert_snapshot!(check("fold_affine", LAYER));
}

#[test]
fn affine_maps_that_do_not_fit_are_refused() {
    let other_axis =
        LAYER.replace("c2 = const f32[1, 2, 1, 1]", "c2 = const f32[1, 1, 2, 1]").replace("4, 4]", "2, 4]");
    assert_snapshot!(check("fold_affine", &other_axis));
    assert_snapshot!(check("fold_affine", &LAYER.replace("return %2 as y", "return %2 as y, %0 as conv")));
    assert_snapshot!(check("fold_affine", &LAYER.replace("\"none\"", "\"relu\"")));
}

#[test]
fn batch_norm_folds_into_a_convolution() {
    let text = r#"graph "main" (x: f32[n, 1, 4, 4]) {
  c0 = const f32[2, 1, 1, 1] [1.0, 2.0]
  c1 = const f32[2] [1.0, 3.0]
  c2 = const f32[2] [0.5, 0.25]
  c3 = const f32[2] [1.0, 2.0]
  c4 = const f32[2] [0.75, 3.75]
  %0 = conv x, c0 {activation="none",dilations=[1,1],groups=1,padding={"explicit":{"begins":[0,0],"ends":[0,0]}},strides=[1,1]} // "conv"
  %1 = batch_norm %0, c1, c2, c3, c4 {epsilon=0.25,momentum=0.9,training=false} // "norm"
  return %1 as y
}"#;
    assert_snapshot!(check("fold_batch_norm", text));
    assert_snapshot!(check("fold_batch_norm", &text.replace("return %1 as y", "return %1 as y, %0 as conv")));
}

fn before_layer(pads: &str) -> String {
    r#"graph "main" (x: f32[n, 2, 4, 4]) {
  c0 = const f32[1, 2, 1, 1] [1.0, 2.0]
  c1 = const f32[] 3.0
  %0 = add x, c1  // "plus"
  %1 = conv %0, c0 {activation="none",dilations=[1,1],groups=1,padding={"explicit":{"begins":PADS,"ends":PADS}},strides=[1,1]} // "conv"
  return %1 as y
}"#
    .replace("PADS", pads)
}

#[test]
fn sums_before_a_layer_move_into_its_bias() {
    assert_snapshot!(check("forward_affine", &before_layer("[0,0]")));
}

#[test]
fn sums_before_a_layer_that_pads_are_refused() {
    assert_snapshot!(check("forward_affine", &before_layer("[1,1]")));
    assert_snapshot!(check(
        "forward_affine",
        &before_layer("[0,0]").replace("return %1 as y", "return %1 as y, %0 as sum")
    ));
}

#[test]
fn activations_join_their_layer() {
    let text = r#"graph "main" (x: f32[n, 2]) {
  c0 = const f32[2, 2] [1.0, 2.0, 3.0, 4.0]
  c1 = const f32[] -1.0
  c2 = const f32[] 1.0
  %0 = linear x, c0 {activation="none"}  // "linear"
  %1 = clip %0, c1, c2                   // "clip"
  return %1 as y
}"#;
    assert_snapshot!(check("fuse_activation", text));
    assert_snapshot!(check("fuse_activation", &text.replace("return %1 as y", "return %1 as y, %0 as raw")));
    assert_snapshot!(check("fuse_activation", &text.replace("\"none\"", "\"relu\"")));
}

#[test]
fn residuals_join_their_layer() {
    let text = r#"graph "main" (x: f32[n, 2], r: f32[n, 2]) {
  c0 = const f32[2, 2] [1.0, 2.0, 3.0, 4.0]
  %0 = linear x, c0 {activation="none"}  // "linear"
  %1 = add r, %0                         // "residual"
  return %1 as y
}"#;
    assert_snapshot!(check("fuse_residual", text));
    assert_snapshot!(check("fuse_residual", &text.replace("r: f32[n, 2]", "r: f32[1, 2]")));
    assert_snapshot!(check("fuse_residual", &text.replace("\"none\"", "\"relu\"")));
    assert_snapshot!(check("fuse_residual", &text.replace("return %1 as y", "return %1 as y, %0 as raw")));
    // What follows the sum joins it.
    let text = text.replace("  return %1 as y", "  %2 = relu %1\n  return %2 as y");
    let out = super::run(crate::pipeline::FUSE, &text);
    assert!(
        out.contains("activation=\"relu\"") && !out.contains(" relu ") && !out.contains(" add "),
        "{out}"
    );
}

#[test]
fn gelu_by_tanh_of_a_product_is_recognised() {
    assert_snapshot!(check(
        "fuse_gelu",
        r#"graph "main" (x: f32[n]) {
  c0 = const f32[] 0.5
  c1 = const f32[] 0.79788456
  c2 = const f32[] 0.044715
  c3 = const f32[] 1.0
  %0 = mul x, c0   // "half"
  %1 = mul x, c1   // "scaled"
  %2 = mul x, c2   // "weight"
  %3 = mul %2, x   // "square"
  %4 = add %3, c3
  %5 = mul %1, %4
  %6 = tanh %5     // "tanh"
  %7 = add %6, c3
  %8 = mul %0, %7
  return %8 as y
}"#
    ));
}

#[test]
fn layer_norm_is_recognised_by_every_root_and_without_scale() {
    let text = |normalise: &str| {
        layer_norm("-1").replace(
            "  %5 = sqrt %4        // \"deviation\"\n  %6 = div %1, %5     // \"normalise\"\n",
            normalise,
        )
    };
    for normalise in [
        "  %5 = sqrt %4\n  %9 = reciprocal %5\n  %6 = mul %9, %1\n",
        "  %5 = reciprocal %4\n  %9 = sqrt %5\n  %6 = mul %1, %9\n",
    ] {
        let out = check("fuse_layer_norm", &text(normalise));
        assert!(out.contains("layer_norm x, c0, c1") && !out.contains("reduce"), "{out}");
    }
    let plain = layer_norm("-1").replace("return %8 as y", "return %6 as y");
    let plain = plain.lines().filter(|line| !line.contains("%7 =") && !line.contains("%8 ="));
    assert_snapshot!(check("fuse_layer_norm", &plain.collect::<Vec<_>>().join("\n")));
}
