//! What a model takes and gives as its caller sees it: tensors, sequences, optionals and maps in place of their parts.

use lathe_artifact::plan::Port;
use lathe_tensor::Tensor;
use lathe_tensor::value::{Seen, Value, seen};

use super::error::CliError;
use crate::Model;

fn names(ports: &[Port]) -> Vec<&str> {
    ports.iter().map(|port| port.name.as_str()).collect()
}

/// The inputs of a model.
pub fn inputs(model: &Model) -> Vec<Seen<'_>> {
    seen(&names(model.inputs()), &model.composites().inputs)
}

/// The outputs of a model.
pub fn outputs(model: &Model) -> Vec<Seen<'_>> {
    seen(&names(model.outputs()), &model.composites().outputs)
}

/// The tensors that stand for a value of an input, by the names of the program's inputs.
pub fn parts(model: &Model, input: &Seen<'_>, value: &Value) -> Result<Vec<(String, Tensor)>, CliError> {
    let fail = |reason: String| CliError::Input(format!("input `{}`: {reason}", input.name));
    let tensors = match (input.form, value) {
        (Some(form), value) => form.parts_of(value).map_err(|error| fail(error.to_string()))?,
        (None, Value::Tensor(tensor)) => vec![tensor.clone()],
        (None, other) => return Err(fail(format!("{} where a tensor is taken", other.kind()))),
    };
    let ports = model.inputs().iter().skip(input.first);
    Ok(ports.map(|port| port.name.clone()).zip(tensors).collect())
}

/// The values that the outputs of a run stand for, by name.
pub fn from_parts(outputs: &[Seen<'_>], tensors: &[Tensor]) -> Result<Vec<(String, Value)>, CliError> {
    let value = |output: &Seen<'_>| {
        let count = output.form.map_or(1, |form| form.part_count());
        let parts = tensors.get(output.first..).and_then(|tensors| tensors.get(..count)).unwrap_or_default();
        let value = match (output.form, parts) {
            (Some(form), parts) => {
                let fail = |error| CliError::Input(format!("output `{}`: {error}", output.name));
                form.value_of(parts).map_err(fail)?
            }
            (None, [tensor]) => Value::Tensor(tensor.clone()),
            (None, _) => return Err(CliError::Input(format!("output `{}` is missing", output.name))),
        };
        Ok((output.name.to_string(), value))
    };
    outputs.iter().map(value).collect()
}
