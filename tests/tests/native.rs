//! No ONNX file of the zoo has a step that the evaluator runs.
//!
//! The files are in the shared test data (`LATHE_SHARED`, or `../shared` beside the workspace); without them the test says that it is
//! skipped.

use std::path::{Path, PathBuf};

use lathe_artifact::plan::{Step, StepKind};
use lathe_compiler::CompileOptions;

fn zoo() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let data = std::env::var_os("LATHE_SHARED").map_or(beside, PathBuf::from).join("data/zoo");
    data.is_dir().then_some(data)
}

/// Every ONNX file below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "onnx") {
            found.push(path);
        }
    }
}

/// Evaluator steps, with the reason why they are such.
fn evaluated(steps: &[Step], found: &mut Vec<String>) {
    for step in steps {
        match &step.kind {
            StepKind::Evaluate(_) => found.push(format!("{} `{}`: {}", step.op, step.node, step.reason)),
            StepKind::If { then_steps, else_steps, .. } => {
                evaluated(then_steps, found);
                evaluated(else_steps, found);
            }
            _ => {}
        }
    }
}

#[test]
fn every_step_of_the_zoo_is_native() {
    let Some(zoo) = zoo() else {
        eprintln!("SKIPPED: no shared test data (set LATHE_SHARED)");
        return;
    };
    let mut models = Vec::new();
    files(&zoo, &mut models);
    assert!(!models.is_empty(), "no model in {}", zoo.display());
    let mut wrong = Vec::new();
    for model in models {
        let name = model.strip_prefix(&zoo).unwrap_or(&model).display().to_string();
        match lathe_compiler::compile(&model, &CompileOptions::default()) {
            Ok(artifact) => {
                let mut found = Vec::new();
                artifact.functions.iter().for_each(|function| evaluated(&function.plan.steps, &mut found));
                wrong.extend(found.into_iter().map(|step| format!("{name}: {step}")));
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
