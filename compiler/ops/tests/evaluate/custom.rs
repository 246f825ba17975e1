use lathe_ops::custom::CustomFunctions;
use serde_json::json;

use super::*;

fn registered() -> CustomFunctions {
    CustomFunctions::new()
        .with("com.example", "Doubled", |call| {
            let x = call.input(0)?;
            let factor = call.attributes.get("factor").and_then(Value::as_f64).unwrap_or(2.0) as f32;
            let cells = x.to_slice::<f32>().map_err(|error| error.to_string())?;
            let cells: Vec<f32> = cells.iter().map(|cell| factor * cell).collect();
            Ok(vec![Tensor::from_slice(&cells, x.shape()).map_err(|error| error.to_string())?])
        })
        .with("com.example", "Broken", |_| panic!("a bug of the app"))
        .with("com.example", "Stopped", |call| match call.is_cancelled() {
            true => Err("stopped".into()),
            false => Ok(Vec::new()),
        })
}

fn call(operator: &str, x: Option<&Tensor>, limits: &Limits<'_>) -> Result<Vec<Tensor>, EvalError> {
    let attributes = json!({"domain": "com.example", "operator": operator, "attributes": {"factor": 3.0}});
    op("custom", &attributes).evaluate(&[x], 1, limits)
}

#[test]
fn functions_of_the_app_evaluate_its_operators() {
    let functions = registered();
    let limits = Limits { custom: Some(&functions), ..Limits::default() };
    let x = f(&[2], &[1.0, -2.0]);
    let results = call("Doubled", Some(&x), &limits).expect("a result");
    assert_same("custom", &results[0], &f(&[2], &[3.0, -6.0]));
    let reason = |operator: &str, x: Option<&Tensor>, limits: &Limits<'_>| {
        call(operator, x, limits).expect_err("a refusal").to_string()
    };
    assert!(reason("Doubled", None, &limits).contains("com.example.Doubled: input 0 is missing"));
    assert!(reason("Broken", Some(&x), &limits).contains("panicked"));
    assert!(reason("Stopped", Some(&x), &limits).contains("0 outputs here, not 1"));
    assert!(reason("Other", Some(&x), &limits).contains("com.example.Other is not registered"));
    assert!(reason("Doubled", Some(&x), &Limits::default()).contains("not registered"));
    let small = Limits { max_bytes: 4, ..limits };
    assert!(matches!(call("Doubled", Some(&x), &small), Err(EvalError::TooLarge { .. })));
}
