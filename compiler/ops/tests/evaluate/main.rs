//! Cases for every op of the table, and hostile inputs for all of them.

#![recursion_limit = "512"]

mod attention;
mod control;
mod conv;
mod custom;
mod elementwise;
mod gather;
mod hostile;
mod image;
mod ml;
mod moe;
mod norm;
mod quant;
mod recurrent;
mod reduce;
mod sequence;
mod shape;
mod signal;
mod text;

use lathe_ops::{EvalError, Limits, Op};
use lathe_tensor::{DType, Element, Tensor};
use serde_json::Value;

/// A tensor of any Rust type.
fn of<T: Element>(shape: &[usize], elements: &[T]) -> Tensor {
    Tensor::from_slice(elements, shape).expect("the shape fits")
}

fn f(shape: &[usize], elements: &[f32]) -> Tensor {
    of(shape, elements)
}

fn i(shape: &[usize], elements: &[i64]) -> Tensor {
    of(shape, elements)
}

fn b(shape: &[usize], elements: &[bool]) -> Tensor {
    Tensor::from_bools(elements, shape).expect("the shape fits")
}

fn text(shape: &[usize], elements: &[&str]) -> Tensor {
    let elements = elements.iter().map(|text| text.as_bytes().to_vec()).collect();
    Tensor::from_strings(elements, shape).expect("the shape fits")
}

/// `count` numbers 0, 1, 2, ... as f32.
fn count(shape: &[usize]) -> Tensor {
    let elements: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32).collect();
    f(shape, &elements)
}

fn op(name: &str, attributes: &Value) -> Op {
    let attributes = attributes.as_object().cloned().unwrap_or_default();
    Op::from_attributes(name, attributes).expect("the attributes fit")
}

fn evaluate_some(
    name: &str,
    attributes: Value,
    inputs: &[Option<&Tensor>],
    outputs: usize,
) -> Result<Vec<Tensor>, EvalError> {
    op(name, &attributes).evaluate(inputs, outputs, &Limits::default())
}

fn evaluate(
    name: &str,
    attributes: Value,
    inputs: &[&Tensor],
    outputs: usize,
) -> Result<Vec<Tensor>, EvalError> {
    let inputs: Vec<Option<&Tensor>> = inputs.iter().map(|&input| Some(input)).collect();
    evaluate_some(name, attributes, &inputs, outputs)
}

/// The results equal `expected`, floats to a relative 1e-6.
#[track_caller]
fn check(name: &str, attributes: Value, inputs: &[&Tensor], expected: &[Tensor]) {
    let results = match evaluate(name, attributes, inputs, expected.len()) {
        Ok(results) => results,
        Err(error) => panic!("{name}: {error}"),
    };
    for (result, expected) in results.iter().zip(expected) {
        assert_same(name, result, expected);
    }
}

/// The evaluation fails with a message that names the op and holds `part`.
#[track_caller]
fn refuse(name: &str, attributes: Value, inputs: &[&Tensor], part: &str) {
    let error = evaluate(name, attributes, inputs, 1).expect_err("it must fail").to_string();
    assert!(error.starts_with(name) && error.contains(part), "`{error}` does not hold `{part}`");
}

#[track_caller]
fn assert_same(name: &str, result: &Tensor, expected: &Tensor) {
    assert_eq!((result.dtype(), result.shape()), (expected.dtype(), expected.shape()), "{name}");
    if expected.dtype() == DType::F32 {
        let (result, expected) =
            (result.to_slice::<f32>().expect("f32"), expected.to_slice::<f32>().expect("f32"));
        for (a, b) in result.iter().zip(expected.iter()) {
            let close = a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-6 * b.abs().max(1e-3);
            assert!(close, "{name}: {result:?}, expected {expected:?}");
        }
        return;
    }
    assert_eq!(result.bytes(), expected.bytes(), "{name}");
    assert_eq!(result.strings().ok(), expected.strings().ok(), "{name}");
}

#[test]
fn every_op_is_tried_here() {
    let sources = [
        include_str!("attention.rs"),
        include_str!("control.rs"),
        include_str!("conv.rs"),
        include_str!("custom.rs"),
        include_str!("elementwise.rs"),
        include_str!("gather.rs"),
        include_str!("image.rs"),
        include_str!("ml.rs"),
        include_str!("moe.rs"),
        include_str!("norm.rs"),
        include_str!("quant.rs"),
        include_str!("recurrent.rs"),
        include_str!("reduce.rs"),
        include_str!("sequence.rs"),
        include_str!("shape.rs"),
        include_str!("signal.rs"),
        include_str!("text.rs"),
    ];
    let missing: Vec<_> = Op::names()
        .filter(|name| !sources.iter().any(|source| source.contains(&format!("\"{name}\""))))
        .collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}

#[test]
fn optional_floats_print_short() {
    let attributes = serde_json::json!({
        "q_heads": null, "kv_heads": null, "causal": false, "scale": 0.1, "softcap": 0.0, "qk_output": 0,
        "left_window": null, "right_window": null, "softmax_in_f64": false,
    });
    let op = op("attention", &attributes);
    assert_eq!(Value::Object(op.attributes()).to_string().matches("\"scale\":0.1").count(), 1);
    assert_eq!(Op::from_attributes("attention", op.attributes()).expect("round trip"), op);
}

#[test]
fn inputs_and_outputs_are_counted() {
    let x = f(&[1], &[1.0]);
    let add = op("add", &Value::Null);
    let limits = Limits::default();
    assert!(matches!(
        add.evaluate(&[Some(&x)], 1, &limits),
        Err(EvalError::MissingInput { op: "add", index: 1 })
    ));
    assert!(matches!(add.evaluate(&[Some(&x); 3], 1, &limits), Err(EvalError::BadValue { .. })));
    assert!(matches!(add.evaluate(&[Some(&x); 2], 0, &limits), Err(EvalError::BadValue { .. })));
    assert!(matches!(add.evaluate(&[Some(&x); 2], 2, &limits), Err(EvalError::BadValue { .. })));
}

#[test]
fn limits_hold() {
    let (x, shape) = (f(&[1], &[1.0]), i(&[2], &[1 << 20, 1 << 20]));
    let expand = op("expand", &Value::Null);
    let inputs = [Some(&x), Some(&shape)];
    let error = expand.evaluate(&inputs, 1, &Limits::default()).expect_err("4 TiB");
    assert!(matches!(error, EvalError::TooLarge { .. }), "{error}");
    let cancelled = Limits { cancel: Some(&|| true), ..Limits::default() };
    let shape = i(&[1], &[4]);
    let error = expand.evaluate(&[Some(&x), Some(&shape)], 1, &cancelled).expect_err("cancelled");
    assert!(matches!(error, EvalError::Cancelled { op: "expand" }), "{error}");
}
