use serde_json::{Value, json};

use super::*;

fn reduce(kind: &str, axes: &[i64], keep: bool) -> Value {
    json!({"kind": kind, "axes": axes, "keep_dims": keep, "noop_with_empty_axes": false})
}

#[test]
fn every_kind_over_floats() {
    let x = f(&[2, 2], &[1.0, -2.0, 3.0, 4.0]);
    let cases: &[(&str, [f32; 2])] = &[
        ("sum", [-1.0, 7.0]),
        ("mean", [-0.5, 3.5]),
        ("max", [1.0, 4.0]),
        ("min", [-2.0, 3.0]),
        ("prod", [-2.0, 12.0]),
        ("l1", [3.0, 7.0]),
        ("l2", [5f32.sqrt(), 5.0]),
        ("sum_square", [5.0, 25.0]),
        ("log_sum", [f32::NAN, 7f32.ln()]),
        ("log_sum_exp", [1.048_587_3, 4.313_261_5]),
    ];
    for (kind, expected) in cases {
        check("reduce", reduce(kind, &[-1], false), &[&x], &[f(&[2], expected)]);
    }
    check("reduce", reduce("sum", &[], true), &[&x], &[f(&[1, 1], &[6.0])]);
    check("reduce", reduce("sum", &[], false), &[&x, &i(&[1], &[0])], &[f(&[2], &[4.0, 2.0])]);
    refuse("reduce", reduce("sum", &[0, -2], false), &[&x], "named twice");
    refuse("reduce", reduce("sum", &[2], false), &[&x], "axis 2");
}

#[test]
fn empty_sets_and_other_dtypes() {
    let none = f(&[0, 2], &[]);
    let inf = f32::INFINITY;
    for (kind, value) in
        [("sum", 0.0), ("prod", 1.0), ("max", -inf), ("min", inf), ("mean", f32::NAN), ("log_sum_exp", -inf)]
    {
        check("reduce", reduce(kind, &[0], false), &[&none], &[f(&[2], &[value; 2])]);
    }
    let x = of(&[3], &[100i8, 100, 1]);
    check("reduce", reduce("sum", &[0], false), &[&x], &[of(&[], &[-55i8])]);
    check("reduce", reduce("mean", &[0], false), &[&x], &[of(&[], &[67i8])]);
    check("reduce", reduce("max", &[0], false), &[&b(&[2], &[false, true])], &[b(&[], &[true])]);
    refuse("reduce", reduce("mean", &[0], false), &[&i(&[0], &[])], "no integers");
    let noop = json!({"kind": "sum_square", "axes": null, "keep_dims": true, "noop_with_empty_axes": true});
    check("reduce", noop, &[&f(&[2], &[2.0, 3.0])], &[f(&[2], &[4.0, 9.0])]);
}

#[test]
fn extremes_and_their_order() {
    let arg = |min: bool, last: bool| json!({"min": min, "axis": 0, "keep_dims": false, "select_last": last});
    let x = f(&[4], &[1.0, 3.0, 3.0, 1.0]);
    for (min, last, expected) in [(false, false, 1), (false, true, 2), (true, false, 0), (true, true, 3)] {
        check("arg_reduce", arg(min, last), &[&x], &[i(&[], &[expected])]);
    }
    let nan = f(&[3], &[1.0, f32::NAN, 2.0]);
    check("arg_reduce", arg(true, false), &[&nan], &[i(&[], &[1])]);
    check("arg_reduce", arg(false, false), &[&nan], &[i(&[], &[1])]);
    refuse("arg_reduce", arg(false, false), &[&f(&[0], &[])], "no elements");
    let top = |largest: bool| json!({"axis": -1, "largest": largest, "sorted": true});
    let k = i(&[1], &[2]);
    check("top_k", top(true), &[&x, &k], &[f(&[2], &[3.0, 3.0]), i(&[2], &[1, 2])]);
    check("top_k", top(false), &[&x, &k], &[f(&[2], &[1.0, 1.0]), i(&[2], &[0, 3])]);
    refuse("top_k", top(true), &[&x, &i(&[1], &[5])], "4 elements");
}

#[test]
fn running_sums() {
    let x = i(&[3], &[1, 2, 3]);
    let cases = [
        ((false, false), [1, 3, 6]),
        ((true, false), [0, 1, 3]),
        ((false, true), [6, 5, 3]),
        ((true, true), [5, 3, 0]),
    ];
    for ((exclusive, reverse), expected) in cases {
        let attributes = json!({"exclusive": exclusive, "reverse": reverse});
        check("cum_sum", attributes, &[&x, &i(&[], &[0])], &[i(&[3], &expected)]);
    }
    let columns = evaluate(
        "cum_sum",
        json!({"exclusive": false, "reverse": false}),
        &[&count(&[2, 2]), &i(&[], &[-2])],
        1,
    );
    assert_same("cum_sum", &columns.expect("a sum")[0], &f(&[2, 2], &[0.0, 1.0, 2.0, 4.0]));
}

#[test]
fn running_products() {
    let (x, axis) = (i(&[3], &[2, 3, 4]), i(&[], &[0]));
    let product = |exclusive: bool, reverse: bool| json!({"exclusive": exclusive, "reverse": reverse});
    check("cum_prod", product(false, false), &[&x, &axis], &[i(&[3], &[2, 6, 24])]);
    check("cum_prod", product(true, true), &[&x, &axis], &[i(&[3], &[12, 4, 1])]);
    refuse("cum_prod", product(false, false), &[&x, &i(&[], &[1])], "axis 1");
}

#[test]
fn determinants() {
    let x = f(&[2, 2, 2], &[0.0, 2.0, 3.0, 4.0, 1.0, 2.0, 2.0, 4.0]);
    check("det", json!({}), &[&x], &[f(&[2], &[-6.0, 0.0])]);
    check("det", json!({}), &[&f(&[0, 0], &[])], &[f(&[], &[1.0])]);
    refuse("det", json!({}), &[&f(&[1, 2], &[0.0; 2])], "not square");
}
