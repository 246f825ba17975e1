//! Linear quantisation.

mod product;

use lathe_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

pub use product::{ConvInteger, MatMulInteger};

use crate::EvalError;
use crate::elementwise::cast::{Number, load, store};
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::Around;

/// Attributes of [`crate::Op::QuantizeLinear`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuantizeLinear {
    /// Axis of per-axis or blocked scales.
    pub axis: i64,
    /// Elements that share a scale along the axis; 0 where not blocked.
    pub block_size: usize,
    /// Dtype of the result.
    pub to: DType,
    /// Whether f8 conversions saturate.
    pub saturate: bool,
    /// Dtype of the division, where it is not the scale's.
    pub precision: Option<DType>,
}

/// Attributes of [`crate::Op::DequantizeLinear`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DequantizeLinear {
    /// Axis of per-axis or blocked scales.
    pub axis: i64,
    /// Elements that share a scale along the axis; 0 where not blocked.
    pub block_size: usize,
    /// Dtype of the result.
    pub to: DType,
}

/// [`crate::Op::DynamicQuantizeLinear`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DynamicQuantizeLinear {}

/// [`crate::Op::MapBytes`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MapBytes {}

/// Which element of the scales an element of `x` has.
enum Sharing {
    Tensor,
    Axis(Around),
    /// The view of `x`, the elements of a block, and the blocks along the axis.
    Blocks(Around, usize, usize),
}

impl Sharing {
    fn of(cx: &Context<'_>, x: &Tensor, scale: &Tensor, axis: i64, block: usize) -> Result<Self, EvalError> {
        if block == 0 && scale.len() == 1 && scale.rank() <= 1 {
            return Ok(Sharing::Tensor);
        }
        let axis = cx.axis(axis, x.rank())?;
        let around = Around::of(x.shape(), axis);
        if block == 0 {
            return match scale.shape() {
                [size] if *size == around.size => Ok(Sharing::Axis(around)),
                _ => Err(cx.shape(format!("scale is neither a scalar nor [{}]", around.size))),
            };
        }
        let blocks = around.size.div_ceil(block);
        let mut expected = x.shape().to_vec();
        expected[axis] = blocks;
        if scale.shape() != expected {
            return Err(cx.shape(format!("scale is not {expected:?} for blocks of {block}")));
        }
        Ok(Sharing::Blocks(around, block, blocks))
    }

    fn index(&self, element: usize) -> usize {
        match *self {
            Sharing::Tensor => 0,
            Sharing::Axis(around) => element / around.inner % around.size,
            Sharing::Blocks(around, block, blocks) => {
                let (line, inner) = (element / around.inner, element % around.inner);
                let (outer, place) = (line / around.size, line % around.size);
                (outer * blocks + place / block) * around.inner + inner
            }
        }
    }
}

/// The elements of a float tensor of any width, or of integers.
pub(crate) fn values(cx: &Context<'_>, x: &Tensor) -> Result<Vec<f64>, EvalError> {
    cx.spend(x.len().saturating_mul(size_of::<f64>()))?;
    let value = |number| match number {
        Number::Integer(integer) => integer as f64,
        Number::Float(float) => float,
    };
    Ok(load(cx, x)?.map(value).collect())
}

/// The zero points as f64, which must have the shape of the scales; none where there is no input 2.
fn zero_points(cx: &Context<'_>, scale: &Tensor, dtype: DType) -> Result<Option<Vec<f64>>, EvalError> {
    let Some(zero_point) = cx.optional(2) else { return Ok(None) };
    if zero_point.dtype() != dtype {
        return Err(cx.dtype("zero_point", zero_point.dtype(), dtype.name()));
    }
    if zero_point.len() != scale.len() {
        return Err(cx.shape("zero_point and scale differ in shape"));
    }
    values(cx, zero_point).map(Some)
}

/// The smallest and largest value of an integer dtype.
fn range(dtype: DType) -> (f64, f64) {
    let bits = dtype.bits() as i32;
    match dtype.is_signed_integer() {
        true => (-(2f64.powi(bits - 1)), 2f64.powi(bits - 1) - 1.0),
        false => (0.0, 2f64.powi(bits) - 1.0),
    }
}

impl Evaluate for QuantizeLinear {
    fn arity(&self) -> Arity {
        Arity::of(2, 3)
    }

