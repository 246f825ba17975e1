use insta::assert_snapshot;
use lathe_ir::{EvaluateOptions, evaluate};
use lathe_tensor::Tensor;

use super::{check, run};
use crate::driver::{Options, optimise};
use crate::specialize::gqa::HeadMerging;
use crate::{Pass, standard};

/// Four query heads of 2 over key and value heads whose columns are `keys` and `values`, by heads.
fn graph(keys: [[f32; 2]; 4], values: [[f32; 2]; 4]) -> String {
    let rows = |heads: [[f32; 2]; 4]| {
        let row = |factor: f32| {
            let cells = heads.iter().flatten().map(|cell| format!("{:?}", cell * factor));
            cells.collect::<Vec<_>>().join(", ")
        };
        format!("{}, {}, {}", row(1.0), row(-0.5), row(0.25))
    };
    format!(
        r#"graph "main" (x: f32[batch, seq, 3]) {{
  c0 = const f32[3, 8] [{}]
  c1 = const f32[3, 8] [{}]
  c2 = const f32[8] [0.5, 0.5, 0.5, 0.5, 0.25, 0.5, 0.25, 0.5]
  c3 = const f32[3, 8] [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.1, 2.2, 2.3, 2.4]
  c4 = const f32[2] [1.5, 0.75]
  %0 = dims [batch, seq, 4, 2]
  %1 = linear x, c3 {{activation="none"}}      // "q"
  %2 = reshape %1, %0 {{allow_zero=true}}
  %3 = transpose %2 {{perm=[0,2,1,3]}}
  %4 = linear x, c0, c2 {{activation="none"}}  // "k"
  %5 = reshape %4, %0 {{allow_zero=true}}
  %6 = rms_norm %5, c4 {{axis=-1, epsilon=0.00001}}
  %7 = transpose %6 {{perm=[0,2,1,3]}}
  %8 = linear x, c1 {{activation="none"}}      // "v"
  %9 = reshape %8, %0 {{allow_zero=true}}
  %10 = transpose %9 {{perm=[0,2,1,3]}}
  %11 = attention %3, %7, %10 {{bottom_right=false, causal=true, qk_output=0, scale=0.5, softcap=0.0, softmax_in_f64=false}} // "attention"
  return %11 as y
}}"#,
        rows(keys),
        rows(values)
    )
}

const PAIRS: [[f32; 2]; 4] = [[0.3, 0.7], [0.3, 0.7], [-0.2, 0.9], [-0.2, 0.9]];

