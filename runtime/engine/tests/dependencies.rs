//! An app that ships compiled models links this crate alone: no compiler comes with it.

use std::process::Command;

#[test]
fn the_runtime_does_not_depend_on_the_compiler() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "-p", "lathe-runtime", "-e", "normal", "--prefix", "none", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let crates: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.contains(&"lathe-kernels"));
    for name in
        ["petgraph", "prost", "lathe-ir", "lathe-import", "lathe-passes", "lathe-plan", "lathe-codegen"]
    {
        assert!(!crates.contains(&name), "lathe-runtime depends on {name}");
    }
    assert!(!crates.iter().any(|name| name.starts_with("cranelift")));
}
