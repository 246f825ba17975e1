//! `lathe inspect MODEL`: what a model, an artifact or a safetensors file holds.

mod html;

use std::fmt::Write;
use std::path::Path;

use lathe_artifact::plan::{Arg, Plan, Port, Step, StepKind};
use lathe_artifact::{LoadMode, SealStatus, Trust};
use serde_json::{Value, json};

use crate::cli::args::{Common, InspectArgs};
use crate::cli::error::CliError;
use crate::cli::sandbox::{self, Conversation};
use crate::cli::{load, report};
use crate::{Artifact, Isa};

/// Runs the command.
pub fn run(common: &Common, args: &InspectArgs) -> Result<(), CliError> {
    if let Some(file) = &args.html {
        return html::write(common, &args.model, file);
    }
    let extension = args.model.extension().and_then(|extension| extension.to_str());
    let description = match extension {
        Some("safetensors") => tensors(&args.model)?,
        Some("gguf") => gguf(&args.model)?,
        Some("json") if is_index(&args.model) => shards(common, &args.model)?,
        Some("lathe") => {
            let opened = lathe_artifact::open(&args.model, &Trust::UserKey, LoadMode::Map)?;
            if args.check {
                opened.check()?;
            }
            let mut description = describe(&opened.artifact);
            description["seal"] = json!(match &opened.seal {
                SealStatus::Trusted => "trusted".to_string(),
                SealStatus::Untrusted(reason) => format!("untrusted: {reason}"),
            });
            description["build"] = json!(opened.artifact.build_id);
            description
        }
        _ => {
            let mut options = load::compile_options(common, &[])?;
            options.dims.clone_from(&common.dim);
            options.kv = args.kv.dtype();
            describe(&crate::compile(&args.model, &options)?)
        }
    };
    if args.json.json { report::print_json(&description) } else { report::print(&text(&description)) }
}

/// Names, dtypes and shapes of a safetensors file.
fn tensors(path: &Path) -> Result<Value, CliError> {
    let file = lathe_tensor::MappedFile::open(path).map_err(crate::Error::from)?;
    let file = std::sync::Arc::new(file);
    let view = safetensors::SafeTensors::deserialize(&file).map_err(|error| CliError::file(path, error))?;
    let tensors: Vec<Value> = view
        .iter()
        .map(|(name, tensor)| {
            json!({"name": name, "dtype": format!("{:?}", tensor.dtype()).to_lowercase(), "shape": tensor.shape(), "bytes": tensor.data().len()})
        })
        .collect();
    Ok(json!({"tensors": tensors, "bytes": file.len()}))
}

/// Whether a file is named as the index of shards is.
fn is_index(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.ends_with(".safetensors.index.json"))
}

/// Names, dtypes and shapes of the tensors in all shards of an index.
fn shards(common: &Common, path: &Path) -> Result<Value, CliError> {
    let tensors = lathe_compiler::indexed_tensors(path, common.max_memory())
        .map_err(|error| crate::Error::from(lathe_compiler::CompileError::from(error)))?;
    let bytes: usize = tensors.iter().map(|tensor| tensor.bytes).sum();
    let tensors = tensors.into_iter().map(|tensor| {
        json!({"name": tensor.name, "dtype": tensor.dtype, "shape": tensor.shape, "bytes": tensor.bytes})
    });
    Ok(json!({"tensors": tensors.collect::<Vec<Value>>(), "bytes": bytes}))
}

/// That the chat template of a GGUF file keeps the limits. Other faults of it are for who uses it: the rest of the file may be fine.
fn check_template(path: &Path, file: &lathe_compiler::gguf::GgufFile) -> Result<(), CliError> {
    let Some(source) = file.text("tokenizer.chat_template").map_err(crate::Error::from)? else {
        return Ok(());
    };
    let place = path.display().to_string();
    let template = lathe_generate::text::ChatTemplate::new(source.to_string(), Vec::new(), place);
    let messages = json!([{"role": "user", "content": "Hello"}]).to_string();
    let conversation = Conversation { messages, tools: None, prompt: true };
    let Err(error) = sandbox::render(&template, conversation) else { return Ok(()) };
    let reason = error.to_string();
    match ["too many elements", "fuel", "takes more than", " over "]
        .iter()
        .any(|limit| reason.contains(limit))
    {
        true => Err(error),
        false => {
            tracing::warn!("{reason}");
            Ok(())
        }
    }
}

/// Metadata and tensors of a GGUF file. Arrays are cut: those of tokenizers have hundreds of thousands of elements.
fn gguf(path: &Path) -> Result<Value, CliError> {
    const MOST_ELEMENTS: usize = 8;
    let file = lathe_compiler::gguf::GgufFile::open(path).map_err(crate::Error::from)?;
    lathe_compiler::gguf::check_facts(&file).map_err(crate::Error::from)?;
    check_template(path, &file)?;
    let metadata: serde_json::Map<String, Value> =
        file.metadata().map(|(key, value)| (key.to_string(), value.to_json(MOST_ELEMENTS))).collect();
    let tensors: Vec<Value> = file
        .tensors()
        .iter()
        .map(|tensor| {
            json!({"name": tensor.name, "dtype": tensor.type_name(), "shape": tensor.shape, "bytes": tensor.bytes})
        })
        .collect();
    Ok(json!({"version": file.version(), "metadata": metadata, "tensors": tensors, "bytes": file.bytes()}))
}

