//! `lathe test` on checkpoints: a folder with `cases.safetensors` and the model in `hf/`, whose every configuration is a case.
//!
//! `caseN.in.*` and `caseN.out.*` are runs of the model (`caseN.out_bf16w.*` of the weights in `hf_bf16/`), `caseN.compare_mask` says which
//! positions count. `gen`, `gen_eos` and `gen_batch` are greedy continuations, `gen_beam4` and
//! `gen_beam4_eos` the best of beam search, of the inputs of `gen` where they have none of their own, `NAME.steps` what masked diffusion holds
//! after each step: `lathe generate` must give them. `meta.json` holds
//! tolerances and settings.

mod diffusion;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use lathe_tensor::{DType, Tensor};
use serde_json::Value;

use super::args::Common;
use super::cases::Tolerance;
use super::compare::{Distance, compare};
use super::error::CliError;
use super::{load, tensors};
use crate::cli::commands::verify::run_named;

/// The file of inputs and outputs.
pub const CASES: &str = "cases.safetensors";
/// Continuations that are compared.
const CONTINUATIONS: [&str; 5] = ["gen", "gen_eos", "gen_batch", "gen_beam4", "gen_beam4_eos"];
/// Inputs that a prompt of tokens is made of.
const PROMPT: [&str; 2] = ["input_ids", "attention_mask"];

/// The configurations of the models in a folder with cases: `hf/config.json`, `hf/config.v4.json`, `hf_bf16/config.json`.
pub fn configurations(folder: &Path) -> Vec<PathBuf> {
    let models = ["hf", "hf_bf16"].map(|name| folder.join(name));
    let files =
        models.iter().flat_map(|model| ["config.json", "config.v4.json"].map(|name| model.join(name)));
    files.filter(|file| file.is_file()).collect()
}

/// Runs the cases for one configuration.
///
/// # Errors
/// The first difference, or why the model does not run.
pub fn run(common: &Common, config: &Path) -> Result<Distance, CliError> {
    let model_folder = config.parent().unwrap_or(Path::new("."));
    let family = model_folder.parent().unwrap_or(Path::new("."));
    let rounded = model_folder.file_name().is_some_and(|name| name == "hf_bf16");
    let cases = read_all(&family.join(CASES))?;
    let meta = read_meta(&family.join("meta.json"))?;
    let mut options = crate::LoadOptions { cache: None, ..load::load_options(common, None)? };
    if rounded {
        // These outputs are of a module that was converted as a whole and back: its rotary frequencies were rounded like its weights.
        options.compile.frequencies = DType::BF16;
    }
    let model = crate::load(config, &options)?;
    let mut session = load::session(common, &model)?;
    let mut worst = Distance::default();
    for number in 0.. {
        let inputs = below(&cases, &format!("case{number}.in."));
        if inputs.is_empty() {
            break;
        }
        let outputs = if rounded { "out_bf16w" } else { "out" };
        let expected = below(&cases, &format!("case{number}.{outputs}."));
        let distance = run_one(
            &model,
            &mut session,
            inputs,
            &expected,
            &meta,
            cases.get(&format!("case{number}.compare_mask")),
        )
        .map_err(|error| in_case(&format!("case{number}"), error))?;
        worst = worst.max(distance);
    }
    for name in CONTINUATIONS.into_iter().filter(|_| !rounded) {
        if cases.contains_key(&format!("{name}.ids")) {
            continuation(config, &cases, &meta["generation"], name).map_err(|error| in_case(name, error))?;
        }
    }
    if !rounded {
        for name in diffusion::names(&cases) {
            diffusion::check(config, &cases, &meta["generation"][&name], &name)
                .map_err(|error| in_case(&name, error))?;
        }
    }
    Ok(worst)
}

fn in_case(name: &str, error: CliError) -> CliError {
    match error {
        CliError::Different(reason) => CliError::Different(format!("{name}: {reason}")),
        error => error,
    }
}

fn run_one(
    model: &crate::Model,
    session: &mut crate::Session,
    mut inputs: Vec<(String, Tensor)>,
    expected: &[(String, Tensor)],
    meta: &Value,
    mask: Option<&Tensor>,
) -> Result<Distance, CliError> {
    if let Some((name, _)) =
        inputs.iter().find(|(name, _)| !model.inputs().iter().any(|port| port.name == *name))
    {
        return Err(CliError::Different(format!("the model has no input `{name}`")));
    }
    crate::add_default_inputs(model, &mut inputs);
    let outputs = run_named(session, &inputs)?;
    let mut worst = Distance::default();
    for (name, expected) in expected {
        let index = model.outputs().iter().position(|port| port.name == *name);
        let Some(actual) = index.and_then(|index| outputs.get(index)) else {
            return Err(CliError::Different(format!("the model has no output `{name}`")));
        };
        let mask = mask.filter(|mask| expected.shape().starts_with(mask.shape()));
        let mask: Option<Vec<bool>> = mask.map(|mask| mask.bytes().iter().map(|byte| *byte != 0).collect());
        let distance = compare(actual, expected, mask.as_deref(), tolerance(meta, expected))
            .map_err(|reason| CliError::Different(format!("`{name}`: {reason}")))?;
        worst = worst.max(distance);
    }
    Ok(worst)
}

/// The absolute tolerance grows with the largest expected value.
fn tolerance(meta: &Value, expected: &Tensor) -> Tolerance {
    let number = |name: &str, default: f64| meta["tolerance"][name].as_f64().unwrap_or(default);
    let values = lathe_compiler::as_f64(expected).unwrap_or_default();
    let largest = values.iter().fold(1.0f64, |largest, value| largest.max(value.abs()));
    Tolerance { rtol: number("fp32_rel", 1e-3), atol: number("fp32_abs", 1e-4) * largest }
}

