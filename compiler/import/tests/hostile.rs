//! Broken and malicious models: each must be a clear error, soon, and never a panic.
//!
//! The models are in the shared test data (`LATHE_SHARED`, or `../shared` beside the workspace); without them the test says
//! that it is skipped.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lathe_import::{ImportError, ImportOptions, import_onnx};
use lathe_ir::{EvaluateOptions, Module, evaluate};
use lathe_tensor::{Buffer, DType, Tensor};
use serde_json::Value;

/// What an import of one model may take.
const LIMIT: Duration = Duration::from_secs(10);

fn shared() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let root = std::env::var_os("LATHE_SHARED").map_or(beside, PathBuf::from);
    let hostile = root.join("data/hostile");
    hostile.join("manifest.json").is_file().then_some(hostile)
}

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

/// A tensor of the manifest: `b64`, or `fill`, or `strings_hex`.
fn feed(feed: &Value) -> Option<Tensor> {
    let name = feed["dtype"].as_str()?;
    let shape: Vec<usize> = feed["shape"]
        .as_array()?
        .iter()
        .map(|size| size.as_u64().map(|size| size as usize))
        .collect::<Option<_>>()?;
    let dtype = match name.replace("uint", "u").replace("int", "i").replace("float", "f").as_str() {
        "string" | "object" => DType::String,
        short => short.parse().ok()?,
    };
    if let Some(strings) = feed["strings_hex"].as_array() {
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes = |hex: &Value| hex.as_str()?.as_bytes().chunks(2).map(byte).collect();
        return Tensor::from_strings(strings.iter().map(bytes).collect::<Option<_>>()?, &shape).ok();
    }
    match feed["b64"].as_str() {
        Some(text) => Tensor::new(dtype, shape, Buffer::copy_of(&base64(text))).ok(),
        None => {
            let mut tensor = Tensor::zeros(dtype, &shape).ok()?;
            let value = feed["fill"].as_f64()? as f32;
            tensor.as_mut_slice::<f32>().ok()?.fill(value);
            Some(tensor)
        }
    }
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte));
    let (mut bits, mut count, mut bytes) = (0u32, 0, Vec::new());
    for digit in digits {
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

#[test]
fn hostile_models_are_refused_and_controls_are_not() {
    let Some(directory) = shared() else {
        eprintln!("SKIPPED: no shared test data (set LATHE_SHARED)");
        return;
    };
    let manifest = std::fs::read(directory.join("manifest.json")).expect("the manifest");
    let rows: Vec<Value> = serde_json::from_slice(&manifest).expect("a list of rows");
    let onnx = rows.iter().filter(|row| row["kind"] == "onnx");
    let mut failures = Vec::new();
    let mut count = 0;
    for row in onnx {
        count += 1;
        let path = directory.join(row["file"].as_str().expect("a file"));
        if let Some(problem) = judge(row, &path) {
            failures.push(format!("{} ({}): {problem}", row["id"], row["what"]));
        }
    }
    assert!(failures.is_empty(), "{} of {count} rows fail:\n{}", failures.len(), failures.join("\n"));
}
