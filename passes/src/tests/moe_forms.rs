//! Mixtures whose experts are computed one after another, or all of them for every token.

use insta::assert_snapshot;
use lathe_tensor::Tensor;

use super::check;

/// Replaces a piece of text, which must be there.
fn with(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} in {text}");
    text.replace(from, to)
}

fn refused(text: &str, reason: &str) {
    let found = check("fuse_moe", text);
    assert!(found.contains(reason) && !found.contains(" = moe "), "{found}");
}

/// Evaluates before and after for some numbers of tokens; `sizes` are the columns of the inputs, whose other axes are `[2, tokens]` or `[tokens]`.
fn same_answer(text: &str, sizes: &[usize], batched: bool) {
    let before = lathe_ir::parse(text).expect("parses");
    let mut after = before.clone();
    let passes: Vec<_> = crate::standard().into_iter().filter(|pass| pass.name() == "fuse_moe").collect();
    let report =
        crate::optimise(&mut after, &passes, &Default::default(), &mut |_, _| {}).expect("a rewrite");
    assert_eq!(report.applied(), 1);
    for tokens in [1usize, 3, 7] {
        let rows = if batched { 2 * tokens } else { tokens };
        let inputs: Vec<Tensor> = sizes
            .iter()
            .enumerate()
            .map(|(at, columns)| {
                let number = |place: usize| ((place * (5 + 2 * at) + place / 3) % 17) as f32 / 8.0 - 1.0;
                let elements: Vec<f32> = (0..rows * columns).map(number).collect();
                let shape = if batched { vec![2, tokens, *columns] } else { vec![tokens, *columns] };
                Tensor::from_slice(&elements, &shape).expect("a tensor")
            })
            .collect();
        let run = |module: &lathe_ir::Module| {
            let main = module.main().expect("main");
            let outputs = lathe_ir::evaluate(module, main, &inputs, &Default::default()).expect("evaluates");
            outputs[0].to_slice::<f32>().expect("f32").to_vec()
        };
        let (a, b) = (run(&before), run(&after));
        assert!(a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
    }
}

/// The head of a mixture of three experts, two a token, with ones `%6 [experts, choices, tokens]`.
const ROUTER: &str = r#"graph "main" (x: f32[n, 4], logits: f32[n, 3]) {
  c0 = const i64[1] [2]
  c1 = const i64[3] [0, 1, 2]
  c2 = const i64[] 1
  c3 = const i64[] 0
  c4 = const i64[2] [1, 1]
  %0 = softmax logits {axis=-1, log=false}  // "scores"
  %1, %2 = top_k %0, c0 {axis=-1, largest=true, sorted=true}  // "choice"
  %3 = unsqueeze %2 {axes=[2]}
  %4 = equal %3, c1
  %5 = where %4, c2, c3
  %6 = transpose %5 {perm=[2,1,0]}
  %7 = dims [n, 4]
  %8 = constant_of_shape %7 {bits=0,dtype="f32"}
"#;

fn rows() -> String {
    rows_of(3)
}

/// The first experts alone.
fn rows_of(count: usize) -> String {
    let mut text = ROUTER.to_string();
    for expert in 0..count {
        let (at, c) = (10 + expert * 20, 10 + expert * 3);
        let acc = if expert == 0 { "%8".to_string() } else { format!("%{}", at - 20 + 15) };
        let v = |place: usize| format!("%{}", at + place);
        text.push_str(&format!(
            "  c{c} = const i64[] {expert}
  c{} = const f32[4, 5] splat 0.{}
  c{} = const f32[5, 4] splat -0.{}
  {} = gather %6, c{c} {{axis=0}}
  {} = non_zero {}
  {} = transpose {} {{perm=[1,0]}}
  {}, {} = split {}, c4 {{axis=1, outputs=2}}
  {} = squeeze {} {{axes=[1]}}
  {} = gather x, {} {{axis=0}}
  {} = matmul {}, c{}
  {} = relu {}
  {} = matmul {}, c{}  // \"answer {expert}\"
  {} = concat {}, {} {{axis=1}}
  {} = gather_nd %1, {} {{batch_dims=0}}
  {} = unsqueeze {} {{axes=[1]}}
  {} = mul {}, {}
  {} = scatter_nd {acc}, {}, {} {{reduction=\"add\"}}  // \"sum {expert}\"
",
            c + 1,
            expert + 1,
            c + 2,
            expert + 5,
            v(0),
            v(1),
            v(0),
            v(2),
            v(1),
            v(3),
            v(4),
            v(2),
            v(6),
            v(4),
            v(7),
            v(6),
            v(8),
            v(7),
            c + 1,
            v(9),
            v(8),
            v(10),
            v(9),
            c + 2,
            v(11),
            v(4),
            v(3),
            v(12),
            v(11),
            v(13),
            v(12),
            v(14),
            v(10),
            v(13),
            v(15),
            v(4),
            v(14),
        ));
    }
    format!("{text}  return %{} as y\n}}", 20 * count + 5)
}

#[test]
fn experts_that_take_rows_in_turn_become_one_op() {
    assert_snapshot!(check("fuse_moe", &rows()));
    same_answer(&rows(), &[4, 3], false);
}

#[test]
fn a_missing_expert_is_refused() {
    refused(&rows_of(2), "the logits are not [tokens, experts]");
    refused(
        &with(&rows(), "c16 = const i64[] 2", "c16 = const i64[] 1"),
        "some experts are missing, or there twice",
    );
}

#[test]
fn rows_that_are_not_the_choice_are_refused() {
    let text = with(&rows(), "%5 = where %4, c2, c3", "%5 = where %4, c2, c2");
    refused(&text, "the rows of an expert are not those that chose it");
}

#[test]
fn answers_at_other_rows_are_refused() {
    let text = with(&rows(), "scatter_nd %8, %14, %24", "scatter_nd %8, %13, %24");
    refused(&text, "answers are added to other rows than their tokens");
}

#[test]
fn weights_of_other_choices_are_refused() {
    let text = with(&rows(), "%21 = concat %14, %13", "%21 = concat %13, %14");
    refused(&text, "the weights of an expert's answers are not those of the choice");
}

#[test]
fn experts_of_different_kinds_are_refused() {
    refused(&with(&rows(), "%39 = relu %38", "%39 = silu %38"), "the experts have different activations");
}

#[test]
fn answers_used_besides_are_refused() {
    refused(&with(&rows(), "return %65 as y", "return %65 as y, %40 as z"), "used elsewhere");
}

/// One expert a token, at most two tokens of a row an expert.
const SWITCH: &str = r#"graph "main" (x: f32[b, s, 4], logits: f32[b, s, 2]) {
  c0 = const i64[2] [0, 1]
  c1 = const i64[] 1
  c2 = const i64[] 0
  c3 = const i64[] 2
  c4 = const i64[1] [-2]
  c5 = const i64[2] [1, 1]
  c6 = const f32[4, 4] splat 0.25
  c7 = const f32[4, 4] splat 0.5
  c8 = const f32[4, 4] splat -0.75
  %0 = softmax logits {axis=-1, log=false}  // "scores"
  %1 = arg_reduce %0 {axis=-1, keep_dims=false, min=false, select_last=false}  // "choice"
  %2 = unsqueeze %1 {axes=[2]}
  %3 = equal %2, c0
  %4 = where %3, c1, c2
  %5 = cum_sum %4, c4 {exclusive=false, reverse=false}
  %6 = less_or_equal %5, c3
  %7 = cast %6 {saturate=true, to="i64"}
  %8 = mul %4, %7
  %9 = dims [b*s, 1, 2]
  %10 = reshape %8, %9 {allow_zero=false}
  %11 = transpose %10 {perm=[2,1,0]}
  %12 = reduce %0 {axes=[-1], keep_dims=false, kind="max", noop_with_empty_axes=false}
  %13 = dims [b*s, 1]
  %14 = reshape %12, %13 {allow_zero=false}
  %15 = dims [b*s, 4]
  %16 = reshape x, %15 {allow_zero=false}
  %17 = constant_of_shape %15 {bits=0,dtype="f32"}
  %20 = gather %11, c2 {axis=0}
  %21 = non_zero %20
  %22 = transpose %21 {perm=[1,0]}
  %23, %24 = split %22, c5 {axis=1, outputs=2}
  %25 = squeeze %24 {axes=[1]}
  %26 = gather %16, %25 {axis=0}
  %27 = matmul %26, c6
  %28 = relu %27
  %29 = matmul %28, c8
  %30 = gather %14, %25 {axis=0}
  %31 = mul %29, %30
  %32 = scatter_nd %17, %24, %31 {reduction="add"}  // "sum 0"
  %40 = gather %11, c1 {axis=0}
  %41 = non_zero %40
  %42 = transpose %41 {perm=[1,0]}
  %43, %44 = split %42, c5 {axis=1, outputs=2}
  %45 = squeeze %44 {axes=[1]}
  %46 = gather %16, %45 {axis=0}
  %47 = matmul %46, c7
  %48 = relu %47
  %49 = matmul %48, c8
  %50 = gather %14, %45 {axis=0}
  %51 = mul %49, %50
  %52 = scatter_nd %32, %44, %51 {reduction="add"}  // "sum 1"
  %53 = dims [b, s, 4]
  %54 = reshape %52, %53 {allow_zero=false}
  return %54 as y
}"#;

#[test]
fn a_bound_on_the_running_count_is_a_capacity() {
    assert_snapshot!(check("fuse_moe", SWITCH));
    same_answer(SWITCH, &[4, 2], true);
    let strict = with(SWITCH, "%6 = less_or_equal", "%6 = less");
    assert!(check("fuse_moe", &strict).contains("capacity=1"));
    same_answer(&strict, &[4, 2], true);
    let exclusive = with(SWITCH, "exclusive=false", "exclusive=true");
    assert!(check("fuse_moe", &exclusive).contains("capacity=3"));
    same_answer(&exclusive, &[4, 2], true);
}

#[test]
fn a_count_along_another_axis_is_no_capacity() {
    refused(&with(SWITCH, "c4 = const i64[1] [-2]", "c4 = const i64[1] [-1]"), "not those that chose it");
    refused(&with(SWITCH, "reverse=false", "reverse=true"), "not those that chose it");
}

#[test]
fn the_last_of_equal_scores_is_refused() {
    refused(&with(SWITCH, "select_last=false", "select_last=true"), "not chosen by a top-k");
}

/// Every expert computes every token, in turn.
const SUM: &str = r#"graph "main" (x: f32[n, 4], logits: f32[n, 2]) {
  c0 = const i64[1] [1]
  c1 = const i64[] 0
  c2 = const i64[] 1
  c3 = const f32[] 0.0
  c4 = const f32[4, 5] splat 0.25
  c5 = const f32[4, 5] splat 0.5
  c6 = const f32[5, 4] splat -0.75
  %0 = softmax logits {axis=-1, log=false}
  %1, %2 = top_k %0, c0 {axis=-1, largest=true, sorted=true}
  %3 = equal %2, c1
  %4 = where %3, %1, c3
  %5 = reduce %4 {axes=[-1], keep_dims=true, kind="sum", noop_with_empty_axes=false}
  %6 = matmul x, c4
  %7 = silu %6
  %8 = matmul x, c5
  %9 = mul %7, %8
  %10 = matmul %9, c6
  %11 = mul %10, %5
  %12 = equal %2, c2
  %13 = where %12, %1, c3
  %14 = reduce %13 {axes=[-1], keep_dims=true, kind="sum", noop_with_empty_axes=false}
  %15 = matmul x, c5
  %16 = silu %15
  %17 = matmul x, c4
  %18 = mul %16, %17
  %19 = matmul %18, c6
  %20 = mul %19, %14
  %21 = add %11, %20 // "sum"
  return %21 as y
}"#;

#[test]
fn experts_that_compute_every_token_become_one_op() {
    assert_snapshot!(check("fuse_moe", SUM));
    same_answer(SUM, &[4, 2], false);
}

#[test]
fn weights_that_are_not_zero_elsewhere_are_refused() {
    refused(&with(SUM, "c3 = const f32[] 0.0", "c3 = const f32[] 0.5"), "not a weight of the choice");
}

#[test]
fn the_same_expert_twice_is_refused() {
    refused(&with(SUM, "%12 = equal %2, c2", "%12 = equal %2, c1"), "missing, or there twice");
}

/// All experts at once, by stacks of matrices.
const STACK: &str = r#"graph "main" (x: f32[n, 4], logits: f32[n, 3]) {
  c0 = const i64[1] [2]
  c1 = const f32[3, 4, 6] splat 0.25
  c2 = const f32[3, 1, 6] splat 0.125
  c3 = const f32[3, 3, 4] splat -0.5
  c4 = const f32[3, 1, 4] splat 0.75
  %0, %1 = top_k logits, c0 {axis=-1, largest=true, sorted=true}
  %2 = softmax %0 {axis=-1, log=false}
  %3 = dims [n, 3]
  %4 = constant_of_shape %3 {bits=0,dtype="f32"}
  %5 = scatter_elements %4, %1, %2 {axis=1,reduction="replace"}
  %6 = transpose %5 {perm=[1,0]}
  %7 = unsqueeze %6 {axes=[2]}
  %8 = unsqueeze x {axes=[0]}
  %9 = dims [3, n, 4]
  %10 = expand %8, %9
  %11 = matmul %10, c1
  %12 = add %11, c2
  %13, %14 = split %12 {axis=2, outputs=2}
  %15 = silu %13
  %16 = mul %15, %14
  %17 = matmul %16, c3
  %18 = add %17, c4
  %19 = mul %18, %7
  %20 = reduce %19 {axes=[0], keep_dims=false, kind="sum", noop_with_empty_axes=false} // "sum"
  return %20 as y
}"#;

