//! Checkpoints of the zoo written as GGUF files under that format's names and layouts: the same function as the checkpoint.
//!
//! The checkpoints are in the shared test data (`LATHE_ZOO`, or `../shared/data/zoo` beside the workspace); without them the tests
//! say that they are skipped.

use std::path::{Path, PathBuf};

use lathe_import::{ImportOptions, import};
use lathe_ir::{EvaluateOptions, Operation, Source, evaluate};
use lathe_ops::Op;
use lathe_tensor::{BlockFormat, Encoding, Tensor};
use safetensors::SafeTensors;
use serde_json::Value;

fn zoo() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/zoo");
    let folder = std::env::var_os("LATHE_ZOO").map_or(beside, PathBuf::from);
    if !folder.is_dir() {
        eprintln!("SKIPPED: no zoo in {} (set LATHE_ZOO)", folder.display());
        return None;
    }
    Some(folder)
}

/// A value of the metadata.
enum Meta {
    Int(u32),
    Float(f32),
    Text(&'static str),
    Flags(Vec<bool>),
}

/// A GGUF file under construction, of f32 tensors.
#[derive(Default)]
struct Writer {
    metadata: Vec<(String, Meta)>,
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
    /// Experts whose rows are whole blocks are `Q8_0`.
    blocks: bool,
}

/// The code of a tensor's type, and its bytes.
fn stored(name: &str, shape: &[usize], elements: &[f32], blocks: bool) -> (u32, Vec<u8>) {
    let whole = shape.last().is_some_and(|columns| columns.is_multiple_of(32));
    if blocks && whole && name.contains("_exps") {
        let mut bytes = vec![0; BlockFormat::Q8_0.storage_bytes(shape).expect("whole blocks")];
        BlockFormat::Q8_0.encode(elements, &mut bytes).expect("blocks");
        return (8, bytes);
    }
    (0, elements.iter().flat_map(|element| element.to_le_bytes()).collect())
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl Writer {
    fn meta(&mut self, key: impl Into<String>, value: Meta) {
        self.metadata.push((key.into(), value));
    }

    fn bytes(&self, tensors: &[(String, Vec<usize>, Vec<f32>)], split: Option<(u32, u32)>) -> Vec<u8> {
        let mut pairs: Vec<Vec<u8>> = Vec::new();
        let mut pair = |key: &str, value: &Meta| {
            let (code, value) = match value {
                Meta::Int(value) => (4u32, value.to_le_bytes().to_vec()),
                Meta::Float(value) => (6, value.to_le_bytes().to_vec()),
                Meta::Text(value) => (8, text(value)),
                Meta::Flags(flags) => {
                    let head = [&7u32.to_le_bytes()[..], &(flags.len() as u64).to_le_bytes()].concat();
                    (9, head.into_iter().chain(flags.iter().map(|&flag| u8::from(flag))).collect())
                }
            };
            pairs.push([&text(key)[..], &code.to_le_bytes(), &value].concat());
        };
        if split.is_none_or(|(number, _)| number == 0) {
            self.metadata.iter().for_each(|(key, value)| pair(key, value));
        }
        if let Some((number, count)) = split {
            pair("split.no", &Meta::Int(number));
            pair("split.count", &Meta::Int(count));
            pair("split.tensors.count", &Meta::Int(self.tensors.len() as u32));
        }
        let (mut infos, mut data) = (Vec::new(), Vec::new());
        for (name, shape, elements) in tensors {
            infos.extend(text(name));
            infos.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|&size| infos.extend((size as u64).to_le_bytes()));
            let (code, bytes) = stored(name, shape, elements, self.blocks);
            infos.extend(code.to_le_bytes());
            infos.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((tensors.len() as u64).to_le_bytes());
        out.extend((pairs.len() as u64).to_le_bytes());
        pairs.iter().for_each(|pair| out.extend(pair));
        out.extend(infos);
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }
}

/// How a family's checkpoint becomes a file.
#[derive(Clone, Copy)]
struct Recipe {
    family: &'static str,
    architecture: &'static str,
    /// Norms behind attention and feed-forward too.
    sandwich: bool,
    /// Rows of queries and keys in pairs.
    paired: bool,
    /// Norms are stored with 1 added.
    plus_one: bool,
    /// Experts each in a tensor of its own.
    old_experts: bool,
}

const PLAIN: Recipe = Recipe {
    family: "",
    architecture: "llama",
    sandwich: false,
    paired: false,
    plus_one: false,
    old_experts: false,
};

/// The file's name of a hub's name.
fn renamed(name: &str, recipe: &Recipe) -> String {
    let whole = [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];
    if let Some((from, to)) = whole.iter().find(|(from, _)| name.starts_with(from)) {
        return name.replace(from, to);
    }
    let after = if recipe.sandwich { "post_attention_norm" } else { "ffn_norm" };
    let parts = [
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", after),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.qkv_proj", "attn_qkv"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_up_proj", "ffn_up"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
        ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
        ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
        ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
        ("block_sparse_moe.gate", "ffn_gate_inp"),
        ("mlp.gate", "ffn_gate_inp"),
    ];
    let rest = name.replace("model.layers.", "blk.");
    let found = parts.iter().find(|(from, _)| rest.contains(&format!(".{from}.")));
    let (from, to) = found.unwrap_or_else(|| panic!("{name}"));
    rest.replace(from, to)
}

/// Layer, expert and the file's part of a name of an expert's matrix.
fn expert(name: &str) -> Option<(usize, usize, &'static str)> {
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (_, rest) = rest.split_once(".experts.")?;
    let (number, part) = rest.split_once('.')?;
    let part = match part.trim_end_matches(".weight") {
        "w1" | "gate_proj" => "ffn_gate",
        "w2" | "down_proj" => "ffn_down",
        "w3" | "up_proj" => "ffn_up",
        _ => return None,
    };
    Some((layer.parse().ok()?, number.parse().ok()?, part))
}

/// Rows of a head in pairs: row `p * d / 2 + i` of a head becomes row `2 i + p`.
fn paired(elements: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (width, head) = (elements.len() / rows, rows / heads);
    let from = |row: usize| row / head * head + (row % head) / 2 + (row % head) % 2 * (head / 2);
    (0..rows).flat_map(|row| elements[from(row) * width..][..width].to_vec()).collect()
}

fn tensors(folder: &Path, config: &Value, recipe: &Recipe) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(folder.join("model.safetensors")).expect("weights");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let size = |name: &str| config[name].as_u64().map(|size| size as usize);
    let heads = size("num_attention_heads").expect("heads");
    let mut names: Vec<&str> = file.names().into_iter().map(AsRef::as_ref).collect();
    names.sort_unstable();
    let mut made: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    let mut stacks = std::collections::BTreeMap::<String, Vec<(usize, Vec<usize>, Vec<f32>)>>::new();
    for name in names {
        let view = file.tensor(name).expect("a tensor");
        let mut shape = view.shape().to_vec();
        let words = view.data().chunks_exact(4);
        let mut elements: Vec<f32> =
            words.map(|word| f32::from_le_bytes(word.try_into().expect("four"))).collect();
        if let Some((layer, number, part)) = expert(name) {
            if recipe.old_experts {
                made.push((format!("blk.{layer}.{part}.{number}.weight"), shape, elements));
            } else {
                let name = format!("blk.{layer}.{part}_exps.weight");
                stacks.entry(name).or_default().push((number, shape, elements));
            }
            continue;
        }
        if recipe.plus_one && name.contains("norm") {
            elements.iter_mut().for_each(|element| *element += 1.0);
        }
        if recipe.paired && name.contains(".q_proj.") {
            elements = paired(&elements, shape[0], heads);
        }
        if recipe.paired && name.contains(".k_proj.") {
            elements = paired(&elements, shape[0], size("num_key_value_heads").unwrap_or(heads));
        }
        if name.contains("shared_expert_gate") {
            shape.remove(0);
        }
        made.push((renamed(name, recipe), shape, elements));
    }
    for (name, mut experts) in stacks {
        experts.sort_by_key(|(number, ..)| *number);
        let shape = [&[experts.len()], &experts[0].1[..]].concat();
        made.push((name, shape, experts.into_iter().flat_map(|(.., elements)| elements).collect()));
    }
    made
}

fn writer(folder: &Path, recipe: &Recipe) -> Writer {
    let text = std::fs::read_to_string(folder.join("config.json")).expect("a configuration");
    let config: Value = serde_json::from_str(&text).expect("JSON");
    let mut writer = Writer::default();
    writer.meta("general.architecture", Meta::Text(recipe.architecture));
    let key = |name: &str| format!("{}.{name}", recipe.architecture);
    let sizes = [
        ("block_count", "num_hidden_layers"),
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("attention.key_length", "head_dim"),
        ("attention.sliding_window", "sliding_window"),
        ("expert_count", "num_local_experts"),
        ("expert_count", "num_experts"),
        ("expert_used_count", "num_experts_per_tok"),
        ("expert_feed_forward_length", "moe_intermediate_size"),
    ];
    for (to, from) in sizes {
        let known = writer.metadata.iter().any(|(known, _)| *known == key(to));
        let slides = to != "attention.sliding_window" || recipe.sandwich;
        if let Some(size) = config[from].as_u64().filter(|_| !known && slides) {
            writer.meta(key(to), Meta::Int(size as u32));
        }
    }
    if let Some(types) = config["layer_types"].as_array().filter(|_| recipe.architecture == "gemma3") {
        let slides = types.iter().map(|kind| kind == "sliding_attention").collect();
        writer.meta(key("attention.sliding_window_pattern"), Meta::Flags(slides));
    }
    let float = |value: &Value| value.as_f64().map(|value| Meta::Float(value as f32));
    let rope = &config["rope_parameters"];
    let flat = if rope["full_attention"].is_object() { &rope["full_attention"] } else { rope };
    let floats = [
        ("attention.layer_norm_rms_epsilon", float(&config["rms_norm_eps"])),
        ("rope.freq_base", float(&flat["rope_theta"])),
        ("attn_logit_softcapping", float(&config["attn_logit_softcapping"])),
        ("final_logit_softcapping", float(&config["final_logit_softcapping"])),
    ];
    for (name, value) in floats {
        if let Some(value) = value {
            writer.meta(key(name), value);
        }
    }
    writer.tensors = tensors(folder, &config, recipe);
    scaling(&mut writer, &config, flat, recipe);
    writer
}

/// What the file says about the scaling of rotary embeddings.
fn scaling(writer: &mut Writer, config: &Value, flat: &Value, recipe: &Recipe) {
    let key = |name: &str| format!("{}.{name}", recipe.architecture);
    let float = |value: &Value| value.as_f64().map(|value| Meta::Float(value as f32));
    let numbers = |list: &Value| -> Option<Vec<f32>> {
        list.as_array()?.iter().map(|number| number.as_f64().map(|number| number as f32)).collect()
    };
    let original = flat["original_max_position_embeddings"].as_u64();
    let original = original.or_else(|| config["original_max_position_embeddings"].as_u64());
    if let Some(original) = original {
        writer.meta(key("rope.scaling.original_context_length"), Meta::Int(original as u32));
    }
    let kind = flat["rope_type"].as_str();
    for (kind, named) in
        [("linear", "linear"), ("yarn", "yarn")].iter().filter(|(known, _)| kind == Some(known))
    {
        writer.meta(key("rope.scaling.type"), Meta::Text(named));
        writer.meta(key("rope.scaling.factor"), float(&flat["factor"]).unwrap_or_else(|| panic!("{kind}")));
    }
    for (name, list) in [("rope_factors_long", "long_factor"), ("rope_factors_short", "short_factor")] {
        if let Some(factors) = numbers(&flat[list]) {
            writer.tensors.push((format!("{name}.weight"), vec![factors.len()], factors));
        }
    }
    if kind == Some("llama3") {
        let factors = llama3_factors(flat, config);
        writer.tensors.push(("rope_freqs.weight".to_string(), vec![factors.len()], factors));
    }
}

/// What the frequencies of Llama 3 are divided by, as converters compute it.
fn llama3_factors(rope: &Value, config: &Value) -> Vec<f32> {
    let number = |name: &str| rope[name].as_f64().expect("a fact of the scaling");
    let (factor, low, high) = (number("factor"), number("low_freq_factor"), number("high_freq_factor"));
    let (original, theta) = (number("original_max_position_embeddings"), number("rope_theta"));
    let heads = config["num_attention_heads"].as_f64().expect("heads");
    let dims =
        config["head_dim"].as_f64().unwrap_or(config["hidden_size"].as_f64().expect("a width") / heads);
    let stretch = |pair: usize| {
        let length = 2.0 * std::f64::consts::PI * theta.powf(2.0 * pair as f64 / dims);
        if length < original / high {
            return 1.0;
        }
        if length > original / low {
            return factor;
        }
        let smooth = (original / length - low) / (high - low);
        1.0 / ((1.0 - smooth) / factor + smooth)
    };
    (0..dims as usize / 2).map(|pair| stretch(pair) as f32).collect()
}

/// Logits for some tokens.
fn logits(path: &Path) -> Vec<f32> {
    let module = import(path, &ImportOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    let main = module.main().expect("a function");
    let ids: Vec<i64> = (0..40).map(|place| place * 7 % 61 + 3).collect();
    let body = module.function(main);
    let inputs = body.inputs().iter().map(|&input| {
        let values = match body.value(input).name.as_deref() {
            Some("input_ids") => ids.clone(),
            Some("attention_mask") => vec![1; ids.len()],
            _ => (0..ids.len() as i64).collect(),
        };
        Tensor::from_slice(&values, &[1, ids.len()]).expect("ids")
    });
    let inputs: Vec<Tensor> = inputs.collect();
    let outputs = evaluate(&module, main, &inputs, &EvaluateOptions::default()).expect("a run");
    outputs[0].to_slice::<f32>().expect("logits").into_owned()
}

fn close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-4 * largest, "{what}: {worst} of {largest}");
}

