//! Configurations and folders that are broken are refused with the field, file or weight that is wrong.

mod longformer;
mod rope;
mod vision;

use std::path::Path;

use super::Config;
use crate::{ImportOptions, import};

/// A tiny LLaMA's configuration, some of whose fields are replaced.
pub(super) fn llama(changes: &str) -> String {
    let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_str(
        r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 4,
            "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 5, "rms_norm_eps": 1e-5}"#,
    )
    .expect("JSON");
    let changes: serde_json::Map<String, serde_json::Value> = serde_json::from_str(changes).expect("JSON");
    config.extend(changes);
    serde_json::to_string(&config).expect("JSON")
}

/// A safetensors file of f32 zeros.
fn weights(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, shape)| (name.to_string(), shape.to_vec(), vec![0; 4 * shape.iter().product::<usize>()]))
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name.clone(), view.expect("a view"))
    });
    safetensors::serialize(views, None).expect("a file")
}

const LLAMA: &[(&str, &[usize])] = &[
    ("model.embed_tokens.weight", &[5, 8]),
    ("model.norm.weight", &[8]),
    ("lm_head.weight", &[5, 8]),
    ("model.layers.0.input_layernorm.weight", &[8]),
    ("model.layers.0.post_attention_layernorm.weight", &[8]),
    ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
    ("model.layers.0.self_attn.k_proj.weight", &[8, 8]),
    ("model.layers.0.self_attn.v_proj.weight", &[8, 8]),
    ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
    ("model.layers.0.mlp.gate_proj.weight", &[4, 8]),
    ("model.layers.0.mlp.up_proj.weight", &[4, 8]),
    ("model.layers.0.mlp.down_proj.weight", &[8, 4]),
];

fn folder(config: &str, files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary directory");
    std::fs::write(folder.path().join("config.json"), config).expect("write");
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("write");
    }
    folder
}

fn error(folder: &Path) -> String {
    import(folder, &ImportOptions::default()).expect_err("a broken model").to_string()
}

#[test]
fn a_whole_model_imports() {
    let folder = folder(&llama("{}"), &[("model.safetensors", weights(LLAMA))]);
    let module = import(folder.path(), &ImportOptions::default()).expect("a module");
    lathe_ir::verify(&module).expect("a valid module");
}

#[test]
fn checkpoints_of_the_bare_model_have_no_prefix() {
    let bare: Vec<_> =
        LLAMA.iter().map(|(name, shape)| (name.strip_prefix("model.").unwrap_or(name), *shape)).collect();
    let folder = folder(&llama("{}"), &[("model.safetensors", weights(&bare))]);
    import(folder.path(), &ImportOptions::default()).expect("a module");
}

