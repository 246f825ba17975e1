use insta::assert_snapshot;

use lathe_tensor::DType;

use super::check;
use crate::{Cache, Pass};

/// A decoder of one layer: learned positions, attention with a residual, a head.
const DECODER: &str = r#"graph "main" (input_ids: i64[batch, seq], attention_mask: i64[batch, seq]) {
  c0 = const f32[5, 4] FILL20 // "wte"
  c1 = const i64[] 0
  c2 = const i64[] 1
  c3 = const f32[8, 4] FILL32 // "wpe"
  c4 = const f32[4, 4] FILL16 // "wq"
  c5 = const f32[4, 4] FILL16 // "wk"
  c6 = const f32[4, 4] FILL16 // "wv"
  c7 = const f32[4, 5] FILL20 // "head"
  %0: f32[batch, seq, 4] = gather c0, input_ids {axis=0} // "embed"
  %1: i64[] = dims [seq] {scalar=true} // "length"
  %2: i64[seq] = range c1, %1, c2 // "positions"
  %3: f32[seq, 4] = gather c3, %2 {axis=0} // "learned"
  %4: f32[batch, seq, 4] = add %0, %3 // "input"
  %5: f32[batch, seq, 4] = matmul %4, c4 // "q"
  %6: f32[batch, seq, 4] = matmul %4, c5 // "k"
  %7: f32[batch, seq, 4] = matmul %4, c6 // "v"
  %8: bool[batch, seq] = cast attention_mask {saturate=true,to="bool"} // "padding"
  %9: f32[batch, seq, 4] = attention %5, %6, %7, _, _, _, _, %8 {bottom_right=false,causal=true,kv_heads=2,left_window=null,q_heads=2,qk_output=0,right_window=null,scale=0.5,softcap=0.0,softmax_in_f64=false} // "attend"
  %10: f32[batch, seq, 4] = add %4, %9 // "residual"
  %11: f32[batch, seq, 4] = relu %10 // "act"
  %12: f32[batch, seq, 5] = matmul %11, c7 // "head"
  return %12 as logits
}"#;

/// The text with its weights, some small numbers, written out.
fn filled(text: &str) -> String {
    [20, 32, 16, 24, 30].into_iter().fold(text.to_string(), |text, count: usize| {
        let elements: Vec<_> =
            (0..count).map(|index| format!("{:?}", (index * 7 % 5) as f32 - 2.0)).collect();
        text.replace(&format!("FILL{count}"), &format!("[{}]", elements.join(", ")))
    })
}

/// The decoder with one part of its text replaced, which must be there.
fn with(from: &str, to: &str) -> String {
    assert!(DECODER.contains(from), "{from}");
    DECODER.replace(from, to)
}

