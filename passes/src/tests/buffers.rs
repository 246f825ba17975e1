//! Keys and values written into a buffer behind the past, at places counted from the sum of a mask: GroupQueryAttention as it is imported.

use insta::assert_snapshot;
use proptest::prelude::{ProptestConfig, any, proptest};

use super::check;

/// A decoder of one layer; its mask is `%53`, of keys `%49` and places `%43`.
const BUFFER: &str = r#"graph "main" (input_ids: i64[batch, seq], attention_mask: i64[batch, total], past_key_values.0.key: f32[batch, 2, past, 2], past_key_values.0.value: f32[batch, 2, past, 2]) {
  c0 = const f32[5, 4] FILL20 // "wte"
  c1 = const i64[] 0
  c2 = const i64[] 1
  c4 = const f32[4, 4] FILL16 // "wq"
  c7 = const f32[4, 5] FILL20 // "head"
  %4 = gather c0, input_ids {axis=0} // "embed"
  %5 = matmul %4, c4 // "q"
  %20 = reduce attention_mask {axes=[1],keep_dims=true,kind="sum",noop_with_empty_axes=false} // "count"
  %21 = squeeze %20 {axes=[1]} // "valid"
  %22: i64[] = dims [seq] {scalar=true}
  %23 = sub %21, %22 // "before"
  %24 = max %23, c1 // "before"
  %25 = range c1, %22, c2 // "steps"
  %26 = unsqueeze %24 {axes=[1]}
  %27 = add %26, %25 // "places"
  %30: i64[4] = dims [batch, seq, 2, 2]
  %31 = reshape %5, %30 {allow_zero=true}
  %32 = transpose %31 {perm=[0,2,1,3]} // "heads"
  %40: i64[8] = dims [0, 0, 0, 0, 0, 0, max(0, -past + total), 0]
  %41 = pad past_key_values.0.key, %40 {mode="constant"} // "room"
  %42 = pad past_key_values.0.value, %40 {mode="constant"} // "room"
  %43 = unsqueeze %27 {axes=[1,3]}
  %44: i64[4] = dims [batch, 2, seq, 2]
  %45 = expand %43, %44 // "index"
  %46 = scatter_elements %41, %45, %32 {axis=2,reduction="replace"} // "keys"
  %47 = scatter_elements %42, %45, %32 {axis=2,reduction="replace"} // "values"
  %48: i64[] = dims [past + max(0, -past + total)] {scalar=true}
  %49 = range c1, %48, c2 // "all keys"
  %50 = unsqueeze %21 {axes=[1,2,3]}
  %51 = less %49, %50 // "inside"
  %52 = less_or_equal %49, %43 // "earlier"
  %53 = and %51, %52 // "mask"
  %54 = attention %32, %46, %47, %53 {bottom_right=false,causal=false,kv_heads=null,left_window=null,q_heads=null,qk_output=0,right_window=null,scale=0.5,softcap=0.0,softmax_in_f64=false} // "attend"
  %55 = transpose %54 {perm=[0,2,1,3]}
  %56: i64[3] = dims [batch, seq, 4]
  %57 = reshape %55, %56 {allow_zero=true}
  %12 = matmul %57, c7 // "head"
  return %12 as logits, %46 as present.0.key, %47 as present.0.value
}"#;

fn with(from: &str, to: &str) -> String {
    assert!(BUFFER.contains(from), "{from}");
    BUFFER.replace(from, to)
}

fn decode(text: &str) -> String {
    let filled = [20, 16].into_iter().fold(text.to_string(), |text, count: usize| {
        let elements: Vec<_> =
            (0..count).map(|index| format!("{:?}", (index * 7 % 5) as f32 - 2.0)).collect();
        text.replace(&format!("FILL{count}"), &format!("[{}]", elements.join(", ")))
    });
    let out = check("cache", &filled);
    match out.split_once("graph \"decode\"") {
        Some((_, decode)) => decode.to_string(),
        None => out.lines().take_while(|line| !line.starts_with("graph")).collect::<Vec<_>>().join("\n"),
    }
}

#[test]
fn a_buffer_behind_the_past_becomes_the_state() {
    assert_snapshot!(decode(BUFFER));
}

