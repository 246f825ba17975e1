//! Attention, rotary embedding and LSTM.

use serde_json::{Value, json};

use super::*;

fn attention(changes: Value) -> Value {
    let mut attributes = json!({
        "q_heads": null, "kv_heads": null, "causal": false, "scale": 1.0, "softcap": 0.0, "qk_output": 0,
        "left_window": null, "right_window": null, "softmax_in_f64": false, "bottom_right": false,
    });
    for (name, value) in changes.as_object().into_iter().flatten() {
        attributes[name] = value.clone();
    }
    attributes
}

/// Keys that all score 0 and the values 0, 1, 2, ...: the result is the mean of the places that are seen.
fn uniform(seq: usize) -> [Tensor; 3] {
    let zeros = f(&[1, 1, seq, 1], &vec![0.0; seq]);
    [zeros.clone(), zeros, count(&[1, 1, seq, 1])]
}

#[track_caller]
fn seen(changes: Value, more: &[Option<&Tensor>], expected: &[f32]) {
    let [q, k, v] = uniform(expected.len());
    let inputs: Vec<Option<&Tensor>> = [&q, &k, &v].map(Some).iter().chain(more).copied().collect();
    let y = evaluate_some("attention", attention(changes), &inputs, 1).expect("attention").remove(0);
    assert_same("attention", &y, &f(&[1, 1, expected.len(), 1], expected));
}

#[test]
fn masks_and_windows() {
    seen(json!({}), &[], &[1.0, 1.0, 1.0]);
    seen(json!({"causal": true}), &[], &[0.0, 0.5, 1.0]);
    seen(json!({"causal": true, "left_window": 1}), &[], &[0.0, 0.5, 1.5]);
    seen(json!({"left_window": 0, "right_window": 1}), &[], &[0.5, 1.5, 2.0]);
    // The last row sees nothing and gives zeros; the mask is shorter than the keys.
    let bools = b(&[3, 2], &[true, true, false, true, false, false]);
    seen(json!({}), &[Some(&bools)], &[0.5, 1.0, 0.0]);
    let floats = f(&[1, 3], &[f32::NEG_INFINITY, 0.0, 0.0]);
    seen(json!({}), &[Some(&floats)], &[1.5, 1.5, 1.5]);
    seen(json!({"causal": true}), &[Some(&floats)], &[0.0, 1.0, 1.5]);
    let lengths = i(&[1], &[2]);
    seen(json!({}), &[None, None, None, Some(&lengths)], &[0.5, 0.5, 0.5]);
    seen(json!({"causal": true}), &[None, None, None, Some(&lengths)], &[0.0, 0.0, 0.5]);
}

#[test]
fn queries_may_stand_at_the_end() {
    let (q, [_, k, v]) = (f(&[1, 1, 2, 1], &[0.0; 2]), uniform(4));
    let attributes = attention(json!({"causal": true, "bottom_right": true}));
    let y = evaluate("attention", attributes, &[&q, &k, &v], 1).expect("attention").remove(0);
    assert_same("bottom right", &y, &f(&[1, 1, 2, 1], &[1.0, 1.5]));
    let attributes = attention(json!({"causal": true, "bottom_right": true, "left_window": 1}));
    let y = evaluate("attention", attributes, &[&q, &k, &v], 1).expect("attention").remove(0);
    assert_same("a window of two", &y, &f(&[1, 1, 2, 1], &[1.5, 2.5]));
    let (q, [_, k, v]) = (f(&[1, 1, 3, 1], &[0.0; 3]), uniform(2));
    let attributes = attention(json!({"causal": true, "bottom_right": true}));
    let y = evaluate("attention", attributes, &[&q, &k, &v], 1).expect("attention").remove(0);
    assert_same("more queries than keys", &y, &f(&[1, 1, 3, 1], &[0.0, 0.0, 0.5]));
}

/// The extras are inputs 7 to 10.
fn with_extras(changes: Value, extras: [Option<&Tensor>; 4], expected: &[f32]) {
    let none: [Option<&Tensor>; 4] = [None; 4];
    let more: Vec<Option<&Tensor>> = none.into_iter().chain(extras).collect();
    seen(changes, &more, expected);
}

