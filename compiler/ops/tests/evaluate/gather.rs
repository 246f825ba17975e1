use serde_json::json;

use super::*;

#[test]
fn gathers() {
    let x = count(&[3, 2]);
    let axis = |axis: i64| json!({"axis": axis});
    check("gather", axis(0), &[&x, &i(&[2], &[-1, 0])], &[f(&[2, 2], &[4.0, 5.0, 0.0, 1.0])]);
    check("gather", axis(-1), &[&x, &of(&[], &[1i32])], &[f(&[3], &[1.0, 3.0, 5.0])]);
    check("gather", axis(0), &[&text(&[2], &["a", "b"]), &i(&[1], &[1])], &[text(&[1], &["b"])]);
    for index in [3, -4, i64::MIN, i64::MAX] {
        refuse(
            "gather",
            axis(0),
            &[&x, &i(&[1], &[index])],
            &format!("index {index} lies outside axis 0 of size 3"),
        );
    }
    check("gather_elements", axis(0), &[&x, &i(&[1, 2], &[2, -3])], &[f(&[1, 2], &[4.0, 1.0])]);
    refuse("gather_elements", axis(0), &[&x, &i(&[1, 3], &[0; 3])], "outside x");
    let nd = |batch_dims: usize| json!({"batch_dims": batch_dims});
    check("gather_nd", nd(0), &[&x, &i(&[2, 2], &[0, 0, 2, 1])], &[f(&[2], &[0.0, 5.0])]);
    check("gather_nd", nd(0), &[&x, &i(&[1, 1], &[1])], &[f(&[1, 2], &[2.0, 3.0])]);
    check("gather_nd", nd(1), &[&x, &i(&[3, 1], &[1, 0, -1])], &[f(&[3], &[1.0, 2.0, 5.0])]);
    refuse("gather_nd", nd(0), &[&x, &i(&[1, 3], &[0; 3])], "do not fit x");
    refuse("gather_nd", nd(usize::MAX), &[&x, &i(&[1, 1], &[0])], "do not fit x");
}

#[test]
fn scatters() {
    let x = i(&[3], &[1, 2, 3]);
    let (indices, updates) = (i(&[3], &[0, 0, -1]), i(&[3], &[5, 7, 9]));
    let cases = [
        ("replace", [7, 2, 9]),
        ("add", [13, 2, 12]),
        ("mul", [35, 2, 27]),
        ("max", [7, 2, 9]),
        ("min", [1, 2, 3]),
    ];
    for (reduction, expected) in cases {
        let attributes = json!({"axis": 0, "reduction": reduction});
        check("scatter_elements", attributes, &[&x, &indices, &updates], &[i(&[3], &expected)]);
        let tuples = i(&[3, 1], &[0, 0, -1]);
        check("scatter_nd", json!({"reduction": reduction}), &[&x, &tuples, &updates], &[i(&[3], &expected)]);
    }
    let (rows, update) = (i(&[1, 1], &[1]), f(&[1, 2], &[8.0, 9.0]));
    check(
        "scatter_nd",
        json!({"reduction": "replace"}),
        &[&count(&[2, 2]), &rows, &update],
        &[f(&[2, 2], &[0.0, 1.0, 8.0, 9.0])],
    );
    refuse("scatter_nd", json!({"reduction": "add"}), &[&x, &i(&[1, 1], &[3]), &i(&[1], &[0])], "index 3");
    refuse(
        "scatter_elements",
        json!({"axis": 0, "reduction": "add"}),
        &[&x, &indices, &i(&[1], &[0])],
        "differ in shape",
    );
}

#[test]
fn nonzero_elements() {
    check("non_zero", json!({}), &[&f(&[2, 2], &[0.0, 1.0, f32::NAN, -0.0])], &[i(&[2, 2], &[0, 1, 1, 0])]);
    check("non_zero", json!({}), &[&b(&[], &[true])], &[i(&[0, 1], &[])]);
}

#[test]
fn distinct_elements_and_slices() {
    let x = i(&[5], &[3, 1, 3, 2, 1]);
    let sorted = [i(&[3], &[1, 2, 3]), i(&[3], &[1, 3, 0]), i(&[5], &[2, 0, 2, 1, 0]), i(&[3], &[2, 1, 2])];
    check("unique", json!({"axis": null, "sorted": true}), &[&x], &sorted);
    let found = [i(&[3], &[3, 1, 2]), i(&[3], &[0, 1, 3]), i(&[5], &[0, 1, 0, 2, 1]), i(&[3], &[2, 2, 1])];
    check("unique", json!({"axis": null, "sorted": false}), &[&x], &found);
    let rows = f(&[3, 2], &[1.0, f32::NAN, 0.0, 5.0, 1.0, f32::NAN]);
    let y = f(&[2, 2], &[0.0, 5.0, 1.0, f32::NAN]);
    check("unique", json!({"axis": 0, "sorted": true}), &[&rows], &[y]);
    refuse("unique", json!({"axis": 2, "sorted": true}), &[&rows], "axis 2");
}