/// A continuation by the command that a user takes.
fn continuation(
    config: &Path,
    cases: &BTreeMap<String, Tensor>,
    meta: &Value,
    name: &str,
) -> Result<(), CliError> {
    let own =
        cases.keys().any(|key| key.starts_with(&format!("{name}.in.")) || *key == format!("{name}.prompt"));
    let source = if own { name } else { "gen" };
    let given = |what: &str| {
        let keys = [format!("{source}.in.{what}"), format!("{source}.{what}")];
        keys.into_iter().find_map(|key| cases.get(&key))
    };
    let others = below(cases, &format!("{source}.in."));
    let others = others.iter().any(|(name, _)| !PROMPT.contains(&name.as_str()));
    let Some(expected) = cases.get(&format!("{name}.ids")) else { return Ok(()) };
    let prompt = given("prompt").or_else(|| given("input_ids"));
    let settings = &meta[name];
    let eos = settings["eos_token_id"].as_u64();
    let setting = |what: &str| if settings[what].is_null() { &meta["gen"][what] } else { &settings[what] };
    let starts = setting("ids_include_start_token").as_bool().unwrap_or(false);
    let expected: Vec<Vec<i64>> =
        rows(expected)?.into_iter().map(|row| row[usize::from(starts).min(row.len())..].to_vec()).collect();
    let longest = expected.iter().map(Vec::len).max().unwrap_or(0);
    let count = settings["max_new_tokens"].as_u64().unwrap_or(longest as u64);
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("generate").arg(config).args(["--json", "--greedy", "--no-cache", "-n", &count.to_string()]);
    search(&mut command, settings);
    match eos {
        Some(eos) => command.arg("--eos").arg(eos.to_string()),
        None => command.arg("--ignore-eos"),
    };
    if let Some(start) = setting("decoder_start_token_id").as_u64() {
        command.arg("--decoder-start").arg(start.to_string());
    }
    match prompt {
        _ if others => {
            let folder = config.parent().and_then(Path::parent).unwrap_or(Path::new("."));
            command.arg("--inputs").arg(folder.join(CASES)).args(["--prefix", &format!("{source}.")]);
        }
        Some(prompt) => {
            for row in unpadded(prompt, given("attention_mask"))? {
                command.arg("--tokens").arg(row);
            }
        }
        None => return Err(CliError::Different("it has no prompt".to_string())),
    }
    let output = command.output()?;
    if !output.status.success() {
        return Err(CliError::Different(String::from_utf8_lossy(&output.stderr).trim().to_string()));
    }
    let report: Value = serde_json::from_slice(&output.stdout).map_err(std::io::Error::from)?;
    let actual: Vec<Vec<i64>> =
        serde_json::from_value(report["sequences"].clone()).map_err(std::io::Error::from)?;
    for (index, expected) in expected.iter().enumerate() {
        // Behind the token that ends a sequence stands padding.
        let end = expected.iter().position(|token| eos.is_some_and(|eos| *token == eos as i64));
        let expected = &expected[..end.map_or(expected.len(), |end| end + 1)];
        if actual.get(index).map(Vec::as_slice) != Some(expected) {
            return Err(CliError::Different(format!(
                "sequence {index}: got {:?}, expected {expected:?}",
                actual.get(index)
            )));
        }
    }
    Ok(())
}

/// The flags of beam search, where that is how the tokens were found.
fn search(command: &mut Command, settings: &Value) {
    let Some(beams) = settings["num_beams"].as_u64() else { return };
    command.args(["--beams", &beams.to_string()]);
    if let Some(penalty) = settings["length_penalty"].as_f64() {
        command.args(["--length-penalty", &penalty.to_string()]);
    }
    if settings["early_stopping"].as_bool() == Some(true) {
        command.arg("--early-stopping");
    }
}

/// The tokens of each prompt that its mask keeps, separated by commas.
fn unpadded(prompt: &Tensor, mask: Option<&Tensor>) -> Result<Vec<String>, CliError> {
    let masks = mask.map(rows).transpose()?;
    let rows = rows(prompt)?.into_iter().enumerate().map(|(index, row)| {
        let seen = |place: &usize| {
            let mask = masks.as_ref().and_then(|masks| masks.get(index)?.get(*place));
            mask.is_none_or(|mask| *mask != 0)
        };
        let tokens = (0..row.len()).filter(seen).map(|place| row[place].to_string());
        tokens.collect::<Vec<_>>().join(",")
    });
    Ok(rows.collect())
}

/// The rows of a matrix of ids.
fn rows(tensor: &Tensor) -> Result<Vec<Vec<i64>>, CliError> {
    let ids = tensor.to_slice::<i64>().map_err(crate::Error::from)?;
    let width = tensor.shape().last().copied().unwrap_or(1).max(1);
    Ok(ids.chunks(width).map(<[i64]>::to_vec).collect())
}

/// The tensors whose names begin so, without that beginning.
fn below(cases: &BTreeMap<String, Tensor>, prefix: &str) -> Vec<(String, Tensor)> {
    let found = cases
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_string(), tensor.clone())));
    found.collect()
}

fn read_all(path: &Path) -> Result<BTreeMap<String, Tensor>, CliError> {
    let bytes = std::fs::read(path).map_err(|error| CliError::file(path, error))?;
    let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|error| CliError::file(path, error))?;
    let names: Vec<&str> = file.names();
    Ok(tensors::read_safetensors(path, "", &names)?.into_iter().collect())
}

fn read_meta(path: &Path) -> Result<Value, CliError> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    let text = std::fs::read_to_string(path).map_err(|error| CliError::file(path, error))?;
    serde_json::from_str(&text).map_err(|error| CliError::file(path, error))
}