#[test]
fn padding_alibi_and_sinks() {
    let padding = b(&[1, 3], &[false, true, true]);
    with_extras(json!({}), [Some(&padding), None, None, None], &[1.5; 3]);
    with_extras(json!({"causal": true}), [Some(&padding), None, None, None], &[0.0, 1.0, 1.5]);
    // With slope ln 2 each step of distance halves a weight.
    let slopes = f(&[1], &[2f32.ln()]);
    let expected = [(0.5 + 0.5) / 1.75, (1.0 + 1.0) / 2.0, (0.5 + 2.0) / 1.75];
    with_extras(json!({}), [None, Some(&slopes), None, None], &expected);
    let ids = i(&[1, 3], &[0, 0, 1]);
    with_extras(json!({}), [None, Some(&slopes), Some(&ids), None], &[5.0 / 4.0; 3]);
    // A sink of ln 3 weighs as much as three keys.
    let sinks = f(&[1], &[3f32.ln()]);
    with_extras(json!({}), [None, None, None, Some(&sinks)], &[0.5; 3]);
    let hidden = b(&[1, 3], &[false; 3]);
    with_extras(json!({}), [Some(&hidden), None, None, Some(&sinks)], &[0.0; 3]);
    let [q, k, v] = uniform(3);
    let refused = |extras: [Option<&Tensor>; 4], part: &str| {
        let inputs = [Some(&q), Some(&k), Some(&v), None, None, None, None].into_iter().chain(extras);
        let error = evaluate_some("attention", attention(json!({})), &inputs.collect::<Vec<_>>(), 1);
        let error = error.expect_err("it must fail").to_string();
        assert!(error.contains(part), "{error}");
    };
    refused([Some(&b(&[1, 2], &[true; 2])), None, None, None], "key_padding is not [1, 3]");
    refused([None, Some(&f(&[2], &[0.0; 2])), None, None], "alibi_slopes is not [1]");
    refused([None, None, Some(&ids), None], "without alibi_slopes");
    refused([None, None, None, Some(&f(&[1, 1], &[0.0]))], "sinks is not [1]");
}

/// Attributes of `paged_attention` with heads of one element.
fn paged(window: Value) -> Value {
    json!({"kv_heads": 1, "qk_head_dim": 1, "v_head_dim": 1, "window": window, "scale": 1.0, "softcap": 0.0})
}

#[test]
fn pages_hold_what_was_appended() {
    let state = f(&[3, 128], &[9.0; 384]);
    // Sequence 0 has rows 0 and 1 at places 63 and 64, in pages 2 and 0; sequence 1 has row 2 in page 1.
    let (position, starts) = (i(&[1, 3], &[63, 64, 0]), i(&[3], &[0, 2, 3]));
    let table = i(&[2, 2], &[2, 0, 1, -1]);
    let (k, v) = (f(&[1, 1, 3, 1], &[0.0; 3]), count(&[1, 1, 3, 1]));
    let inputs = [&state, &k, &v, &position, &starts, &table];
    let next = evaluate("kv_append", json!({}), &inputs, 1).expect("kv_append").remove(0);
    let mut expected = vec![9.0; 384];
    for (page, place, value) in [(2, 63, 0.0), (0, 0, 1.0), (1, 0, 2.0)] {
        (expected[page * 128 + place], expected[page * 128 + 64 + place]) = (0.0, value);
    }
    check("kv_append", json!({}), &inputs, &[f(&[3, 128], &expected)]);
    let (q, lengths) = (f(&[1, 1, 3, 1], &[0.0; 3]), i(&[2], &[65, 1]));
    let rest = [&position, &starts, &lengths, &table];
    let inputs: Vec<_> = [&q, &next].into_iter().chain(rest).collect();
    let windowed = f(&[1, 1, 3, 1], &[4.5, 0.5, 2.0]);
    check("paged_attention", paged(json!(2)), &inputs, std::slice::from_ref(&windowed));
    let whole = f(&[1, 1, 3, 1], &[63.0 * 9.0 / 64.0, (63.0 * 9.0 + 1.0) / 65.0, 2.0]);
    check("paged_attention", paged(NONE), &inputs, &[whole]);
    let missing = i(&[2, 2], &[-1, 0, 1, -1]);
    let inputs: Vec<_> = [&q, &next, &position, &starts, &lengths, &missing].to_vec();
    refuse("paged_attention", paged(json!(2)), &inputs, "index -1 lies outside");
    let short = i(&[2], &[64, 1]);
    let inputs: Vec<_> = [&q, &next, &position, &starts, &short, &table].to_vec();
    refuse("paged_attention", paged(NONE), &inputs, "index 64 lies outside");
    let late = i(&[1, 3], &[63, 128, 0]);
    refuse("kv_append", json!({}), &[&state, &k, &v, &late, &starts, &table], "index 128 lies outside");
    let uneven = i(&[3], &[0, 2, 2]);
    refuse("kv_append", json!({}), &[&state, &k, &v, &position, &uneven, &table], "does not divide 3 rows");
}

