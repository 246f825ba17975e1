//! Every dependency has a permissive licence.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Whether a licence expression can be satisfied: `MIT OR (Apache-2.0 AND ISC)`; the old `MIT/Apache-2.0` too.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut position = 0;
    any_of(&words, &mut position) && position == words.len()
}

fn any_of(words: &[&str], position: &mut usize) -> bool {
    let mut allowed = all_of(words, position);
    while words.get(*position) == Some(&"OR") {
        *position += 1;
        allowed |= all_of(words, position);
    }
    allowed
}

fn all_of(words: &[&str], position: &mut usize) -> bool {
    let mut allowed = one(words, position);
    while words.get(*position) == Some(&"AND") {
        *position += 1;
        allowed &= one(words, position);
    }
    allowed
}

fn one(words: &[&str], position: &mut usize) -> bool {
    if words.get(*position) == Some(&"(") {
        *position += 1;
        let allowed = any_of(words, position);
        *position += 1;
        return allowed;
    }
    let mut licence = words.get(*position).copied().unwrap_or_default().to_string();
    *position += 1;
    if words.get(*position) == Some(&"WITH") {
        licence = format!("{licence} WITH {}", words.get(*position + 1).copied().unwrap_or_default());
        *position += 2;
    }
    ALLOWED.contains(&licence.as_str())
}

#[test]
fn expressions_are_understood() {
    for expression in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "(MIT OR GPL-3.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(is_allowed(expression), "{expression}");
    }
    for expression in ["", "GPL-3.0", "MIT AND GPL-3.0", "Proprietary", "MIT)"] {
        assert!(!is_allowed(expression), "{expression}");
    }
}

#[test]
fn every_dependency_is_permissive() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--offline",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .output()
        .expect("cargo runs, as it runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("a list");
    assert!(packages.len() > 100);
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !is_allowed(package["license"].as_str().unwrap_or_default()))
        .map(|package| format!("{} {}", package["name"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
    let elsewhere: Vec<&Value> = packages
        .iter()
        .filter(|package| package["source"].as_str().is_some_and(|source| !source.starts_with("registry+")))
        .map(|package| &package["name"])
        .collect();
    assert!(elsewhere.is_empty(), "not from a registry: {elsewhere:?}");
}
