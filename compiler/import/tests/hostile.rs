//! Broken and malicious models: each must be a clear error, soon, and never a panic.
//!
//! The models are in the shared test data (`LATHE_SHARED`, or `../shared` beside the workspace); without them the test says
//! that it is skipped.

use std::path::Path;
use std::time::{Duration, Instant};

use lathe_import::{ImportError, ImportOptions, import_onnx};
use lathe_ir::{EvaluateOptions, Module, evaluate};
use lathe_tensor::Tensor;
use serde_json::Value;
use support::{feed, rows_of};

mod support;

/// What an import of one model may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What is wrong with the result of a row, if anything.
fn judge(row: &Value, path: &Path) -> Option<String> {
    let text = |key: &str| row[key].as_str().unwrap_or_default();
    let start = Instant::now();
    let result = import_onnx(path, &ImportOptions { max_memory: 1 << 30, ..Default::default() });
    let took = start.elapsed();
    if took > LIMIT {
        return Some(format!("took {took:?}"));
    }
    match (text("expected"), text("stage"), result) {
        ("clear error", "load", Ok(_)) => Some("imported".to_string()),
        (expected, "run", Ok(module)) => judge_run(expected, &module, &row["feeds"]),
        ("runs ok", _, Err(ImportError::UnsupportedOperators { .. })) => None,
        ("runs ok", _, Err(error)) => Some(format!("refused: {error}")),
        (_, _, Err(error)) => {
            let message = error.to_string();
            let clear = message.contains(&*path.to_string_lossy()) && message.len() < 8000;
            (!clear || message.chars().any(char::is_control)).then(|| format!("unclear: {message:?}"))
        }
        _ => None,
    }
}

/// What is wrong with a plain evaluation on the row's feeds, if anything.
fn judge_run(expected: &str, module: &Module, feeds: &Value) -> Option<String> {
    let main = module.main()?;
    let function = module.function(main);
    let fed = |id| {
        let name = function.value(id).name.as_deref().unwrap_or_default();
        feed(&feeds[name]).ok_or_else(|| format!("`{name}` is not fed"))
    };
    let start = Instant::now();
    let inputs: Result<Vec<Tensor>, String> = function.inputs().iter().map(|&id| fed(id)).collect();
    let result = inputs.and_then(|inputs| {
        let mut options = EvaluateOptions::default();
        options.limits.max_bytes = 1 << 26;
        evaluate(module, main, &inputs, &options).map_err(|error| error.to_string())
    });
    let took = start.elapsed();
    match (expected, result) {
        _ if took > LIMIT => Some(format!("took {took:?}")),
        ("clear error", Ok(_)) => Some("runs".to_string()),
        ("runs ok", Err(error)) => Some(format!("fails: {error}")),
        (_, Err(error)) => error.starts_with("internal").then_some(error),
        _ => None,
    }
}

#[test]
fn hostile_models_are_refused_and_controls_are_not() {
    let rows = rows_of(&["onnx"]);
    let judged = rows.iter().map(|(path, row)| (row, judge(row, path)));
    let failures: Vec<String> = judged
        .filter_map(|(row, problem)| Some(format!("{} ({}): {}", row["id"], row["what"], problem?)))
        .collect();
    assert!(failures.is_empty(), "{} of {} rows fail:\n{}", failures.len(), rows.len(), failures.join("\n"));
}
