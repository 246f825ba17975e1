//! Recurrent layers.

use lathe_ops::recurrent::{Direction, Gru, Lstm, Rnn};
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use crate::{Dim, IrError};

pub(super) fn lstm(cx: &mut Context<'_>, attributes: &Lstm) -> Outputs {
    let Lstm { hidden, direction, batch_first, .. } = attributes;
    let rows = Dim::constant(cx.count(*hidden)?).scale(4);
    let bytes = cx.optional(8).is_some() || cx.optional(10).is_some();
    if bytes {
        let directions = Dim::constant(if *direction == Direction::Bidirectional { 2 } else { 1 });
        for (weights, scale) in [(1, 8), (2, 10)] {
            cx.dtype_of(weights, "u8 or i8", |dtype| matches!(dtype, DType::U8 | DType::I8))?;
            cx.same_dtype(0, scale)?;
            scales(cx, scale, &directions, &rows)?;
            if cx.optional(scale + 1).is_some() {
                cx.same_dtype(weights, scale + 1)?;
                scales(cx, scale + 1, &directions, &rows)?;
            }
        }
    } else {
        cx.same_dtype(0, 1)?;
    }
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
    cx.same_dtype(0, 1)?;
    layer(cx, *hidden, *direction, *batch_first, 1)
}

pub(super) fn gru(cx: &mut Context<'_>, attributes: &Gru) -> Outputs {
    let Gru { hidden, direction, batch_first, .. } = attributes;
    cx.same_dtype(0, 1)?;
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
    let dtype = cx.input(0)?.ty.dtype;
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

/// Requires operand `index` to have one number a direction, or one a row of the weights.
fn scales(cx: &mut Context<'_>, index: usize, directions: &Dim, rows: &Dim) -> Result<(), IrError> {
    match cx.input(index)?.ty.dims.len() {
        1 => shaped(cx, index, &[directions], "scales"),
        _ => shaped(cx, index, &[directions, rows], "scales"),
    }
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
