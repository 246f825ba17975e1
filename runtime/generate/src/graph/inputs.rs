//! The tensors that a graph takes in a run, built as transformers builds them.

use lathe_artifact::plan::Port;
use lathe_tensor::{DType, Tensor};

use super::{GraphError, Source};
use crate::graph::roles::Role;
use crate::graph::sequence::State;

/// Where a run of a graph stands in its sequence.
pub(super) struct Position<'a> {
    /// Tokens that go in.
    pub(super) tokens: &'a [u32],
    /// Tokens before them, which past inputs hold.
    pub(super) past: usize,
}

/// The tensor for an input.
pub(super) fn make(
    port: &Port,
    role: &Role,
    state: &State,
    position: &Position<'_>,
) -> Result<Tensor, GraphError> {
    let (past, count) = (position.past, position.tokens.len());
    match role {
        Role::Tokens => {
            let tokens = position.tokens.iter().map(|&token| i64::from(token));
            integers(port, tokens, &[1, count])
        }
        Role::Mask => integers(port, (0..past + count).map(|_| 1), &[1, past + count]),
        Role::Positions => {
            let shape = if port.tensor.dims.len() == 1 { &[count][..] } else { &[1, count] };
            integers(port, (past..past + count).map(|position| position as i64), shape)
        }
        Role::TokenTypes => integers(port, (0..count).map(|_| 0), &[1, count]),
        Role::Past(part) => match state.past.get(part).filter(|_| past > 0) {
            Some(tensor) => Ok(tensor.clone()),
            None => empty_past(port),
        },
        Role::UseCache => Ok(Tensor::from_bools(&[past > 0], &[1])?),
        Role::Hidden => {
            let hidden = state.hidden.clone();
            hidden.ok_or_else(|| missing(port, "it comes from an encoder, and there is none"))
        }
        Role::HiddenMask => hidden_mask(port, state),
        Role::Source => source(port, &state.source),
    }
}

/// A tensor that the sequence began with. Masks that were not given count everything.
pub(super) fn source(port: &Port, source: &Source) -> Result<Tensor, GraphError> {
    let named = |name: &str| source.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor);
    if let Some(tensor) = named(&port.name) {
        return Ok(tensor.clone());
    }
    if port.name == "attention_mask"
        && let Some(tokens) = named("input_ids")
    {
        return integers(port, (0..tokens.len()).map(|_| 1), tokens.shape());
    }
    Err(missing(port, "generation from tokens alone cannot make it up"))
}

fn hidden_mask(port: &Port, state: &State) -> Result<Tensor, GraphError> {
    if let Some((_, mask)) = state.source.iter().find(|(name, _)| name == "attention_mask") {
        return Ok(mask.clone());
    }
    let hidden = state.hidden.as_ref().map(Tensor::shape);
    let shape = match hidden {
        Some(&[batch, positions, ..]) => [batch, positions],
        // The keys and values of the encoder stand in for its output: `[batch, heads, positions, head_dim]`.
        _ => match state.past.iter().find(|(part, _)| part.contains("encoder")).map(|(_, t)| t.shape()) {
            Some(&[batch, _, positions, _]) => [batch, positions],
            _ => return Err(missing(port, "it comes from an encoder, and there is none")),
        },
    };
    integers(port, (0..shape.iter().product()).map(|_| 1), &shape)
}

/// Keys or values of no token: symbolic sizes are one sequence and no positions. Behind an axis of keys and values that of sequences is
/// the second.
fn empty_past(port: &Port) -> Result<Tensor, GraphError> {
    let sizes = port.dims_text.iter().enumerate();
    let batch = usize::from(port.dims_text.len() == 5);
    let shape: Vec<usize> =
        sizes.map(|(axis, size)| size.parse().unwrap_or(usize::from(axis == batch))).collect();
    Ok(Tensor::zeros(port.tensor.dtype, &shape)?)
}

fn integers(port: &Port, values: impl Iterator<Item = i64>, shape: &[usize]) -> Result<Tensor, GraphError> {
    Ok(match port.tensor.dtype {
        DType::I64 => Tensor::from_slice(&values.collect::<Vec<i64>>(), shape)?,
        DType::I32 => Tensor::from_slice(&values.map(|value| value as i32).collect::<Vec<i32>>(), shape)?,
        DType::F32 => Tensor::from_slice(&values.map(|value| value as f32).collect::<Vec<f32>>(), shape)?,
        DType::Bool => Tensor::from_bools(&values.map(|value| value != 0).collect::<Vec<bool>>(), shape)?,
        dtype => {
            return Err(GraphError::NotGenerative {
                reason: format!("input `{}` is {dtype}, not an integer", port.name),
            });
        }
    })
}

fn missing(port: &Port, why: &str) -> GraphError {
    GraphError::MissingInput { input: port.name.clone(), why: why.to_string() }
}
