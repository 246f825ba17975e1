//! Modules that quantise values by their own range: what passes make of them rounds as it did before.

use insta::assert_snapshot;

use super::check;

/// `text` with a value that is quantised beside its results.
fn quantising(text: &str, value: &str) -> String {
    let (before, results) = text.rsplit_once("  return ").expect("results");
    format!("{before}  %90, %91, %92 = dynamic_quantize_linear {value}\n  return %90 as codes, {results}")
}

/// A norm of the last axis by these lines, which use `%2 = mean(d ^ 2) + epsilon`.
fn norm(lines: &str) -> String {
    let text = format!(
        r#"graph "main" (x: f32[n, 4], s: f32[4]) {{
  c1 = const f32[] 0.000001
  c2 = const f32[] 2.0
  c3 = const f32[] 1.0
  %0 = pow x, c2
  %1 = reduce %0 {{axes=[-1],keep_dims=true,kind="mean",noop_with_empty_axes=false}}
  %2 = add %1, c1
  %3 = sqrt %2
{lines}
  return %5 as y
}}"#
    );
    quantising(&text, "x")
}

#[test]
fn norms_round_as_their_formulas() {
    let product = norm("  %4 = div c3, %3\n  %6 = mul x, %4\n  %5 = mul %6, s // \"scale\"");
    assert_snapshot!(check("fuse_rms_norm", &product));
    let quotient = norm("  %4 = div x, %3\n  %5 = mul %4, s // \"scale\"");
    assert_snapshot!(check("fuse_rms_norm", &quotient));
}

/// Attention with factors of queries and keys and of the scores.
fn attention(queries: f32, scores: &str) -> String {
    let text = format!(
        r#"graph "main" (q: f32[b, 2, s, 32], k: f32[b, 2, s, 32], v: f32[b, 2, s, 32]) {{
  c0 = const f32[] {queries:?}
  c1 = const f32[] 5.65685425
  %0 = mul q, c0 // "queries"
  %1 = transpose k {{perm=[0,1,3,2]}} // "turned"
  %2 = matmul %0, %1 // "scores"
  %3 = {scores} // "scaled"
  %4 = softmax %3 {{axis=-1,log=false}} // "softmax"
  %5 = matmul %4, v // "attention"
  return %5 as y
}}"#
    );
    quantising(&text, "q")
}

#[test]
fn attention_rounds_as_its_parts() {
    // A power of two may move, another factor stays where it is.
    assert_snapshot!(check("fuse_attention", &attention(0.5, "div %2, c1")));
    assert_snapshot!(check("fuse_attention", &attention(0.3, "mul %2, c1")));
}

#[test]
fn factors_do_not_move_into_weights() {
    let text = r#"graph "main" (x: f32[n, 1, 4, 4]) {
  c0 = const f32[2, 1, 1, 1] [1.0, 2.0]
  c1 = const f32[] 3.0
  %0 = conv x, c0 {activation="none",dilations=[1,1],groups=1,padding={"explicit":{"begins":[0,0],"ends":[0,0]}},strides=[1,1]} // "conv"
  %1 = mul %0, c1 // "factor"
  return %1 as y
}"#;
    assert!(check("fold_affine", &quantising(text, "x")).contains("its last bit decides about codes"));
    assert!(!check("fold_affine", text).contains("refused"));
    // A sum with what had none is the same sum.
    let sum = text.replace("mul %0, c1", "add %0, c1");
    assert!(!check("fold_affine", &quantising(&sum, "x")).contains("refused"));
}