/// Inputs, outputs and functions with their steps.
pub fn describe(artifact: &Artifact) -> Value {
    let ports = |ports: &[Port]| -> Value {
        ports
            .iter()
            .map(|port| json!({"name": port.name, "dtype": port.tensor.dtype.name(), "dims": port.dims_text}))
            .collect()
    };
    let Some(main) = artifact.functions.first() else { return json!({"functions": []}) };
    let dims: Vec<&str> = main.plan.symbols.iter().map(|symbol| symbol.name.as_str()).collect();
    let functions: Vec<Value> = artifact
        .functions
        .iter()
        .map(|function| describe_function(&function.plan, &artifact.report))
        .collect();
    json!({"inputs": ports(&main.plan.inputs), "outputs": ports(&main.plan.outputs), "dims": dims, "functions": functions, "cache": artifact.report["cache"]})
}

fn describe_function(plan: &Plan, report: &Value) -> Value {
    let mut steps = Vec::new();
    describe_steps(plan, &plan.steps, &mut steps);
    steps.extend(
        plan.views
            .iter()
            .map(|(node, op)| json!({"op": op, "node": node, "exec": "view", "kernel": "", "isa": ""})),
    );
    let nodes = &report["nodes"][&plan.name];
    json!({
        "name": plan.name,
        "ops_before": report["ops_before"],
        "ops_after": report["ops_after"],
        "nodes": nodes,
        "steps": steps,
        "arena_peak_bytes": report["arena_peak_bytes"],
        "arena_lower_bound_bytes": report["arena_lower_bound_bytes"],
        "kv_bytes_per_token": report["kv_bytes_per_token"],
    })
}

/// Steps in program order, those of both branches of an `if` and of the block of a loop behind it.
fn describe_steps(plan: &Plan, steps: &[Step], out: &mut Vec<Value>) {
    let isa = Isa::detect().name();
    for step in steps {
        let (exec, kernel, isa) = match &step.kind {
            StepKind::Barrier => continue,
            StepKind::Call(call) => ("builtin", call.builtin.name(), isa),
            StepKind::Region(_) => ("region", "region", "native"),
            StepKind::Evaluate(_) => ("evaluator", "evaluator", ""),
            StepKind::Sizes(_) => ("control", "sizes", "native"),
            StepKind::If { .. } => ("control", "if", "native"),
            StepKind::Loop(_) => ("control", "loop", "native"),
        };
        out.push(json!({
            "op": step.op, "node": step.node, "exec": exec, "kernel": kernel, "isa": isa,
            "precision": precision(plan, &step.kind), "reason": step.reason,
        }));
        if let StepKind::If { then_steps, else_steps, .. } = &step.kind {
            describe_steps(plan, then_steps, out);
            describe_steps(plan, else_steps, out);
        }
        if let StepKind::Loop(repeat) = &step.kind {
            describe_steps(plan, &repeat.steps, out);
        }
    }
}

/// The dtype that a step computes in: that of its first operand.
fn precision(plan: &Plan, kind: &StepKind) -> Option<&'static str> {
    let view = match kind {
        StepKind::Call(call) => call.args.iter().find_map(|arg| match arg {
            Arg::View(view) => Some(view),
            _ => None,
        })?,
        StepKind::Region(region) => &region.outputs.first()?.0.view,
        StepKind::Evaluate(evaluate) => &evaluate.outputs.first()?.view,
        StepKind::Sizes(sizes) => &sizes.values.view,
        StepKind::Barrier | StepKind::If { .. } | StepKind::Loop(_) => return None,
    };
    plan.slots.get(view.slot.0 as usize).map(|slot| slot.dtype.name())
}

fn text(description: &Value) -> String {
    let mut out = String::new();
    let string = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let list =
        |value: &Value| value.as_array().into_iter().flatten().map(&string).collect::<Vec<_>>().join(", ");
    // Writing into a String cannot fail.
    for (key, value) in description["metadata"].as_object().into_iter().flatten() {
        let _ = writeln!(out, "{key} = {value}");
    }
    for tensor in description["tensors"].as_array().into_iter().flatten() {
        let _ =
            writeln!(out, "{:<60} {} {}", string(&tensor["name"]), string(&tensor["dtype"]), tensor["shape"]);
    }
    for kind in ["inputs", "outputs"] {
        for port in description[kind].as_array().into_iter().flatten() {
            let _ = writeln!(
                out,
                "{:<7} {}: {}[{}]",
                kind.trim_end_matches('s'),
                string(&port["name"]),
                string(&port["dtype"]),
                list(&port["dims"])
            );
        }
    }
    for function in description["functions"].as_array().into_iter().flatten() {
        let _ = writeln!(
            out,
            "function {}: {} ops, {} after passes; arena peak {} bytes (lower bound {})",
            string(&function["name"]),
            function["ops_before"],
            function["ops_after"],
            function["arena_peak_bytes"],
            function["arena_lower_bound_bytes"]
        );
        for step in function["steps"].as_array().into_iter().flatten() {
            let _ = writeln!(
                out,
                "  {:<10} {:<16} {:<18} {}",
                string(&step["exec"]),
                string(&step["kernel"]),
                string(&step["op"]),
                string(&step["node"])
            );
        }
    }
    out
}
