//! The command line, end to end, on the model that is in the repository.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A folder of its own for keys, cache and files.
struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
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

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.lathe(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.succeeds(arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error} in {text}"))
    }

    /// Exit code and message of a command that fails.
    fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.lathe(arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().expect("no signal"), message)
    }
}

fn magika() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/magika.onnx");
    path.to_string_lossy().into_owned()
}

#[test]
fn compile_verifies_and_writes_an_artifact() {
    let home = Home::new();
    let report = home.json(&["compile", &magika(), "-o", "m.lathe", "--verify", "--json"]);
    assert_eq!(report["verify"]["tract"], "ok");
    assert!(report["ops_after"].as_u64() < report["ops_before"].as_u64(), "{report}");
    let inspected = home.json(&["inspect", "m.lathe", "--check", "--json"]);
    assert_eq!(inspected["seal"], "trusted");
    let steps = inspected["functions"][0]["steps"].as_array().expect("a list");
    assert!(steps.len() > 10);
    assert!(steps.iter().all(|step| step["exec"] != "evaluator"), "every step is native");
    let bytes = std::fs::read(home.path("m.lathe")).expect("the artifact");
    safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
}

#[test]
fn bits_do_not_depend_on_threads_or_processes() {
    let home = Home::new();
    home.succeeds(&["compile", &magika(), "-o", "m.lathe", "--target", "v4", "--target", "v2"]);
    let run = |arguments: &[&str], folder: &str| {
        let fixed = [
            "run",
            "m.lathe",
            "--fill",
            "random",
            "--seed",
            "5",
            "--dim",
            "unk__214=3",
            "--output-dir",
            folder,
        ];
        home.succeeds(&[&fixed, arguments].concat());
        let mut files: Vec<_> =
            std::fs::read_dir(home.path(folder)).expect("outputs").flatten().map(|f| f.path()).collect();
        files.sort();
        files.iter().map(|file| std::fs::read(file).expect("an output")).collect::<Vec<_>>()
    };
    let one = run(&["--threads", "1"], "one");
    assert!(!one.is_empty() && one[0].len() > 128);
    for threads in ["1", "2", "3"] {
        assert_eq!(run(&["--threads", threads], threads), one, "{threads} threads");
    }
    // Other instruction sets read the same packed weights.
    assert_eq!(run(&["--isa", "portable"], "portable")[0].len(), one[0].len());
}

#[test]
fn a_changed_artifact_is_refused() {
    let home = Home::new();
    home.succeeds(&["compile", &magika(), "-o", "m.lathe"]);
    let mut bytes = std::fs::read(home.path("m.lathe")).expect("the artifact");
    bytes[100] ^= 1;
    std::fs::write(home.path("changed.lathe"), &bytes).expect("written");
    let (code, message) = home.fails(&["run", "changed.lathe", "--fill", "zeros"]);
    assert_eq!(code, 1);
    assert!(message.contains("changed.lathe"), "{message}");
    std::fs::write(home.path("short.lathe"), &bytes[..bytes.len() / 2]).expect("written");
    assert_eq!(home.fails(&["run", "short.lathe", "--fill", "zeros"]).0, 1);
}

#[test]
fn untrusted_code_is_made_again_from_the_ir_with_the_same_bits() {
    let home = Home::new();
    home.succeeds(&["compile", &magika(), "-o", "m.lathe"]);
    let fixed = ["run", "m.lathe", "--fill", "random", "--seed", "3", "--dim", "unk__214=2", "--output-dir"];
    let run = |folder: &str, key: &str| {
        let command = Command::new(env!("CARGO_BIN_EXE_lathe"))
            .args(fixed)
            .arg(home.path(folder))
            .current_dir(home.folder.path())
            .env("LATHE_CACHE_DIR", home.path("cache"))
            .env("LATHE_KEY_FILE", home.path(key))
            .output()
            .expect("the binary runs");
        let message = String::from_utf8_lossy(&command.stderr).into_owned();
        assert!(command.status.success(), "{message}");
        let output = std::fs::read_dir(home.path(folder)).expect("outputs").flatten().next().expect("one");
        (std::fs::read(output.path()).expect("an output"), message)
    };
    let (trusted, silence) = run("trusted", "key");
    assert!(!silence.contains("generated again"), "{silence}");
    let (again, warning) = run("again", "another key");
    assert!(warning.contains("generated again from the IR"), "{warning}");
    assert!(trusted.len() > 128 && trusted == again, "other bits");
    let key = lathe_artifact::key::UserKey::load_or_create_at(&home.path("another key")).expect("a key");
    let options = lathe_runtime::LoadOptions { trust: lathe_artifact::Trust::Key(key), ..Default::default() };
    let refused = lathe_runtime::Model::load(home.path("m.lathe"), &options);
    assert!(matches!(&refused, Err(lathe_runtime::RuntimeError::Untrusted { .. })), "{refused:?}");
}

