//! The optimised graph of every ONNX file of the zoo holds attention and mixtures of experts, not their decompositions, with the facts that
//! `config.json` asks for.
//!
//! What is expected is computed from the configuration, so that it holds for other sizes. The files are in the shared test data
//! (`LATHE_SHARED`, or `../shared` beside the workspace); without them the test says that it is skipped.

#[path = "structure/expected.rs"]
mod expected;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use expected::{Attention, Mixture};
use lathe_compiler::CompileOptions;
use lathe_compiler::planning::{CacheLayer, Requirements};
use lathe_ir::{Function, Operation, ValueId};
use lathe_ops::Op;
use serde_json::Value;

fn zoo() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let data = std::env::var_os("LATHE_SHARED").map_or(beside, PathBuf::from).join("data/zoo");
    data.is_dir().then_some(data)
}

/// Folders with a `model.onnx`, by their path below the zoo.
fn exports(zoo: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let folders = |path: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    };
    for family in folders(zoo) {
        for exporter in folders(&family.join("onnx")) {
            let name = exporter.strip_prefix(zoo).unwrap_or(&exporter).to_string_lossy().into_owned();
            found.insert(name, exporter.join("model.onnx"));
        }
    }
    found
}

#[test]
fn attention_is_recognised_in_every_family() {
    let Some(zoo) = zoo() else {
        eprintln!("SKIPPED: no shared test data (set LATHE_SHARED)");
        return;
    };
    let mut wrong = Vec::new();
    let mut checked = 0;
    for (name, model) in exports(&zoo) {
        let family = zoo.join(name.split('/').next().unwrap_or_default());
        let Some(expected) = expected::of(&family.join("hf/config.json")) else { continue };
        match check(&model, &expected) {
            Ok(()) => checked += 1,
            Err(reasons) => wrong.push(format!("{name}: {reasons}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} files:\n{}", wrong.len(), checked + wrong.len(), wrong.join("\n"));
    assert!(checked > 0, "no model in {}", zoo.display());
}

#[test]
fn exports_need_what_their_checkpoints_need() {
    let Some(zoo) = zoo() else {
        eprintln!("SKIPPED: no shared test data (set LATHE_SHARED)");
        return;
    };
    let options = lathe_import::ImportOptions::default();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (name, model) in exports(&zoo) {
        let config = zoo.join(name.split('/').next().unwrap_or_default()).join("hf/config.json");
        let Ok(built) = Requirements::of(&config, &options) else { continue };
        let found = Requirements::of(&model, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        // Exported latent attention is kept head by head.
        let whole = |layer: &CacheLayer| CacheLayer { latent: None, ..*layer };
        let caches = |needs: &Requirements| {
            let list = |layers: &[CacheLayer]| layers.iter().map(whole).collect::<Vec<_>>();
            (list(&needs.cache), list(&needs.source_cache))
        };
        match caches(&found) == caches(&built) {
            true => checked += 1,
            false => wrong.push(format!("{name}: {:?}, built: {:?}", caches(&found), caches(&built))),
        }
    }
    assert!(wrong.is_empty(), "{} of {} files:\n{}", wrong.len(), checked + wrong.len(), wrong.join("\n"));
    assert!(checked > 0, "no model in {}", zoo.display());
}

fn check(model: &Path, expected: &expected::Structure) -> Result<(), String> {
    let options = CompileOptions::default();
    let mut module = lathe_compiler::import(model, &options).map_err(|error| error.to_string())?;
    lathe_compiler::optimise(&mut module, &options, &mut |_, _| {}).map_err(|error| error.to_string())?;
    let main = module.function(module.main().ok_or("no function")?);
    let nodes = lathe_compiler::describe(main);
    let count = |op: &str| nodes.iter().filter(|node| node["op"] == op).count();
    if count("softmax") > 0 {
        return Err(format!("{} softmax nodes outside of attention and routers", count("softmax")));
    }
    let mut mixtures: Vec<Mixture> =
        nodes.iter().filter(|node| node["op"] == "moe").map(|node| mixture(&node["attrs"])).collect();
    mixtures.sort();
    if mixtures != expected.mixtures {
        return Err(format!("expected {:#?}, found {mixtures:#?}", expected.mixtures));
    }
    let attrs = nodes.iter().filter(|node| node["op"] == "attention").map(|node| &node["attrs"]);
    let mut actual: Vec<Attention> = attrs.map(facts).collect();
    let mut wanted = expected.attention.clone();
    let named =
        |name: &str| main.inputs().iter().any(|&input| main.value(input).name.as_deref() == Some(name));
    if named("pixel_values") {
        wanted.extend(expected.of_pictures.iter().cloned());
    }
    actual.sort();
    wanted.sort();
    if actual != wanted {
        return Err(format!("expected {wanted:#?}, found {actual:#?}"));
    }
    match repeated_heads(main) {
        None => Ok(()),
        Some(node) => Err(format!("keys or values are repeated by `{node}`")),
    }
}

fn facts(attrs: &Value) -> Attention {
    let flag = |name: &str| attrs[name].as_bool() == Some(true);
    let count = |name: &str| attrs[name].as_u64();
    Attention {
        causal: flag("causal"),
        window: count("window"),
        kv_heads: count("kv_heads").unwrap_or(0),
        softcap: attrs["softcap"].as_f64().map(expected::thousandths),
        scale: attrs["scale"].as_f64().map_or(0, expected::thousandths),
        sinks: flag("sinks"),
        alibi: flag("alibi"),
        bias: flag("bias"),
    }
}

fn mixture(attrs: &Value) -> Mixture {
    let groups = attrs["groups"]["count"].as_u64().zip(attrs["groups"]["top"].as_u64());
    Mixture {
        experts: attrs["experts"].as_u64().unwrap_or(0),
        top_k: attrs["top_k"].as_u64().unwrap_or(0),
        router: attrs["router"].as_str().unwrap_or_default().to_string(),
        renormalise: attrs["renormalise"].as_bool() == Some(true),
        capacity: attrs["capacity"].as_u64(),
        groups: groups.map(|(count, top)| [count, top]),
    }
}

/// The node that repeats the keys or values of an attention node for its query heads, if one does.
fn repeated_heads(function: &Function) -> Option<String> {
    let attention = function
        .node_ids()
        .filter_map(|id| function.node(id))
        .filter(|node| matches!(node.operation, Operation::Op(Op::Attention(_))));
    let operands = attention.flat_map(|node| node.inputs.iter().skip(1).take(2).copied().flatten());
    operands.filter_map(|operand| repeats(function, operand)).next()
}

fn repeats(function: &Function, mut value: ValueId) -> Option<String> {
    while let Some((_, node)) = function.producer(value) {
        let Operation::Op(op) = &node.operation else { return None };
        match op {
            Op::Expand(_) | Op::Tile(_) => return Some(node.name.clone()),
            Op::Reshape(_) | Op::Transpose(_) | Op::Unsqueeze(_) | Op::Squeeze(_) => {}
            _ => return None,
        }
        value = node.inputs.first().copied().flatten()?;
    }
    None
}