/// The reasons alone.
fn refusal(text: &str) -> String {
    let out = check("cache", &filled(text));
    assert!(!out.contains("graph \"decode\""), "{out}");
    out.lines().take_while(|line| !line.starts_with("graph")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_decoder_gets_a_cache() {
    assert_snapshot!(check("cache", &filled(DECODER)));
}

#[test]
fn states_hold_what_is_asked_for() {
    for dtype in [DType::F16, DType::BF16, DType::I8] {
        let out = super::run(&[Pass::Function(&Cache { dtype, latent: true })], &filled(DECODER));
        let decode = out.split("graph \"decode\"").nth(1).expect("a decode");
        // 2 heads of 2, 64 places; bytes have two scales of 4 bytes a place and head.
        let elements = if dtype == DType::I8 { 64 * 2 * 12 } else { 64 * 2 * 4 };
        assert!(decode.contains(&format!("kv.0: {}[pool0, {elements}]", dtype.name())), "{decode}");
    }
}

/// The decoder with queries and keys rotated by a base that grows with the length, in graphs that declare it so.
fn growing(scaling: &str) -> String {
    let rotation = format!("{{heads=2,interleaved=false,rotary_dim=null,scaling={scaling}}}");
    let tables = format!(
        r#"%20: i64[] = reduce position_ids {{axes=[0,1],keep_dims=false,kind="max",noop_with_empty_axes=true}} // "last"
  %21: i64[] = add %20, c2 // "total"
  %22: i64[] = max %21, c8 // "grown"
  %23: f32[] = cast %22 {{saturate=true,to="f32"}} // "grown"
  %24: f32[1] = pow %23, c9 // "frequency"
  %25: i64[3] = dims [batch, seq, 1]
  %26: i64[batch, seq, 1] = reshape position_ids, %25 {{allow_zero=true}} // "column"
  %27: f32[batch, seq, 1] = cast %26 {{saturate=true,to="f32"}} // "column"
  %28: f32[batch, seq, 1] = mul %27, %24 // "angle"
  %29: f32[batch, seq, 1] = cos %28 // "cos"
  %30: f32[batch, seq, 1] = sin %28 // "sin"
  %31: f32[batch, seq, 4] = rotary_embedding %5, %29, %30 {rotation} // "q"
  %32: f32[batch, seq, 4] = rotary_embedding %6, %29, %30 {rotation} // "k"
  %9: "#
    );
    DECODER
        .replace("  %0: ", "  c8 = const i64[] 4\n  c9 = const f32[1] [-0.5]\n  %0: ")
        .replace(
            "attention_mask: i64[batch, seq]",
            "attention_mask: i64[batch, seq], position_ids: i64[batch, seq]",
        )
        .replace("%9: ", &tables)
        .replace("attention %5, %6", "attention %31, %32")
}

#[test]
fn a_growing_base_is_that_of_each_row() {
    assert_snapshot!(check("cache", &filled(&growing("\"dynamic\""))));
}

#[test]
fn arithmetic_on_the_length_refuses_where_no_rotation_is_declared_to_grow() {
    assert_snapshot!(refusal(&growing("null")), @"cache refused at grown: it computes with the total length");
}

/// A decoder whose keys and values are products of a short row of 2 elements: heads of 1 element without and 2 with position, values of 3.
const LATENT: &str = r#"graph "main" (input_ids: i64[batch, seq]) {
  c0 = const f32[5, 4] FILL20 // "wte"
  c1 = const f32[4, 6] FILL24 // "wq"
  c2 = const f32[4, 4] FILL16 // "down"
  c3 = const f32[2, 8] FILL16 // "up"
  c4 = const f32[6, 5] FILL30 // "head"
  c5 = const i64[2] [2, 2]
  c6 = const i64[2] [1, 3]
  c7 = const i64[4] [1, 2, 1, 1]
  %0: f32[batch, seq, 4] = gather c0, input_ids {axis=0} // "embed"
  %1: f32[batch, seq, 6] = matmul %0, c1 // "q"
  %2: i64[4] = dims [batch, seq, 2, 3]
  %3: f32[batch, seq, 2, 3] = reshape %1, %2 {allow_zero=true} // "q"
  %4: f32[batch, 2, seq, 3] = transpose %3 {perm=[0,2,1,3]} // "q"
  %5: f32[batch, seq, 4] = matmul %0, c2 // "down"
  %6, %7 = split %5, c5 {axis=-1,outputs=2} // "parts"
  %8: f32[batch, seq, 8] = matmul %6, c3 // "up"
  %9: i64[4] = dims [batch, seq, 2, 4]
  %10: f32[batch, seq, 2, 4] = reshape %8, %9 {allow_zero=true} // "heads"
  %11: f32[batch, 2, seq, 4] = transpose %10 {perm=[0,2,1,3]} // "heads"
  %12, %13 = split %11, c6 {axis=-1,outputs=2} // "keys and values"
  %14: i64[4] = dims [batch, seq, 1, 2]
  %15: f32[batch, seq, 1, 2] = reshape %7, %14 {allow_zero=true} // "shared"
  %16: f32[batch, 1, seq, 2] = transpose %15 {perm=[0,2,1,3]} // "shared"
  %17: f32[batch, 2, seq, 2] = expand %16, c7 // "shared"
  %18: f32[batch, 2, seq, 3] = concat %12, %17 {axis=-1} // "keys"
  %19: f32[batch, 2, seq, 3] = attention %4, %18, %13 {bottom_right=false,causal=true,kv_heads=null,left_window=null,q_heads=null,qk_output=0,right_window=null,scale=0.5,softcap=0.0,softmax_in_f64=false} // "attend"
  %20: f32[batch, seq, 2, 3] = transpose %19 {perm=[0,2,1,3]} // "flat"
  %21: i64[3] = dims [batch, seq, 6]
  %22: f32[batch, seq, 6] = reshape %20, %21 {allow_zero=true} // "flat"
  %23: f32[batch, seq, 5] = matmul %22, c4 // "head"
  return %23 as logits
}"#;

#[test]
fn keys_and_values_of_short_rows_are_kept_as_these() {
    let out = check("cache", &filled(LATENT));
    // 64 places of 2 + 2 elements.
    assert!(out.contains("kv.0: f32[pool0, 256]") && out.contains("latent=2"), "{out}");
    assert_snapshot!(out);
}

#[test]
fn short_rows_may_have_an_axis_of_one() {
    let text = LATENT
        .replace("  %8: f32[batch, seq, 8] = matmul %6, c3", "  %30: i64[4] = dims [batch, 1, seq, 2]\n  %31: f32[batch, 1, seq, 2] = reshape %6, %30 {allow_zero=true}\n  %8: f32[batch, 1, seq, 8] = matmul %31, c3");
    let out = check("cache", &filled(&text));
    assert!(out.contains("kv.0: f32[pool0, 256]") && out.contains("latent=2"), "{out}");
}

#[test]
fn keys_of_another_form_keep_their_heads() {
    // Each head has a part with position of its own.
    let own = LATENT
        .replace("[4, 4] FILL16 // \"down\"", "[4, 6] FILL24 // \"down\"")
        .replace("f32[batch, seq, 4] = matmul %0, c2", "f32[batch, seq, 6] = matmul %0, c2")
        .replace("[2] [2, 2]", "[2] [2, 4]")
        .replace("dims [batch, seq, 1, 2]", "dims [batch, seq, 2, 2]")
        .replace("%15: f32[batch, seq, 1, 2]", "%15: f32[batch, seq, 2, 2]")
        .replace("%16: f32[batch, 1, seq, 2]", "%16: f32[batch, 2, seq, 2]");
    // Values before keys.
    let turned = LATENT.replace("concat %12, %17", "concat %17, %12");
    for text in [own, turned] {
        let out = check("cache", &filled(&text));
        assert!(out.contains("kv.0: f32[pool0, 768]") && !out.contains("latent"), "{out}");
    }
}

#[test]
fn a_window_gets_its_own_table() {
    assert_snapshot!(check("cache", &filled(&with("left_window=null", "left_window=2"))));
}

#[test]
fn adoption_arrives_at_the_same_function() {
    let past = DECODER
        .replace(
            "(input_ids: i64[batch, seq], attention_mask: i64[batch, seq])",
            "(input_ids: i64[batch, seq], attention_mask: i64[batch, total], position_ids: i64[batch, seq], \
             past_key_values.0.key: f32[batch, 2, past, 2], past_key_values.0.value: f32[batch, 2, past, 2])",
        )
        .replace("bool[batch, seq]", "bool[batch, total]")
        .replace("gather c3, %2", "gather c3, position_ids")
        .replace("f32[seq, 4] = gather c3", "f32[batch, seq, 4] = gather c3")
        .replace(
            "%9: f32[batch, seq, 4] = attention %5, %6, %7, _, _, _, _, %8",
            "%9: f32[batch, seq, 4], %13: f32[batch, 2, past + seq, 2], %14: f32[batch, 2, past + seq, 2] = \
             attention %5, %6, %7, _, past_key_values.0.key, past_key_values.0.value, _, %8",
        )
        .replace("softmax_in_f64=false}", "softmax_in_f64=false,outputs=3}")
        .replace(
            "return %12 as logits",
            "return %12 as logits, %13 as present.0.key, %14 as present.0.value",
        );
    let ops = |text: &str| -> Vec<String> {
        let out = check("cache", &filled(text));
        let decode = out.split("graph \"decode\"").nth(1).unwrap_or_else(|| panic!("{out}"));
        let op = |line: &str| line.split(" = ").nth(1)?.split([' ', '\n']).next().map(str::to_string);
        decode.lines().filter(|line| line.trim_start().starts_with('%')).filter_map(op).collect()
    };
    let (adopted, synthesised) = (ops(&past), ops(DECODER));
    let without = |ops: &[String]| -> Vec<String> {
        ops.iter().filter(|op| !["dims", "reshape"].contains(&op.as_str())).cloned().collect()
    };
    assert_eq!(without(&adopted), without(&synthesised));
}

#[test]
fn attention_that_is_not_causal_is_refused() {
    assert_snapshot!(refusal(&with("causal=true", "causal=false")));
}

#[test]
fn a_mask_that_is_not_understood_is_refused() {
    let masked = with("%5, %6, %7, _, _,", "%5, %6, %7, c8, _,");
    let masked = masked
        .replace("  %0: f32[batch", "  c8 = const f32[1, 2, 1, 1] [0.5, 0.25] // \"bias\"\n  %0: f32[batch");
    assert_snapshot!(refusal(&masked));
}

#[test]
fn padding_from_elsewhere_is_refused() {
    let padded = with("cast attention_mask", "cast input_ids");
    assert_snapshot!(refusal(&padded));
}

#[test]
fn a_reduction_over_the_tokens_is_refused() {
    let mixed = with(
        "  %11: f32[batch, seq, 4] = relu %10",
        "  %13: f32[batch, 1, 4] = reduce %10 {axes=[1],keep_dims=true,kind=\"mean\",noop_with_empty_axes=false} // \"pool\"\n  %11: f32[batch, seq, 4] = add %10, %13",
    );
    assert_snapshot!(refusal(&mixed));
}

#[test]
fn the_number_of_tokens_as_data_is_refused() {
    let scaled = with(
        "  %11: f32[batch, seq, 4] = relu %10",
        "  %13: f32[] = cast %1 {saturate=true,to=\"f32\"} // \"count\"\n  %11: f32[batch, seq, 4] = div %10, %13",
    );
    assert_snapshot!(refusal(&scaled));
}

#[test]
fn a_shift_along_the_tokens_is_refused() {
    let shifted = with(
        "  %11: f32[batch, seq, 4] = relu %10",
        "  %13: f32[batch, seq, 4] = cum_sum %10, c2 {exclusive=false,reverse=false} // \"sum\"\n  %11: f32[batch, seq, 4] = relu %13",
    );
    assert_snapshot!(refusal(&shifted));
}

#[test]
fn tokens_in_reverse_are_refused() {
    let reversed = with(
        "  %11: f32[batch, seq, 4] = relu %10",
        "  c8 = const i64[1] [-1]\n  c9 = const i64[1] [-9223372036854775808]\n  c10 = const i64[1] [1]\n  \
         %13: f32[batch, seq, 4] = slice %10, c8, c9, c10, c8 // \"turn\"\n  %11: f32[batch, seq, 4] = relu %13",
    );
    assert_snapshot!(refusal(&reversed));
}

#[test]
fn a_regime_becomes_an_input() {
    let regime = with(
        "  %11: f32[batch, seq, 4] = relu %10",
        "  %13: i64[] = reduce %2 {keep_dims=false,kind=\"max\",noop_with_empty_axes=false} // \"last\"\n  \
         c8 = const i64[] 5\n  c9 = const f32[] 2.0\n  c10 = const f32[] 3.0\n  \
         %14: bool[] = greater %13, c8 // \"long\"\n  %15: f32[] = where %14, c9, c10 // \"factor\"\n  \
         %11: f32[batch, seq, 4] = mul %10, %15",
    );
    let out = check("cache", &filled(&regime));
    // The last position is above 5 where there are more than 6 tokens.
    assert!(out.contains("longer.6: bool[]"), "{out}");
}

#[test]
fn a_continuous_function_of_the_length_is_refused() {
    let scaled = with(
        "  %11: f32[batch, seq, 4] = relu %10",
        "  %13: i64[] = reduce %2 {keep_dims=false,kind=\"max\",noop_with_empty_axes=false} // \"last\"\n  \
         %14: f32[] = cast %13 {saturate=true,to=\"f32\"} // \"base\"\n  %11: f32[batch, seq, 4] = mul %10, %14",
    );
    assert_snapshot!(refusal(&scaled));
}

#[test]
fn an_encoder_runs_once() {
    let crossed = DECODER
        .replace("(input_ids: i64[batch, seq], attention_mask: i64[batch, seq])",
            "(input_features: f32[batch, 6, 4], decoder_input_ids: i64[batch, seq])")
        .replace("gather c0, input_ids", "gather c0, decoder_input_ids")
        .replace("  %8: bool[batch, seq] = cast attention_mask {saturate=true,to=\"bool\"} // \"padding\"\n", "")
        .replace("%7, _, _, _, _, %8 {", "%7 {")
        .replace(
            "  %11: f32[batch, seq, 4] = relu %10",
            "  %13: f32[batch, 6, 4] = relu input_features // \"encoder\"\n  \
             %14: f32[batch, 6, 4] = matmul %13, c5 // \"cross k\"\n  \
             %15: f32[batch, seq, 4] = attention %10, %14, %13 {bottom_right=false,causal=false,kv_heads=2,left_window=null,\
             q_heads=2,qk_output=0,right_window=null,scale=0.5,softcap=0.0,softmax_in_f64=false} // \"cross\"\n  \
             %11: f32[batch, seq, 4] = relu %15",
        );
    let out = check("cache", &filled(&crossed));
    assert_snapshot!(out.split("graph \"decode\"").nth(1).unwrap_or(&out));
}

#[test]
fn a_bias_by_distance_is_kept() {
    let biased = with("%5, %6, %7, _, _,", "%5, %6, %7, %20, _,").replace(
        "  %5: f32[batch, seq, 4] = matmul",
        "  c8 = const f32[] 0.125\n  \
         %13: i64[seq, 1] = unsqueeze %2 {axes=[1]} // \"query\"\n  \
         %14: i64[1, seq] = unsqueeze %2 {axes=[0]} // \"key\"\n  \
         %15: i64[seq, seq] = sub %14, %13 // \"distance\"\n  \
         %16: f32[seq, seq] = cast %15 {saturate=true,to=\"f32\"} // \"number\"\n  \
         %17: f32[seq, seq] = mul %16, c8 // \"scaled\"\n  \
         %20: f32[1, 1, seq, seq] = unsqueeze %17 {axes=[0,1]} // \"bias\"\n  \
         %5: f32[batch, seq, 4] = matmul",
    );
    let out = check("cache", &filled(&biased));
    assert_snapshot!(out.split("graph \"decode\"").nth(1).unwrap_or(&out));
}

#[test]
fn a_bias_with_rows_and_keys_exchanged_is_refused() {
    let biased = with("%5, %6, %7, _, _,", "%5, %6, %7, %20, _,").replace(
        "  %5: f32[batch, seq, 4] = matmul",
        "  %13: i64[seq, 1] = unsqueeze %2 {axes=[1]} // \"query\"\n  \
         %14: i64[1, seq] = unsqueeze %2 {axes=[0]} // \"key\"\n  \
         %15: i64[seq, seq] = sub %14, %13 // \"distance\"\n  \
         %16: f32[seq, seq] = cast %15 {saturate=true,to=\"f32\"} // \"number\"\n  \
         %17: f32[seq, seq] = transpose %16 {perm=[1,0]} // \"exchanged\"\n  \
         %20: f32[1, 1, seq, seq] = unsqueeze %17 {axes=[0,1]} // \"bias\"\n  \
         %5: f32[batch, seq, 4] = matmul",
    );
    assert_snapshot!(refusal(&biased));
}

#[test]
fn a_bias_by_position_counts_from_the_same_place() {
    let biased = with("_, %8 {", "_, %8, c8, %13 {").replace(
        "  %5: f32[batch, seq, 4] = matmul",
        "  c8 = const f32[2] [0.5, 0.25] // \"slopes\"\n  \
         %13: i64[batch, seq] = cum_sum attention_mask, c2 {exclusive=false,reverse=false} // \"count\"\n  \
         %5: f32[batch, seq, 4] = matmul",
    );
    let out = check("cache", &filled(&biased));
    assert!(out.contains("alibi_origin=1"), "{out}");
    let distance = check("cache", &filled(&biased.replace("c8, %13 {", "c8 {")));
    assert!(distance.contains("paged_attention") && !distance.contains("alibi_origin"), "{distance}");
}

#[test]
fn a_bias_by_other_positions_is_refused() {
    let biased = with("_, %8 {", "_, %8, c8, input_ids {").replace(
        "  %5: f32[batch, seq, 4] = matmul",
        "  c8 = const f32[2] [0.5, 0.25]\n  %5: f32[batch, seq, 4] = matmul",
    );
    assert_snapshot!(refusal(&biased));
}

/// The decoder with an attention to `encoder_hidden_states` (`k`, `v` of it), or to keys and values that are inputs.
fn crossed(inputs: &str, keys: &str, values: &str) -> String {
    let inputs =
        format!("(input_ids: i64[batch, seq], encoder_attention_mask: i64[batch, source], {inputs})");
    DECODER
        .replace("(input_ids: i64[batch, seq], attention_mask: i64[batch, seq])", &inputs)
        .replace("cast attention_mask", "cast encoder_attention_mask")
        .replace("%8: bool[batch, seq]", "%8: bool[batch, source]")
        .replace("%7, _, _, _, _, %8 {", "%7 {")
        .replace(
            "  %11: f32[batch, seq, 4] = relu %10",
            &format!(
                "{keys}{values}  \
                 %15: f32[batch, 2, seq, 2] = attention %13, %14, %16, _, _, _, _, %8 {{bottom_right=false,causal=false,kv_heads=null,\
                 left_window=null,q_heads=null,qk_output=0,right_window=null,scale=0.5,softcap=0.0,softmax_in_f64=false}} // \"cross\"\n  \
                 %17: f32[batch, seq, 2, 2] = transpose %15 {{perm=[0,2,1,3]}}\n  \
                 %18: i64[3] = dims [batch, seq, 4] {{scalar=false}}\n  \
                 %11: f32[batch, seq, 4] = reshape %17, %18 {{allow_zero=true}}",
            ),
        )
        .replace(
            "  %10: f32[batch, seq, 4] = add",
            "  %19: i64[4] = dims [batch, seq, 2, 2] {scalar=false}\n  \
             %20: f32[batch, seq, 2, 2] = reshape %9, %19 {allow_zero=true}\n  \
             %13: f32[batch, 2, seq, 2] = transpose %20 {perm=[0,2,1,3]}\n  %10: f32[batch, seq, 4] = add",
        )
}

#[test]
fn an_encoder_of_another_graph_gives_its_output_or_keys_and_values() {
    let split = "  %21: i64[4] = dims [batch, source, 2, 2] {scalar=false}\n  \
                 %22: f32[batch, source, 2, 2] = reshape encoder_hidden_states, %21 {allow_zero=true}\n";
    let keys = format!("{split}  %14: f32[batch, 2, source, 2] = transpose %22 {{perm=[0,2,1,3]}}\n");
    let hidden = crossed(
        "encoder_hidden_states: f32[batch, source, 4]",
        &keys,
        "  %16: f32[batch, 2, source, 2] = relu %14\n",
    );
    let out = check("cache", &filled(&hidden));
    assert_snapshot!(out.split("graph \"encode\"").nth(1).unwrap_or(&out));
    let given = crossed(
        "past_key_values.0.encoder.key: f32[batch, 2, source, 2], past_key_values.0.encoder.value: f32[batch, 2, source, 2]",
        "",
        "",
    );
    let given =
        given.replace("%13, %14, %16", "%13, past_key_values.0.encoder.key, past_key_values.0.encoder.value");
    let out = check("cache", &filled(&given));
    assert_snapshot!(out.split("graph \"encode\"").nth(1).unwrap_or(&out));
    let uneven =
        given.replace("encoder.value: f32[batch, 2, source, 2]", "encoder.value: f32[batch, 2, other, 2]");
    assert_snapshot!(refusal(&uneven));
}