    /// The quotient is rounded to `precision`, then to even, the zero point is added, and the sum saturates. NaN
    /// becomes the zero point.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, scale) = (cx.input(0)?, cx.input(1)?);
        if !(x.dtype().is_float() || x.dtype() == DType::I32) {
            return Err(cx.dtype("x", x.dtype(), "a float or i32"));
        }
        if !(self.to.is_integer() && self.to.bits() <= 16 || self.to.is_float() && self.to.bits() <= 8) {
            return Err(cx.dtype("result", self.to, "an integer of up to 16 bits or a float of up to 8"));
        }
        let sharing = Sharing::of(cx, x, scale, self.axis, self.block_size)?;
        let zeros = zero_points(cx, scale, self.to)?;
        let precision = self.precision.unwrap_or(match scale.dtype() {
            DType::F8E8M0 | DType::I32 => DType::F32,
            dtype => dtype,
        });
        let (cells, scales) = (values(cx, x)?, values(cx, scale)?);
        let (low, high) = if self.to.is_integer() { range(self.to) } else { (0.0, 0.0) };
        let numbers = cells.iter().enumerate().map(|(element, &cell)| {
            let group = sharing.index(element);
            let (cell, scale) = (cx.round_to(precision, cell), cx.round_to(precision, scales[group]));
            let quotient = cx.round_to(precision, cell / scale);
            let zero = zeros.as_ref().map_or(0.0, |zeros| zeros[group]);
            if !self.to.is_integer() {
                return Number::Float(quotient + zero);
            }
            let rounded = if quotient.is_nan() { 0.0 } else { quotient.round_ties_even() };
            Number::Integer((rounded + zero).clamp(low, high) as i128)
        });
        Ok(vec![store(cx, self.to, x.shape(), self.saturate, numbers)?])
    }
}

impl Evaluate for DequantizeLinear {
    fn arity(&self) -> Arity {
        Arity::of(2, 3)
    }

    /// `(x - zero_point) * scale`.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, scale) = (cx.input(0)?, cx.input(1)?);
        let sharing = Sharing::of(cx, x, scale, self.axis, self.block_size)?;
        let zeros = zero_points(cx, scale, x.dtype())?;
        let (mut cells, scales) = (values(cx, x)?, values(cx, scale)?);
        for (element, cell) in cells.iter_mut().enumerate() {
            cx.step()?;
            let group = sharing.index(element);
            *cell = (*cell - zeros.as_ref().map_or(0.0, |zeros| zeros[group])) * scales[group];
        }
        Ok(vec![cx.rounded(self.to, x.shape(), &cells)?])
    }
}

impl Evaluate for DynamicQuantizeLinear {
    fn arity(&self) -> Arity {
        Arity::of(1, 1).outputs(3, 3)
    }

    /// In f32, as ONNX defines it; the range always holds 0.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        if x.dtype() != DType::F32 {
            return Err(cx.dtype("x", x.dtype(), "f32"));
        }
        let cells = cx.cells::<f32>(x)?;
        let smallest = cells.iter().copied().fold(0.0, f32::min);
        let largest = cells.iter().copied().fold(0.0, f32::max);
        let scale = if largest == smallest { 1.0 } else { largest - smallest } / 255.0;
        let zero = (0.0 - smallest / scale).clamp(0.0, 255.0).round_ties_even();
        // `as` takes NaN to 0.
        let quantised =
            cells.iter().map(|cell| ((cell / scale).round_ties_even() + zero).clamp(0.0, 255.0) as u8);
        let y = cx.build(x.shape(), quantised)?;
        Ok(vec![y, Tensor::scalar(scale), Tensor::scalar(zero as u8)])
    }
}

impl Evaluate for MapBytes {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    /// The table's element whose index has the bits of the byte.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, table) = (cx.input(0)?, cx.input(1)?);
        for (name, tensor) in [("x", x), ("table", table)] {
            if !matches!(tensor.dtype(), DType::U8 | DType::I8) {
                return Err(cx.dtype(name, tensor.dtype(), "u8 or i8"));
            }
        }
        if table.shape() != [256] {
            return Err(cx.shape("the table is not [256]"));
        }
        cx.spend(x.len())?;
        let mapped: Vec<u8> = x.bytes().iter().map(|&byte| table.bytes()[usize::from(byte)]).collect();
        match table.dtype() {
            DType::U8 => Ok(vec![cx.build(x.shape(), mapped.into_iter())?]),
            _ => Ok(vec![cx.build(x.shape(), mapped.into_iter().map(|byte| byte as i8))?]),
        }
    }
}
