use insta::assert_snapshot;

use super::check;

/// The refusals of a pass that changes nothing.
fn refusals(pass: &str, text: &str) -> String {
    let out = check(pass, text);
    let (refused, module) = out.split_at(out.find("graph ").unwrap_or_default());
    let before = lathe_ir::parse(text).map(|module| module.to_string());
    assert_eq!(Ok(module), before.as_deref().map_err(ToString::to_string));
    refused.to_string()
}

/// Grouped heads, a causal mask with padding added to the scores.
const GROUPED: &str = r#"graph "main" (q: f32[b, 4, s, 8], k: f32[b, 2, s, 8], v: f32[b, 2, s, 8], seen: i64[b, s]) {
  c0 = const i64[] 0
  c1 = const i64[] 1
  c2 = const f32[] 0.0
  c3 = const f32[] -3.4028235e38
  c4 = const f32[] 0.25
  %0: i64[5] = dims [b, 2, 2, s, 8]
  %1: i64[4] = dims [b, 4, s, 8]
  %2 = unsqueeze k {axes=[2]}
  %3 = expand %2, %0
  %4 = reshape %3, %1 {allow_zero=true}
  %5 = unsqueeze v {axes=[2]}
  %6 = expand %5, %0
  %7 = reshape %6, %1 {allow_zero=true}
  %8: i64[] = dims [s] {scalar=true}
  %9 = range c0, %8, c1
  %10 = unsqueeze %9 {axes=[0,1,3]}
  %11 = unsqueeze %9 {axes=[0,1,2]}
  %12 = less_or_equal %11, %10
  %13 = cast seen {saturate=true,to="bool"}
  %14 = unsqueeze %13 {axes=[1,2]}
  %15 = and %12, %14
  %16 = where %15, c2, c3
  %17 = transpose %4 {perm=[0,1,3,2]}
  %18 = matmul q, %17    // "scores"
  %19 = mul %18, c4      // "scale"
  %20 = add %19, %16     // "mask"
  %21 = softmax %20 {axis=-1,log=false} // "softmax"
  %22 = matmul %21, %7   // "attention"
  return %22 as y
}"#;

#[test]
fn grouped_causal_attention_with_padding_is_recognised() {
    assert_snapshot!(check("fuse_attention", GROUPED));
}

#[test]
fn a_small_negative_number_hides_nothing() {
    assert_snapshot!(check("fuse_attention", &GROUPED.replace("-3.4028235e38", "-100.0")));
}

#[test]
fn weights_that_are_a_result_are_refused() {
    assert_snapshot!(refusals(
        "fuse_attention",
        &GROUPED.replace("return %22 as y", "return %22 as y, %21 as weights")
    ));
}

#[test]
fn a_bias_that_is_scaled_with_the_scores_is_scaled_alone() {
    let text = GROUPED
        .replace("seen: i64[b, s])", "seen: i64[b, s], bias: f32[s, s])")
        .replace("%19 = mul %18, c4      // \"scale\"", "%19 = add %18, bias")
        .replace("%20 = add %19, %16     // \"mask\"", "%20 = mul %19, c4");
    assert_snapshot!(check("fuse_attention", &text));
}

#[test]
fn operands_of_another_dtype_are_refused() {
    let text = GROUPED.replace("f32", "f64").replace("-3.4028235e38", "-1e300");
    assert_snapshot!(refusals("fuse_attention", &text));
}

#[test]
fn a_fill_that_hides_nothing_is_refused() {
    let text = GROUPED
        .replace("%16 = where %15, c2, c3", "%16 = not %15")
        .replace("%20 = add %19, %16 ", "%20 = where %16, c4, %19 ");
    assert_snapshot!(refusals("fuse_attention", &text));
}

