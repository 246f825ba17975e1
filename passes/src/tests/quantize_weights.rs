use lathe_ir::{EvaluateOptions, evaluate};
use lathe_tensor::Tensor;

use super::run;
use crate::driver::{Options, optimise};
use crate::{Pass, QuantizeWeights, WeightBits};

fn quantized(bits: WeightBits, text: &str) -> String {
    run(&[Pass::Function(&QuantizeWeights { bits })], text)
}

/// A table of 40 tokens of 64 elements that is the head too, as its transpose, and a matrix between that is stored as bf16.
const MODEL: &str = r#"graph "main" (input_ids: i64[batch, seq]) {
  c0 = const f32[40, 64] splat 0.5    // "table"
  c1 = const bf16[64, 64] splat 0.25  // "inner"
  %0 = gather c0, input_ids {axis=0}
  %1 = cast c1 {saturate=true, to="f32"}
  %2 = transpose %1 {perm=[1,0]}
  %3 = matmul %0, %2                  // "inner"
  %4 = transpose c0 {perm=[1,0]}
  %5 = matmul %3, %4                  // "head"
  return %5 as logits
}"#;

#[test]
fn matrices_and_tables_become_blocks() {
    let out = quantized(WeightBits::Four, MODEL);
    assert!(out.contains(r#"{"blocked":"q8_0"}"#) && out.contains(r#"{"blocked":"q4_1"}"#), "{out}");
    assert!(!out.contains("cast") && out.matches("transpose").count() == 2, "{out}");
    assert!(!out.contains("refused") && !out.contains("splat") && !out.contains("bf16"), "{out}");
}

#[test]
fn of_eight_bits_are_all() {
    let out = quantized(WeightBits::Eight, MODEL);
    assert!(out.contains("q8_0") && !out.contains("q4_1"), "{out}");
}

#[test]
fn answers_stay_near() {
    let answer = |bits: Option<WeightBits>| -> Vec<f32> {
        let mut module = lathe_ir::parse(MODEL).expect("a module");
        let pass = bits.map(|bits| QuantizeWeights { bits });
        let passes: Vec<Pass<'_>> = pass.iter().map(|pass| Pass::Function(pass)).collect();
        optimise(&mut module, &passes, &Options::default(), &mut |_, _| {}).expect("passes");
        let ids = Tensor::from_slice(&[3i64, 7], &[1, 2]).expect("ids");
        let main = module.main().expect("main");
        let outputs = evaluate(&module, main, &[ids], &EvaluateOptions::default()).expect("results");
        outputs[0].to_slice::<f32>().expect("f32").into_owned()
    };
    let exact = answer(None);
    for bits in [WeightBits::Eight, WeightBits::Four] {
        let near = answer(Some(bits));
        assert!(near.iter().zip(&exact).all(|(a, b)| (a - b).abs() < 0.01 * b.abs()), "{bits:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let out = quantized(
        WeightBits::Eight,
        r#"graph "main" (x: f32[batch, 48], y: f32[batch, 64]) {
  c0 = const f32[48, 64] splat 0.5
  c1 = const f32[64, 8] splat 0.5
  c2 = const f32[64, 64] splat 100000.0
  c3 = const f32[64, 64] splat 0.5
  %0 = matmul x, c0                // "no whole blocks"
  %1 = matmul y, c1                // "a router"
  %2 = matmul y, c2                // "too large"
  %3 = matmul y, c3                // "one way"
  %4 = transpose c3 {perm=[1,0]}
  %5 = matmul y, %4                // "and the other"
  return %0 as a, %1 as b, %2 as c, %3 as d, %5 as e
}"#,
    );
    for reason in [
        "refused at no whole blocks: sums of 48 elements are no whole blocks of 32",
        "refused at a router: 8 rows are fewer than 32",
        "refused at too large: elements that half precision cannot scale",
        "refused at one way: the weights are summed along both axes",
        "refused at and the other: the weights are summed along both axes",
    ] {
        assert!(out.contains(reason), "{reason} in {out}");
    }
    assert!(!out.contains("blocked"), "{out}");
}

/// Two experts of 32 inner and 64 outer elements, `[in, out]` as gpt-oss stores them.
const EXPERTS: &str = r#"graph "main" (x: f32[tokens, 64], logits: f32[tokens, 2]) {
  c0 = const f32[2, 64, 32] splat 0.5     // "experts.w_in"
  c1 = const bf16[2, 32, 64] splat 0.25   // "experts.w_out"
  %0 = cast c1 {saturate=true, to="f32"}
  %1 = moe x, logits, c0, %0 {experts=2,top_k=1,router="softmax",renormalise=false,epsilon=0.0,scale=1.0,groups=null,capacity=null,activation="silu",gate="none",clamped=null,transposed=false,shared_experts=0} // "mixture"
  return %1 as y
}"#;

#[test]
fn experts_become_blocks_together() {
    let out = quantized(WeightBits::Four, EXPERTS);
    assert_eq!(out.matches(r#"{"blocked":"q4_1"}"#).count(), 2, "{out}");
    assert!(out.contains("const f32[2, 32, 64]") && out.contains("const f32[2, 64, 32]"), "{out}");
    assert!(out.contains("\"transposed\":true") || out.contains("transposed=true"), "{out}");
    assert!(!out.contains("cast") && !out.contains("splat"), "{out}");
}

#[test]
fn experts_that_do_not_fit_are_refused_together() {
    let out = quantized(
        WeightBits::Eight,
        &EXPERTS.replace("[2, 64, 32]", "[2, 64, 16]").replace("[2, 32, 64]", "[2, 16, 64]"),
    );
    assert!(out.contains("refused at mixture: 16 rows are fewer than 32"), "{out}");
    assert!(!out.contains("blocked"), "{out}");
}