#[test]
fn values_may_be_the_first_elements_of_the_keys() {
    // Keys of three elements; two of them are the values, and the state keeps nothing else.
    let state = f(&[1, 192], &[9.0; 192]);
    let (position, starts, table) = (i(&[1, 2], &[0, 1]), i(&[2], &[0, 2]), i(&[1, 1], &[0]));
    let k = f(&[1, 1, 2, 3], &[1.0, 5.0, 0.0, 3.0, 7.0, 0.0]);
    let inputs = [Some(&state), Some(&k), None, Some(&position), Some(&starts), Some(&table)];
    let next = evaluate_some("kv_append", json!({}), &inputs, 1).expect("kv_append").remove(0);
    let (q, lengths) = (f(&[1, 2, 2, 3], &[0.0; 12]), i(&[1], &[2]));
    let inputs = [&q, &next, &position, &starts, &lengths, &table];
    let attributes = |latent: usize, values: usize| json!({"kv_heads": 1, "qk_head_dim": 3, "v_head_dim": values, "latent": latent, "scale": 1.0, "softcap": 0.0});
    let expected = f(&[1, 2, 2, 2], &[1.0, 5.0, 2.0, 6.0, 1.0, 5.0, 2.0, 6.0]);
    check("paged_attention", attributes(2, 0), &inputs, &[expected]);
    refuse("paged_attention", attributes(4, 0), &inputs, "values of 4 elements of keys of 3");
    refuse("paged_attention", attributes(2, 1), &inputs, "beside 1 of their own");
}

#[test]
fn pages_of_bytes_hold_scaled_numbers() {
    // One head of 2 elements each way: 256 bytes of numbers, then 64 scales of keys and 64 of values.
    let state = Tensor::from_slice(&[0i8; 768], &[1, 768]).expect("a state");
    let (position, starts, table) = (i(&[1, 2], &[0, 1]), i(&[2], &[0, 2]), i(&[1, 1], &[0]));
    let (k, v) = (f(&[1, 1, 2, 2], &[0.0; 4]), f(&[1, 1, 2, 2], &[254.0, -127.0, 0.0, 0.1]));
    let inputs = [&state, &k, &v, &position, &starts, &table];
    let next = evaluate("kv_append", json!({}), &inputs, 1).expect("kv_append").remove(0);
    let bytes = next.to_slice::<i8>().expect("i8");
    assert_eq!(bytes[128..132], [127, -64, 0, 127]);
    let scale = |at: usize| f32::from_ne_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte] as u8));
    assert_eq!([scale(256), scale(512), scale(516)], [0.0, 2.0, 0.1 / 127.0]);
    let (q, lengths) = (f(&[1, 1, 2, 2], &[0.0; 4]), i(&[1], &[2]));
    let attributes =
        json!({"kv_heads": 1, "qk_head_dim": 2, "v_head_dim": 2, "window": 1, "scale": 1.0, "softcap": 0.0});
    let inputs = [&q, &next, &position, &starts, &lengths, &table];
    let y = evaluate("paged_attention", attributes, &inputs, 1).expect("paged_attention").remove(0);
    let y = y.to_slice::<f32>().expect("f32");
    assert_eq!(y[..3], [254.0, -128.0, 0.0]);
    assert!((y[3] - 0.1).abs() < 1e-7, "{y:?}");
    let wrong = Tensor::from_slice(&[0i8; 256], &[1, 256]).expect("a state");
    let inputs = [&wrong, &k, &v, &position, &starts, &table];
    refuse("kv_append", json!({}), &inputs, "does not hold pages");
}