#[test]
fn stacks_of_experts_become_one_op() {
    assert_snapshot!(check("fuse_moe", STACK));
    same_answer(STACK, &[4, 3], false);
}

#[test]
fn weights_of_another_expert_are_refused() {
    // The weights of each expert, one further.
    let further = "  c5 = const i64[3] [1, 2, 0]\n  %30 = gather %5, c5 {axis=1}\n  %6 = transpose %30";
    refused(&with(STACK, "  %6 = transpose %5", further), "not a weight of the choice");
}

#[test]
fn scattered_weights_on_something_are_refused() {
    refused(
        &with(STACK, "{bits=0,dtype=\"f32\"}", "{bits=1065353216,dtype=\"f32\"}"),
        "not a weight of the choice",
    );
}

#[test]
fn tokens_weighed_before_the_experts_are_refused() {
    let text = with(STACK, "%11 = matmul %10, c1", "%31 = mul %10, %7\n  %11 = matmul %31, c1");
    let text = with(&text, "%19 = mul %18, %7\n  %20 = reduce %19", "%20 = reduce %18");
    refused(&text, "the answers of the experts are not weighed");
}

const LOOP: &str = r#"graph "main" (x: f32[n, 4], m: f32[n, 4]) {
  c0 = const i64[] 2
  c1 = const f32[2, 4, 4] splat 0.5
  %0 = loop c0, _, x, c1 {body="b", carried=1}
  return %0 as y
}
graph "b" (i: i64[], keep: bool[], acc: f32[n, 4], w: f32[2, 4, 4]) {
  %0 = gather w, i {axis=0}
  %1 = matmul acc, %0
  return keep as keep, %1 as acc
}"#;

