use serde_json::{Value, json};

use super::*;

fn attributes(changes: &[(&str, Value)]) -> Value {
    let mut attributes = json!({
        "experts": 2, "top_k": 1, "router": "softmax", "renormalise": false, "epsilon": 0.0, "scale": 1.0, "groups": null,
        "capacity": null, "activation": "relu", "gate": "none", "clamped": null, "transposed": false, "shared_experts": 0,
    });
    for (name, value) in changes {
        attributes[*name] = value.clone();
    }
    attributes
}

/// One row of three tokens of one number; equal logits; experts `2 x` and `30 x`.
fn operands() -> [Tensor; 4] {
    let x = f(&[1, 3, 1], &[1.0, 2.0, 3.0]);
    [x, f(&[1, 3, 2], &[0.0; 6]), f(&[2, 1, 1], &[2.0, 3.0]), f(&[2, 1, 1], &[1.0, 10.0])]
}

#[test]
fn the_best_expert_answers_by_its_score() {
    let [x, logits, w_in, w_out] = operands();
    // Equal scores: the first expert. f = [1, 0], P = [1/2, 1/2]: balance 2 * 1/2.
    let expected = [f(&[1, 3, 1], &[1.0, 2.0, 3.0]), i(&[2], &[3, 0]), i(&[], &[0]), f(&[], &[1.0])];
    check("moe", attributes(&[]), &[&x, &logits, &w_in, &w_out], &expected);
    // A bias moves the choice, not the weight.
    let bias = f(&[2], &[0.0, 1.0]);
    let expected = f(&[1, 3, 1], &[15.0, 30.0, 45.0]);
    check("moe", attributes(&[]), &[&x, &logits, &w_in, &w_out, &bias], &[expected]);
    // Both experts: half of 2 x and half of 30 x; renormalised the same, scaled the double.
    let both = [("top_k", json!(2)), ("renormalise", json!(true)), ("scale", json!(2.0))];
    let expected = f(&[1, 3, 1], &[32.0, 64.0, 96.0]);
    check("moe", attributes(&both), &[&x, &logits, &w_in, &w_out], &[expected]);
}

#[test]
fn tokens_above_the_capacity_are_dropped_in_order() {
    let [x, logits, w_in, w_out] = operands();
    let capacity = attributes(&[("capacity", json!(2))]);
    let expected = [f(&[1, 3, 1], &[1.0, 2.0, 0.0]), i(&[2], &[2, 0]), i(&[], &[1]), f(&[], &[1.0])];
    check("moe", capacity.clone(), &[&x, &logits, &w_in, &w_out], &expected);
    // Three rows of one token: each row counts for itself.
    let (x, logits) = (f(&[3, 1, 1], &[1.0, 2.0, 3.0]), f(&[3, 1, 2], &[0.0; 6]));
    check("moe", capacity, &[&x, &logits, &w_in, &w_out], &[f(&[3, 1, 1], &[1.0, 2.0, 3.0])]);
}

#[test]
fn only_experts_of_the_best_groups_are_chosen() {
    let four =
        [("experts", json!(4)), ("router", json!("sigmoid")), ("groups", json!({"count": 2, "top": 1}))];
    // The largest score stands in the group with the smaller sum.
    let (x, logits) = (f(&[1, 1], &[1.0]), f(&[1, 4], &[0.0, 0.0, 1.0, -100.0]));
    let (w_in, w_out) = (f(&[4, 1, 1], &[1.0; 4]), f(&[4, 1, 1], &[1.0, 2.0, 3.0, 4.0]));
    check("moe", attributes(&four), &[&x, &logits, &w_in, &w_out], &[f(&[1, 1], &[0.5])]);
}

#[test]
fn gates_and_biases() {
    let (x, logits) = (f(&[1, 1], &[1.0]), f(&[1, 1], &[0.0]));
    let (w_in, w_out) = (f(&[1, 1, 2], &[2.0, 5.0]), f(&[1, 1, 1], &[1.0]));
    let one = [("experts", json!(1)), ("gate", json!("halves"))];
    check("moe", attributes(&one), &[&x, &logits, &w_in, &w_out], &[f(&[1, 1], &[10.0])]);
    // Clamped to 0: the sigmoid is 1/2 of 0, the answer the bias alone.
    let clamped = [
        ("experts", json!(1)),
        ("gate", json!("interleaved")),
        ("clamped", json!({"alpha": 1.0, "limit": 0.0})),
    ];
    let none = f(&[1], &[0.0]);
    let (b_in, b_out) = (f(&[1, 2], &[1.0, 1.0]), f(&[1, 1], &[7.0]));
    let inputs = [&x, &logits, &w_in, &w_out, &none, &b_in, &b_out];
    check("moe", attributes(&clamped), &inputs, &[f(&[1, 1], &[7.0])]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let [x, logits, w_in, w_out] = operands();
    let inputs = [&x, &logits, &w_in, &w_out];
    refuse("moe", attributes(&[("top_k", json!(3))]), &inputs, "3 of 2 experts");
    refuse("moe", attributes(&[("capacity", json!(0))]), &inputs, "capacity");
    refuse("moe", attributes(&[("groups", json!({"count": 3, "top": 1}))]), &inputs, "3 groups");
    refuse("moe", attributes(&[("gate", json!("halves"))]), &inputs, "do not fit");
    refuse("moe", attributes(&[]), &[&x, &x, &w_in, &w_out], "one row of 2");
}
