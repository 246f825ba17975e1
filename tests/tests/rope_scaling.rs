//! Rotary embeddings that are asked for on a plain checkpoint give what a configuration with them gives, for every kind.

use std::path::{Path, PathBuf};

use lathe::{CompileOptions, LoadOptions, Team, Tensor};
use lathe_compiler::RopeScaling;
use lathe_runtime::Session;
use serde_json::{Value, json};

/// Tokens that the models of the table were made for, and of the texts.
const ORIGINAL: usize = 16;
const TOKENS: usize = 8 * ORIGINAL;

/// A kind, its parameters beside factor and original length, and the same in a configuration.
type Row = (&'static str, &'static [(&'static str, &'static [f64])], fn() -> Value);

const TABLE: &[Row] = &[
    ("linear", &[], || json!({"factor": 8.0})),
    ("ntk", &[], || json!({"factor": 8.0})),
    ("dynamic", &[], || json!({"factor": 8.0})),
    ("yarn", &[], || json!({"factor": 8.0})),
    (
        "yarn",
        &[("beta_fast", &[16.0]), ("attention_factor", &[1.5])],
        || json!({"factor": 8.0, "beta_fast": 16.0, "attention_factor": 1.5}),
    ),
    ("llama3", &[], || json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0})),
    ("longrope", &[], || json!({"factor": 8.0, "short_factor": vec![1.0; 8], "long_factor": vec![8.0; 8]})),
    (
        "longrope",
        &[
            ("short_factor", &[1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]),
            ("long_factor", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
        ],
        || {
            json!({
                "factor": 8.0,
                "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
                "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
            })
        },
    ),
];

fn zoo() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/zoo");
    let folder = std::env::var_os("LATHE_ZOO").map_or(beside, PathBuf::from);
    if !folder.is_dir() {
        eprintln!("LEFT OUT: no zoo");
        return None;
    }
    Some(folder)
}

fn scaling(kind: &str, parameters: &[(&str, &[f64])]) -> RopeScaling {
    let parameters = parameters.iter().map(|(name, numbers)| (name.to_string(), numbers.to_vec()));
    RopeScaling {
        kind: RopeScaling::kind_of(kind).expect("a kind"),
        factor: Some(8.0),
        original: Some(ORIGINAL),
        parameters: parameters.collect(),
    }
}

fn options(rope: Option<RopeScaling>) -> LoadOptions {
    let compile = CompileOptions { rope, ..CompileOptions::default() };
    LoadOptions { cache: None, compile, ..LoadOptions::default() }
}

/// The logits of `main` for a text of that length, as bits.
fn logits(config: &Path, rope: Option<RopeScaling>, tokens: usize) -> Vec<u32> {
    let model = lathe::load(config, &options(rope)).unwrap_or_else(|error| panic!("{error}"));
    let mut session = Session::with_team(&model, &Team::new(2).expect("a team")).expect("a session");
    let ids: Vec<i64> = (0..tokens as i64).map(|index| (index * index * 7 + 5) % 199).collect();
    let tensor = |values: &[i64]| Tensor::from_slice(values, &[1, tokens]).expect("a tensor");
    let (ids, mask) = (tensor(&ids), tensor(&vec![1; tokens]));
    let positions = tensor(&(0..tokens as i64).collect::<Vec<_>>());
    let inputs = [("input_ids", &ids), ("attention_mask", &mask), ("position_ids", &positions)];
    let outputs = session.run(&inputs).expect("logits");
    let logits = outputs.get("logits").expect("logits").to_slice::<f32>().expect("f32").into_owned();
    logits.into_iter().map(f32::to_bits).collect()
}

/// The plain model with another configuration, in a folder of its own.
fn changed(source: &Path, config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    std::fs::copy(source.join("model.safetensors"), folder.path().join("model.safetensors")).expect("copied");
    folder
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

/// A plain configuration of that context, in both spellings.
fn plain(source: &Path) -> [Value; 2] {
    ["config.json", "config.v4.json"].map(|name| {
        let mut config = read(&source.join(name));
        config["max_position_embeddings"] = json!(ORIGINAL);
        config
    })
}

/// The same with a scaling.
fn scaled(mut config: Value, kind: &str, fields: Value) -> Value {
    let place = if config["rope_parameters"].is_object() { "rope_parameters" } else { "rope_scaling" };
    if !config[place].is_object() {
        config[place] = json!({});
    }
    config[place]["rope_type"] = json!(kind);
    config[place]["original_max_position_embeddings"] = json!(ORIGINAL);
    for (name, value) in fields.as_object().into_iter().flatten() {
        config[place][name] = value.clone();
    }
    config
}

#[test]
fn an_override_equals_the_scaled_configuration() {
    let Some(zoo) = zoo() else { return };
    let source = zoo.join("llama-gqa").join("hf");
    let [config, _] = plain(&source);
    let folder = changed(&source, &config);
    let unscaled = logits(folder.path(), None, TOKENS);
    for (kind, parameters, fields) in TABLE {
        for config in plain(&source) {
            let (one, other) =
                (changed(&source, &config), changed(&source, &scaled(config.clone(), kind, fields())));
            for tokens in [ORIGINAL / 2, TOKENS] {
                let asked = logits(one.path(), Some(scaling(kind, parameters)), tokens);
                assert!(
                    asked == logits(other.path(), None, tokens),
                    "{kind} {parameters:?}, {tokens} tokens"
                );
                assert!(tokens < TOKENS || asked != unscaled, "{kind} changes nothing");
            }
        }
    }
}

#[test]
fn the_graph_says_how_it_is_scaled() {
    let Some(zoo) = zoo() else { return };
    let source = zoo.join("llama-gqa").join("hf");
    for (kind, parameters, _) in TABLE {
        let options = options(Some(scaling(kind, parameters))).compile;
        let artifact = lathe::compile(&source, &options).expect("a model");
        for function in ["main", "decode"] {
            let nodes = artifact.report["nodes"][function].as_array().expect("nodes").clone();
            let rotary: Vec<_> = nodes.iter().filter(|node| node["op"] == "rotary_embedding").collect();
            assert!(!rotary.is_empty(), "{kind}: no rotation in {function}");
            for node in rotary {
                assert_eq!(node["attrs"]["scaling"], *kind, "{node}");
            }
        }
    }
}

#[test]
fn what_cannot_be_scaled_is_refused_with_a_reason() {
    let Some(zoo) = zoo() else { return };
    let llama = zoo.join("llama-gqa").join("hf");
    let yarn = || scaling("yarn", &[]);
    let rows: &[(PathBuf, RopeScaling, &str)] = &[
        (zoo.join("llama-gqa/onnx/dynamo/model.onnx"), yarn(), "an ONNX graph"),
        (zoo.join("gpt2/hf"), yarn(), "without rotary embeddings"),
        (llama.clone(), RopeScaling { factor: None, ..yarn() }, "needs a factor"),
        (llama.clone(), RopeScaling { factor: Some(0.5), ..yarn() }, "must be at least 1"),
        (llama.clone(), scaling("linear", &[("beta_fast", &[1.0])]), "takes no `beta_fast`"),
        (llama.clone(), scaling("longrope", &[("long_factor", &[1.0, 2.0])]), "must hold 8 numbers"),
        (llama, scaling("llama3", &[("low_freq_factor", &[9.0])]), "is not below"),
    ];
    for (path, rope, reason) in rows {
        let error = lathe::load(path, &options(Some(rope.clone()))).expect_err("a refusal").to_string();
        assert!(error.contains(reason), "{}: {error}", path.display());
    }
}