const SINKS: &str = r#"graph "main" (q: f32[b, 2, s, 8], k: f32[b, 2, s, 8], v: f32[b, 2, s, 8]) {
  c0 = const f32[1, 2, 1, 1] [0.5, -0.25]
  c1 = const i64[1] [0]
  c2 = const i64[1] [-1]
  c3 = const i64[1] [3]
  c4 = const i64[1] [1]
  c5 = const f32[] 5.0
  %0: i64[4] = dims [b, 2, s, 1]
  %1 = expand c0, %0
  %2 = transpose k {perm=[0,1,3,2]}
  %3 = matmul q, %2      // "scores"
  %4 = div %3, c5
  %5 = tanh %4
  %6 = mul %5, c5        // "softcap"
  %7 = concat %6, %1 {axis=-1}
  %8 = softmax %7 {axis=-1,log=false}
  %9 = slice %8, c1, c2, c3, c4
  %10 = matmul %9, v     // "attention"
  return %10 as y
}"#;

#[test]
fn sinks_and_softcap_are_recognised() {
    assert_snapshot!(check("fuse_attention", SINKS));
}

#[test]
fn a_column_that_is_not_cut_off_is_no_sink() {
    assert_snapshot!(refusals("fuse_attention", &SINKS.replace("%7 = concat %6, %1", "%7 = concat %1, %6")));
}

#[test]
fn a_mask_that_is_no_fact_stays() {
    let text = r#"graph "main" (q: f32[b, 2, s, 8], k: f32[b, 2, s, 8], v: f32[b, 2, s, 8], mask: bool[s, s]) {
  %0 = attention q, k, v, mask {causal=false,qk_output=0,scale=0.5,softcap=0.0,softmax_in_f64=false} // "attention"
  return %0 as y
}"#;
    assert_snapshot!(refusals("prove_masks", text));
}

#[test]
fn results_beside_the_first_are_refused() {
    let text = r#"graph "main" (q: f32[b, 2, s, 8], k: f32[b, 2, s, 8], v: f32[b, 2, s, 8], mask: bool[s, s]) {
  %0, %1, %2, %3 = attention q, k, v, mask {causal=false,qk_output=0,scale=0.5,softcap=0.0,softmax_in_f64=false} // "attention"
  return %0 as y, %3 as scores
}"#;
    assert_snapshot!(refusals("prove_masks", text));
}

#[test]
fn elements_before_places_are_recognised() {
    let text = r#"graph "main" (q: f32[b, s, 8], k: f32[b, 8, s], v: f32[b, 6, s]) {
  c0 = const f32[] 0.5
  %0 = matmul q, k
  %1 = mul %0, c0
  %2 = softmax %1 {axis=2,log=false}
  %3 = transpose %2 {perm=[0,2,1]}
  %4 = matmul v, %3 // "attention"
  return %4 as y
}"#;
    assert_snapshot!(check("fuse_attention", text));
    // The weights themselves, where places are as many as elements: sums over queries.
    assert!(!check("fuse_attention", &text.replace("matmul v, %3", "matmul v, %2")).contains("= attention"));
}

#[test]
fn heads_that_no_kernel_takes_are_refused() {
    let text = GROUPED.replace("8]", "300]");
    assert_snapshot!(refusals("fuse_attention", &text));
}

#[test]
fn padding_of_one_sequence_is_padding() {
    let text = GROUPED.replace("[b, ", "[1, ").replace("dims [b", "dims [1");
    let out = check("fuse_attention", &text);
    assert!(out.contains("_, _, _, _, %") && out.contains("causal=true"), "{out}");
    // A mask of several rows, of which the first counts, is none.
    let rows = text.replace("seen: i64[1, s]", "seen: i64[3, s]").replace(
        "  %13 = cast seen",
        "  c5 = const i64[1] [0]\n  c6 = const i64[1] [1]\n  %30 = slice seen, c5, c6, c5, c6\n  %13 = cast %30",
    );
    let out = check("fuse_attention", &rows);
    assert!(!out.contains("_, _, _, _, %"), "{out}");
}