#[test]
fn a_window_of_the_mask_gets_its_own_table() {
    let windowed = with(
        "  %53 = and %51, %52 // \"mask\"",
        "  c8 = const i64[] 3\n  %60 = sub %43, c8\n  %61 = greater %49, %60\n  %62 = and %51, %61\n  %53 = and %62, %52 // \"mask\"",
    );
    let decode = decode(&windowed);
    assert!(decode.contains("block_table.w3") && decode.contains("window=3"), "{decode}");
    assert!(!decode.contains("block_table:"), "{decode}");
}

#[test]
fn a_mask_of_numbers_is_one_too() {
    let added = with("%47, %53 {", "%47, %63 {").replace(
        "  %54 = attention",
        "  c8 = const f32[] 0.0\n  c9 = const f32[] -3.4028235e38\n  %63 = where %53, c8, c9\n  %54 = attention",
    );
    assert!(decode(&added).contains("paged_attention"));
    // -1 hides nothing.
    assert_snapshot!(decode(&added.replace("-3.4028235e38", "-1.0")), @"cache refused at attend: the attention is not proven causal");
}

#[test]
fn other_places_are_refused() {
    let later = with("%45 = expand %43, %44", "%60 = add %43, c2\n  %45 = expand %60, %44");
    assert_snapshot!(decode(&later), @"cache refused at keys: new keys or values are not written behind the past");
    let added = with(
        "%47 = scatter_elements %42, %45, %32 {axis=2,reduction=\"replace\"}",
        "%47 = scatter_elements %42, %45, %32 {axis=2,reduction=\"add\"}",
    );
    assert_snapshot!(decode(&added), @"cache refused at values: new keys or values are not written behind the past");
}

#[test]
fn other_buffers_are_refused() {
    let exchanged = with("pad past_key_values.0.key", "pad past_key_values.0.value");
    assert_snapshot!(decode(&exchanged), @"cache refused at attend: its keys and values do not extend the past of one layer");
    let before =
        with("[0, 0, 0, 0, 0, 0, max(0, -past + total), 0]", "[0, 0, max(0, -past + total), 0, 0, 0, 0, 0]");
    assert_snapshot!(decode(&before), @"cache refused at past_key_values.0.key: the past is used other than by an attention");
}

#[test]
fn the_sum_of_something_else_than_the_mask_is_refused() {
    let ids = with("reduce attention_mask", "reduce input_ids");
    assert_snapshot!(decode(&ids), @"cache refused at attend: the attention is not proven causal; `inside`: it needs one element for each token of the past");
}

/// Comparisons of keys with places plus an offset.
const COMPARE: [&str; 5] = ["less", "less_or_equal", "greater", "greater_or_equal", "equal"];

fn holds(op: usize, key: i64, place: i64) -> bool {
    [key < place, key <= place, key > place, key >= place, key == place][op]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn only_masks_that_are_causal_or_windows_are_taken(
        [first, second] in [0usize..5, 0usize..5],
        [a, b] in [-2i64..3, -2i64..3],
        turned in any::<bool>(),
    ) {
        let (left, right) = if turned { ("%60", "%49") } else { ("%49", "%60") };
        // With its operands exchanged a comparison is that of places with keys.
        let mirrored = [2, 3, 0, 1, 4][first];
        let op = COMPARE[if turned { mirrored } else { first }];
        let text = with(
            "  %52 = less_or_equal %49, %43 // \"earlier\"",
            &format!(
                "  c8 = const i64[] {a}\n  c9 = const i64[] {b}\n  %60 = add %43, c8\n  %61 = {op} {left}, {right}\n  \
                 %62 = sub %49, c9\n  %63 = {} %62, %43\n  %52 = and %61, %63",
                COMPARE[second],
            ),
        );
        let decode = decode(&text);
        let sees = |place: i64, key: i64| holds(first, key, place + a) && holds(second, key - b, place);
        let cells = || (20..24i64).flat_map(|place| (0..30i64).map(move |key| (place, key)));
        let like = |window: i64| {
            cells().all(|(place, key)| sees(place, key) == (key <= place && key > place - window))
        };
        let window = (1..8).find(|window| like(*window));
        let causal = cells().all(|(place, key)| sees(place, key) == (key <= place));
        let taken = decode.contains("paged_attention");
        match (causal, window) {
            (true, _) => assert!(taken && !decode.contains("window="), "{text}\n{decode}"),
            (false, Some(window)) => assert!(taken && decode.contains(&format!("window={window}")), "{text}\n{decode}"),
            (false, None) => assert!(!taken, "{text}\n{decode}"),
        }
    }
}
