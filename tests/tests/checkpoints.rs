//! A checkpoint and its ONNX export are the same function: both arrive at the same high-level ops with the same facts.
//!
//! The files are in the shared test data (`LATHE_SHARED`, or `../shared` beside the workspace); without them the test says that it
//! is skipped. That outputs and tokens are those of PyTorch is what `lathe test` compares.

use std::path::{Path, PathBuf};

use lathe_compiler::CompileOptions;
use serde_json::{Value, json};

/// Exports whose graphs lose or hide a fact, with what it is.
const OTHER_FORM: &[(&str, &str)] = &[
    (
        "switch-transformers/onnx/ts",
        "frozen to the batch it was traced with, with its experts and biases unrolled",
    ),
    ("chameleon-lm/onnx/dynamo", "without the encoder of pictures"),
    ("chameleon-lm/onnx/ts", "without the encoder of pictures"),
];

/// The ops that are compared, with the attributes that both can know.
const OPS: &[(&str, &[&str])] = &[
    ("attention", &["causal", "window", "kv_heads", "scale", "softcap", "sinks", "alibi", "key_padding"]),
    ("rotary_embedding", &["kind", "dims", "base", "scaling"]),
    ("rms_norm", &["epsilon"]),
    ("layer_norm", &["epsilon"]),
    ("moe", &["experts", "top_k", "router", "renormalise", "capacity", "groups"]),
];

fn zoo() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let data = std::env::var_os("LATHE_SHARED").map_or(beside, PathBuf::from).join("data/zoo");
    data.is_dir().then_some(data)
}

/// The compared ops of a model after the passes, sorted.
fn ops(path: &Path) -> Result<Vec<String>, String> {
    let options = CompileOptions::default();
    let mut module = lathe_compiler::import(path, &options).map_err(|error| error.to_string())?;
    lathe_compiler::optimise(&mut module, &options, &mut |_, _| {}).map_err(|error| error.to_string())?;
    let main = module.function(module.main().ok_or("no function")?);
    let nodes = lathe_compiler::describe(main);
    let found = nodes.iter().filter_map(|node| {
        let op = node["op"].as_str()?;
        let (_, attributes) = OPS.iter().find(|(name, _)| *name == op)?;
        let facts: Vec<String> =
            attributes.iter().map(|name| format!("{name}={}", rounded(&node["attrs"][name]))).collect();
        Some(format!("{op} {}", facts.join(" ")))
    });
    let mut found: Vec<String> = found.collect();
    found.sort();
    Ok(found)
}

/// A number to five digits: exporters compute scales and bases in other precisions.
fn rounded(value: &Value) -> Value {
    match value.as_f64() {
        Some(number) if number != 0.0 => {
            let unit = 10f64.powf(number.abs().log10().floor() - 4.0);
            json!(format!("{:.4e}", (number / unit).round() * unit))
        }
        _ => value.clone(),
    }
}

#[test]
fn checkpoints_and_exports_are_the_same_function() {
    let Some(zoo) = zoo() else {
        eprintln!("SKIPPED: no shared test data (set LATHE_SHARED)");
        return;
    };
    let mut wrong = Vec::new();
    let mut checked = 0;
    let mut families: Vec<PathBuf> =
        std::fs::read_dir(&zoo).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    families.sort();
    for family in families {
        let name = family.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !family.join("hf/config.json").is_file() {
            continue;
        }
        let built = ops(&family.join("hf"));
        for exporter in ["dynamo", "ts"] {
            let model = family.join("onnx").join(exporter).join("model.onnx");
            let export = format!("{name}/onnx/{exporter}");
            if !model.is_file() || OTHER_FORM.iter().any(|(known, _)| *known == export) {
                continue;
            }
            checked += 1;
            match (&built, ops(&model)) {
                (Ok(built), Ok(exported)) if *built == exported => {}
                (Ok(built), Ok(exported)) => {
                    let only = |a: &[String], b: &[String]| a.iter().find(|op| !b.contains(op)).cloned();
                    wrong.push(format!(
                        "{export}: {} ops and {}; only built: {:?}; only exported: {:?}",
                        built.len(),
                        exported.len(),
                        only(built, &exported),
                        only(&exported, built)
                    ));
                }
                (Err(error), _) => wrong.push(format!("{export}: {error}")),
                (_, Err(error)) => wrong.push(format!("{export}: {error}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {checked}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked > 0, "no model in {}", zoo.display());
}
