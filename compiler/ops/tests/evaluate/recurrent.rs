use serde_json::{Value, json};

use super::*;

fn layer(more: Value) -> Value {
    let mut all = json!({"hidden": 1, "direction": "forward", "activations": ["Affine"], "activation_alpha": [],
        "activation_beta": [], "clip": null, "batch_first": false});
    for (name, value) in more.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    all
}

#[test]
fn plain_layers() {
    // h = x + 2 h, by the identity as activation.
    let x = f(&[3, 1, 1], &[1.0, 1.0, 1.0]);
    let (w, r) = (f(&[1, 1, 1], &[1.0]), f(&[1, 1, 1], &[2.0]));
    let y = f(&[3, 1, 1, 1], &[1.0, 3.0, 7.0]);
    check("rnn", layer(json!({})), &[&x, &w, &r], &[y, f(&[1, 1, 1], &[7.0])]);
    let y = f(&[3, 1, 1, 1], &[7.0, 3.0, 1.0]);
    check("rnn", layer(json!({"direction": "reverse"})), &[&x, &w, &r], &[y, f(&[1, 1, 1], &[7.0])]);
    // A row of two steps; the third stays zero. The clip bounds what goes into the activation.
    let (none, lengths) = (f(&[1, 2], &[0.0, 0.0]), of(&[1], &[2i32]));
    let y = f(&[3, 1, 1, 1], &[1.0, 2.5, 0.0]);
    check("rnn", layer(json!({"clip": 2.5})), &[&x, &w, &r, &none, &lengths], &[y, f(&[1, 1, 1], &[2.5])]);
    refuse("rnn", layer(json!({"activations": ["Sine"]})), &[&x, &w, &r], "Sine");
}

#[test]
fn gated_layers() {
    // Gates z and r are 1/2 (no weights), the candidate is x + r * (2 h): h = (1 - z) c + z h.
    let x = f(&[2, 1, 1], &[1.0, 1.0]);
    let (w, r) = (f(&[1, 3, 1], &[0.0, 0.0, 1.0]), f(&[1, 3, 1], &[0.0, 0.0, 2.0]));
    let activations = json!({"activations": ["Sigmoid", "Affine"], "linear_before_reset": false});
    let y = f(&[2, 1, 1, 1], &[0.5, 1.0]);
    check("gru", layer(activations), &[&x, &w, &r], &[y.clone(), f(&[1, 1, 1], &[1.0])]);
    let activations = json!({"activations": ["Sigmoid", "Affine"], "linear_before_reset": true});
    check("gru", layer(activations), &[&x, &w, &r], &[y, f(&[1, 1, 1], &[1.0])]);
    // They differ by the recurrent bias of the candidate, which the reset gate halves.
    let b = f(&[1, 6], &[0.0, 0.0, 0.0, 0.0, 0.0, 4.0]);
    for (linear, first) in [(false, 2.5), (true, 1.5)] {
        let activations = json!({"activations": ["Sigmoid", "Affine"], "linear_before_reset": linear});
        let y = evaluate("gru", layer(activations), &[&x, &w, &r, &b], 1).expect("a layer").remove(0);
        assert_eq!(y.to_slice::<f32>().expect("f32")[0], first);
    }
}

/// Gates i, o and f are the sigmoid of 0 where nothing multiplies them; what multiplies bytes is rounded to 255ths of its range.
#[test]
fn layers_of_bytes_round_what_they_multiply() {
    let mut attributes = layer(json!({"input_forget": false}));
    attributes["activations"] = json!(["Affine", "Affine", "Affine"]);
    attributes["activation_alpha"] = json!([0.0, 1.0, 1.0]);
    attributes["activation_beta"] = json!([1.0, 0.0, 0.0]);
    // All gates are 1: c = c + candidate, h = c. The input 1, 0.4 of a range of 1: 0.4 is 102 of 255. The candidate's weight is (7 - 2) / 10.
    let x = f(&[2, 1, 1], &[1.0, 0.401]);
    let w = of(&[1, 4, 1], &[2u8, 2, 2, 7]);
    let r = of(&[1, 4, 1], &[0i8, 0, 0, 4]);
    let (w_scale, w_zero) = (f(&[1, 4], &[0.1; 4]), of(&[1], &[2u8]));
    let (r_scale, r_zero) = (f(&[1], &[0.25]), of(&[1, 4], &[0i8; 4]));
    let inputs = [Some(&x), Some(&w), Some(&r), None, None, None, None, None];
    let scales = [Some(&w_scale), Some(&w_zero), Some(&r_scale), Some(&r_zero)];
    let y = evaluate_some("lstm", attributes, &[&inputs[..], &scales[..]].concat(), 1)
        .expect("a layer")
        .remove(0);
    let y = y.to_slice::<f32>().expect("f32").to_vec();
    // One number is its own range: the state 0.5 stays. Then 0.5 + 0.4 / 2 + 0.5.
    assert!((y[0] - 0.5).abs() < 1e-6 && (y[1] - 1.2).abs() < 1e-6, "{y:?}");
}

#[test]
fn linear_attention_updates_a_state() {
    let attributes = |rule: &str| json!({"q_heads": 1, "kv_heads": 1, "rule": rule, "scale": 1.0});
    let (q, k, v) = (f(&[1, 2, 1], &[1.0, 1.0]), f(&[1, 2, 1], &[1.0, 2.0]), f(&[1, 2, 1], &[3.0, 5.0]));
    let y = [f(&[1, 2, 1], &[3.0, 13.0]), f(&[1, 1, 1, 1], &[13.0])];
    check("linear_attention", attributes("linear"), &[&q, &k, &v], &y);
    let past = f(&[1, 1, 1, 1], &[1.0]);
    let decay = f(&[1, 2, 1], &[std::f32::consts::LN_2, 0.0]);
    let y = [f(&[1, 2, 1], &[5.0, 15.0]), f(&[1, 1, 1, 1], &[15.0])];
    check("linear_attention", attributes("gated"), &[&q, &k, &v, &past, &decay], &y);
    // S = 1 + 0.5 (3 - 1) = 2; then S = 2 + 0.5 * 2 * (5 - 4) = 3.
    let rate = f(&[1, 2, 1], &[0.5, 0.5]);
    let y = [f(&[1, 2, 1], &[2.0, 3.0]), f(&[1, 1, 1, 1], &[3.0])];
    check("linear_attention", attributes("delta"), &[&q, &k, &v, &past, &decay, &rate], &y);
    let three = json!({"q_heads": 3, "kv_heads": 2, "rule": "linear", "scale": 1.0});
    refuse("linear_attention", three, &[&q, &k, &v], "3 query heads");
}