#[test]
fn the_cache_compiles_once() {
    let home = Home::new();
    home.succeeds(&["run", &magika(), "--fill", "zeros"]);
    let entries = || std::fs::read_dir(home.path("cache")).map(|entries| entries.count()).unwrap_or(0);
    assert_eq!(entries(), 1);
    home.succeeds(&["run", &magika(), "--fill", "zeros"]);
    assert_eq!(entries(), 1);
    // A broken entry is made again.
    let entry =
        std::fs::read_dir(home.path("cache")).expect("the cache").flatten().next().expect("an entry").path();
    std::fs::write(&entry, b"nonsense").expect("written");
    home.succeeds(&["run", &magika(), "--fill", "zeros"]);
    assert!(std::fs::metadata(&entry).expect("the entry").len() > 1000);
}

#[test]
fn stages_print_stable_text() {
    let home = Home::new();
    for stage in ["ir", "plan", "clif", "asm"] {
        let arguments = ["compile", &magika(), "--emit", stage, "--target", "v3"];
        let text = home.succeeds(&arguments);
        assert!(text.lines().count() > 20, "{stage}");
        assert_eq!(text, home.succeeds(&arguments), "{stage}");
    }
    let early = home.succeeds(&["compile", &magika(), "--emit-after", "fold_constants"]);
    assert_ne!(early, home.succeeds(&["compile", &magika(), "--emit", "ir"]));
    assert!(home.fails(&["compile", &magika(), "--emit-after", "nonsense"]).1.contains("nonsense"));
}

#[test]
fn wrong_usage_exits_with_2_and_failures_with_1() {
    let home = Home::new();
    for arguments in
        [&["nonsense"][..], &["run"], &["run", "m.onnx", "--no-such-flag"], &["--threads", "0", "doctor"]]
    {
        assert_eq!(home.fails(arguments).0, 2, "{arguments:?}");
    }
    let (code, message) = home.fails(&["serve", "model.gguf"]);
    assert_eq!((code, message.contains("not in this version")), (2, true), "{message}");
    let (code, message) = home.fails(&["run", "missing.onnx"]);
    assert_eq!((code, message.contains("missing.onnx")), (1, true), "{message}");
    std::fs::write(home.path("broken.onnx"), b"not a model").expect("written");
    let (code, message) = home.fails(&["compile", "broken.onnx", "-o", "out.lathe"]);
    assert_eq!((code, message.contains("broken.onnx")), (1, true), "{message}");
    assert!(!home.path("out.lathe").exists());
    let (code, message) = home.fails(&["run", &magika()]);
    assert_eq!((code, message.contains("bytes")), (1, true), "{message}");
    let (code, message) = home.fails(&["run", &magika(), "--fill", "zeros", "--max-memory", "1MiB"]);
    assert_eq!(code, 1, "{message}");
}

#[test]
fn bench_and_doctor_report_in_json() {
    let home = Home::new();
    let vary = "unk__214=1..4";
    let bench = home.json(&[
        "bench",
        &magika(),
        "--fill",
        "random",
        "--runs",
        "8",
        "--vary",
        vary,
        "--profile",
        "--json",
    ]);
    assert!(bench["median_ms"].as_f64() > Some(0.0), "{bench}");
    assert!(bench["gflops"].as_f64() > Some(0.0), "{bench}");
    assert!(bench["profile"].as_array().is_some_and(|rows| rows.len() > 10), "{bench}");
    let doctor = home.json(&["doctor", "--json"]);
    assert!(doctor["gflops"].as_f64() > Some(0.1), "{doctor}");
}

#[test]
fn test_runs_folders_in_the_backend_layout() {
    let home = Home::new();
    let set = home.path("cases/magika/test_data_set_0");
    std::fs::create_dir_all(&set).expect("made");
    std::fs::copy(magika(), home.path("cases/magika/model.onnx")).expect("copied");
    let fixed = ["run", &magika(), "--fill", "zeros", "--output-dir", "out", "--output-format", "pb"];
    home.succeeds(&fixed);
    let output = std::fs::read_dir(home.path("out")).expect("outputs").flatten().next().expect("one").path();
    std::fs::copy(output, set.join("output_0.pb")).expect("copied");
    let zeros = lathe::Tensor::zeros(lathe::DType::I32, &[1, 2048]).expect("small");
    std::fs::write(set.join("input_0.pb"), lathe_compiler::tensor_bytes("bytes", &zeros)).expect("written");
    let out = home.succeeds(&["test", "cases", "--json", "results.json"]);
    assert_eq!(out.lines().last(), Some("1 passed, 0 failed, 0 skipped"));
    let wrong = lathe::Tensor::from_slice(&[7i32; 2048], &[1, 2048]).expect("small");
    std::fs::write(set.join("input_0.pb"), lathe_compiler::tensor_bytes("bytes", &wrong)).expect("written");
    let failed = home.lathe(&["test", "cases", "--json", "results.json"]);
    assert_eq!(failed.status.code(), Some(1));
    let results: Value =
        serde_json::from_slice(&std::fs::read(home.path("results.json")).expect("written")).expect("JSON");
    assert_eq!(results["magika"]["status"], "fail");
}

#[test]
fn the_embedding_example_runs() {
    let home = Home::new();
    let test = std::env::current_exe().expect("this test");
    let example = test.parent().and_then(Path::parent).expect("target/release").join("examples/embed");
    let output = Command::new(example)
        .arg(magika())
        .env("LATHE_CACHE_DIR", home.path("cache"))
        .env("LATHE_KEY_FILE", home.path("key"))
        .output()
        .expect("cargo test builds examples");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("f32[1, 214]"));
}
