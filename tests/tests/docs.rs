//! The documentation tells the truth where a test can say so.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn every_pass_is_described() {
    let page = std::fs::read_to_string(root().join("docs/PASSES.md")).expect("docs/PASSES.md");
    let missing: Vec<_> = lathe_passes::standard()
        .iter()
        .map(lathe_passes::Pass::name)
        .filter(|name| !page.contains(&format!("`{name}`")))
        .collect();
    assert!(missing.is_empty(), "docs/PASSES.md says nothing of {missing:?}");
}

#[test]
fn every_pass_that_is_described_exists() {
    let page = std::fs::read_to_string(root().join("docs/PASSES.md")).expect("docs/PASSES.md");
    let known: Vec<_> = lathe_passes::standard().iter().map(lathe_passes::Pass::name).collect();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    for row in rows {
        let names = row.split('|').nth(1).unwrap_or_default();
        for name in names.split('`').skip(1).step_by(2) {
            assert!(known.contains(&name), "docs/PASSES.md describes `{name}`, which is no pass");
        }
    }
}

#[test]
fn operators_are_listed_as_they_are() {
    let written = std::fs::read_to_string(lathe_tests::operators::path()).expect("docs/OPERATORS.md");
    let measured = lathe_tests::operators::page().expect("a page");
    if written != measured {
        let beside = Path::new(env!("CARGO_TARGET_TMPDIR")).join("OPERATORS.md");
        std::fs::write(&beside, &measured).expect("a file");
        let mut lines = written.lines().zip(measured.lines());
        let first = lines.find(|(written, measured)| written != measured);
        panic!(
            "docs/OPERATORS.md differs, first {first:?}; run `cargo run --release -p lathe-tests --example operators`, or copy {}",
            beside.display()
        );
    }
    // What many models are made of runs natively.
    for operator in ["MatMul", "Conv", "LSTM", "GRU", "Resize", "TopK", "NonMaxSuppression", "ConvTranspose"]
    {
        let row = measured.lines().find(|row| row.starts_with(&format!("| {operator} |"))).expect(operator);
        assert!(!row.contains("`evaluator`"), "{row}");
    }
}