/// A linear bias cut from a table of 6 places, counted from the end.
const CUT: &str = r#"graph "main" (q: f32[b, 2, s, 4], k: f32[b, 2, 4, s], v: f32[b, 2, s, 4]) {
  c0 = const i64[] 0
  c1 = const i64[] 1
  c2 = const f32[] 0.0
  c3 = const f32[] -inf
  c4 = const f32[2, 1, 6] [-2.5, -2.0, -1.5, -1.0, -0.5, 0.0, -1.25, -1.0, -0.75, -0.5, -0.25, 0.0]
  c5 = const i64[1] [9223372036854775807]
  c6 = const i64[1] [2]
  c7 = const i64[1] [1]
  %0 = dims [s] {scalar=true}
  %1 = range c0, %0, c1
  %2 = unsqueeze %1 {axes=[0,1,3]}
  %3 = unsqueeze %1 {axes=[0,1,2]}
  %4 = less_or_equal %3, %2
  %5 = matmul q, k
  %6 = dims [-s + 6]
  %7 = slice c4, %6, c5, c6, c7
  %8 = add %5, %7
  %9 = where %4, %8, c3
  %10 = softmax %9 {axis=-1,log=false}
  %11 = matmul %10, v // "attention"
  return %11 as y
}"#;

#[test]
fn a_linear_bias_from_a_table_that_ends_is_linear_up_to_there() {
    assert_snapshot!(check("fuse_attention", CUT));
}

#[test]
fn a_bias_from_a_table_that_ends_is_refused_where_it_is_not_linear() {
    assert_snapshot!(refusals("fuse_attention", &CUT.replace("-1.25", "-1.5")));
}

#[test]
fn key_padding_may_be_one_number_or_all_others() {
    let at_one = GROUPED.replace("%13 = cast seen {saturate=true,to=\"bool\"}", "%13 = equal seen, c1");
    let out = check("fuse_attention", &at_one);
    assert!(
        out.contains("equal seen,") && out.contains("causal=true") && out.contains("_, _, _, _, %"),
        "{out}"
    );
    let not_zero = GROUPED
        .replace("%13 = cast seen {saturate=true,to=\"bool\"}", "%30 = equal seen, c0\n  %13 = not %30");
    let out = check("fuse_attention", &not_zero);
    assert!(out.contains("cast seen") && out.contains("_, _, _, _, %") && !out.contains(" not "), "{out}");
    let zero = GROUPED.replace("%13 = cast seen {saturate=true,to=\"bool\"}", "%13 = equal seen, c0");
    let out = check("fuse_attention", &zero);
    assert!(out.contains(" not ") && out.contains("_, _, _, _, %"), "{out}");
}

#[test]
fn masks_of_packed_heads_are_proven() {
    let text = r#"graph "main" (q: f32[b, s, 24], k: f32[b, s, 8], v: f32[b, s, 8]) {
  c0 = const i64[] 0
  c1 = const i64[] 1
  %0: i64[] = dims [s] {scalar=true}
  %1 = range c0, %0, c1
  %2 = unsqueeze %1 {axes=[1]}
  %3 = unsqueeze %1 {axes=[0]}
  %4 = less_or_equal %3, %2
  %5 = attention q, k, v, %4 {causal=false,q_heads=3,kv_heads=1,qk_output=0,softcap=0.0,softmax_in_f64=false} // "attention"
  return %5 as y
}"#;
    assert_snapshot!(check("prove_masks", text));
}

/// A causal mask over a past and the new keys, with padding of a length of its own.
const PAST: &str = r#"graph "main" (q: f32[b, s, 24], k: f32[b, s, 8], v: f32[b, s, 8], keys: f32[b, 1, p, 8], values: f32[b, 1, p, 8], seen: i64[b, t]) {
  c0 = const i64[] 0
  c1 = const i64[] 1
  %0: i64[] = dims [p] {scalar=true}
  %1: i64[] = dims [p + s] {scalar=true}
  %2 = range %0, %1, c1
  %3 = range c0, %1, c1
  %4 = unsqueeze %2 {axes=[1]}
  %5 = unsqueeze %3 {axes=[0]}
  %6 = less_or_equal %5, %4
  %7 = cast seen {saturate=true,to="bool"}
  %8 = unsqueeze %7 {axes=[1,2]}
  %9 = and %6, %8
  %10, %11, %12 = attention q, k, v, %9, keys, values {causal=false,q_heads=3,kv_heads=1,qk_output=0,softcap=0.0,softmax_in_f64=false} // "attention"
  return %10 as y, %11 as present_keys, %12 as present_values
}"#;

