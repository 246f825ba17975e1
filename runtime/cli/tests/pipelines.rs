//! Pipelines end to end on the zoo's checkpoints (`LATHE_SHARED`, or `../shared` beside the workspace), with tokenizers and settings made here;
//! without them the tests say that they are skipped. Expected numbers are those of `fixtures/pipeline_references.py`: onnxruntime
//! and numpy.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// Files of its own, beside a copy of a checkpoint.
struct Home {
    folder: tempfile::TempDir,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn zoo() -> Option<PathBuf> {
    let shared = std::env::var_os("LATHE_SHARED").map_or(root().join("../shared"), PathBuf::from);
    let zoo = shared.join("data/zoo");
    if !zoo.is_dir() {
        eprintln!("SKIPPED: {} is not there", zoo.display());
    }
    zoo.is_dir().then_some(zoo)
}

fn references() -> Value {
    let text = std::fs::read(root().join("fixtures/pipelines.json")).expect("the references");
    serde_json::from_slice(&text).expect("JSON")
}

impl Home {
    /// With the checkpoint of a family as `model`; `None` where the zoo is not there.
    fn with(family: &str) -> Option<Self> {
        let zoo = zoo()?;
        let home = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        std::fs::create_dir(home.path("model")).expect("a folder");
        for file in ["config.json", "model.safetensors", "generation_config.json"] {
            let from = zoo.join(family).join("hf").join(file);
            if from.exists() {
                std::fs::copy(from, home.path("model").join(file)).expect("a copy");
            }
        }
        Some(home)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, value: &Value) {
        std::fs::write(self.path("model").join(name), value.to_string()).expect("written");
    }

