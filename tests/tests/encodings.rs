//! Weights that are not stored as f32: they stay so in the program, and what it computes is what their numbers say.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use lathe::{LoadOptions, Session, Tensor};
use lathe_artifact::Artifact;
use lathe_artifact::plan::StepKind;
use lathe_compiler::{Activations, CompileOptions, WeightBits};
use lathe_tensor::SplitMix64;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// Width, inner width of an expert, experts, vocabulary.
const SIZES: [usize; 4] = [64, 96, 4, 70];

const CONFIG: &str = r#"{"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2, "vocab_size": 70,
"max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "sliding_window": null}"#;

/// Names and shapes of the weights.
fn shapes() -> Vec<(String, Vec<usize>)> {
    let [width, inner, experts, vocabulary] = SIZES;
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_string(), vec![vocabulary, width]),
        ("model.norm.weight".to_string(), vec![width]),
        ("lm_head.weight".to_string(), vec![vocabulary, width]),
    ];
    for layer in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        add("input_layernorm", &[width]);
        add("post_attention_layernorm", &[width]);
        for (name, rows) in [("q", width), ("k", width / 2), ("v", width / 2), ("o", width)] {
            add(&format!("self_attn.{name}_proj"), &[rows, width]);
        }
        add("block_sparse_moe.gate", &[experts, width]);
        for expert in 0..experts {
            add(&format!("block_sparse_moe.experts.{expert}.w1"), &[inner, width]);
            add(&format!("block_sparse_moe.experts.{expert}.w2"), &[width, inner]);
            add(&format!("block_sparse_moe.experts.{expert}.w3"), &[inner, width]);
        }
    }
    shapes
}

/// A checkpoint of numbers that bf16 (and f16) holds exactly, stored in a dtype.
fn checkpoint(dtype: Dtype) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut random = SplitMix64::new(17);
    let mut tensors = BTreeMap::new();
    for (name, shape) in shapes() {
        // 8 bits of a number between -1/16 and 1/16: small, so that rounding moves no router far.
        let mut number = || ((random.bits() >> 56) as f32 - 128.0) / 2048.0;
        let norm = name.contains("norm");
        let numbers = (0..shape.iter().product()).map(|_| if norm { 1.0 + number() } else { number() });
        let numbers: Vec<f32> = numbers.map(|x| bf16::from_f32(x).to_f32()).collect();
        let bytes: Vec<u8> = match dtype {
            Dtype::F32 => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Dtype::F16 => numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            _ => numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        };
        tensors.insert(name, (shape, bytes));
    }
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (name.as_str(), TensorView::new(dtype, shape.clone(), bytes).expect("a tensor"))
    });
    let bytes = safetensors::serialize(views, None).expect("a file");
    std::fs::write(folder.path().join("model.safetensors"), bytes).expect("written");
    std::fs::write(folder.path().join("config.json"), CONFIG).expect("written");
    folder
}

fn options(bits: Option<WeightBits>, activations: Activations) -> CompileOptions {
    CompileOptions { weight_bits: bits, activations, ..CompileOptions::default() }
}