#[test]
fn paged_rows_take_biases_and_sinks() {
    let state = f(&[1, 128], &(0..128).map(|i| (i % 64) as f32).collect::<Vec<_>>());
    let (q, position) = (f(&[1, 2, 1, 1], &[0.0; 2]), i(&[1, 1], &[1]));
    let (starts, lengths, table) = (i(&[2], &[0, 1]), i(&[1], &[2]), i(&[1, 1], &[0]));
    let (bias, sinks) =
        (f(&[2, 1, 2], &[0.0, 3f32.ln(), 0.0, 0.0]), f(&[2], &[f32::NEG_INFINITY, 2f32.ln()]));
    let inputs = [&q, &state, &position, &starts, &lengths, &table, &bias];
    let slopes = f(&[2], &[0.0, 2f32.ln()]);
    let all: Vec<_> = inputs.into_iter().chain([&slopes, &sinks]).map(Some).collect();
    let y = evaluate_some("paged_attention", paged(NONE), &all, 1).expect("paged").remove(0);
    assert_same("paged", &y, &f(&[1, 2, 1, 1], &[0.75, 1.0 / 3.5]));
    // By place instead of distance, one number a row is added to each score, which only the sink sees.
    let mut by_place = paged(NONE);
    by_place["alibi_origin"] = json!(1);
    let y = evaluate_some("paged_attention", by_place, &all, 1).expect("paged").remove(0);
    assert_same("paged", &y, &f(&[1, 2, 1, 1], &[0.75, 0.5]));
    let narrow = f(&[1], &[0.0]);
    let inputs = [&q, &state, &position, &starts, &lengths, &table, &narrow];
    refuse("paged_attention", paged(NONE), &inputs, "1 columns for a context of 2");
}

#[test]
fn heads_are_shared_and_caches_grow() {
    // Two query heads share one key head; layout [batch, seq, heads * head_dim].
    let (q, kv) = (f(&[1, 1, 2], &[1.0, -1.0]), f(&[1, 1, 1], &[1.0]));
    let past = f(&[1, 1, 1, 1], &[0.0]);
    let inputs = [Some(&q), Some(&kv), Some(&kv), None, Some(&past), Some(&past)];
    let attributes = attention(json!({"q_heads": 2, "kv_heads": 1, "causal": true, "qk_output": 3}));
    let results = evaluate_some("attention", attributes, &inputs, 4).expect("attention");
    let high = 0.731_058_6;
    assert_same("y", &results[0], &f(&[1, 1, 2], &[high, 1.0 - high]));
    assert_same("present", &results[1], &f(&[1, 1, 2, 1], &[0.0, 1.0]));
    assert_same("weights", &results[3], &f(&[1, 2, 1, 2], &[1.0 - high, high, high, 1.0 - high]));
}

#[test]
fn score_outputs_follow_the_stages() {
    let (q, k) = (f(&[1, 1, 1, 1], &[2.0]), f(&[1, 1, 2, 1], &[1.0, 0.0]));
    let mask = f(&[2], &[0.0, f32::NEG_INFINITY]);
    let capped = 2.0 * 1f32.tanh();
    for (stage, expected) in
        [(0, [2.0, 0.0]), (1, [capped, 0.0]), (2, [capped, f32::NEG_INFINITY]), (3, [1.0, 0.0])]
    {
        let attributes = attention(json!({"softcap": 2.0, "qk_output": stage}));
        let results = evaluate("attention", attributes, &[&q, &k, &k, &mask], 4).expect("attention");
        assert_same("scores", &results[3], &f(&[1, 1, 1, 2], &expected));
    }
    refuse("attention", attention(json!({})), &[&q, &k, &q], "do not fit together");
    refuse("attention", attention(json!({})), &[&q, &k, &k, &f(&[3], &[0.0; 3])], "mask does not fit");
    refuse("attention", attention(json!({})), &[&f(&[1, 1, 1], &[0.0]), &k, &k], "needs the number of heads");
}