    fn lathe(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lathe"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env("LATHE_CACHE_DIR", self.path("cache"))
            .env("LATHE_KEY_FILE", self.path("key"))
            .output()
            .expect("the binary runs")
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.lathe(&[arguments, &["--json"]].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    fn fails(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.lathe(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Words `t0`, `t1`, ... are the tokens; texts stand between `ends`; `special` tokens have names of their own.
    fn tokenizer(&self, size: u32, ends: Option<(u32, u32)>, special: &[(u32, &str)]) {
        let name = |id: u32| {
            let named = special.iter().find(|(known, _)| *known == id);
            named.map_or_else(|| format!("t{id}"), |(_, name)| (*name).to_string())
        };
        let vocab: serde_json::Map<String, Value> = (0..size).map(|id| (name(id), json!(id))).collect();
        let added: Vec<Value> = special
            .iter()
            .map(|(id, name)| {
                json!({"id": id, "content": name, "special": true, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false})
            })
            .collect();
        let token = |id: u32| json!({"id": name(id), "ids": [id], "tokens": [name(id)]});
        let post = ends.map(|(first, last)| {
            let piece = |id: u32| json!({"SpecialToken": {"id": name(id), "type_id": 0}});
            let text = json!({"Sequence": {"id": "A", "type_id": 0}});
            json!({"type": "TemplateProcessing", "single": [piece(first), text, piece(last)],
                "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {name(first): token(first), name(last): token(last)}})
        });
        self.write(
            "tokenizer.json",
            &json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
                "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": post, "decoder": null,
                "model": {"type": "WordLevel", "vocab": vocab, "unk_token": name(0)}}),
        );
    }

    /// The picture of the references as a file, and how models take it: rescaled, less 0.5, over 0.5.
    fn picture(&self) {
        let mut bytes = b"P6 32 32 255\n".to_vec();
        bytes.extend((0..32 * 32 * 3).map(|index| (index * 37 % 256) as u8));
        std::fs::write(self.path("picture.ppm"), bytes).expect("written");
        self.write(
            "preprocessor_config.json",
            &json!({"do_resize": false, "do_center_crop": false, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}),
        );
    }
}

fn near(found: &Value, expected: &Value, tolerance: f64) {
    let (a, b) = (found.as_f64().expect("a number"), expected.as_f64().expect("a number"));
    assert!((a - b).abs() <= tolerance, "{a}, expected {b}");
}

#[test]
fn pictures_are_classified() {
    for family in ["vit", "swin"] {
        let Some(home) = Home::with(family) else { return };
        home.picture();
        let found = home.json(&["classify", "model", "--image", "picture.ppm"]);
        let (best, expected) = (&found["results"][0]["classes"][0], &references()[family]);
        assert_eq!(best["label"], format!("LABEL_{}", expected["best"]));
        near(&best["logit"], &expected["logit"], 1e-3);
        near(&best["score"], &expected["score"], 1e-4);
    }
}

#[test]
fn pictures_and_texts_are_compared() {
    let Some(home) = Home::with("clip") else { return };
    home.picture();
    home.tokenizer(199, Some((1, 2)), &[]);
    let expected = &references()["clip"];
    let found = home.json(&[
        "classify",
        "model",
        "--image",
        "picture.ppm",
        "--labels",
        "t20,t21,t22",
        "--template",
        "t10 t11 t12 {}",
    ]);
    for class in found["results"][0]["classes"].as_array().expect("classes") {
        let index = ["t20", "t21", "t22"].iter().position(|label| class["label"] == *label).expect("a label");
        near(&class["score"], &expected["scores"][index], 1e-4);
    }
    let found = home.json(&["embed", "model", "--text", "t10 t11 t12 t20", "--image", "picture.ppm"]);
    for index in 0..4 {
        near(&found["embeddings"][0][index], &expected["text"][index], 1e-4);
        near(&found["embeddings"][1][index], &expected["image"][index], 1e-4);
    }
    near(&found["cosines"][0][1], &expected["cosine"], 1e-4);
}

#[test]
fn gaps_are_filled_and_texts_classified() {
    let Some(home) = Home::with("bert-mlm") else { return };
    home.tokenizer(199, Some((3, 4)), &[(5, "[MASK]")]);
    let expected = &references()["bert-mlm"];
    let found = home.json(&["fill-mask", "model", "-p", "t30 [MASK] t31 t32"]);
    assert_eq!(found["masks"][0][0]["token"], expected["token"]);
    near(&found["masks"][0][0]["probability"], &expected["probability"], 1e-4);
    let found = home.json(&["fill-mask", "model", "--spans", "-p", "t30 [MASK] t31 [MASK]"]);
    assert_eq!(found["tokens"], expected["filled"]);
    let Some(home) = Home::with("distilbert-cls") else { return };
    home.tokenizer(199, Some((3, 4)), &[]);
    let expected = &references()["distilbert-cls"];
    let found = home.json(&["classify", "model", "--text", "t30 t31"]);
    assert_eq!(found["results"][0]["classes"][0]["label"], format!("LABEL_{}", expected["best"]));
    near(&found["results"][0]["classes"][0]["score"], &expected["score"], 1e-4);
}

#[test]
fn sentences_become_vectors() {
    let minilm = root().join("fixtures/models/minilm");
    if !minilm.join("model.safetensors").exists() {
        eprintln!("SKIPPED: {} is not fetched", minilm.display());
        return;
    }
    let home = Home { folder: tempfile::tempdir().expect("a temporary folder") };
    std::fs::create_dir(home.path("model")).expect("a folder");
    for file in ["model.onnx", "model.safetensors"] {
        std::fs::copy(minilm.join(file), home.path("model").join(file)).expect("a copy");
    }
    home.tokenizer(8000, Some((101, 102)), &[]);
    let expected = &references()["minilm"];
    let found = home.json(&["embed", "model/model.onnx", "--text", "t7592 t2088", "--text", "t2204 t2851"]);
    for index in 0..4 {
        near(&found["embeddings"][0][index], &expected["first"][index], 1e-4);
    }
    near(&found["cosines"][0][1], &expected["cosine"], 1e-4);
}

#[test]
fn sound_is_written_down() {
    let Some(home) = Home::with("whisper") else { return };
    home.tokenizer(199, None, &[]);
    home.write(
        "preprocessor_config.json",
        &json!({"feature_size": 20, "n_samples": 12800, "sampling_rate": 16000}),
    );
    let sample = |index: u32| {
        let t = f64::from(index) / 16000.0;
        ((std::f64::consts::TAU * (200.0 * t + 900.0 * t * t)).sin() * 12000.0).round_ties_even() as i16
    };
    let data: Vec<u8> = (0..12800).flat_map(|index| sample(index).to_le_bytes()).collect();
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + data.len() as u32).to_le_bytes());
    wav.extend(b"WAVEfmt ");
    wav.extend(16u32.to_le_bytes());
    for field in [1u16, 1] {
        wav.extend(field.to_le_bytes());
    }
    wav.extend(16000u32.to_le_bytes());
    wav.extend(32000u32.to_le_bytes());
    for field in [2u16, 16] {
        wav.extend(field.to_le_bytes());
    }
    wav.extend(b"data");
    wav.extend((data.len() as u32).to_le_bytes());
    wav.extend(data);
    std::fs::write(home.path("tone.wav"), wav).expect("written");
    let found = home.json(&["transcribe", "model", "tone.wav", "-n", "8"]);
    let words: Vec<String> = references()["whisper"]["tokens"]
        .as_array()
        .expect("tokens")
        .iter()
        .map(|token| format!("t{token}"))
        .collect();
    assert_eq!(found["text"], words.join(" "));
}

#[test]
fn pictures_stand_in_prompts_as_their_tensors_do() {
    let Some(home) = Home::with("llava") else { return };
    home.picture();
    home.tokenizer(199, None, &[(198, "<image>")]);
    // The same picture and prompt as tensors.
    let pixels: Vec<f32> = (0..3 * 32 * 32)
        .map(|place| {
            let (channel, place) = (place / 1024, place % 1024);
            let byte = (place * 3 + channel) * 37 % 256;
            (byte as f32 * (1.0f64 / 255.0) as f32 - 0.5) / 0.5
        })
        .collect();
    let ids: Vec<i64> = [vec![10, 11], vec![198; 16], vec![12]].concat();
    let bytes = |values: &[u8]| values.to_vec();
    let pixels = bytes(&pixels.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
    let ids = bytes(&ids.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
    let view = |dtype, shape: Vec<usize>, data| {
        safetensors::tensor::TensorView::new(dtype, shape, data).expect("a view")
    };
    let tensors = [
        ("gen.in.input_ids", view(safetensors::Dtype::I64, vec![1, 19], &ids)),
        ("gen.in.pixel_values", view(safetensors::Dtype::F32, vec![1, 3, 32, 32], &pixels)),
    ];
    let file = safetensors::serialize(tensors, None).expect("a file");
    std::fs::write(home.path("inputs.safetensors"), file).expect("written");
    let rest = ["-n", "8", "--ignore-eos"];
    let generate = |arguments: &[&str]| home.json(&[&["generate", "model"], arguments, &rest].concat());
    let expected = generate(&["--inputs", "inputs.safetensors", "--prefix", "gen."]);
    let by_ids = generate(&["--tokens", "10,11,198,12", "--image", "picture.ppm"]);
    let by_text = generate(&["-p", "t10 t11 <image> t12", "--image", "picture.ppm"]);
    assert_eq!(by_ids["tokens"], expected["tokens"]);
    assert_eq!(by_text["tokens"], expected["tokens"]);
    assert_eq!((&by_ids["prompt_tokens"], &by_text["prompt_tokens"]), (&json!(19), &json!(19)));
    let caption = home.json(&["caption", "model", "picture.ppm", "-p", "t10 t11 <image> t12", "-n", "8"]);
    let tokens = caption["captions"][0]["tokens"].as_array().expect("tokens");
    let expected = expected["tokens"].as_array().expect("tokens");
    assert!(!tokens.is_empty() && expected.starts_with(tokens));
    let before = generate(&["-p", "t12", "--image", "picture.ppm"]);
    assert_eq!(before["prompt_tokens"], 17, "a picture that the text does not name stands before it");
    let (code, message) = home.fails(&["generate", "model", "--tokens", "10,11", "--image", "picture.ppm"]);
    assert!(code == Some(1) && message.contains("the token 198"), "{message}");
}

#[test]
fn videos_are_frames_of_a_folder() {
    let Some(home) = Home::with("llava-next-video") else { return };
    home.picture();
    std::fs::create_dir(home.path("frames")).expect("a folder");
    for index in 0..6 {
        let to = home.path("frames").join(format!("f{index}.ppm"));
        std::fs::copy(home.path("picture.ppm"), to).expect("a copy");
    }
    let arguments =
        ["generate", "model", "--tokens", "10,198,12", "--video", "frames", "--frames", "4", "-n", "4"];
    let found = home.json(&arguments);
    assert_eq!(found["prompt_tokens"], 18, "four frames of four tokens");
    assert_eq!(home.fails(&["generate", "model", "--tokens", "1", "--frames", "4"]).0, Some(2));
}

#[test]
fn settings_of_generation_come_from_the_model() {
    let Some(home) = Home::with("llama-gqa") else { return };
    let tokens = |settings: Value, arguments: &[&str]| -> Vec<u64> {
        home.write("generation_config.json", &settings);
        let found = home.json(&[&["generate", "model", "--tokens", "5,6,7"], arguments].concat());
        serde_json::from_value(found["tokens"].clone()).expect("tokens")
    };
    let plain = tokens(json!({}), &["-n", "12"]);
    assert_eq!(plain.len(), 12);
    assert_eq!(tokens(json!({"max_new_tokens": 5}), &[]), plain[..5]);
    assert_eq!(tokens(json!({"eos_token_id": plain[3]}), &["-n", "12"]).len(), 4);
    let late = tokens(json!({"eos_token_id": plain[3], "min_new_tokens": 6}), &["-n", "12"]);
    assert!(late.len() >= 6 && late[..3] == plain[..3] && late[3] != plain[3]);
    let other = tokens(json!({"begin_suppress_tokens": [plain[0]]}), &["-n", "12"]);
    assert_ne!(other[0], plain[0]);
    let never = tokens(json!({"suppress_tokens": [plain[0], plain[1]]}), &["-n", "12"]);
    assert!(!never.contains(&plain[0]) && !never.contains(&plain[1]));
    assert_eq!(tokens(json!({"forced_eos_token_id": 9}), &["-n", "5"]), [&plain[..4], &[9]].concat());
    let once = tokens(json!({"no_repeat_ngram_size": 1}), &["-n", "40"]);
    let mut sorted = [&[5, 6, 7], &once[..]].concat();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), 43, "no token comes twice");
    let drawn = json!({"do_sample": true, "temperature": 5.0, "top_k": 0});
    let sampled = |seed: &str| tokens(drawn.clone(), &["-n", "12", "--seed", seed]);
    assert!(sampled("1") != plain && sampled("1") == sampled("1") && sampled("1") != sampled("2"));
    assert_eq!(tokens(drawn.clone(), &["-n", "12", "--greedy"]), plain, "a flag wins");
    assert_eq!(tokens(json!({"do_sample": true, "top_k": 1}), &["-n", "12"]), plain, "the likeliest alone");
    home.write("generation_config.json", &json!({"num_beams": 3}));
    let beams = home.json(&["generate", "model", "--tokens", "5,6,7", "-n", "4"]);
    assert!(beams["scores"].is_array());
}

#[test]
fn generation_is_measured() {
    for family in ["llama-gqa", "llada", "t5", "whisper", "llava"] {
        let Some(home) = Home::with(family) else { return };
        let found =
            home.json(&["bench", "model", "--prompt-tokens", "32", "--gen-tokens", "8", "--runs", "1"]);
        for key in ["pp32", "tg8", "ttft_ms"] {
            assert!(found[key].as_f64().is_some_and(|rate| rate > 0.0), "{family} {key}: {found}");
        }
    }
}

#[test]
fn quantised_models_are_written_and_run() {
    let Some(home) = Home::with("llama-gqa") else { return };
    home.tokenizer(199, None, &[]);
    let before = home.json(&["generate", "model", "--tokens", "5,6,7", "-n", "4"]);
    for (precision, cosine, format) in [("int8", 0.999, "Q8_0"), ("int4", 0.95, "Q4_1")] {
        let found = home.json(&["quantize", "model", "-o", precision, "--precision", precision]);
        assert!(found["formats"][format].as_u64() > Some(0), "{found}");
        assert!(found["bytes_after"].as_u64() < found["bytes_before"].as_u64().map(|bytes| bytes / 2));
        let difference = &found["difference"];
        assert!(
            difference["cosine"].as_f64() > Some(cosine) && difference["max_abs"].as_f64() > Some(0.0),
            "{found}"
        );
        assert!(difference["kl_divergence"].is_f64() && difference["top1_agreement"].is_f64());
        assert!(home.path(precision).join("tokenizer.json").exists());
        let config: Value =
            serde_json::from_slice(&std::fs::read(home.path(precision).join("config.json")).expect("read"))
                .expect("JSON");
        assert_eq!(config["quantization_config"]["quant_method"], "lathe");
        let after = home.json(&["generate", precision, "--tokens", "5,6,7", "-n", "4"]);
        assert_eq!(after["cache"], before["cache"]);
        let steps = home.json(&["explain", precision]).to_string();
        assert!(steps.contains("mat_mul_blocks") || steps.contains("blocks"), "quantised kernels");
        let (code, message) = home.fails(&["quantize", "model", "-o", precision, "--precision", precision]);
        assert!(code == Some(1) && message.contains("is there already"), "{message}");
        let (_, message) = home.fails(&["quantize", precision, "-o", "again", "--precision", precision]);
        assert!(message.contains("quantised already") && !home.path("again").exists(), "{message}");
        // Weights that become blocks at import are the same blocks.
        let direct =
            home.json(&["generate", "model", "--precision", precision, "--tokens", "5,6,7", "-n", "4"]);
        assert_eq!(direct["tokens"], after["tokens"]);
    }
    std::fs::write(home.path("text.txt"), "t5 t6 t7 t8 t9 t10").expect("written");
    let found = home.json(&["convert", "model", "-o", "bf16", "--precision", "bf16", "--text", "text.txt"]);
    assert_eq!(found["difference"]["tokens"], 5);
    assert!(found["difference"]["perplexity_after"].is_f64());
    let found = home.json(&["convert", "model", "-o", "pooled", "--kv-heads", "1"]);
    assert!(found["difference"]["max_abs"].as_f64() > Some(0.0));
    let pooled = home.json(&["generate", "pooled", "--tokens", "5,6,7", "-n", "4"]);
    assert_eq!(
        pooled["kv_bytes_planned"].as_u64().map(|bytes| bytes * 2),
        before["kv_bytes_planned"].as_u64()
    );
    assert_eq!(home.fails(&["convert", "model", "-o", "x"]).0, Some(2));
    assert_eq!(home.fails(&["quantize", "model", "-o", "x", "--precision", "f32"]).0, Some(2));
    let (_, message) = home.fails(&["convert", "model", "-o", "x", "--kv-heads", "3"]);
    assert!(message.contains("do not make 3 groups") && !home.path("x").exists(), "{message}");
}

#[test]
fn matrices_that_are_stored_transposed_are_quantised_too() {
    let Some(home) = Home::with("gpt2") else { return };
    let found = home.json(&["quantize", "model", "-o", "small", "--precision", "int8"]);
    assert!(found["difference"]["cosine"].as_f64() > Some(0.999), "{found}");
    let export = zoo().expect("the zoo").join("gpt2/onnx/ts/model.onnx");
    let export = export.to_string_lossy();
    let arguments = ["--tokens", "5,6,7", "-n", "6", "--precision", "int8"];
    let of_export = home.json(&[&["generate", &export], &arguments[..]].concat());
    let of_checkpoint = home.json(&[&["generate", "model"], &arguments[..]].concat());
    assert_eq!(of_export["tokens"], of_checkpoint["tokens"]);
}
