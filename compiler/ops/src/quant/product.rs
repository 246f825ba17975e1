//! Products and convolutions of 8-bit integers.
//!
//! Sums are exact in i32, which wraps. A result that is not i32 is `sums * scale`: the sum and the product each rounded to f32;
//! as 8-bit integers it is then rounded to the nearest, ties to even (NaN as 0), the zero point is added, and it saturates. That is what
//! ONNX's `QLinearMatMul` and `QLinearConv` compute with `scale = a_scale * b_scale / y_scale`.

use std::num::Wrapping;

use lathe_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::{range, values};
use crate::EvalError;
use crate::conv::{Conv, Padding};
use crate::elementwise::Activation;
use crate::evaluate::{Arity, Context, Evaluate};
use crate::matmul::Product;
use crate::walk::{Around, Walk, broadcast_strides};

/// Attributes of [`crate::Op::MatMulInteger`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatMulInteger {
    /// Dtype of the result: i32, or f32, u8 or i8 where there is a scale.
    #[serde(default = "sums")]
    pub to: DType,
}

impl Default for MatMulInteger {
    /// The sums as they are.
    fn default() -> Self {
        Self { to: sums() }
    }
}

/// Attributes of [`crate::Op::ConvInteger`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvInteger {
    /// Steps of the window, one a spatial axis.
    pub strides: Vec<usize>,
    /// Distance of the kernel's cells, one a spatial axis.
    pub dilations: Vec<usize>,
    /// How the borders are padded, with zero points.
    pub padding: Padding,
    /// Channel groups.
    pub groups: usize,
    /// Dtype of the result: i32, or f32, u8 or i8 where there is a scale.
    #[serde(default = "sums")]
    pub to: DType,
}

fn sums() -> DType {
    DType::I32
}

/// Operands of both ops: `a, b, a_zero_point?, b_zero_point?, bias?, scale?, y_zero_point?`.
const MOST_INPUTS: usize = 7;

impl Evaluate for MatMulInteger {
    fn arity(&self) -> Arity {
        Arity::of(2, MOST_INPUTS)
    }

    /// A zero point of rank 1 is one a row of `a`, or one a column of `b`; bias and scale are one a column.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let product = Product::of(cx, a.shape(), b.shape())?;
        let a_cells = centered(cx, "a", a, cx.optional(2), ZeroPoints::Rows)?;
        let b_cells = centered(cx, "b", b, cx.optional(3), ZeroPoints::Columns)?;
        let sums = product.multiply(cx, &a_cells, &b_cells)?;
        let columns = match product.shape.len() {
            rank if b.rank() > 1 => Around::of(&product.shape, rank - 1),
            _ => Around { outer: 1, size: 1, inner: sums.len() },
        };
        Ok(vec![result(cx, sums, &product.shape, columns, self.to)?])
    }
}

/// The axis of a vector of zero points.
#[derive(Clone, Copy, PartialEq)]
enum ZeroPoints {
    Rows,
    Columns,
    First,
}

impl Evaluate for ConvInteger {
    fn arity(&self) -> Arity {
        Arity::of(2, MOST_INPUTS)
    }

    /// `x` and `w` are i8 or u8. A zero point of rank 1 is one an output channel of `w`; so are bias and scale. Sums in f64 are exact.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let wide = |index: usize, name: &str| -> Result<Tensor, EvalError> {
            let x = cx.input(index)?;
            let cells = centered(cx, name, x, cx.optional(index + 2), ZeroPoints::First)?;
            cx.build(x.shape(), cells.iter().map(|cell| f64::from(cell.0)))
        };
        let (x, w) = (wide(0, "x")?, wide(1, "w")?);
        let conv = Conv {
            strides: self.strides.clone(),
            dilations: self.dilations.clone(),
            padding: self.padding.clone(),
            groups: self.groups,
            activation: Activation::None,
        };
        let sums = cx.apply(&conv, &[Some(&x), Some(&w)], 1)?.remove(0);
        let cells = cx.cells::<f64>(&sums)?.iter().map(|&sum| Wrapping(sum as i64 as i32)).collect();
        let channels = Around::of(sums.shape(), 1);
        Ok(vec![result(cx, cells, sums.shape(), channels, self.to)?])
    }
}

