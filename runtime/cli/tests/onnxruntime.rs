//! Operators with sizes and attributes that nobody chose, against onnxruntime.
//!
//! Scripts in `fixtures` make the cases; they need Python with `onnx` and `onnxruntime`. Without them the tests say that they are left out.

use std::path::Path;
use std::process::Command;

/// Runs the cases that a script makes for each seed, more than `least`.
fn cases_pass(script: &str, seeds: &[&str], least: usize) {
    let python = |arguments: &[&str]| Command::new("python3").args(arguments).output();
    if !python(&["-c", "import onnx, onnxruntime"]).is_ok_and(|output| output.status.success()) {
        eprintln!("LEFT OUT: python3 with the packages onnx and onnxruntime is not there");
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(script);
    let folder = tempfile::tempdir().expect("a folder");
    for seed in seeds {
        let cases = folder.path().join(seed);
        let output =
            python(&[&script.to_string_lossy(), &cases.to_string_lossy(), seed]).expect("python3 runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let count: usize = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number of cases");
        assert!(count > least, "{count} cases");
        let output = Command::new(env!("CARGO_BIN_EXE_lathe"))
            .args(["test", &cases.to_string_lossy(), "--timeout", "60"])
            .output()
            .expect("the binary runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "seed {seed}:\n{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains(&format!("{count} passed")), "{text}");
    }
}

#[test]
fn contributed_operators_are_as_in_onnxruntime() {
    cases_pass("contrib.py", &["0", "1"], 250);
}

/// Models that quantise values by their own range have onnxruntime's bits: one other bit would be another code.
#[test]
fn bits_that_decide_about_codes_are_those_of_onnxruntime() {
    cases_pass("rounding.py", &["0", "1"], 80);
}