#[test]
fn a_loop_over_experts_is_copied() {
    assert_snapshot!(check("unroll_experts", LOOP));
}

#[test]
fn loops_that_may_end_or_collect_are_refused() {
    let cases = [
        (
            with(LOOP, "c0 = const i64[] 2\n", "c0 = const i64[] 20000\n"),
            "the number of iterations is not a constant",
        ),
        (with(LOOP, "c0 = const i64[] 2\n", "c0 = const i64[] 16000\n"), "are too many"),
        (with(LOOP, "return keep as keep", "%2 = not keep\n  return %2 as keep"), "a condition may end it"),
        (
            with(&with(LOOP, "%1 as acc", "%1 as acc, %1 as rows"), "%0 = loop", "%0, %1 = loop"),
            "it collects rows",
        ),
    ];
    for (text, reason) in cases {
        let found = check("unroll_experts", &text);
        assert!(found.contains(reason) && found.contains("loop"), "{found}");
    }
    // Nothing that belongs to one iteration.
    let found = check(
        "unroll_experts",
        &with(LOOP, "gather w, i", "gather w, c9")
            .replace("{\n  %0 = gather", "{\n  c9 = const i64[] 1\n  %0 = gather"),
    );
    assert!(!found.contains("refused") && found.contains("loop"), "{found}");
}

const HITS: &str = r#"graph "main" (mask: bool[3]) {
  c0 = const i64[3] [1, 1, 1]
  %0 = non_zero mask
  %1 = transpose %0 {perm=[1,0]}
  %2, %3, %4 = split %1, c0 {axis=0, outputs=3} // "hits"
  return %2 as a, %3 as b, %4 as c
}"#;

#[test]
fn all_places_of_a_mask_are_known() {
    assert_snapshot!(check("whole_non_zero", HITS));
}

#[test]
fn some_places_of_a_mask_are_not() {
    let found = check("whole_non_zero", &with(HITS, "bool[3]", "bool[4]"));
    assert!(found.contains("3 pieces of 4 places: which depends on the data"), "{found}");
}
