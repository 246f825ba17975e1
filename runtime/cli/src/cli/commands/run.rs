//! `lathe run MODEL`: one inference.

use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

use lathe_tensor::Tensor;
use serde_json::{Value, json};

use crate::cli::args::{Common, OutputFormat, RunArgs};
use crate::cli::error::CliError;
use crate::cli::{inputs, interrupt, load, report, tensors};

/// Elements of each output that are shown.
const PREVIEW: usize = 8;

/// Runs the command.
pub fn run(common: &Common, args: &RunArgs) -> Result<(), CliError> {
    let options = load::load_options(common, args.inputs.trust_key.as_deref())?;
    let model = crate::load(&args.model, &options)?;
    let given = inputs::collect_for(&args.model, common, &args.inputs, &model)?;
    let mut session = load::session(common, &model)?;
    let run = interrupt::run_options();
    let borrowed: Vec<(&str, &Tensor)> = given.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let start = Instant::now();
    let results = session.run_with(&borrowed, &run).map_err(|error| CliError::file(&args.model, error))?;
    let seconds = start.elapsed().as_secs_f64();
    let tensors: Vec<(String, Tensor)> =
        results.iter().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect();
    let outputs = model.values(&results)?;
    let files = match &args.output_dir {
        Some(folder) => write_outputs(folder, args.output_format, &tensors, &outputs)?,
        None => Vec::new(),
    };
    if args.json.json {
        let outputs: Vec<Value> = outputs.iter().map(|(name, value)| describe(name, value)).collect();
        let mut document = json!({"outputs": outputs, "files": files, "ms": seconds * 1e3});
        if !results.stats().routers.is_empty() {
            document["routers"] = routers(&results.stats().routers);
        }
        return report::print_json(&document);
    }
    let mut out = String::new();
    for (name, value) in &outputs {
        print_value(&mut out, name, value);
    }
    for file in files {
        let _ = writeln!(out, "wrote {file}");
    }
    report::print(&out)
}

/// What the routers of mixtures of experts chose, by layer, and the mean of the balance losses.
fn routers(statistics: &[crate::RouterStatistics]) -> Value {
    let layers: Vec<Value> = statistics
        .iter()
        .map(|router| {
            json!({
                "node": router.node, "experts": router.load.len(), "top_k": router.top_k, "tokens": router.tokens,
                "load": router.load, "dropped": router.dropped, "probability": router.probability,
                "balance_loss": router.balance_loss(),
            })
        })
        .collect();
    let sum: f64 = statistics.iter().map(crate::RouterStatistics::balance_loss).sum();
    json!({"layers": layers, "balance_loss": sum / statistics.len().max(1) as f64})
}

fn write_outputs(
    folder: &Path,
    format: OutputFormat,
    tensors: &[(String, Tensor)],
    outputs: &[(String, crate::Value)],
) -> Result<Vec<String>, CliError> {
    std::fs::create_dir_all(folder).map_err(|error| CliError::file(folder, error))?;
    if format == OutputFormat::Safetensors {
        let path = folder.join("outputs.safetensors");
        tensors::write_safetensors(&path, tensors)?;
        return Ok(vec![path.to_string_lossy().into_owned()]);
    }
    outputs
        .iter()
        .map(|(name, value)| {
            let npy = match value {
                crate::Value::Tensor(tensor) if format == OutputFormat::Npy => Some(tensor),
                _ => None,
            };
            let extension = if npy.is_some() { "npy" } else { "pb" };
            let path = folder.join(format!("{}.{extension}", file_name(name)));
            match npy {
                Some(tensor) => tensors::write_npy(&path, tensor)?,
                None => tensors::write_value(&path, name, value)?,
            }
            Ok(path.to_string_lossy().into_owned())
        })
        .collect()
}

/// An output's name as a file name: names come from the model file and may hold anything.
fn file_name(name: &str) -> String {
    let safe: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
        .take(128)
        .collect();
    if safe.trim_start_matches('.').is_empty() {
        "output".to_string()
    } else {
        safe.trim_start_matches('.').to_string()
    }
}

fn describe(name: &str, value: &crate::Value) -> Value {
    let mut document = described(value);
    document["name"] = json!(name);
    document
}

/// A value as JSON: a tensor by dtype, shape and first elements; the first values of a sequence; keys and values of a map.
fn described(value: &crate::Value) -> Value {
    match value {
        crate::Value::Tensor(tensor) => {
            json!({"dtype": tensor.dtype().name(), "shape": tensor.shape(), "preview": preview_values(tensor)})
        }
        crate::Value::Sequence(values) => {
            let shown: Vec<Value> = values.iter().take(PREVIEW).map(described).collect();
            json!({"kind": "sequence", "length": values.len(), "preview": shown})
        }
        crate::Value::Optional(inner) => {
            json!({"kind": "optional", "value": inner.as_deref().map(described)})
        }
        crate::Value::Map { keys, values } => {
            json!({"kind": "map", "length": keys.len(), "keys": preview_values(keys), "preview": preview_values(values)})
        }
    }
}

/// A line a tensor. Writing into a String cannot fail.
fn print_value(out: &mut String, name: &str, value: &crate::Value) {
    let _ = match value {
        crate::Value::Tensor(tensor) => {
            writeln!(out, "{name}: {}{:?} {}", tensor.dtype(), tensor.shape(), preview(tensor))
        }
        crate::Value::Sequence(values) => {
            let _ = writeln!(out, "{name}: a sequence of {}", values.len());
            for (index, value) in values.iter().take(PREVIEW).enumerate() {
                print_value(out, &format!("{name}[{index}]"), value);
            }
            Ok(())
        }
        crate::Value::Optional(None) => writeln!(out, "{name}: nothing"),
        crate::Value::Optional(Some(inner)) => return print_value(out, name, inner),
        crate::Value::Map { keys, values } => {
            writeln!(out, "{name}: a map of {} keys {} to {}", keys.len(), preview(keys), preview(values))
        }
    };
}

fn preview_values(tensor: &Tensor) -> Value {
    if let Ok(strings) = tensor.strings() {
        return strings.iter().take(PREVIEW).map(|text| json!(String::from_utf8_lossy(text))).collect();
    }
    let values = lathe_compiler::as_f64(tensor).unwrap_or_default();
    values.iter().take(PREVIEW).map(|value| json!(value)).collect()
}

fn preview(tensor: &Tensor) -> String {
    let values = preview_values(tensor);
    let shown: Vec<String> = values.as_array().into_iter().flatten().map(Value::to_string).collect();
    let more = if tensor.len() > PREVIEW { ", ..." } else { "" };
    format!("[{}{more}]", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn output_names_cannot_leave_the_folder() {
        assert_eq!(file_name("logits"), "logits");
        assert_eq!(file_name("../../etc/passwd"), "_.._etc_passwd");
        assert_eq!(file_name(".."), "output");
        assert_eq!(file_name(""), "output");
    }
}
