//! Broken and malicious models: each must be a clear error, soon, and never a panic.
//!
//! The models are in the shared test data (`LATHE_SHARED`, or `../shared` beside the workspace); without them the test says
//! that it is skipped.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lathe_import::{ImportError, ImportOptions, import_onnx};
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