#[test]
fn rotary_embedding() {
    let x = f(&[1, 1, 1, 4], &[1.0, 2.0, 3.0, 4.0]);
    // A quarter turn takes (a, b) to (-b, a).
    let (cos, sin) = (f(&[2, 1], &[1.0, 0.0]), f(&[2, 1], &[0.0, 1.0]));
    let ids = i(&[1, 1], &[1]);
    let attributes =
        |interleaved: bool, dim: Value| json!({"interleaved": interleaved, "heads": null, "rotary_dim": dim});
    check(
        "rotary_embedding",
        attributes(false, json!(2)),
        &[&x, &cos, &sin, &ids],
        &[f(&[1, 1, 1, 4], &[-2.0, 1.0, 3.0, 4.0])],
    );
    let (cos, sin) = (f(&[1, 1, 2], &[0.0, 1.0]), f(&[1, 1, 2], &[1.0, 0.0]));
    check(
        "rotary_embedding",
        attributes(false, NONE),
        &[&x, &cos, &sin],
        &[f(&[1, 1, 1, 4], &[-3.0, 2.0, 1.0, 4.0])],
    );
    check(
        "rotary_embedding",
        attributes(true, NONE),
        &[&x, &cos, &sin],
        &[f(&[1, 1, 1, 4], &[-2.0, 1.0, 3.0, 4.0])],
    );
    refuse("rotary_embedding", attributes(false, json!(3)), &[&x, &cos, &sin], "rotary_dim 3");
    refuse("rotary_embedding", attributes(false, json!(2)), &[&x, &cos, &sin], "angles");
}

const NONE: Value = Value::Null;

fn lstm(changes: Value) -> Value {
    let mut attributes = json!({
        "hidden": 1, "direction": "forward", "activations": [], "activation_alpha": [], "activation_beta": [],
        "clip": null, "input_forget": false, "batch_first": false,
    });
    for (name, value) in changes.as_object().into_iter().flatten() {
        attributes[name] = value.clone();
    }
    attributes
}

#[test]
fn lstm_accumulates_what_its_gates_let_in() {
    // Affine functions with open gates: i = o = f = 1 and the candidate is x, so that c and h are running sums.
    let functions = json!({"activations": ["Affine", "Affine", "Affine"], "activation_alpha": [1.0, 1.0, 1.0], "activation_beta": [0.0, 0.0, 0.0]});
    let (x, r) = (f(&[3, 1, 1], &[1.0, 2.0, 3.0]), f(&[1, 4, 1], &[0.0; 4]));
    let w = f(&[1, 4, 1], &[0.0, 0.0, 0.0, 1.0]);
    let bias = f(&[1, 8], &[1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let expected = [f(&[3, 1, 1, 1], &[1.0, 3.0, 6.0]), f(&[1, 1, 1], &[6.0]), f(&[1, 1, 1], &[6.0])];
    check("lstm", lstm(functions.clone()), &[&x, &w, &r, &bias], &expected);
    let mut reverse = functions.clone();
    reverse["direction"] = json!("reverse");
    let lengths = of(&[1], &[2i32]);
    let expected = [f(&[3, 1, 1, 1], &[3.0, 2.0, 0.0]), f(&[1, 1, 1], &[3.0])];
    check("lstm", lstm(reverse), &[&x, &w, &r, &bias, &lengths], &expected);
    let mut clipped = functions;
    clipped["clip"] = json!(1.5);
    check("lstm", lstm(clipped), &[&x, &w, &r, &bias], &[f(&[3, 1, 1, 1], &[1.0, 2.5, 4.0])]);
    refuse("lstm", lstm(json!({})), &[&x, &w, &w, &f(&[1, 4], &[0.0; 4])], "b is not [1, 8]");
    refuse("lstm", lstm(json!({"activations": ["Sine", "Tanh", "Tanh"]})), &[&x, &w, &r], "`Sine`");
}
