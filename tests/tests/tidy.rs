//! House rules that a machine can check.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a source file at most.
const MAX_LINES: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Source files below the workspace's rooms.
fn sources(extension: &str) -> Vec<PathBuf> {
    let mut waiting: Vec<PathBuf> = ["compiler", "passes", "proto", "runtime", "tests", "fixtures"]
        .iter()
        .map(|room| root().join(room))
        .collect();
    let mut files = Vec::new();
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                waiting.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(extension != "rs" || files.len() > 50, "the walk found only {} files", files.len());
    files
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn in_room(path: &Path, room: &str) -> bool {
    path.starts_with(root().join(room))
}

#[test]
fn files_are_short() {
    let long: Vec<_> =
        sources("rs").into_iter().filter(|path| read(path).lines().count() > MAX_LINES).collect();
    assert!(long.is_empty(), "over {MAX_LINES} lines, split them by meaning: {long:#?}");
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    let rooms = ["runtime/kernels", "runtime/engine", "runtime/tensor"];
    let outside: Vec<_> = sources("rs")
        .into_iter()
        .filter(|path| !rooms.iter().any(|room| in_room(path, room)) && !path.ends_with("tidy.rs"))
        .filter(|path| {
            read(path).lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                    .iter()
                    .any(|word| code.contains(word))
            })
        })
        // Execution tests hand generated code to the processor through the engine's own entry.
        .filter(|path| !in_room(path, "tests/tests"))
        .collect();
    assert!(outside.is_empty(), "unsafe outside {rooms:?}: {outside:#?}");
    let crates = [
        "proto",
        "passes",
        "compiler/ops",
        "compiler/ir",
        "compiler/import",
        "compiler/plan",
        "compiler/codegen",
        "compiler/driver",
        "runtime/artifact",
        "runtime/generate",
        "runtime/cli",
    ];
    for room in crates {
        let lib = read(&root().join(room).join("src/lib.rs"));
        assert!(lib.contains("#![forbid(unsafe_code)]"), "{room}/src/lib.rs does not forbid unsafe code");
    }
}

#[test]
fn unsafe_blocks_say_why_they_are_safe() {
    let mut missing = Vec::new();
    for path in sources("rs").into_iter().filter(|path| !path.ends_with("tidy.rs")) {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if !code.contains("unsafe {") && !code.contains("unsafe impl") {
                continue;
            }
            let above = lines[index.saturating_sub(12)..=index].iter();
            if !above.clone().any(|line| line.contains("SAFETY")) {
                missing.push(format!("{}:{}", path.display(), index + 1));
            }
        }
    }
    assert!(missing.is_empty(), "no // SAFETY: near {missing:#?}");
}

#[test]
fn no_snapshot_is_pending() {
    let pending: Vec<_> = [sources("new"), sources("pending-snap")].concat();
    assert!(pending.is_empty(), "review these snapshots: {pending:#?}");
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = [["to", "do!("].concat(), ["unimpl", "emented!("].concat(), ["FIX", "ME"].concat()];
    let found: Vec<_> = sources("rs")
        .into_iter()
        .filter(|path| marks.iter().any(|mark| read(path).contains(mark.as_str())))
        .collect();
    assert!(found.is_empty(), "unfinished: {found:#?}");
}

/// Direct and indirect dependencies of a crate, build and test dependencies apart.
fn tree(package: &str) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string());
    let output = Command::new(cargo)
        .args(["tree", "--offline", "--locked", "-e", "normal", "--prefix", "none", "-p", package])
        .current_dir(root())
        .output();
    let output = output.expect("cargo runs, as it runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn compiler_and_runtime_meet_only_in_the_contract() {
    let runtime = tree("lathe-runtime");
    for name in
        ["cranelift", "petgraph", "prost", "lathe-ir", "lathe-passes", "lathe-plan", "lathe-codegen", "tract"]
    {
        assert!(!runtime.contains(name), "lathe-runtime depends on {name}");
    }
    let compiler = tree("lathe-compiler");
    for name in ["lathe-runtime", "lathe-kernels"] {
        assert!(!compiler.contains(name), "lathe-compiler depends on {name}");
    }
    for (package, above) in [
        ("lathe-tensor", "lathe-"),
        ("lathe-ir", "lathe-passes"),
        ("lathe-passes", "lathe-plan"),
        ("lathe-plan", "lathe-codegen"),
        ("lathe-codegen", "lathe-ir"),
    ] {
        let below = tree(package);
        let others: Vec<_> = below.lines().skip(1).filter(|line| line.starts_with(above)).collect();
        assert!(others.is_empty(), "{package} depends on {others:?}");
    }
}

#[test]
fn dependencies_are_declared_once() {
    for path in sources("toml") {
        let text = read(&path);
        let dependencies = text
            .split("dependencies]")
            .skip(1)
            .flat_map(str::lines)
            .take_while(|line| !line.starts_with('['));
        let versioned: Vec<_> = dependencies.filter(|line| line.contains("version =")).collect();
        assert!(
            versioned.is_empty(),
            "{}: declare in [workspace.dependencies]: {versioned:?}",
            path.display()
        );
    }
}
