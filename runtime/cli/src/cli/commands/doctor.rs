//! `lathe doctor`: what this machine offers.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::cli::args::{Common, JsonFlag};
use crate::cli::error::CliError;
use crate::cli::report;
use crate::{Cache, Isa};

/// Runs the command.
pub fn run(common: &Common, flag: JsonFlag) -> Result<(), CliError> {
    let facts = facts(common);
    if flag.json {
        return report::print_json(&facts);
    }
    let mut out = String::new();
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    for (name, value) in facts.as_object().into_iter().flatten() {
        // Writing into a String cannot fail.
        let _ = writeln!(out, "{name:<22} {}", text(value));
    }
    report::print(&out)
}

fn facts(common: &Common) -> Value {
    let isa = Isa::detect();
    let threads = common.threads.map_or_else(lathe_runtime::default_workers, usize::from);
    let available: Vec<&str> = Isa::available().map(Isa::name).collect();
    let round = |number: f64| (number * 10.0).round() / 10.0;
    json!({
        "version": lathe_compiler::BUILD_ID,
        "architecture": std::env::consts::ARCH,
        "instruction_sets": available,
        "isa": isa.name(),
        "threads": threads,
        "cores_available": lathe_runtime::available_cores(),
        "memory_mib": lathe_runtime::available_memory() >> 20,
        "gflops_1_thread": round(lathe_runtime::measure::peak_gflops(isa, 1)),
        "gflops": round(lathe_runtime::measure::peak_gflops(isa, threads)),
        "gbps_1_thread": round(lathe_runtime::measure::read_bandwidth(isa, 1)),
        "gbps": round(lathe_runtime::measure::read_bandwidth(isa, threads)),
        "caches": caches(),
        "cache_folder": Cache::of_user().map(|cache| cache.folder().to_string_lossy().into_owned()),
    })
}

/// Sizes of the first CPU's caches as the system describes them: `L1d 32K, L2 1024K, L3 32768K`.
fn caches() -> String {
    let folder = std::path::Path::new("/sys/devices/system/cpu/cpu0/cache");
    let read = |index: usize, field: &str| {
        let text = std::fs::read_to_string(folder.join(format!("index{index}")).join(field)).ok()?;
        Some(text.trim().to_string())
    };
    let caches: Vec<String> = (0..8)
        .filter_map(|index| {
            let kind = match read(index, "type")?.as_str() {
                "Data" => "d",
                "Instruction" => "i",
                _ => "",
            };
            Some(format!("L{}{kind} {}", read(index, "level")?, read(index, "size")?))
        })
        .collect();
    if caches.is_empty() { "unknown".to_string() } else { caches.join(", ") }
}
