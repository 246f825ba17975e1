//! What a model takes and gives as its caller sees it: tensors, sequences, optionals and maps in place of their parts.

use lathe_artifact::plan::Port;
use lathe_tensor::Tensor;
use lathe_tensor::value::{Seen, Value, seen};

use crate::{Model, Outputs, RuntimeError};

fn names(ports: &[Port]) -> Vec<&str> {
    ports.iter().map(|port| port.name.as_str()).collect()
}

impl Model {
    /// The values that `main` takes.
    pub fn input_values(&self) -> Vec<Seen<'_>> {
        seen(&names(self.inputs()), &self.composites().inputs)
    }

    /// The values that `main` gives.
    pub fn output_values(&self) -> Vec<Seen<'_>> {
        seen(&names(self.outputs()), &self.composites().outputs)
    }

    /// The tensors that stand for the value of an input, by the names that [`crate::Session::run`] takes.
    ///
    /// # Errors
    /// [`RuntimeError::BadInput`] where the model has no such input or the value is of another kind, dtype or rank.
    pub fn parts(&self, name: &str, value: &Value) -> Result<Vec<(String, Tensor)>, RuntimeError> {
        let fail = |reason: String| RuntimeError::BadInput { input: name.to_string(), reason };
        let inputs = self.input_values();
        let input = inputs.iter().find(|input| input.name == name);
        let input = input.ok_or_else(|| fail("the model has no such input".to_string()))?;
        let tensors = match (input.form, value) {
            (Some(form), value) => form.parts_of(value).map_err(|error| fail(error.to_string()))?,
            (None, Value::Tensor(tensor)) => vec![tensor.clone()],
            (None, other) => return Err(fail(format!("{} where a tensor is taken", other.kind()))),
        };
        let ports = self.inputs().iter().skip(input.first);
        Ok(ports.map(|port| port.name.clone()).zip(tensors).collect())
    }

    /// The values that the outputs of a run of `main` stand for, by name.
    ///
    /// # Errors
    /// [`RuntimeError::BadOutput`] where they are outputs of another model.
    pub fn values(&self, outputs: &Outputs) -> Result<Vec<(String, Value)>, RuntimeError> {
        let value = |output: &Seen<'_>| {
            let fail = |reason: String| RuntimeError::BadOutput { output: output.name.to_string(), reason };
            let count = output.form.map_or(1, |form| form.part_count());
            let parts = outputs.tensors().get(output.first..).and_then(|tensors| tensors.get(..count));
            let value = match (output.form, parts.unwrap_or_default()) {
                (Some(form), parts) => form.value_of(parts).map_err(|error| fail(error.to_string()))?,
                (None, [tensor]) => Value::Tensor(tensor.clone()),
                (None, _) => return Err(fail("it is missing".to_string())),
            };
            Ok((output.name.to_string(), value))
        };
        self.output_values().iter().map(value).collect()
    }
}