#[test]
fn masks_behind_a_past_are_proven() {
    assert_snapshot!(check("prove_masks", PAST));
}

#[test]
fn queries_that_do_not_stand_behind_the_past_are_refused() {
    let text = PAST
        .replace("%2 = range %0, %1, c1", "%20: i64[] = dims [s] {scalar=true}\n  %2 = range c0, %20, c1");
    assert!(refusals("prove_masks", &text).contains("its mask places queries elsewhere"));
}

/// Attention of packed heads that joins its keys and values to a past.
const WITH_PAST: &str = r#"graph "main" (q: f32[b, s, 12], k: f32[b, s, 4], v: f32[b, s, 4], past_k: f32[b, 2, p, 2], past_v: f32[b, 2, p, 2]) {
  %0: f32[b, s, 12], %1, %2 = attention q, k, v, _, past_k, past_v {bottom_right=false,causal=true,kv_heads=2,left_window=null,q_heads=6,qk_output=0,right_window=null,scale=0.5,softcap=0.0,softmax_in_f64=false} // "attend"
  return %0 as y, %1 as keys, %2 as values
}"#;

#[test]
fn a_past_is_joined_beside_the_attention() {
    assert_snapshot!(check("attention_past", WITH_PAST));
}

#[test]
fn keys_and_values_without_a_past_are_given_back_as_they_are() {
    let plain = WITH_PAST.replace("_, past_k, past_v {", "{").replace("k, v, {", "k, v {");
    assert_snapshot!(check("attention_past", &plain));
    let unused = plain.replace(", %1 as keys, %2 as values", "");
    assert_eq!(check("attention_past", &unused), lathe_ir::parse(&unused).expect("parses").to_string());
}

#[test]
fn scores_beside_a_past_are_refused() {
    let scores =
        WITH_PAST.replace("%1, %2 =", "%1, %2, %3 =").replace("%2 as values", "%2 as values, %3 as scores");
    assert_snapshot!(refusals("attention_past", &scores), @"attention_past refused at attend: its scores are a result");
    let fewer = WITH_PAST
        .replace("q: f32[b, s, 12]", "q: f32[b, r, 12]")
        .replace("%0: f32[b, s, 12]", "%0: f32[b, r, 12]");
    assert!(refusals("attention_past", &fewer).contains("its queries are not as many as its new keys"));
    let other = WITH_PAST.replace("f32[b, s, 4], v", "f32[b, s, w], v");
    assert!(
        check("attention_past", &other)
            .contains("refused at attend: the number of heads or their size is not known")
    );
}

/// A norm of each head, heads counted among the tokens.
const FOLDED: &str = r#"graph "main" (x: f32[b, s, 12]) {
  c0 = const i64[3] [0, -1, 4]
  c1 = const f32[4] [1.0, 2.0, 3.0, 4.0]
  c2 = const i64[3] [0, -1, 12]
  %0 = reshape x, c0 {allow_zero=false}
  %1 = rms_norm %0, c1 {axis=-1,epsilon=0.5} // "norm"
  %2 = reshape %1, c2 {allow_zero=false}
  return %2 as y
}"#;

#[test]
fn heads_among_the_tokens_get_an_axis() {
    assert_snapshot!(check("norm_heads", FOLDED));
}

#[test]
fn a_norm_over_tokens_keeps_its_shape() {
    let both = FOLDED
        .replace("axis=-1", "axis=1")
        .replace("c1 = const f32[4] [1.0, 2.0, 3.0, 4.0]", "c1 = const f32[] 1.0");
    assert!(
        check("norm_heads", &both)
            .contains("norm_heads refused at norm: the norm is over more than the last axis")
    );
}
