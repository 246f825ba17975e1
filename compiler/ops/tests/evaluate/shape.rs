use serde_json::{Value, json};

use super::*;

const NONE: Value = Value::Null;

#[test]
fn sizes() {
    let x = count(&[2, 3, 4]);
    check("shape", json!({"start": 0, "end": null}), &[&x], &[i(&[3], &[2, 3, 4])]);
    check("shape", json!({"start": -2, "end": -1}), &[&x], &[i(&[1], &[3])]);
    check("shape", json!({"start": 2, "end": i64::MIN}), &[&x], &[i(&[0], &[])]);
    check("size", json!({}), &[&x], &[i(&[], &[24])]);
}

#[test]
fn reshapes() {
    let x = count(&[2, 3]);
    let plain = json!({"allow_zero": false});
    check("reshape", plain.clone(), &[&x, &i(&[2], &[-1, 2])], &[count(&[3, 2])]);
    check("reshape", plain.clone(), &[&x, &i(&[3], &[0, -1, 1])], &[count(&[2, 3, 1])]);
    check("reshape", json!({"allow_zero": true}), &[&f(&[0], &[]), &i(&[2], &[3, 0])], &[f(&[3, 0], &[])]);
    for shape in [[-1, -1], [4, 2], [-2, 3], [-1, 4], [i64::MAX, i64::MAX]] {
        refuse("reshape", plain.clone(), &[&x, &i(&[2], &shape)], "");
    }
    refuse("reshape", plain, &[&x, &i(&[3], &[2, 3, 0])], "axis 2");
    check("squeeze", json!({"axes": null}), &[&count(&[1, 2, 1])], &[count(&[2])]);
    check("squeeze", json!({"axes": [-1]}), &[&count(&[1, 2, 1])], &[count(&[1, 2])]);
    refuse("squeeze", json!({"axes": [0]}), &[&x], "size 2");
    check("unsqueeze", json!({"axes": [0, -1]}), &[&x], &[count(&[1, 2, 3, 1])]);
    refuse("unsqueeze", json!({"axes": [0, 0]}), &[&x], "twice");
}

#[test]
fn rearrangements() {
    let x = i(&[2, 3], &[0, 1, 2, 3, 4, 5]);
    check("transpose", json!({"perm": [1, 0]}), &[&x], &[i(&[3, 2], &[0, 3, 1, 4, 2, 5])]);
    refuse("transpose", json!({"perm": [0, 0]}), &[&x], "permutation");
    check(
        "concat",
        json!({"axis": -1}),
        &[&x, &i(&[2, 1], &[8, 9])],
        &[i(&[2, 4], &[0, 1, 2, 8, 3, 4, 5, 9])],
    );
    check(
        "concat",
        json!({"axis": 0}),
        &[&text(&[1], &["a"]), &text(&[1], &["b"])],
        &[text(&[2], &["a", "b"])],
    );
    refuse("concat", json!({"axis": 0}), &[&x, &i(&[2, 1], &[8, 9])], "differ beside axis 0");
    let pieces = [i(&[2, 2], &[0, 1, 3, 4]), i(&[2, 1], &[2, 5])];
    check("split", json!({"axis": 1, "outputs": 2}), &[&x], &pieces);
    let pieces = [i(&[2, 0], &[]), i(&[2, 3], &[0, 1, 2, 3, 4, 5])];
    check("split", json!({"axis": 1, "outputs": 2}), &[&x, &i(&[2], &[0, 3])], &pieces);
    refuse("split", json!({"axis": 1, "outputs": 2}), &[&x, &i(&[2], &[-1, 4])], "do not divide");
    check("expand", NONE, &[&i(&[2, 1], &[1, 2]), &i(&[2], &[1, 2])], &[i(&[2, 2], &[1, 1, 2, 2])]);
    check("tile", NONE, &[&i(&[1, 2], &[1, 2]), &i(&[2], &[2, 2])], &[i(&[2, 4], &[1, 2, 1, 2, 1, 2, 1, 2])]);
    refuse("tile", NONE, &[&x, &i(&[2], &[-1, 1])], "negative");
}

