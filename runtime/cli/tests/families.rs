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

#[test]
fn what_an_answer_was_compiled_for_is_in_the_cache_behind_it() {
    let families = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/families");
    let model = families.join("gemma/hf");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cache = folder.path().join("cache");
    let answer = || {
        let output = Command::new(env!("CARGO_BIN_EXE_lathe"))
            .arg("generate")
            .arg(&model)
            .args(["--tokens", "5,6,7", "-n", "3", "--greedy", "--json"])
            .env("LATHE_CACHE_DIR", &cache)
            .env("LATHE_KEY_FILE", folder.path().join("key"))
            .output()
            .expect("the binary runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        document["tokens"].clone()
    };
    let first = answer();
    let entries: Vec<_> =
        std::fs::read_dir(&cache).expect("a cache").flatten().map(|entry| entry.path()).collect();
    let [entry] = &entries[..] else { panic!("one entry, no locks and no unfinished files: {entries:?}") };
    let changed = std::fs::metadata(entry).expect("an entry").modified().expect("a time");
    assert_eq!(first, answer());
    // The second answer used the entry, which moves its time, and made no other.
    assert_eq!(std::fs::read_dir(&cache).expect("a cache").count(), 1);
    assert!(std::fs::metadata(entry).expect("an entry").modified().expect("a time") > changed);
}
