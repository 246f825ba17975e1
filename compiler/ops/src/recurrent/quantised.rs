//! Layers whose weights are bytes: what multiplies them is rounded to bytes as well, by its own range.

use lathe_tensor::DType;

use super::Sizes;
use crate::EvalError;
use crate::evaluate::Context;
use crate::quant::values;

/// Rounds numbers to u8 by the scale and zero point that take their range and 0 to 0..=255 (ONNX DynamicQuantizeLinear-11, in f32), and back.
pub(super) fn round_to_bytes(cells: &mut [f64]) {
    let narrow = || cells.iter().map(|&cell| cell as f32);
    let (smallest, largest) = (narrow().fold(0.0, f32::min), narrow().fold(0.0, f32::max));
    let scale = if largest == smallest { 1.0 } else { largest - smallest } / 255.0;
    let zero = (0.0 - smallest / scale).clamp(0.0, 255.0).round_ties_even();
    for cell in cells {
        // `as` takes NaN to 0.
        let byte = ((*cell as f32 / scale).round_ties_even() + zero).clamp(0.0, 255.0) as u8;
        *cell = f64::from(f32::from(byte) - zero) * f64::from(scale);
    }
}

/// `(weight - zero) * scale` of weights `[directions, 4 * hidden, k]` of bytes: input `index`. Inputs `scale` and, where it is, `scale + 1` have
/// one number a direction, `[directions]`, or one a row, `[directions, 4 * hidden]`.
pub(super) fn weights(
    cx: &Context<'_>,
    sizes: &Sizes,
    index: usize,
    scale: usize,
    k: usize,
) -> Result<Vec<f64>, EvalError> {
    let rows = sizes.hidden.saturating_mul(4);
    let (weights, scales) = (cx.input(index)?, cx.input(scale)?);
    if !matches!(weights.dtype(), DType::U8 | DType::I8) {
        return Err(cx.dtype("weights with scales", weights.dtype(), "u8 or i8"));
    }
    if weights.shape() != [sizes.directions, rows, k] {
        return Err(cx.shape(format!("weights are not [{}, {rows}, {k}]", sizes.directions)));
    }
    let one_a_row = |shape: &[usize]| match shape {
        [directions] if *directions == sizes.directions => Ok(false),
        [directions, row] if (*directions, *row) == (sizes.directions, rows) => Ok(true),
        _ => Err(cx.shape(format!("scales are not [{0}] or [{0}, {rows}]", sizes.directions))),
    };
    let scale_rows = one_a_row(scales.shape())?;
    let scales = cx.floats("scale", scales)?;
    let zeros = match cx.optional(scale + 1) {
        Some(zeros) => Some((one_a_row(zeros.shape())?, values(cx, zeros)?)),
        None => None,
    };
    let mut cells = values(cx, weights)?;
    for (row, cells) in cells.chunks_exact_mut(k.max(1)).enumerate() {
        let at = |by_row: bool| if by_row { row } else { row / rows };
        let zero = zeros.as_ref().map_or(0.0, |(by_row, zeros)| zeros[at(*by_row)]);
        let scale = scales[at(scale_rows)];
        cells.iter_mut().for_each(|cell| *cell = (*cell - zero) * scale);
    }
    Ok(cells)
}
