//! Every rotation of the zoo's graphs has the pairing, width, base and scaling of its `config.json`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lathe_compiler::CompileOptions;
use lathe_ir::{Module, Operation};
use lathe_ops::Op;
use serde_json::Value;

/// The zoo: `LATHE_ZOO`, or the shared data beside this repository.
fn zoo() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/zoo");
    let folder = std::env::var_os("LATHE_ZOO").map_or(beside, PathBuf::from);
    folder.is_dir().then_some(folder)
}

/// Pairing, rotated elements, base and scaling.
type Rotation = (&'static str, i64, String, String);

/// What a configuration says of the rotations of its decoder.
struct Expected {
    rotations: BTreeSet<Rotation>,
    layers: usize,
}

fn expected(config: &Value) -> Option<Expected> {
    let text = config.get("text_config").unwrap_or(config);
    let number = |name: &str| text.get(name).and_then(Value::as_f64);
    let whole = |name: &str| text.get(name).and_then(Value::as_i64);
    let head_dim = whole("qk_rope_head_dim").or(whole("head_dim")).or_else(|| {
        Some(whole("hidden_size").or(whole("d_model"))? / whole("num_attention_heads").or(whole("n_heads"))?)
    })?;
    let interleaved = text.get("rope_interleave").and_then(Value::as_bool) == Some(true);
    let mut rotations = BTreeSet::new();
    let mut add = |base: f64, kind: &str, factor: f64| {
        let scaling = if kind == "default" { "none" } else { kind };
        let dims = (head_dim as f64 * factor) as i64;
        let pairing = if interleaved { "interleaved" } else { "half" };
        rotations.insert((pairing, dims, base.to_string(), scaling.to_string()));
    };
    match text.get("rope_parameters").and_then(Value::as_object) {
        Some(parameters) => {
            let one = parameters.contains_key("rope_theta");
            let lists: Vec<&Value> =
                if one { vec![&text["rope_parameters"]] } else { parameters.values().collect() };
            for list in lists {
                let factor = list["partial_rotary_factor"].as_f64().unwrap_or(1.0);
                add(list["rope_theta"].as_f64()?, list["rope_type"].as_str()?, factor);
            }
        }
        None => add(number("rope_theta")?, "default", 1.0),
    }
    let layers = whole("num_hidden_layers").or(whole("n_layers"))?;
    Some(Expected { rotations, layers: layers as usize })
}

/// The rotations of `main` and their number.
fn found(module: &Module) -> (BTreeSet<Rotation>, usize) {
    let body = module.function(module.main().expect("main"));
    let (mut rotations, mut count) = (BTreeSet::new(), 0);
    for id in body.node_ids() {
        let Some(node) = body.node(id) else { continue };
        let Operation::Op(Op::RotaryEmbedding(op)) = &node.operation else { continue };
        let x = node.inputs[0].expect("x");
        let width = body.ty(x).dims.last().and_then(|last| last.as_constant()).expect("a constant width");
        let dims = op.rotary_dim.map_or(width, |dims| dims as i64);
        let base = op.base.map_or("unknown".to_string(), |base| base.to_string());
        let scaling = serde_json::to_value(op.scaling).expect("a name");
        let scaling = scaling.as_str().unwrap_or("unknown").to_string();
        rotations.insert((if op.interleaved { "interleaved" } else { "half" }, dims, base, scaling));
        count += 1;
    }
    (rotations, count)
}

fn models(family: &Path) -> Vec<PathBuf> {
    let folders = ["onnx/dynamo", "onnx/ts", "with_past"];
    let files = folders.iter().filter_map(|folder| std::fs::read_dir(family.join(folder)).ok()).flatten();
    let files = files.filter_map(|file| Some(file.ok()?.path()));
    files.filter(|file| file.extension().is_some_and(|extension| extension == "onnx")).collect()
}

#[test]
fn rotations_are_those_of_the_configurations() {
    let Some(zoo) = zoo() else {
        println!("left out: no zoo here");
        return;
    };
    let mut families: Vec<PathBuf> =
        std::fs::read_dir(zoo).expect("the zoo").filter_map(|entry| Some(entry.ok()?.path())).collect();
    families.sort();
    let (mut table, mut checked) = (Vec::new(), 0);
    for family in families {
        let Ok(config) = std::fs::read_to_string(family.join("hf/config.json")) else { continue };
        let config: Value = serde_json::from_str(&config).expect("a configuration");
        let Some(expected) = expected(&config) else { continue };
        for path in models(&family) {
            let options = CompileOptions::default();
            let Ok(mut module) = lathe_compiler::import(&path, &options) else { continue };
            lathe_compiler::optimise(&mut module, &options, &mut |_, _| {}).expect("an optimised module");
            let (rotations, count) = found(&module);
            checked += 1;
            if rotations != expected.rotations || count != 2 * expected.layers {
                table.push(format!(
                    "{}: {count} of {rotations:?}, not {:?}",
                    path.display(),
                    expected.rotations
                ));
            }
        }
    }
    assert!(checked > 0, "no model was checked");
    assert!(table.is_empty(), "{}", table.join("\n"));
}
