//! The ONNX backend cases of the first tier, imported and evaluated plainly; the real models, imported (`lathe test` runs them).
//!
//! The cases are in the shared test data (`LATHE_SHARED`, or `../shared` beside the workspace); without them the tests say
//! that they are skipped. `LATHE_CASES` (a part of a name) picks cases.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::{bf16, f16};
use lathe_import::{ImportOptions, import_onnx, read_tensor};
use lathe_ir::{EvaluateOptions, evaluate};
use lathe_tensor::{DType, Tensor};
use serde_json::Value;

fn shared() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let data = std::env::var_os("LATHE_SHARED").map_or(beside, PathBuf::from).join("data");
    data.join("onnx-node/tiers.json").is_file().then_some(data)
}

fn json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// `prefix_0.pb`, `prefix_1.pb`, ... of a data set.
fn tensors(set: &Path, prefix: &str) -> Result<Vec<Tensor>, String> {
    let files = (0..).map(|index| set.join(format!("{prefix}_{index}.pb"))).take_while(|path| path.exists());
    files
        .map(|path| read_tensor(&path, 1 << 30).map(|(_, tensor)| tensor).map_err(|error| error.to_string()))
        .collect()
}

fn numbers(tensor: &Tensor) -> Option<Vec<f64>> {
    fn wide<T: lathe_tensor::Element>(tensor: &Tensor, widen: fn(T) -> f64) -> Option<Vec<f64>> {
        Some(tensor.to_slice::<T>().ok()?.iter().map(|&element| widen(element)).collect())
    }
    match tensor.dtype() {
        DType::F32 => wide::<f32>(tensor, f64::from),
        DType::F64 => wide::<f64>(tensor, |element| element),
        DType::F16 => wide::<f16>(tensor, f64::from),
        DType::BF16 => wide::<bf16>(tensor, f64::from),
        _ => None,
    }
}

/// How far an output is from what is expected, if too far.
fn differs(found: &Tensor, expected: &Tensor, rtol: f64, atol: f64) -> Option<String> {
    if (found.dtype(), found.shape()) != (expected.dtype(), expected.shape()) {
        let (a, b) = ((found.dtype(), found.shape()), (expected.dtype(), expected.shape()));
        return Some(format!("{a:?} instead of {b:?}"));
    }
    let Some((a, b)) = numbers(found).zip(numbers(expected)) else {
        let equal = found.bytes() == expected.bytes() && found.strings().ok() == expected.strings().ok();
        return (!equal).then(|| "other elements".to_string());
    };
    let close =
        |(a, b): (&f64, &f64)| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= atol + rtol * b.abs();
    let wrong = a.iter().zip(&b).position(|pair| !close(pair))?;
    let count = a.iter().zip(&b).filter(|pair| !close(*pair)).count();
    Some(format!("{count} of {} differ, first {} instead of {} at {wrong}", a.len(), a[wrong], b[wrong]))
}

fn run(case: &Path) -> Result<(), String> {
    let module = import_onnx(&case.join("model.onnx"), &ImportOptions::default())
        .map_err(|error| error.to_string())?;
    let main = module.main().ok_or("no main")?;
    let data = json(&case.join("data.json")).unwrap_or_default();
    let (rtol, atol) = (data["rtol"].as_f64().unwrap_or(1e-3), data["atol"].as_f64().unwrap_or(1e-7));
    let sets = (0..).map(|index| case.join(format!("test_data_set_{index}"))).take_while(|set| set.exists());
    for set in sets {
        let inputs = tensors(&set, "input")?;
        let options = EvaluateOptions { check: true, ..Default::default() };
        let outputs = evaluate(&module, main, &inputs, &options).map_err(|error| error.to_string())?;
        for (index, expected) in tensors(&set, "output")?.iter().enumerate() {
            let found = outputs.get(index).ok_or_else(|| format!("output {index} is missing"))?;
            if let Some(difference) = differs(found, expected, rtol, atol) {
                return Err(format!("{}: output {index}: {difference}", set.display()));
            }
        }
    }
    Ok(())
}

/// Runs all cases on a few threads; one line a failure.
fn run_all(cases: &[PathBuf]) -> Vec<String> {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = catch_unwind(AssertUnwindSafe(|| run(case))).unwrap_or(Err("panicked".into()));
            if let Err(reason) = result {
                let line = format!("{}: {reason}", case.display());
                failures.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(line);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(worker);
        }
    });
    let mut failures = failures.into_inner().unwrap_or_default();
    failures.sort();
    failures
}

fn picked(name: &str) -> bool {
    std::env::var("LATHE_CASES").map_or(true, |part| name.contains(&part))
}

#[test]
fn backend_cases_of_the_first_tier_pass() {
    let Some(data) = shared() else {
        eprintln!("SKIPPED: no shared test data (set LATHE_SHARED)");
        return;
    };
    let tiers = json(&data.join("onnx-node/tiers.json")).expect("tiers");
    let names: Vec<&str> =
        tiers["plain"]["T1"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    // The image classifiers take minutes when evaluated plainly: with `LATHE_SLOW` only.
    let slow = std::env::var_os("LATHE_SLOW").is_some();
    let names = names.into_iter().filter(|name| picked(name) && (slow || !name.starts_with("light/")));
    let cases: Vec<PathBuf> = names.map(|name| data.join("onnx-node/cases").join(name)).collect();
    let failures = run_all(&cases);
    assert!(
        failures.is_empty(),
        "{} of {} cases fail:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

#[test]
fn real_models_import() {
    let Some(data) = shared() else {
        eprintln!("SKIPPED: no shared test data (set LATHE_SHARED)");
        return;
    };
    for name in ["basic-pitch", "magika", "ppocr-cls", "ppocr-det", "ppocr-rec", "silero-vad"] {
        let path = data.join("real").join(name).join("model.onnx");
        let module = import_onnx(&path, &ImportOptions::default()).expect(name);
        assert!(module.functions().any(|(_, function)| function.node_count() > 0), "{name}");
    }
}