/// Compares the file that a recipe makes, in one piece and in three, with the checkpoint.
fn check(recipe: &Recipe) {
    let Some(zoo) = zoo() else { return };
    let checkpoint = zoo.join(recipe.family).join("hf");
    let expected = logits(&checkpoint);
    let writer = writer(&checkpoint, recipe);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, writer.bytes(&writer.tensors, None)).expect("written");
    close(&logits(&path), &expected, recipe.family);
    let third = writer.tensors.len().div_ceil(3);
    for (number, part) in writer.tensors.chunks(third).enumerate() {
        let path = folder.path().join(format!("model-{:05}-of-00003.gguf", number + 1));
        std::fs::write(path, writer.bytes(part, Some((number as u32, 3)))).expect("written");
    }
    for number in [1, 3] {
        let path = folder.path().join(format!("model-{number:05}-of-00003.gguf"));
        close(&logits(&path), &expected, recipe.family);
    }
    std::fs::remove_file(folder.path().join("model-00002-of-00003.gguf")).expect("removed");
    let error = import(&folder.path().join("model-00001-of-00003.gguf"), &ImportOptions::default());
    assert!(error.expect_err("a part is missing").to_string().contains("model-00002-of-00003.gguf"));
}

#[test]
fn llama_with_paired_rows_and_scalings() {
    for family in ["llama-gqa", "llama-mha", "llama3-rope", "rope-linear", "rope-yarn", "rope-llama3"] {
        check(&Recipe { family, paired: true, ..PLAIN });
    }
}