#[test]
fn wrong_fields_are_named() {
    let cases = [
        (r#"{"num_attention_heads": -4}"#, "`num_attention_heads` is -4"),
        (r#"{"num_attention_heads": 3}"#, "3 attention heads do not divide the hidden size 8"),
        (r#"{"num_attention_heads": "2"}"#, "`num_attention_heads` is \"2\""),
        (r#"{"num_key_value_heads": 4}"#, "4 key and value heads do not divide 2"),
        (r#"{"num_hidden_layers": 0}"#, "`num_hidden_layers` is 0"),
        (r#"{"num_hidden_layers": null}"#, "`num_hidden_layers` or"),
        (r#"{"hidden_size": 1099511627776}"#, "`hidden_size` is 1099511627776"),
        (r#"{"head_dim": 7}"#, "cannot be rotated in pairs"),
        (r#"{"rms_norm_eps": "tiny"}"#, "`rms_norm_eps` is \"tiny\""),
        (r#"{"rope_theta": -1.0}"#, "`rope_theta` is -1.0; it must be a number above 0"),
        (r#"{"rope_scaling": {"type": "frob", "factor": 2}}"#, "known are default, linear"),
        (r#"{"rope_scaling": {"rope_type": "llama3"}}"#, "the `factor` of the rotary scaling is missing"),
        (r#"{"hidden_act": "frob"}"#, "known are relu, gelu"),
        (r#"{"architectures": ["EvilForCausalLM"]}"#, "`EvilForCausalLM`; of `llama` these are known"),
        (r#"{"architectures": "Llama"}"#, "it must be a list of texts"),
        (r#"{"model_type": "frob"}"#, "known are llama, mistral"),
        (r#"{"quantization_config": {"quant_method": "awq"}}"#, "weights quantised by awq"),
        (r#"{"layer_types": ["full_attention", "full_attention"]}"#, "2 entries for 1 layers"),
    ];
    for (changes, expected) in cases {
        let folder = folder(&llama(changes), &[("model.safetensors", weights(LLAMA))]);
        let error = error(folder.path());
        assert!(error.contains(expected) && error.contains("config.json"), "{changes}: {error}");
    }
}

#[test]
fn a_field_stands_once() {
    let fault = Config::parse(br#"{"a": 1, "b": {"c": 1, "c": 2}}"#).expect_err("twice");
    assert!(fault.reason.contains("\"c\" is there twice"), "{}", fault.reason);
    for broken in [&b"{\"a\": NaN}"[..], b"[]", b"\xff\xfe{\x00", b"", b"{\"a\": 1e999}"] {
        assert!(Config::parse(broken).is_err(), "{broken:?}");
    }
}

#[test]
fn all_missing_and_unknown_weights_are_listed() {
    let mut tensors: Vec<_> = LLAMA.iter().filter(|(name, _)| !name.contains("norm")).copied().collect();
    tensors.push(("model.frob.weight", &[2]));
    let folder = folder(&llama("{}"), &[("model.safetensors", weights(&tensors))]);
    let error = error(folder.path());
    for expected in
        ["3 weights are missing: ", "`model.norm.weight`", "1 unknown weights: `model.frob.weight`"]
    {
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn norms_may_have_the_names_of_old_checkpoints() {
    let old: Vec<(String, &[usize])> =
        LLAMA.iter().map(|(name, shape)| (name.replace("norm.weight", "norm.gamma"), *shape)).collect();
    let old: Vec<(&str, &[usize])> = old.iter().map(|(name, shape)| (name.as_str(), *shape)).collect();
    for prefix in ["", "model."] {
        let bare: Vec<(&str, &[usize])> =
            old.iter().map(|(name, shape)| (name.strip_prefix(prefix).unwrap_or(name), *shape)).collect();
        let folder = folder(&llama("{}"), &[("model.safetensors", weights(&bare))]);
        import(folder.path(), &ImportOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn sizes_must_be_those_of_the_configuration() {
    let folder = folder(&llama(r#"{"vocab_size": 6}"#), &[("model.safetensors", weights(LLAMA))]);
    let error = error(folder.path());
    assert!(error.contains("`model.embed_tokens.weight`") && error.contains("[5, 8]"), "{error}");
}

#[test]
fn shards_are_joined_and_stay_inside_the_folder() {
    let (first, second) = LLAMA.split_at(5);
    let index = |entries: &[(&str, &str)]| {
        let map: serde_json::Map<String, serde_json::Value> =
            entries.iter().map(|(name, file)| (name.to_string(), (*file).into())).collect();
        serde_json::json!({ "weight_map": map }).to_string().into_bytes()
    };
    let whole: Vec<(&str, &str)> = first
        .iter()
        .map(|(name, _)| (*name, "a.safetensors"))
        .chain(second.iter().map(|(name, _)| (*name, "b.safetensors")))
        .collect();
    let files = |index| {
        vec![
            ("a.safetensors", weights(first)),
            ("b.safetensors", weights(second)),
            ("model.safetensors.index.json", index),
        ]
    };
    let joined = folder(&llama("{}"), &files(index(&whole)));
    import(joined.path(), &ImportOptions::default()).expect("a module");
    for (wrong, expected) in [
        ("../b.safetensors", "is absolute or has `..`"),
        ("c.safetensors", "cannot open"),
        ("model.safetensors.index.json", "no name of a `.safetensors` file"),
        ("a.safetensors", "is not in `a.safetensors`"),
    ] {
        let mut entries = whole.clone();
        entries[11].1 = wrong;
        let error = error(folder(&llama("{}"), &files(index(&entries))).path());
        assert!(error.contains(expected), "{wrong}: {error}");
    }
}

#[test]
fn a_folder_needs_configuration_and_weights() {
    let empty = tempfile::tempdir().expect("temporary directory");
    assert!(error(empty.path()).contains("without `config.json`"));
    assert!(error(folder(&llama("{}"), &[]).path()).contains("it has no weights"));
    let two = folder(&llama("{}"), &[("a.safetensors", weights(LLAMA)), ("b.safetensors", weights(LLAMA))]);
    assert!(error(two.path()).contains("2 weight files"));
}
