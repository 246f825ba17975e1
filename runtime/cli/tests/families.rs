//! Families of which the test data has no checkpoint, against the answers of a reference in numpy (`fixtures/families.py`).

use std::path::Path;
use std::process::Command;

#[test]
fn logits_and_tokens_are_those_of_the_reference() {
    let families = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/families");
    let count = std::fs::read_dir(&families).expect("the fixtures").count();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new(env!("CARGO_BIN_EXE_lathe"))
        .arg("test")
        .arg(&families)
        .args(["--timeout", "120"])
        .env("LATHE_CACHE_DIR", folder.path().join("cache"))
        .env("LATHE_KEY_FILE", folder.path().join("key"))
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && count > 0, "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(&format!("{count} passed, 0 failed")), "{said}");
}
