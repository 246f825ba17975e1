use insta::assert_snapshot;

use super::check;

/// A decoder of one layer whose tokens 3 and 4 stand for rows of pictures, as the builders of checkpoints splice them.
const SPLICED: &str = r#"graph "main" (input_ids: i64[batch, seq], attention_mask: i64[batch, seq], pixel_values: f32[pictures, 4]) {
  c0 = const f32[5, 4] FILL20 // "wte"
  c1 = const i64[] 0
  c2 = const i64[] 1
  c3 = const i64[] 3
  c4 = const i64[] 4
  c5 = const f32[1, 4] [0.0, 0.0, 0.0, 0.0] // "spare"
  c6 = const f32[4, 4] FILL16 // "w"
  c7 = const f32[4, 5] FILL20 // "head"
  c8 = const i64[1] [1]
  %0: f32[batch, seq, 4] = gather c0, input_ids {axis=0} // "embed"
  %1: bool[batch, seq] = equal input_ids, c3 // "first"
  %2: bool[batch, seq] = equal input_ids, c4 // "second"
  %3: bool[batch, seq] = or %1, %2 // "marked"
  %4: i64[batch, seq] = cast %3 {saturate=true,to="i64"} // "ones"
  %5: i64[batch, seq] = cum_sum %4, c2 {exclusive=false,reverse=false} // "own"
  %6: i64[batch, 1] = reduce %4 {axes=[1],keep_dims=true,kind="sum",noop_with_empty_axes=true} // "count"
  %7: i64[batch, 1] = cum_sum %6, c1 {exclusive=true,reverse=false} // "begin"
  %8: i64[batch, seq] = add %5, %7 // "index"
  %9: i64[] = dims [pictures + 1] {scalar=true} // "last"
  %10: i64[batch, seq] = min %8, %9 // "cut"
  %11: f32[pictures, 4] = matmul pixel_values, c6 // "tower"
  %12: f32[pictures + 2, 4] = concat c5, %11, c5 {axis=0} // "table"
  %13: f32[batch, seq, 4] = gather %12, %10 {axis=0} // "inserted"
  %14: bool[batch, seq, 1] = unsqueeze %3 {axes=[2]} // "shown"
  %15: f32[batch, seq, 4] = where %14, %13, %0 // "spliced"
  %16: bool[batch, seq] = cast attention_mask {saturate=true,to="bool"} // "padding"
  %17: f32[batch, seq, 4] = attention %15, %15, %15, _, _, _, _, %16 {bottom_right=false,causal=true,kv_heads=2,left_window=null,q_heads=2,qk_output=0,right_window=null,scale=0.5,softcap=0.0,softmax_in_f64=false} // "attend"
  %18: f32[batch, seq, 5] = matmul %17, c7 // "logits"
  return %18 as logits
}"#;

/// A decoder of one layer whose sequences begin with two rows of a video.
const PREFIXED: &str = r#"graph "main" (video: f32[batch, 2, 4], input_ids: i64[batch, seq]) {
  c0 = const f32[5, 4] FILL20 // "wte"
  c1 = const f32[4, 4] FILL16 // "w"
  c2 = const f32[4, 5] FILL20 // "head"
  c3 = const i64[1] [2]
  c4 = const i64[1] [9223372036854775807]
  c5 = const i64[1] [1]
  c6 = const i64[1] [0]
  c7 = const i64[1] [-2]
  %0: f32[batch, seq, 4] = gather c0, input_ids {axis=0} // "embed"
  %1: f32[batch, 2, 4] = matmul video, c1 // "tower"
  %2: f32[batch, seq + 2, 4] = concat %1, %0 {axis=1} // "prefix"
  %3: f32[batch, seq + 2, 4] = attention %2, %2, %2 {bottom_right=false,causal=true,kv_heads=2,left_window=null,q_heads=2,qk_output=0,right_window=null,scale=0.5,softcap=0.0,softmax_in_f64=false} // "attend"
  %4: f32[batch, seq, 4] = slice %3, c3, c4, c5, c5 // "text"
  %5: f32[batch, seq, 5] = matmul %4, c2 // "logits"
  return %5 as logits
}"#;

fn filled(text: &str) -> String {
    [20, 16].into_iter().fold(text.to_string(), |text, count: usize| {
        let elements: Vec<_> =
            (0..count).map(|index| format!("{:?}", (index * 7 % 5) as f32 - 2.0)).collect();
        text.replace(&format!("FILL{count}"), &format!("[{}]", elements.join(", ")))
    })
}

/// The reasons alone, of a text with one part replaced, which must be there.
fn refusal(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    let out = check("cache", &filled(&text.replace(from, to)));
    assert!(!out.contains("graph \"decode\""), "{out}");
    out.lines().take_while(|line| !line.starts_with("graph")).collect::<Vec<_>>().join("\n")
}

#[test]
fn rows_of_pictures_are_computed_once() {
    assert_snapshot!(check("cache", &filled(SPLICED)));
}

#[test]
fn pictures_before_the_first_token_are_computed_once() {
    assert_snapshot!(check("cache", &filled(PREFIXED)));
}

#[test]
fn counts_of_something_else_are_refused() {
    assert_snapshot!(refusal(SPLICED, "or %1, %2", "and %1, %2"));
}

#[test]
fn counts_beyond_the_rows_are_refused() {
    assert_snapshot!(refusal(SPLICED, "gather %12, %10", "gather %12, %8"));
}

#[test]
fn counts_that_are_shifted_are_refused() {
    assert_snapshot!(refusal(SPLICED, "add %5, %7", "add %5, c8"));
}

#[test]
fn text_that_begins_elsewhere_is_refused() {
    assert_snapshot!(refusal(PREFIXED, "slice %3, c3, c4", "slice %3, c6, c7"));
}

#[test]
fn experts_of_a_step_have_no_capacity() {
    let text = SPLICED.replace("matmul %17, c7 // \"logits\"", "matmul %19, c7 // \"logits\"");
    let text = text.replace(
        "  %18: f32[batch, seq, 5]",
        "  c9 = const f32[4, 2] [1.0, 2.0, -1.0, 0.5, 0.25, 1.0, -2.0, 1.0] // \"router\"\n  \
         c10 = const f32[2, 4, 4] FILL32 // \"experts\"\n  \
         %20: f32[batch, seq, 2] = matmul %17, c9 // \"scores\"\n  \
         %19: f32[batch, seq, 4] = moe %17, %20, c10, c10 {experts=2,top_k=1,router=\"softmax\",renormalise=false,epsilon=0.0,\
         scale=1.0,groups=null,capacity=1,activation=\"none\",gate=\"none\",clamped=null,transposed=false,shared_experts=0} // \"experts\"\n  \
         %18: f32[batch, seq, 5]",
    );
    let weights: Vec<_> = (0..32).map(|index| format!("{:?}", (index % 5) as f32 - 2.0)).collect();
    let out = check("cache", &filled(&text.replace("FILL32", &format!("[{}]", weights.join(", ")))));
    let decode = out.split("graph \"decode\"").nth(1).expect("a cache");
    let experts = decode.lines().find(|line| line.contains("= moe ")).expect("experts");
    assert!(!experts.contains("capacity"), "{experts}");
    assert!(out.contains("capacity=1"), "{out}");
}
