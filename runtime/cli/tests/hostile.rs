//! Broken and malicious models through the command line: each row of the manifest is one clear error or a run, soon and in
//! little memory, and never a signal.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{feed, rows_of};

#[path = "../../../compiler/import/tests/support/mod.rs"]
mod support;

/// What one command may take.
const TIME: Duration = Duration::from_secs(10);
/// Memory above the size of the file that one command may take.
const MEMORY: u64 = 1 << 30;
/// Commands at a time.
const WORKERS: usize = 2;

/// Most memory that a process has had so far, where the system tells.
fn peak_memory(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// How a command ended.
struct Ended {
    /// `None` after a signal.
    code: Option<i32>,
    took: Duration,
    peak: u64,
    out: String,
    message: String,
}

/// Kinds of files, each tried by the command that a user would take.
const KINDS: &[&str] = &[
    "onnx",
    "safetensors",
    "safetensors-index",
    "gguf",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Runs the command for a row of the manifest.
fn run(model: &Path, row: &Value, folder: &Path) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
    match row["kind"].as_str() {
        Some("tokenizer.json") => command.arg("tokenize").arg(model).args(row["encode_text"].as_str()),
        Some("safetensors" | "safetensors-index" | "gguf") => command.arg("inspect").arg(model),
        Some("config.json") => command.arg("plan").arg(model),
        Some("tokenizer_config.json") => command.arg("template").arg(model),
        _ => command.arg("run").arg(model).arg("--no-cache"),
    };
    command.current_dir(folder).env("LATHE_KEY_FILE", folder.join("key"));
    for (index, (name, value)) in row["feeds"].as_object().into_iter().flatten().enumerate() {
        let tensor = feed(value).expect("the manifest describes a tensor");
        let file = folder.join(format!("{index}.pb"));
        std::fs::write(&file, lathe_compiler::tensor_bytes(name, &tensor)).expect("written");
        command.arg("--input").arg(format!("{name}={}", file.display()));
    }
    let output = |name: &str| std::fs::File::create(folder.join(name)).expect("a file");
    let child = command.stdin(Stdio::null()).stdout(output("out")).stderr(output("message")).spawn();
    let mut child = child.expect("the binary runs");
    let (start, mut peak) = (Instant::now(), 0);
    let status = loop {
        peak = peak_memory(&child).unwrap_or(0).max(peak);
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if start.elapsed() > TIME || peak > 4 * MEMORY {
            child.kill().expect("a child");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let read =
        |name: &str| String::from_utf8_lossy(&std::fs::read(folder.join(name)).expect("a file")).into_owned();
    Ended { code: status.code(), took: start.elapsed(), peak, out: read("out"), message: read("message") }
}

/// What is wrong with the end of a row, if anything.
fn judge(model: &Path, row: &Value, ended: &Ended) -> Option<String> {
    let size = std::fs::metadata(model).map_or(0, |metadata| metadata.len());
    let Ended { code, took, peak, out, message } = ended;
    if *took > TIME || *peak > MEMORY + size {
        return Some(format!("took {took:?} and {} MiB", peak >> 20));
    }
    if let Some(marker) = row["leak_marker"].as_str()
        && (out.contains(marker) || message.contains(marker))
    {
        return Some("shows what lies outside the model's folder".into());
    }
    match (row["expected"].as_str(), code) {
        (Some("runs ok" | "either"), Some(0)) => return None,
        // Operators of a later tier may be refused.
        (Some("runs ok"), Some(1)) if message.contains("unsupported operators") => {}
        (Some("clear error" | "either"), Some(1)) => {}
        _ => return Some(format!("exit code {code:?}: {message:.500}")),
    }
    let file = model.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let names = message.contains(&file) || message.contains('`');
    let errors = message.lines().filter(|line| line.starts_with("error")).count();
    let clear = names && errors == 1 && message.len() < 8000 && !message.contains("panicked");
    let plain = message.chars().all(|c| c == '\n' || !c.is_control());
    (!clear || !plain).then(|| format!("unclear: {message:.500}"))
}

#[test]
fn hostile_models_end_in_one_clear_error() {
    let rows = rows_of(KINDS);
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        while let Some((model, row)) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(problem) = judge(model, row, &run(model, row, folder.path())) {
                let line = format!("{} ({}): {problem}", row["id"], row["what"]);
                failures.lock().expect("no panic").push(line);
            }
        }
    };
    std::thread::scope(|scope| (0..WORKERS).for_each(|_| drop(scope.spawn(worker))));
    let failures = failures.into_inner().expect("no panic");
    assert!(failures.is_empty(), "{} of {} rows fail:\n{}", failures.len(), rows.len(), failures.join("\n"));
}
