//! `lathe generate` on what it refuses; what it generates is tested against references in the workspace's tests.

use std::path::Path;
use std::process::Command;

/// Exit code and message of a command that fails.
fn fails(arguments: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new(env!("CARGO_BIN_EXE_lathe"))
        .arg("generate")
        .args(arguments)
        .current_dir(folder.path())
        .env("LATHE_CACHE_DIR", folder.path().join("cache"))
        .env("LATHE_KEY_FILE", folder.path().join("key"))
        .output()
        .expect("the binary runs");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.stdout.is_empty() && !output.status.success());
    (output.status.code().expect("no signal"), message)
}

#[test]
fn what_is_wrong_is_said() {
    let magika = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/magika.onnx");
    let magika = magika.to_string_lossy();
    for (arguments, code, reason) in [
        (&["m.onnx"][..], 2, "--tokens <IDS>|--prompt <TEXT>"),
        (&["m.onnx", "--tokens", "1,x"], 2, "`x` is not a token id"),
        (&["m.onnx", "--tokens", "1", "--cache", "some"], 2, "invalid value"),
        (&["m.onnx", "--tokens", "1", "--trace", "t"], 2, "`--trace` is not in this version"),
        (&["m.onnx", "--tokens", "1", "--beams", "4", "--temperature", "1"], 2, "cannot be used with"),
        (&["m.onnx", "--tokens", "1", "--top-p", "1.5"], 2, "expected a number of 0 to 1"),
        (&["m.onnx", "--tokens", "1", "--chat"], 2, "cannot be used with"),
        (&["m.onnx", "-p", "Hello"], 1, "has no tokenizer"),
        (&[&magika, "--tokens", "1,2"], 1, "the model cannot generate: it has no input `input_ids`"),
        (&[".", "--tokens", "1,2"], 1, "not a model"),
    ] {
        let (exit, message) = fails(arguments);
        assert!(exit == code && message.contains(reason), "{arguments:?}: {exit}: {message}");
    }
}