fn results(text: &str, passes: &[Pass<'_>]) -> Vec<f32> {
    let mut module = lathe_ir::parse(text).expect("a module");
    optimise(&mut module, passes, &Options::default(), &mut |_, _| {}).expect("passes");
    let x: Vec<f32> = (0..2 * 5 * 3).map(|i| (i as f32 * 0.37).sin()).collect();
    let x = Tensor::from_slice(&x, &[2, 5, 3]).expect("x");
    let main = module.main().expect("main");
    let outputs = evaluate(&module, main, &[x], &EvaluateOptions::default()).expect("results");
    outputs[0].to_slice::<f32>().expect("f32").into_owned()
}

#[test]
fn equal_heads_are_merged_and_give_the_same_bits() {
    let text = graph(PAIRS, PAIRS);
    assert_snapshot!(check("gqa", &text));
    let bits = |results: Vec<f32>| results.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let merging = HeadMerging { kv_heads: None };
    assert_eq!(bits(results(&text, &[])), bits(results(&text, &[Pass::Rule(&merging)])));
}

#[test]
fn all_heads_become_one_where_all_are_equal() {
    let text =
        graph([[0.3, 0.7]; 4], [[-1.0, 0.5]; 4]).replace("0.25, 0.5, 0.25, 0.5]\n", "0.5, 0.5, 0.5, 0.5]\n");
    let out = check("gqa", &text);
    assert!(out.contains("f32[batch, 1, seq, 2]"), "{out}");
}

#[test]
fn heads_that_differ_are_refused() {
    let mut other = PAIRS;
    other[3][1] = 0.900_000_1;
    assert_snapshot!(check("gqa", &graph(PAIRS, other)));
    for text in [
        graph(other, PAIRS),
        graph(PAIRS, PAIRS).replace("0.25, 0.5, 0.25, 0.5]\n", "0.25, 0.5, 0.25, 0.75]\n"),
        graph([PAIRS[0], PAIRS[2], PAIRS[0], PAIRS[2]], PAIRS),
    ] {
        let out = check("gqa", &text);
        assert!(out.contains("the heads differ"), "{out}");
    }
}

#[test]
fn projections_that_others_use_or_that_are_not_linear_are_refused() {
    let text = graph(PAIRS, PAIRS);
    for (text, reason) in [
        (
            text.replace("return %11 as y", "return %11 as y, %8 as values"),
            "the projection is used elsewhere",
        ),
        (text.replace("return %11 as y", "return %11 as y, %7 as keys"), "they are used elsewhere"),
        (
            text.replace("linear x, c1 {activation=\"none\"}", "linear x, c1 {activation=\"relu\"}"),
            "the projection has an activation",
        ),
        (
            text.replace("%10 = transpose", "%12 = abs %9\n  %10 = transpose")
                .replace("transpose %9", "transpose %12"),
            "not made by a projection alone",
        ),
        (text.replace("{axis=-1, epsilon", "{axis=2, epsilon"), "not made by a projection alone"),
    ] {
        let out = check("gqa", &text);
        assert!(out.contains(reason) && !out.contains(", 2, seq, 2]"), "{out}");
    }
}

#[test]
fn a_past_is_refused() {
    let text = graph(PAIRS, PAIRS)
        .replace(
            "(x: f32[batch, seq, 3])",
            "(x: f32[batch, seq, 3], p: f32[batch, 4, past, 2], o: f32[batch, 4, past, 2])",
        )
        .replace("attention %3, %7, %10", "attention %3, %7, %10, _, p, o");
    let out = check("gqa", &text);
    assert!(out.contains("the heads of the past are the caller's"), "{out}");
}

#[test]
fn heads_become_means_on_request() {
    let keys = [[0.0, 1.0], [0.5, 0.5], [2.0, 2.0], [2.0, 4.0]];
    let pool = |kv_heads: usize| {
        let merging = HeadMerging { kv_heads: Some(kv_heads) };
        run(&[Pass::Rule(&merging)], &graph(keys, PAIRS))
    };
    assert_snapshot!(pool(2));
    assert!(pool(3).contains("4 heads do not make 3 groups"));
    assert!(pool(0).contains("4 heads do not make 0 groups"));
    assert!(pool(4).contains("[batch, 4, seq, 2]"));
}

#[test]
fn the_cache_holds_one_head_a_group() {
    let decoder = graph(PAIRS, PAIRS)
        .replace("(x: f32[batch, seq, 3])", "(input_ids: i64[batch, seq])")
        .replace("  %0 = dims", "  c5 = const f32[4, 3] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 1.5, 2.5, 3.5]\n  c6 = const f32[8, 4] [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7, 2.8, 2.9, 3.0, 3.1, 3.2]\n  %20 = gather c5, input_ids {axis=0}\n  %0 = dims")
        .replace("linear x,", "linear %20,")
        .replace("return %11 as y", "%12 = transpose %11 {perm=[0,2,1,3]}\n  %13 = dims [batch, seq, 8]\n  %14 = reshape %12, %13 {allow_zero=true}\n  %15 = linear %14, c6 {activation=\"none\"}\n  return %15 as logits");
    let merged = run(&standard(), &decoder);
    assert!(merged.contains("kv_heads=2,"), "{merged}");
    let passes: Vec<_> = standard().into_iter().filter(|pass| pass.name() != "gqa").collect();
    let plain = run(&passes, &decoder);
    assert!(plain.contains("kv_heads=4,"), "{plain}");
}
