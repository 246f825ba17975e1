//! Recurrent layers.

use lathe_ops::recurrent::{Direction, Gru, Lstm, Rnn};
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use crate::{Dim, IrError};

pub(super) fn lstm(cx: &mut Context<'_>, attributes: &Lstm) -> Outputs {
    let Lstm { hidden, direction, batch_first, .. } = attributes;
    let mut outputs = layer(cx, *hidden, *direction, *batch_first, 4)?;
    let state = outputs[1].clone();
    let directions = Dim::constant(if *direction == Direction::Bidirectional { 2 } else { 1 });
    shaped(cx, 6, &state.ty.dims.iter().collect::<Vec<_>>(), "initial state")?;
    shaped(cx, 7, &[&directions, &Dim::constant(cx.count(*hidden)?).scale(3)], "peepholes")?;
    outputs.push(state);
    Ok(outputs)
}

pub(super) fn rnn(cx: &mut Context<'_>, attributes: &Rnn) -> Outputs {
    let Rnn { hidden, direction, batch_first, .. } = attributes;
    layer(cx, *hidden, *direction, *batch_first, 1)
}

pub(super) fn gru(cx: &mut Context<'_>, attributes: &Gru) -> Outputs {
    let Gru { hidden, direction, batch_first, .. } = attributes;
    layer(cx, *hidden, *direction, *batch_first, 3)
}

/// The states of all steps and the last ones, of a layer with so many gates.
fn layer(
    cx: &mut Context<'_>,
    hidden: usize,
    direction: Direction,
    batch_first: bool,
    gates: i64,
) -> Outputs {
    cx.dtype_of(0, "a float", DType::is_float)?;
    let dtype = cx.same_dtype(0, 1)?;
    let x = &cx.ranked(0, 3)?.dims;
    let (seq, batch) = if batch_first { (&x[1], &x[0]) } else { (&x[0], &x[1]) };
    let directions = if direction == Direction::Bidirectional { 2 } else { 1 };
    let [hidden, directions, input] =
        [Dim::constant(cx.count(hidden)?), Dim::constant(directions), x[2].clone()];
    shaped(cx, 1, &[&directions, &hidden.scale(gates), &input], "input weights")?;
    shaped(cx, 2, &[&directions, &hidden.scale(gates), &hidden], "recurrent weights")?;
    shaped(cx, 3, &[&directions, &hidden.scale(2 * gates)], "biases")?;
    shaped(cx, 4, &[batch], "sequence lengths")?;
    let state = match batch_first {
        true => [batch.clone(), directions.clone(), hidden.clone()],
        false => [directions.clone(), batch.clone(), hidden.clone()],
    };
    shaped(cx, 5, &[&state[0], &state[1], &state[2]], "initial state")?;
    let all = match batch_first {
        true => vec![batch.clone(), seq.clone(), directions, hidden],
        false => vec![seq.clone(), directions, batch.clone(), hidden],
    };
    Ok(vec![Output::new(dtype, all), Output::new(dtype, state)])
}

/// Requires operand `index`, where it is there, to have these sizes.
fn shaped(cx: &mut Context<'_>, index: usize, sizes: &[&Dim], reason: &str) -> Result<(), IrError> {
    if cx.optional(index).is_none() {
        return Ok(());
    }
    let dims = &cx.ranked(index, sizes.len())?.dims;
    for (a, b) in dims.iter().zip(sizes) {
        cx.equal(a, b, reason)?;
    }
    Ok(())
}