#[test]
fn slices() {
    let x = i(&[5], &[0, 1, 2, 3, 4]);
    let cases: &[(i64, i64, i64, &[i64])] = &[
        (1, 4, 1, &[1, 2, 3]),
        (-2, i64::MAX, 1, &[3, 4]),
        (i64::MAX, i64::MIN, -2, &[4, 2, 0]),
        (3, 0, -1, &[3, 2, 1]),
        (4, 1, 1, &[]),
        (0, 5, i64::MAX, &[0]),
    ];
    for &(start, end, step, expected) in cases {
        let [start, end, axis, step] = [start, end, 0, step].map(|value| i(&[1], &[value]));
        check("slice", NONE, &[&x, &start, &end, &axis, &step], &[i(&[expected.len()], expected)]);
    }
    let zero = i(&[1], &[0]);
    refuse("slice", NONE, &[&x, &zero, &zero, &zero, &zero], "step of axis 0 is 0");
}

#[test]
fn padding() {
    let x = i(&[3], &[1, 2, 3]);
    let cases: &[(&str, [i64; 2], &[i64])] = &[
        ("constant", [1, 2], &[9, 1, 2, 3, 9, 9]),
        ("edge", [2, 1], &[1, 1, 1, 2, 3, 3]),
        ("reflect", [2, 3], &[3, 2, 1, 2, 3, 2, 1, 2]),
        ("wrap", [2, 4], &[2, 3, 1, 2, 3, 1, 2, 3, 1]),
        ("constant", [-1, 1], &[2, 3, 9]),
        ("edge", [-2, 1], &[3, 3]),
        ("constant", [-4, 4], &[]),
    ];
    for &(mode, pads, expected) in cases {
        let inputs = [&x, &i(&[2], &pads), &i(&[], &[9])];
        match expected {
            [] => refuse("pad", json!({"mode": mode}), &inputs, "crop more"),
            _ => check("pad", json!({"mode": mode}), &inputs, &[i(&[expected.len()], expected)]),
        }
    }
    let axes = i(&[1], &[-1]);
    let inputs = [&i(&[1, 1], &[1]), &i(&[2], &[0, 1]), &i(&[1], &[5]), &axes];
    check("pad", json!({"mode": "constant"}), &inputs, &[i(&[1, 2], &[1, 5])]);
    refuse("pad", json!({"mode": "reflect"}), &[&i(&[0], &[]), &i(&[2], &[1, 0])], "nothing to repeat");
}

#[test]
fn new_elements() {
    check("range", NONE, &[&i(&[], &[5]), &i(&[], &[0]), &i(&[], &[-2])], &[i(&[3], &[5, 3, 1])]);
    check("range", NONE, &[&f(&[], &[0.0]), &f(&[], &[1.0]), &f(&[], &[0.4])], &[f(&[3], &[0.0, 0.4, 0.8])]);
    check("range", NONE, &[&i(&[], &[0]), &i(&[], &[5]), &i(&[], &[-1])], &[i(&[0], &[])]);
    refuse("range", NONE, &[&i(&[], &[0]), &i(&[], &[5]), &i(&[], &[0])], "delta is 0");
    refuse("range", NONE, &[&f(&[], &[0.0]), &f(&[], &[1e30]), &f(&[], &[1.0])], "limit of");
    let constant = json!({"dtype": "i32", "bits": 7});
    check("constant_of_shape", constant.clone(), &[&i(&[2], &[1, 2])], &[of(&[1, 2], &[7, 7])]);
    check("constant_of_shape", constant.clone(), &[&i(&[0], &[])], &[of(&[], &[7])]);
    refuse("constant_of_shape", constant, &[&i(&[1], &[-1])], "negative -1");
    let x = i(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    check("trilu", json!({"upper": true}), &[&x], &[i(&[2, 3], &[1, 2, 3, 0, 5, 6])]);
    check("trilu", json!({"upper": false}), &[&x, &i(&[], &[1])], &[i(&[2, 3], &[1, 2, 0, 4, 5, 6])]);
    check("trilu", json!({"upper": true}), &[&x, &i(&[], &[i64::MAX])], &[i(&[2, 3], &[0; 6])]);
}

#[test]
fn packed_elements_move_like_others() {
    let to = |name: &str| json!({"to": name, "saturate": true});
    let packed = evaluate("cast", to("u4"), &[&i(&[2, 3], &[1, 2, 3, 4, 5, 6])], 1).expect("u4").remove(0);
    assert_eq!(packed.bytes(), [0x21, 0x43, 0x65]);
    let turned = evaluate("transpose", json!({"perm": [1, 0]}), &[&packed], 1).expect("u4").remove(0);
    check("cast", to("i64"), &[&turned], &[i(&[3, 2], &[1, 4, 2, 5, 3, 6])]);
}