/// Tokens and what goes with them.
fn inputs() -> [(&'static str, Tensor); 3] {
    let tensor = |values: Vec<i64>| Tensor::from_slice(&values, &[1, values.len()]).expect("a tensor");
    let ids = tensor((0..23).map(|place| place * 37 % 70).collect());
    [("input_ids", ids), ("attention_mask", tensor(vec![1; 23])), ("position_ids", tensor((0..23).collect()))]
}

fn logits(folder: &Path, compile: CompileOptions) -> Vec<f32> {
    let options = LoadOptions { compile, cache: None, ..LoadOptions::default() };
    let model = lathe::load(folder, &options).expect("the model loads");
    let mut session = Session::new(&model).expect("a session");
    let inputs = inputs();
    let named: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let outputs = session.run(&named).expect("a run");
    outputs.tensors()[0].to_slice::<f32>().expect("floats").into_owned()
}

/// What the graph means with its weights as they are stored there.
fn evaluated(folder: &Path, options: &CompileOptions) -> Vec<f32> {
    let mut module = lathe_compiler::import(folder, options).expect("an import");
    lathe_compiler::optimise(&mut module, options, &mut |_, _| {}).expect("passes");
    let inputs = inputs().map(|(_, tensor)| tensor);
    let main = module.main().expect("main");
    let outputs = lathe_ir::evaluate(&module, main, &inputs, &lathe_ir::EvaluateOptions::default());
    outputs.expect("values")[0].to_slice::<f32>().expect("floats").into_owned()
}

/// The largest difference over the largest number.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

fn weight_bytes(artifact: &Artifact) -> usize {
    artifact.weights.values().map(|weight| weight.bytes().len()).sum()
}

/// Reasons of the steps of `main`, by their ops.
fn reasons(artifact: &Artifact, op: &str) -> Vec<String> {
    let steps = artifact.functions[0].plan.steps.iter();
    let of_op = steps.filter(|step| step.op == op && matches!(step.kind, StepKind::Call(_)));
    of_op.map(|step| step.reason.clone()).collect()
}

#[test]
fn floats_of_16_bits_stay_so_and_give_the_bits_of_wide_ones() {
    let wide = checkpoint(Dtype::F32);
    let expected = logits(wide.path(), CompileOptions::default());
    let of_wide =
        weight_bytes(&lathe_compiler::compile(wide.path(), &CompileOptions::default()).expect("compiles"));
    for dtype in [Dtype::BF16, Dtype::F16] {
        let narrow = checkpoint(dtype);
        let found = logits(narrow.path(), CompileOptions::default());
        let same = found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{dtype:?}: {}", difference(&found, &expected));
        let artifact = lathe_compiler::compile(narrow.path(), &CompileOptions::default()).expect("compiles");
        let bytes = weight_bytes(&artifact);
        assert!(bytes * 100 < of_wide * 51, "{bytes} of {of_wide} bytes");
        let tables = reasons(&artifact, "gather");
        assert!(tables.iter().any(|reason| reason.contains("decoded by index")), "{tables:?}");
    }
}

#[test]
fn experts_run_as_the_blocks_that_they_are() {
    let folder = checkpoint(Dtype::BF16);
    let plain = logits(folder.path(), CompileOptions::default());
    for (bits, name, apart) in [(WeightBits::Eight, "Q8_0", 0.05), (WeightBits::Four, "Q4_1", 0.5)] {
        let exact = options(Some(bits), Activations::F32);
        let artifact = lathe_compiler::compile(folder.path(), &exact).expect("compiles");
        let experts = reasons(&artifact, "moe");
        let products = experts.iter().filter(|reason| reason.contains("experts ["));
        assert!(products.clone().all(|reason| reason.contains(name)), "{experts:?}");
        assert_eq!(products.count(), 4);
        let meant = evaluated(folder.path(), &exact);
        let found = logits(folder.path(), exact);
        assert!(difference(&found, &meant) < 1e-5, "{name}: {}", difference(&found, &meant));
        let fast = logits(folder.path(), options(Some(bits), Activations::Int8));
        assert!(difference(&fast, &meant) < 2e-3, "{name}: {}", difference(&fast, &meant));
        assert!(difference(&meant, &plain) < apart, "{name}: {}", difference(&meant, &plain));
        assert!(meant != plain);
    }
}

#[test]
fn a_quantised_checkpoint_has_quantised_experts() {
    use lathe_compiler::convert::{Conversion, Storage, convert};
    let source = checkpoint(Dtype::BF16);
    let place = tempfile::tempdir().expect("a folder");
    let target = place.path().join("quantised");
    let conversion =
        Conversion { storage: Storage::Blocks(WeightBits::Four), kv_heads: None, max_memory: 1 << 30 };
    let converted = convert(source.path(), &target, &conversion, &mut |_, _| {}).expect("written");
    let [_, _, experts, _] = SIZES;
    // The matrices of experts and attentions; the vocabulary keeps 8 bits, routers are too small.
    assert_eq!(converted.formats["Q4_1"], 2 * (3 * experts + 4), "{:?}", converted.kept);
    assert_eq!(converted.formats["Q8_0"], 2);
    let found = logits(&target, options(None, Activations::F32));
    let expected = logits(source.path(), options(Some(WeightBits::Four), Activations::F32));
    assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "the same blocks");
}
