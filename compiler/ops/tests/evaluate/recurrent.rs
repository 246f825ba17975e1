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
