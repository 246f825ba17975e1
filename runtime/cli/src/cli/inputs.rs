//! Inputs of a run: from files, or made up.

use std::path::Path;

use lathe_tensor::{SplitMix64, Tensor};

use super::args::{Common, Fill, InputArgs};
use super::error::CliError;
use super::fill;
use super::tensors;
use crate::Model;

/// A tensor for every input of the model, in its order.
pub fn collect(common: &Common, args: &InputArgs, model: &Model) -> Result<Vec<(String, Tensor)>, CliError> {
    let given = read_given(args, model)?;
    complete(common, args, model, given)
}

/// The same for the model that lies at `path`: masks and positions of a folder with `config.json` may be left out.
pub fn collect_for(
    path: &Path,
    common: &Common,
    args: &InputArgs,
    model: &Model,
) -> Result<Vec<(String, Tensor)>, CliError> {
    let mut given = read_given(args, model)?;
    if path.is_dir() {
        crate::add_default_inputs(model, &mut given);
    }
    complete(common, args, model, given)
}

fn complete(
    common: &Common,
    args: &InputArgs,
    model: &Model,
    given: Vec<(String, Tensor)>,
) -> Result<Vec<(String, Tensor)>, CliError> {
    let mut random = SplitMix64::new(args.seed);
    let mut missing = Vec::new();
    let mut inputs = Vec::new();
    let parts = args.fill.map_or(Ok(Vec::new()), |fill| made_up_parts(model, fill, &mut random))?;
    for (index, port) in model.inputs().iter().enumerate() {
        if let Some((_, tensor)) = given.iter().find(|(name, _)| *name == port.name) {
            inputs.push((port.name.clone(), tensor.clone()));
            continue;
        }
        let Some(fill) = args.fill else {
            missing.push(format!("`{}` {}[{}]", port.name, port.tensor.dtype, port.dims_text.join(", ")));
            continue;
        };
        if let Some((_, part)) = parts.iter().find(|(input, _)| *input == index) {
            inputs.push((port.name.clone(), part.clone()));
            continue;
        }
        let shape = shape_of(common, &port.dims_text);
        let limit = common.max_memory();
        let bytes = shape.iter().try_fold(8u64, |bytes, size| bytes.checked_mul(*size as u64));
        if bytes.is_none_or(|bytes| bytes > limit.saturating_mul(8)) {
            return Err(CliError::Input(format!(
                "input `{}` of shape {shape:?} is over --max-memory",
                port.name
            )));
        }
        let tensor = match fill {
            Fill::Random => fill::random(port.tensor.dtype, &shape, &mut random),
            Fill::Zeros => Tensor::zeros(port.tensor.dtype, &shape),
        };
        let tensor = tensor.map_err(|error| CliError::Input(format!("input `{}`: {error}", port.name)))?;
        inputs.push((port.name.clone(), tensor));
    }
    if missing.is_empty() {
        return Ok(inputs);
    }
    Err(CliError::Input(format!(
        "no value for input {}; give it with --input NAME=FILE or --inputs FILE, or make it up with --fill random",
        missing.join(" and ")
    )))
}

/// The parts of made-up values for those inputs that are no tensors, as `(input, tensor)`.
fn made_up_parts(
    model: &Model,
    fill: Fill,
    random: &mut SplitMix64,
) -> Result<Vec<(usize, Tensor)>, CliError> {
    let mut parts = Vec::new();
    for composite in &model.composites().inputs {
        let made = composite.form.example(&mut |dtype, shape| match fill {
            Fill::Random => fill::random(dtype, shape, random),
            Fill::Zeros => Tensor::zeros(dtype, shape),
        });
        let made = made.map_err(|error| CliError::Input(format!("input `{}`: {error}", composite.name)))?;
        parts.extend(made.into_iter().enumerate().map(|(part, tensor)| (composite.first + part, tensor)));
    }
    Ok(parts)
}

/// Sizes for made-up inputs: what `--dim` says, 1 for other symbolic sizes.
pub fn shape_of(common: &Common, dims: &[String]) -> Vec<usize> {
    dims.iter()
        .map(|dim| {
            let chosen = common.dim.iter().find(|(name, _)| name == dim).map(|(_, size)| *size as usize);
            chosen.or_else(|| dim.parse().ok()).unwrap_or(1)
        })
        .collect()
}

fn read_given(args: &InputArgs, model: &Model) -> Result<Vec<(String, Tensor)>, CliError> {
    let names: Vec<&str> = model.inputs().iter().map(|port| port.name.as_str()).collect();
    let mut given = Vec::new();
    for text in &args.input {
        let (name, file) = text.split_once('=').ok_or_else(|| {
            CliError::Usage(format!("--input {text}: expected NAME=FILE, such as input_ids=ids.npy"))
        })?;
        if let Some(seen) = model.input_values().iter().find(|seen| seen.name == name)
            && let Some(form) = seen.form
        {
            let value = tensors::read_value(file.as_ref(), form)?;
            given.extend(model.parts(name, &value)?);
            continue;
        }
        if !names.contains(&name) {
            let names: Vec<&str> = model.input_values().iter().map(|seen| seen.name).collect();
            return Err(CliError::Input(format!(
                "the model has no input `{name}`; it has {}",
                names.join(", ")
            )));
        }
        given.push((name.to_string(), tensors::read(file.as_ref(), name)?));
    }
    if let Some(file) = &args.inputs {
        given.extend(tensors::read_safetensors(file, &args.prefix, &names)?);
    }
    Ok(given)
}
