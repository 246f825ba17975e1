//! Models that a Python script of the fixtures writes, and what it expects of them.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs a script of the fixtures, which writes files and `expected.json` into a folder; `None` where Python or a package is missing.
///
/// # Panics
/// Where the script fails.
pub fn written(script: &str, packages: &str, folder: &Path) -> Option<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(script);
    let has = Command::new("python3").args(["-c", &format!("import {packages}")]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let output = Command::new("python3").arg(&script).arg(folder).output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = std::fs::read_to_string(folder.join("expected.json")).expect("the facts");
    Some(serde_json::from_str(&expected).expect("JSON"))
}
