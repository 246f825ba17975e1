//! Models that quantise values by their own range have onnxruntime's bits: one other bit would be another code.
//!
//! `fixtures/rounding.py` makes the cases; it needs Python with `onnx` and `onnxruntime`. Without them the test says that it is left out.

use std::path::Path;
use std::process::Command;

#[test]
fn bits_that_decide_about_codes_are_those_of_onnxruntime() {
    let python = |arguments: &[&str]| Command::new("python3").args(arguments).output();
    if !python(&["-c", "import onnx, onnxruntime"]).is_ok_and(|output| output.status.success()) {
        eprintln!("LEFT OUT: python3 with the packages onnx and onnxruntime is not there");
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/rounding.py");
    let folder = tempfile::tempdir().expect("a folder");
    let cases = folder.path().join("cases");
    let output = python(&[&script.to_string_lossy(), &cases.to_string_lossy()]).expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let count: usize = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number of cases");
    assert!(count > 80, "{count} cases");
    let output = Command::new(env!("CARGO_BIN_EXE_lathe"))
        .args(["test", &cases.to_string_lossy(), "--timeout", "60"])
        .output()
        .expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!("{count} passed")), "{text}");
}
