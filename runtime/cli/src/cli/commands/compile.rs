//! `lathe compile MODEL`: import, optimise, plan, generate code, write the artifact.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use lathe_artifact::SealKeys;
use lathe_compiler::Stage as EmitStage;
use lathe_compiler::verify::{Verification, passes_json};
use serde_json::{Value, json};

use crate::cli::args::{Common, CompileArgs, Stage};
use crate::cli::error::CliError;
use crate::cli::size::ByteSize;
use crate::cli::{load, report};
use crate::{Artifact, CompileOptions};

/// Runs the command.
pub fn run(common: &Common, args: &CompileArgs) -> Result<(), CliError> {
    let mut options = load::compile_options(common, &args.target)?;
    options.dims.clone_from(&common.dim);
    options.disable.clone_from(&args.disable);
    options.kv_heads = args.kv_heads;
    options.stop_after = args.stop_after;
    options.kv = args.kv.dtype();
    if let Some(stage) = stage(args) {
        return report::print(&lathe_compiler::emit(&args.model, &options, &stage)?);
    }
    let verification = args.verify.then(|| verify_passes(&args.model, &options)).transpose()?;
    let artifact = load::waiting("compile", || crate::compile(&args.model, &options))?;
    let output = args.output.clone().unwrap_or_else(|| default_output(&args.model));
    let mut keys = SealKeys::of_user()?;
    if let Some(file) = &args.sign_key {
        keys.sign = Some(lathe_artifact::key::read_ed25519(file)?);
    }
    artifact.write(&output, &keys)?;
    let mut summary = artifact.report.clone();
    if let Some((verification, passes)) = verification {
        summary["verify"] = verify_program(common, &args.model, &output, &verification, &passes)?;
    }
    let bytes = std::fs::metadata(&output).map(|metadata| metadata.len()).unwrap_or(0);
    summary["artifact"] = json!(output.to_string_lossy());
    summary["artifact_bytes"] = json!(bytes);
    if args.json.json { report::print_json(&summary) } else { report::print(&text(&artifact, &summary)) }
}

fn stage(args: &CompileArgs) -> Option<EmitStage> {
    match (&args.emit_after, args.emit) {
        (Some(pass), _) => Some(EmitStage::IrAfter(pass.clone())),
        (None, emit) => emit.map(|stage| match stage {
            Stage::Ir => EmitStage::Ir,
            Stage::Plan => EmitStage::Plan,
            Stage::Clif => EmitStage::Clif,
            Stage::Asm => EmitStage::Asm,
        }),
    }
}

fn default_output(model: &Path) -> PathBuf {
    PathBuf::from(model.file_stem().unwrap_or_default()).with_extension("lathe")
}

type Passes = Vec<(String, lathe_compiler::verify::Difference)>;

fn verify_passes(model: &Path, options: &CompileOptions) -> Result<(Verification, Passes), CliError> {
    let verification = Verification::new(model, options, 0)?;
    let passes = verification.passes(model, options)?;
    Ok((verification, passes))
}

/// Runs the artifact that was written and compares it with the graph as imported.
fn verify_program(
    common: &Common,
    model: &Path,
    output: &Path,
    verification: &Verification,
    passes: &Passes,
) -> Result<Value, CliError> {
    let options = load::load_options(common, None)?;
    let loaded = crate::load(output, &options)?;
    let mut session = load::session(common, &loaded)?;
    let difference = verification.program(&mut |inputs| super::verify::run_named(&mut session, inputs))?;
    if let Some(reason) = &difference.failure {
        // An artifact that is wrong must not be left to be used.
        let _ = std::fs::remove_file(output);
        return Err(CliError::Different(format!(
            "{}: the compiled program is wrong: {reason}",
            model.display()
        )));
    }
    Ok(json!({
        "passes": passes_json(passes),
        "evaluator": {"max_abs": difference.max_abs, "max_rel": difference.max_rel},
        "tract": verification.tract(model),
    }))
}

fn text(artifact: &Artifact, summary: &Value) -> String {
    let mut out = String::new();
    let bytes = |key: &str| ByteSize(summary[key].as_u64().unwrap_or(0));
    let steps: usize = artifact.functions.iter().map(|function| function.plan.steps.len()).sum();
    let code: usize =
        artifact.functions.iter().flat_map(|function| &function.code).map(|code| code.bytes.len()).sum();
    // Writing into a String cannot fail.
    let _ =
        writeln!(out, "{} ({})", summary["artifact"].as_str().unwrap_or_default(), bytes("artifact_bytes"));
    let _ = writeln!(out, "  ops       {} -> {}, {steps} steps", summary["ops_before"], summary["ops_after"]);
    for pass in summary["passes"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "  {:<24} x{}", pass["pass"].as_str().unwrap_or_default(), pass["applied"]);
    }
    let _ = writeln!(out, "  weights   {}", bytes("weight_bytes"));
    let _ = writeln!(
        out,
        "  arena     peak {} (lower bound {}) at {}",
        bytes("arena_peak_bytes"),
        bytes("arena_lower_bound_bytes"),
        summary["arena_dims"].as_str().unwrap_or("no symbolic sizes")
    );
    let _ = writeln!(out, "  KV cache  {} bytes per token", summary["kv_bytes_per_token"]);
    if let Some(pooled) = summary.get("pooled") {
        let _ = writeln!(
            out,
            "  pooled    {} attentions to {} KV heads: {} -> {} cache bytes per token; max difference {:.2e} ({:.1e} of the largest)",
            pooled["layers"],
            pooled["kv_heads"],
            pooled["cache_bytes_per_token_before"],
            pooled["cache_bytes_per_token_after"],
            pooled["max_abs"].as_f64().unwrap_or(f64::NAN),
            pooled["max_rel"].as_f64().unwrap_or(f64::NAN)
        );
    }
    let _ = writeln!(out, "  code      {}", ByteSize(code as u64));
    let _ = writeln!(out, "  time      {:.2} s", summary["seconds"].as_f64().unwrap_or(0.0));
    if let Some(verify) = summary.get("verify") {
        let _ = writeln!(
            out,
            "  verified  {} passes, program against evaluator: max relative difference {:.1e}; tract: {}",
            verify["passes"].as_array().map_or(0, Vec::len),
            verify["evaluator"]["max_rel"].as_f64().unwrap_or(0.0),
            verify["tract"].as_str().unwrap_or_default()
        );
    }
    out
}
