//! Named inputs and outputs: what a model takes, what a caller gave, and what to say where they differ.

use lathe_artifact::plan::{DimExpr, Plan, Port};
use lathe_tensor::DType;

use crate::RuntimeError;
use crate::view::TensorView;

/// A port as a type: `f32[batch, 3]`.
pub fn port_type(port: &Port) -> String {
    format!("{}[{}]", port.tensor.dtype, port.dims_text.join(", "))
}

fn given_type<T: ToString>(dtype: DType, shape: &[T]) -> String {
    let sizes: Vec<String> = shape.iter().map(T::to_string).collect();
    format!("{dtype}[{}]", sizes.join(", "))
}

fn names(ports: &[Port]) -> String {
    let names: Vec<String> = ports.iter().map(|port| format!("`{}`", port.name)).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn bad_input(name: &str, reason: String) -> RuntimeError {
    RuntimeError::BadInput { input: name.to_string(), reason }
}

/// The index of the first axis of each input in the list of all sizes.
pub(crate) fn axis_starts(plan: &Plan) -> Vec<usize> {
    let mut end = 0;
    let starts = plan.inputs.iter().map(|port| {
        let start = end;
        end += port.tensor.dims.len();
        start
    });
    starts.collect()
}

/// Puts the given inputs in the order of the plan; checks names, dtypes and ranks. `key` receives all sizes, which
/// [`check_constants`] and [`check_sizes`] check where they are new.
pub(crate) fn bind_inputs<'a, V: Copy + Into<TensorView<'a>>>(
    plan: &Plan,
    given: &[(&str, V)],
    key: &mut Vec<i64>,
) -> Result<Vec<TensorView<'a>>, RuntimeError> {
    key.clear();
    let mut bound = Vec::with_capacity(plan.inputs.len());
    for port in &plan.inputs {
        let mut named = given.iter().filter(|(name, _)| *name == port.name);
        let Some((_, view)) = named.next() else {
            return Err(bad_input(&port.name, format!("it is missing; the model takes {}", port_type(port))));
        };
        if named.next().is_some() {
            return Err(bad_input(&port.name, "it was given twice".into()));
        }
        let view: TensorView<'a> = (*view).into();
        check_type(port, &view)?;
        key.extend(view.shape().iter().map(|&size| size as i64));
        bound.push(view);
    }
    if given.len() > bound.len() {
        let unknown = given.iter().find(|(name, _)| plan.inputs.iter().all(|port| port.name != *name));
        if let Some((name, _)) = unknown {
            return Err(bad_input(
                name,
                format!("the model has no such input; it takes {}", names(&plan.inputs)),
            ));
        }
    }
    Ok(bound)
}

fn check_type(port: &Port, view: &TensorView<'_>) -> Result<(), RuntimeError> {
    let mismatch = |why: &str| {
        let (expected, got) = (port_type(port), given_type(view.dtype(), view.shape()));
        bad_input(&port.name, format!("expected {expected}, got {got}{why}"))
    };
    if view.dtype() != port.tensor.dtype {
        return Err(mismatch(""));
    }
    if view.shape().len() != port.tensor.dims.len() {
        let (given, expected) = (view.shape().len(), port.tensor.dims.len());
        return Err(mismatch(&format!(": {given} axes instead of {expected}")));
    }
    if view.shape().iter().any(|&size| i64::try_from(size).is_err()) {
        return Err(mismatch(": a size is too large"));
    }
    Ok(())
}

/// Checks the sizes that the model fixes.
pub(crate) fn check_constants(plan: &Plan, key: &[i64]) -> Result<(), RuntimeError> {
    let mut sizes = key;
    for port in &plan.inputs {
        let Some((shape, rest)) = sizes.split_at_checked(port.tensor.dims.len()) else { break };
        sizes = rest;
        for (axis, (size, dim)) in shape.iter().zip(&port.tensor.dims).enumerate() {
            if let Some(DimExpr::Const(expected)) = plan.dims.get(dim.0 as usize)
                && size != expected
            {
                let (known, given) = (port_type(port), given_type(port.tensor.dtype, shape));
                let reason = format!("expected {known}, got {given}: axis {axis} must be {expected}");
                return Err(bad_input(&port.name, reason));
            }
        }
    }
    Ok(())
}

/// Checks that every size of an input is what the dims table says, for example one name on two axes.
pub(crate) fn check_sizes(plan: &Plan, dims: &[i64], key: &[i64]) -> Result<(), RuntimeError> {
    let mut sizes = key.iter();
    for port in &plan.inputs {
        for (axis, dim) in port.tensor.dims.iter().enumerate() {
            let (expected, given) = (dims[dim.0 as usize], sizes.next().copied().unwrap_or(-1));
            if expected != given {
                let text = port.dims_text.get(axis).map_or("?", String::as_str);
                let reason = format!(
                    "axis {axis} is {given}, but `{text}` is {expected} by the other inputs: {}",
                    port_type(port)
                );
                return Err(bad_input(&port.name, reason));
            }
        }
    }
    Ok(())
}

/// The index of the output of that name.
pub(crate) fn output_index(plan: &Plan, name: &str) -> Result<usize, RuntimeError> {
    plan.outputs.iter().position(|port| port.name == name).ok_or_else(|| RuntimeError::BadOutput {
        output: name.to_string(),
        reason: format!("the model has no such output; it gives {}", names(&plan.outputs)),
    })
}

/// Checks a caller's buffer for an output.
pub(crate) fn check_output(
    port: &Port,
    expected: &[usize],
    dtype: DType,
    shape: &[usize],
) -> Result<(), RuntimeError> {
    if dtype == port.tensor.dtype && shape == expected {
        return Ok(());
    }
    let (expected, given) = (given_type(port.tensor.dtype, expected), given_type(dtype, shape));
    let reason = format!("the buffer is {given}, the result is {expected} ({})", port_type(port));
    Err(RuntimeError::BadOutput { output: port.name.clone(), reason })
}
