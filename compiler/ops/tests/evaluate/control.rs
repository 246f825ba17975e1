use serde_json::json;

use super::*;

#[test]
fn rows_are_appended() {
    let rows = i(&[1, 2], &[1, 2]);
    check("append", json!({}), &[&rows, &i(&[2], &[3, 4])], &[i(&[2, 2], &[1, 2, 3, 4])]);
    let none = f(&[0, 0], &[]);
    check("append", json!({}), &[&none, &f(&[2], &[5.0, 6.0])], &[f(&[1, 2], &[5.0, 6.0])]);
    check("append", json!({}), &[&text(&[1], &["a"]), &text(&[], &["b"])], &[text(&[2], &["a", "b"])]);
    refuse("append", json!({}), &[&rows, &i(&[3], &[3, 4, 5])], "does not fit");
    refuse("append", json!({}), &[&rows, &f(&[2], &[3.0, 4.0])], "i64");
    refuse("append", json!({}), &[&i(&[], &[1]), &i(&[], &[1])], "an axis");
}