#[test]
fn qwen_with_biases_and_norms_of_heads() {
    check(&Recipe { family: "qwen2", architecture: "qwen2", ..PLAIN });
    check(&Recipe { family: "qwen3", architecture: "qwen3", ..PLAIN });
}

#[test]
fn gemma_with_norms_on_both_sides() {
    for (family, architecture) in [("gemma2", "gemma2"), ("gemma3", "gemma3")] {
        check(&Recipe { family, architecture, sandwich: true, plus_one: true, ..PLAIN });
    }
}

#[test]
fn phi_with_merged_matrices_and_factors() {
    for family in ["phi3", "phi3-longrope"] {
        check(&Recipe { family, architecture: "phi3", ..PLAIN });
    }
}

#[test]
fn experts_in_one_tensor_or_many() {
    check(&Recipe { family: "mixtral", paired: true, ..PLAIN });
    check(&Recipe { family: "mixtral", paired: true, old_experts: true, ..PLAIN });
    check(&Recipe { family: "qwen2-moe", architecture: "qwen2moe", ..PLAIN });
    check(&Recipe { family: "qwen3-moe", architecture: "qwen3moe", ..PLAIN });
}

#[test]
fn experts_in_blocks_stay_so() {
    let Some(zoo) = zoo() else { return };
    let checkpoint = zoo.join("qwen3-moe").join("hf");
    let recipe = Recipe { family: "qwen3-moe", architecture: "qwen3moe", ..PLAIN };
    let writer = Writer { blocks: true, ..writer(&checkpoint, &recipe) };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, writer.bytes(&writer.tensors, None)).expect("written");
    let module = import(&path, &ImportOptions::default()).expect("an import");
    let body = module.function(module.main().expect("main"));
    let mixtures = body.node_ids().filter_map(|id| body.node(id));
    let mixtures: Vec<_> =
        mixtures.filter(|node| matches!(node.operation, Operation::Op(Op::Moe(_)))).collect();
    assert!(!mixtures.is_empty());
    for node in mixtures {
        let value = node.inputs[2].expect("matrices");
        let Source::Constant(constant) = body.value(value).source else { panic!("no constant") };
        assert_eq!(module.constant(constant).encoding, Encoding::Blocked(BlockFormat::Q8_0));
    }
    let (found, expected) = (logits(&path), logits(&checkpoint));
    let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst > 0.0 && worst < 0.2 * largest, "{worst} of {largest}");
}
