//! Pieces of models as exporters write them, of sizes that the zoo does not have: the optimised graph holds the facts that were written
//! beside each, and every pass keeps the answer.
//!
//! `fixtures/structures.py` builds the files; it needs Python with the `onnx` package. Without them the test says that it is left out.

use std::path::Path;

use lathe_compiler::CompileOptions;
use lathe_compiler::verify::Verification;
use lathe_ir::{EvaluateOptions, Module};
use lathe_tensor::Tensor;
use lathe_tests::facts::written;
use serde_json::Value;

/// Largest difference between the graph before and after a pass, of the largest element.
const TOLERANCE: f64 = 1e-4;

#[test]
fn structures_of_exporters_are_recognised() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(expected) = written("structures.py", "onnx, numpy", folder.path()) else {
        eprintln!("LEFT OUT: python3 with the packages onnx and numpy is not there");
        return;
    };
    let cases = expected.as_object().expect("facts by name");
    assert!(cases.len() > 110, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for (name, facts) in cases {
        let path = folder.path().join(format!("{name}.onnx"));
        if let Err(reason) = check(&path, facts) {
            wrong.push(format!("{name}: {reason}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn check(path: &Path, facts: &Value) -> Result<(), String> {
    let options = CompileOptions::default();
    let mut module = lathe_compiler::import(path, &options).map_err(|error| error.to_string())?;
    let imported = module.clone();
    if facts["verify"].is_null() {
        let verification =
            Verification::of_module(module.clone(), path, 7).map_err(|error| error.to_string())?;
        let differences = verification.passes(path, &options).map_err(|error| error.to_string())?;
        if let Some((pass, difference)) = differences.iter().find(|(_, found)| found.max_rel > TOLERANCE) {
            return Err(format!("`{pass}` changes the answer by {}", difference.max_rel));
        }
    }
    lathe_compiler::optimise(&mut module, &options, &mut |_, _| {}).map_err(|error| error.to_string())?;
    if facts["verify"] == "padded" {
        padded(&imported, &module)?;
    }
    let nodes = lathe_compiler::describe(module.function(module.main().ok_or("no function")?));
    for op in ["attention", "moe"] {
        let Some(wanted) = facts[op].as_array() else { continue };
        let found: Vec<&Value> =
            nodes.iter().filter(|node| node["op"] == op).map(|node| &node["attrs"]).collect();
        if found.len() != wanted.len() {
            return Err(format!("{} nodes `{op}`, not {}", found.len(), wanted.len()));
        }
        for (found, wanted) in found.iter().zip(wanted) {
            let differs =
                wanted.as_object().into_iter().flatten().find(|(name, value)| !same(&found[*name], value));
            if let Some((name, value)) = differs {
                return Err(format!("{op}: {name} is {}, not {value}", found[name]));
            }
        }
    }
    let counts = facts["ops"].as_object().into_iter().flatten();
    for (op, count) in counts {
        let found = nodes.iter().filter(|node| node["op"] == **op).count();
        if Some(found as u64) != count.as_u64() {
            return Err(format!("{found} nodes `{op}`, not {count}"));
        }
    }
    Ok(())
}

/// That two modules give the same for sequences of which some keys are seen.
fn padded(before: &Module, after: &Module) -> Result<(), String> {
    let number = |place: usize| ((place * 37 + place / 5) % 41) as f32 / 20.0 - 1.0;
    let x: Vec<f32> = (0..2 * 5 * 24).map(number).collect();
    let mask = [1i64, 1, 1, 1, 1, 0, 0, 1, 1, 1];
    let answer = |module: &Module| -> Result<Vec<f32>, String> {
        let main = module.main().ok_or("no function")?;
        let body = module.function(main);
        let inputs = body.inputs().iter().map(|&input| match body.value(input).name.as_deref() {
            Some("attention_mask") => Tensor::from_slice(&mask, &[2, 5]),
            _ => Tensor::from_slice(&x, &[2, 5, 24]),
        });
        let inputs: Vec<Tensor> = inputs.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        let outputs = lathe_ir::evaluate(module, main, &inputs, &EvaluateOptions::default());
        let outputs = outputs.map_err(|error| error.to_string())?;
        outputs[0].to_slice::<f32>().map(|cells| cells.into_owned()).map_err(|error| error.to_string())
    };
    let (before, after) = (answer(before)?, answer(after)?);
    let largest = before.iter().fold(0f32, |largest, cell| largest.max(cell.abs()));
    let worst = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0f32, |worst, difference| {
        if difference.is_nan() { f32::INFINITY } else { worst.max(difference) }
    });
    let close = before.len() == after.len() && f64::from(worst) <= TOLERANCE * f64::from(largest);
    if close { Ok(()) } else { Err(format!("the passes change the answer by {worst} of {largest}")) }
}

fn same(found: &Value, wanted: &Value) -> bool {
    match (found.as_f64(), wanted.as_f64()) {
        (Some(found), Some(wanted)) => (found - wanted).abs() < 1e-4,
        _ => found == wanted,
    }
}
