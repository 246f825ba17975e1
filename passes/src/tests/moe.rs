//! Mixtures of experts, as exporters write them.

use insta::assert_snapshot;

use super::check;

const MIXTRAL: &str = r#"graph "main" (x: f32[n, 4], logits: f32[n, 3]) {
  c0 = const f32[3, 6, 4] splat 0.5
  c1 = const f32[3, 4, 3] splat 0.25
  c2 = const i64[1] [2]
  c3 = const i64[1] [-1]
  c4 = const i64[3] [1, 2, 1]
  c5 = const i64[3] [-1, 4, 1]
  c6 = const i64[2] [-1, 1]
  c7 = const i64[3] [-1, 2, 4]
  %0 = softmax logits {axis=-1, log=false}  // "scores"
  %1, %2 = top_k %0, c2 {axis=-1, largest=true, sorted=true}  // "choice"
  %3 = reduce %1 {axes=[-1], keep_dims=true, kind="sum", noop_with_empty_axes=false}  // "sum"
  %4 = div %1, %3  // "weights"
  %5 = reshape %2, c3 {allow_zero=false}  // "indices"
  %6 = unsqueeze x {axes=[1]}  // "token"
  %7 = expand %6, c4  // "repeated"
  %8 = reshape %7, c5 {allow_zero=false}  // "columns"
  %9 = gather c0, %5 {axis=0}  // "w_in"
  %10 = matmul %9, %8  // "first"
  %11 = squeeze %10 {axes=[2]}  // "hidden"
  %12, %13 = split %11 {axis=1, outputs=2}  // "halves"
  %14 = silu %12  // "gate"
  %15 = mul %14, %13  // "gated"
  %16 = gather c1, %5 {axis=0}  // "w_out"
  %17 = unsqueeze %15 {axes=[2]}  // "column"
  %18 = matmul %16, %17  // "second"
  %19 = squeeze %18 {axes=[2]}  // "answers"
  %20 = reshape %4, c6 {allow_zero=false}  // "factors"
  %21 = mul %19, %20  // "weighted"
  %22 = reshape %21, c7 {allow_zero=false}  // "by token"
  %23 = reduce %22 {axes=[1], keep_dims=false, kind="sum", noop_with_empty_axes=false}  // "experts"
  return %23 as y
}"#;

/// The form with one piece of text replaced, which must be there.
fn with(from: &str, to: &str) -> String {
    assert!(MIXTRAL.contains(from), "{from}");
    check("fuse_moe", &MIXTRAL.replace(from, to))
}

#[test]
fn gathered_experts_become_one_op() {
    assert_snapshot!(check("fuse_moe", MIXTRAL));
}

#[test]
fn weights_may_stay_as_they_are() {
    assert_snapshot!(with("reshape %4, c6", "reshape %1, c6"));
}

#[test]
fn other_divisors_are_refused() {
    let found = with("div %1, %3", "div %1, %1");
    assert!(found.contains("divided by something else than their sum"), "{found}");
}

#[test]
fn the_smallest_scores_are_refused() {
    let found = with("largest=true", "largest=false");
    assert!(found.contains("not chosen by a top-k"), "{found}");
}

#[test]
fn other_indices_for_one_product_are_refused() {
    let other = "%24 = neg %5\n  %16 = gather c1, %24";
    let found = with("%16 = gather c1, %5", other);
    assert!(found.contains("different indices"), "{found}");
}

#[test]
fn swapped_halves_are_refused() {
    let found = with("%12, %13 = split", "%13, %12 = split");
    assert!(found.contains("the gate is not one half"), "{found}");
}

#[test]
fn answers_used_elsewhere_are_refused() {
    let found = with("return %23 as y", "return %23 as y, %18 as z");
    assert!(found.contains("used elsewhere"), "{found}");
}

#[test]
fn weights_that_are_computed_are_left_alone() {
    let found = with("%16 = gather c1, %5", "%24 = neg c1\n  %16 = gather %24, %5");
    assert!(!found.contains(" moe "), "{found}");
}

#[test]
fn the_answer_stays_the_same() {
    let before = lathe_ir::parse(MIXTRAL).expect("parses");
    let after = lathe_ir::parse(&check("fuse_moe", MIXTRAL)).expect("parses");
    for tokens in [0usize, 1, 3, 7] {
        let numbers = |count: usize, step: usize| -> Vec<f32> {
            (0..count).map(|at| ((at * step) % 17) as f32 / 8.0 - 1.0).collect()
        };
        let inputs = [(4, 5), (3, 7)].map(|(columns, step)| {
            let elements = numbers(tokens * columns, step);
            lathe_tensor::Tensor::from_slice(&elements, &[tokens, columns]).expect("a tensor")
        });
        let run = |module: &lathe_ir::Module| {
            let main = module.main().expect("main");
            let outputs = lathe_ir::evaluate(module, main, &inputs, &Default::default()).expect("evaluates");
            outputs[0].to_slice::<f32>().expect("f32").to_vec()
        };
        let (a, b) = (run(&before), run(&after));
        assert_eq!(a.len(), tokens * 4);
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
    }
}