/// Sums plus the bias (input 4), scaled (input 5) and rounded to a dtype around a zero point (input 6).
fn result(
    cx: &Context<'_>,
    mut sums: Vec<Wrapping<i32>>,
    shape: &[usize],
    channels: Around,
    to: DType,
) -> Result<Tensor, EvalError> {
    let channel = |element: usize| element / channels.inner.max(1) % channels.size.max(1);
    if let Some(bias) = cx.optional(4) {
        if bias.shape() != [channels.size] {
            return Err(cx.shape(format!("bias is not [{}]", channels.size)));
        }
        let bias = cx.cells::<i32>(bias)?;
        sums.iter_mut().enumerate().for_each(|(element, sum)| *sum += bias[channel(element)]);
    }
    if to == DType::I32 {
        return match cx.optional(5).or(cx.optional(6)) {
            None => cx.build(shape, sums.iter().map(|sum| sum.0)),
            Some(_) => Err(cx.shape("sums in i32 have neither scale nor zero point")),
        };
    }
    let scale = cx.input(5)?;
    let each = scale.shape() == [channels.size];
    if !(each || scale.len() == 1 && scale.rank() <= 1) {
        return Err(cx.shape(format!("scale is neither a scalar nor [{}]", channels.size)));
    }
    let scales = cx.cells::<f32>(scale)?;
    let scaled = sums
        .iter()
        .enumerate()
        .map(|(element, sum)| sum.0 as f32 * scales[if each { channel(element) } else { 0 }]);
    if to == DType::F32 {
        return cx.build(shape, scaled);
    }
    let zero = match cx.optional(6) {
        None => 0.0,
        Some(zero) if zero.dtype() != to => return Err(cx.dtype("y_zero_point", zero.dtype(), to.name())),
        Some(zero) if zero.len() == 1 => values(cx, zero)?[0],
        Some(_) => return Err(cx.shape("y_zero_point is not one element")),
    };
    let (low, high) = range(to);
    let rounded = scaled.map(|cell| {
        let cell = if cell.is_nan() { 0.0 } else { f64::from(cell).round_ties_even() };
        (cell + zero).clamp(low, high)
    });
    match to {
        DType::U8 => cx.build(shape, rounded.map(|cell| cell as u8)),
        DType::I8 => cx.build(shape, rounded.map(|cell| cell as i8)),
        _ => Err(cx.dtype("the result", to, "i32, f32, u8 or i8")),
    }
}

/// The elements of an i8 or u8 operand less their zero points.
fn centered(
    cx: &Context<'_>,
    name: &str,
    x: &Tensor,
    zero_point: Option<&Tensor>,
    along: ZeroPoints,
) -> Result<Vec<Wrapping<i32>>, EvalError> {
    let integers = |x: &Tensor| -> Result<Vec<Wrapping<i32>>, EvalError> {
        if !matches!(x.dtype(), DType::I8 | DType::U8) {
            return Err(cx.dtype(name, x.dtype(), "i8 or u8"));
        }
        Ok(values(cx, x)?.into_iter().map(|value| Wrapping(value as i32)).collect())
    };
    let mut cells = integers(x)?;
    let Some(zero_point) = zero_point else { return Ok(cells) };
    cx.same_dtype("a zero point", x, zero_point)?;
    let shape = match zero_point.shape() {
        [_] if zero_point.len() == 1 => vec![],
        [rows] if along == ZeroPoints::Rows && x.rank() > 1 => vec![*rows, 1],
        [channels] if along == ZeroPoints::First => {
            std::iter::once(*channels).chain(std::iter::repeat_n(1, x.rank().saturating_sub(1))).collect()
        }
        shape => shape.to_vec(),
    };
    cx.broadcasts_to("the zero point", &shape, x.shape())?;
    let zeros = integers(zero_point)?;
    let walk = Walk::new(x.shape(), [broadcast_strides(&shape, x.shape())], [0]);
    cells.iter_mut().zip(walk).for_each(|(cell, [zero])| *cell -= zeros[zero]);
    Ok(cells)
}
