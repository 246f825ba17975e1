//! Recurrent layers.

use lathe_ops::recurrent::{Direction, Lstm};
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use crate::{Dim, IrError};

pub(super) fn lstm(cx: &mut Context<'_>, attributes: &Lstm) -> Outputs {
    cx.dtype_of(0, "a float", DType::is_float)?;
    let dtype = cx.same_dtype(0, 1)?;
    let x = &cx.ranked(0, 3)?.dims;
    let (seq, batch) = if attributes.batch_first { (&x[1], &x[0]) } else { (&x[0], &x[1]) };
    let hidden = cx.count(attributes.hidden)?;
    let directions = if attributes.direction == Direction::Bidirectional { 2 } else { 1 };
    let [hidden, directions, input] = [Dim::constant(hidden), Dim::constant(directions), x[2].clone()];
    shaped(cx, 1, &[&directions, &hidden.scale(4), &input], "input weights")?;
    shaped(cx, 2, &[&directions, &hidden.scale(4), &hidden], "recurrent weights")?;
    shaped(cx, 3, &[&directions, &hidden.scale(8)], "biases")?;
    shaped(cx, 4, &[batch], "sequence lengths")?;
    let state = match attributes.batch_first {
        true => [batch.clone(), directions.clone(), hidden.clone()],
        false => [directions.clone(), batch.clone(), hidden.clone()],
    };
    for index in [5, 6] {
        shaped(cx, index, &[&state[0], &state[1], &state[2]], "initial state")?;
    }
    shaped(cx, 7, &[&directions, &hidden.scale(3)], "peepholes")?;
    let all = match attributes.batch_first {
        true => vec![batch.clone(), seq.clone(), directions, hidden],
        false => vec![seq.clone(), directions, batch.clone(), hidden],
    };
    Ok(vec![Output::new(dtype, all), Output::new(dtype, state.clone()), Output::new(dtype, state)])
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
