use serde_json::{Value, json};

use super::*;

#[test]
fn words_are_normalised() {
    let x = text(&[3], &["Monday", "TUESDAY", "wednesday"]);
    let normalise = |case: &str, sensitive: bool, stops: &[&str]| json!({"case": case, "case_sensitive": sensitive, "stopwords": stops});
    let lower = text(&[2], &["tuesday", "wednesday"]);
    check("string_normalizer", normalise("lower", false, &["MONDAY"]), &[&x], std::slice::from_ref(&lower));
    check("string_normalizer", normalise("lower", true, &["Monday"]), &[&x], &[lower]);
    let all = ["Monday", "TUESDAY", "wednesday"];
    check("string_normalizer", normalise("keep", true, &all), &[&x], &[text(&[1], &[""])]);
    let row = text(&[1, 1], &["É"]);
    check("string_normalizer", normalise("lower", true, &[]), &[&row], &[text(&[1, 1], &["é"])]);
    refuse("string_normalizer", normalise("keep", true, &[]), &[&text(&[2, 1], &["a", "b"])], "neither");
}

#[test]
fn strings_are_cut_and_joined() {
    let x = text(&[2], &["a,b,,c", ""]);
    let split = |delimiter: &str, limit: Value| json!({"delimiter": delimiter, "limit": limit});
    let parts = text(&[2, 4], &["a", "b", "", "c", "", "", "", ""]);
    check("string_split", split(",", Value::Null), &[&x], &[parts, i(&[2], &[4, 1])]);
    let parts = text(&[2, 2], &["a", "b,,c", "", ""]);
    check("string_split", split(",", json!(1)), &[&x], &[parts, i(&[2], &[2, 1])]);
    let spaced = text(&[1], &["  a  b c "]);
    check("string_split", split("", json!(1)), &[&spaced], &[text(&[1, 2], &["a", "b c "]), i(&[1], &[2])]);
    let (a, b) = (text(&[2, 1], &["a", "b"]), text(&[2], &["x", "y"]));
    check("string_concat", json!({}), &[&a, &b], &[text(&[2, 2], &["ax", "ay", "bx", "by"])]);
    refuse("string_concat", json!({}), &[&a, &f(&[1], &[1.0])], "string");
}

#[test]
fn expressions_match_whole_strings() {
    let x = text(&[3], &["abc", "xabc", "abcx"]);
    check("regex_full_match", json!({"pattern": "a|abc"}), &[&x], &[b(&[3], &[true, false, false])]);
    refuse("regex_full_match", json!({"pattern": "("}), &[&x], "the pattern");
    refuse("regex_full_match", json!({"pattern": "(a{999}){999}"}), &[&x], "the pattern");
}

#[test]
fn n_grams_are_counted() {
    let grams = |mode: &str, skip: usize| {
        json!({"mode": mode, "min_length": 1, "max_length": 2, "max_skip": skip,
        "starts": [0, 2], "columns": [0, 1, 2], "weights": [1.0, 2.0, 3.0], "strings": [], "integers": [5, 6, 5, 6]})
    };
    let x = i(&[2, 3], &[5, 7, 6, 5, 6, 6]);
    check("tf_idf", grams("count", 0), &[&x], &[f(&[2, 3], &[1.0, 1.0, 0.0, 1.0, 2.0, 1.0])]);
    check("tf_idf", grams("count", 1), &[&x], &[f(&[2, 3], &[1.0, 1.0, 1.0, 1.0, 2.0, 2.0])]);
    check("tf_idf", grams("weight", 0), &[&x], &[f(&[2, 3], &[1.0, 2.0, 0.0, 1.0, 2.0, 3.0])]);
    check("tf_idf", grams("product", 0), &[&x], &[f(&[2, 3], &[1.0, 2.0, 0.0, 1.0, 4.0, 3.0])]);
    let words = json!({"mode": "count", "min_length": 1, "max_length": 1, "max_skip": 0, "starts": [0],
        "columns": [1, 0], "weights": [], "strings": ["a", "b"], "integers": []});
    check("tf_idf", words.clone(), &[&text(&[3], &["a", "c", "a"])], &[f(&[2], &[0.0, 2.0])]);
    refuse("tf_idf", words, &[&x], "n-grams");
}

#[test]
fn values_by_key() {
    let (known, values) = (text(&[2], &["a", "b"]), i(&[2], &[1, 2]));
    let x = text(&[3], &["b", "c", "a"]);
    check("lookup", json!({}), &[&x, &known, &values, &i(&[1], &[-1])], &[i(&[3], &[2, -1, 1])]);
    let (known, values) = (f(&[2], &[f32::NAN, 0.0]), text(&[2], &["none", "zero"]));
    let x = f(&[3], &[-0.0, f32::NAN, 1.0]);
    let y = text(&[3], &["zero", "none", "?"]);
    check("lookup", json!({}), &[&x, &known, &values, &text(&[1], &["?"])], &[y]);
    refuse("lookup", json!({}), &[&x, &known, &values, &text(&[2], &["?", "!"])], "one default");
}
