//! Conversion between dtypes.

use lathe_tensor::{DType, Tensor};

use super::{BitCast, Cast};
use crate::EvalError;
use crate::cells::{Float, Integer, with_float, with_integer};
use crate::evaluate::{Arity, Context, Evaluate};
use crate::minifloat;
use crate::pick::{code, set_code};

/// One element, as wide as any dtype needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    /// An integer or bool.
    Integer(i128),
    /// A float.
    Float(f64),
}

impl Evaluate for Cast {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    /// Floats round to nearest even. Floats to integers truncate, saturate, and take NaN to 0, but for integers below
    /// 8 bits, which wrap; integers to integers wrap. Strings hold decimal numbers.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        if x.dtype() == self.to {
            return Ok(vec![x.clone()]);
        }
        let result = match (x.dtype(), self.to) {
            (DType::String, to) => {
                let texts = x.strings().map_err(|source| cx.tensor(source))?;
                let numbers = texts.iter().map(|text| parse(cx, text, to)).collect::<Result<Vec<_>, _>>()?;
                store(cx, to, x.shape(), self.saturate, numbers.into_iter())?
            }
            (from, DType::String) => {
                let mut texts = Vec::new();
                for number in load(cx, x)? {
                    cx.step()?;
                    let text = print(from, number);
                    cx.spend(text.len() + 2 * size_of::<Vec<u8>>())?;
                    texts.push(text.into_bytes());
                }
                Tensor::from_strings(texts, x.shape()).map_err(|source| cx.tensor(source))?
            }
            (_, to) => store(cx, to, x.shape(), self.saturate, load(cx, x)?)?,
        };
        Ok(vec![result])
    }
}

impl Evaluate for BitCast {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    /// The same bytes (little-endian) under a dtype of the same width (ONNX BitCast-26).
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        if x.dtype() == DType::String || x.dtype().bits() != self.to.bits() {
            return Err(cx.dtype("x", x.dtype(), &format!("a dtype as wide as {}", self.to)));
        }
        let result = match self.to {
            // A bool is 0 or 1, whatever byte it came from.
            DType::Bool => cx.build_bools(x.shape(), x.bytes().iter().map(|&byte| byte != 0))?,
            to => {
                Tensor::new(to, x.shape().to_vec(), x.buffer().clone()).map_err(|source| cx.tensor(source))?
            }
        };
        Ok(vec![result])
    }
}

/// The elements of a tensor of any dtype but string.
pub(crate) fn load<'x>(
    cx: &Context<'_>,
    x: &'x Tensor,
) -> Result<Box<dyn Iterator<Item = Number> + 'x>, EvalError> {
    let (dtype, bytes, count) = (x.dtype(), x.bytes(), x.len());
    Ok(match dtype {
        DType::Bool => Box::new(bytes.iter().map(|&byte| Number::Integer(i128::from(byte != 0)))),
        DType::U2 | DType::U4 => {
            Box::new((0..count).map(move |i| Number::Integer(code(dtype, bytes, i).into())))
        }
        DType::I2 | DType::I4 => Box::new((0..count).map(move |i| {
            let shift = 8 - dtype.bits();
            // The code's sign bit goes to the byte's and is shifted back with it.
            Number::Integer(((code(dtype, bytes, i) << shift) as i8 >> shift).into())
        })),
        DType::F8E8M0 => Box::new(bytes.iter().map(|&code| Number::Float(minifloat::decode_e8m0(code)))),
        DType::String => return Err(cx.dtype("x", dtype, "a number")),
        _ => with_integer!(dtype, T => {
            let cells = cx.cells::<T>(x)?;
            Box::new((0..count).map(move |i| Number::Integer(cells[i].wide())))
        }, _ => with_float!(dtype, T => {
            let cells = cx.cells::<T>(x)?;
            Box::new((0..count).map(move |i| Number::Float(cells[i].wide())))
        }, _ => match minifloat::format_of(dtype) {
            Some(format) => Box::new((0..count).map(move |i| Number::Float(format.decode(code(dtype, bytes, i).into())))),
            None => return Err(cx.dtype("x", dtype, "a number")),
        })),
    })
}

/// A tensor of any dtype but string from its elements.
pub(crate) fn store(
    cx: &Context<'_>,
    to: DType,
    shape: &[usize],
    saturate: bool,
    mut numbers: impl Iterator<Item = Number>,
) -> Result<Tensor, EvalError> {
    match to {
        DType::Bool => cx.build_bools(
            shape,
            numbers.map(|number| match number {
                Number::Integer(integer) => integer != 0,
                Number::Float(float) => float != 0.0,
            }),
        ),
        DType::String => Err(cx.dtype("result", to, "a number")),
        _ => with_integer!(to, T => cx.build(shape, numbers.map(to_integer::<T>)), _ => {
            with_float!(to, T => cx.build(shape, numbers.map(to_float::<T>)), _ => {
                let mut out = cx.zeros(to, shape)?;
                let count = out.len();
                let bytes = out.bytes_mut();
                for i in 0..count {
                    cx.step()?;
                    set_code(to, bytes, i, numbers.next().map_or(0, |number| to_code(to, saturate, number)));
                }
                Ok(out)
            })
        }),
    }
}

fn to_integer<T: Integer>(number: Number) -> T {
    match number {
        Number::Integer(integer) => T::wrap(integer),
        // `as` truncates, saturates and takes NaN to 0.
        Number::Float(float) => T::wrap((float as i128).clamp(T::RANGE.0, T::RANGE.1)),
    }
}

fn to_float<T: Float>(number: Number) -> T {
    match number {
        Number::Integer(integer) if T::DTYPE == DType::F64 => T::round(integer as f64),
        Number::Integer(integer) => T::round(sticky(integer)),
        Number::Float(float) => T::round(float),
    }
}

/// The code of a dtype of 8 bits or less that no Rust type stores.
pub(crate) fn to_code(to: DType, saturate: bool, number: Number) -> u8 {
    let float = match number {
        Number::Integer(integer) => sticky(integer),
        Number::Float(float) => float,
    };
    match (minifloat::format_of(to), number) {
        (Some(format), _) => format.encode(float, saturate) as u8,
        (None, _) if to == DType::F8E8M0 => minifloat::encode_e8m0(float, saturate),
        (None, Number::Integer(integer)) => integer as u8,
        (None, Number::Float(float)) => float as i128 as u8,
    }
}

/// An integer as f64 that rounds on to narrower floats as the integer itself would: where bits do not fit, the last
/// one that does is set.
fn sticky(integer: i128) -> f64 {
    let magnitude = integer.unsigned_abs();
    let excess = (128 - magnitude.leading_zeros()).saturating_sub(53);
    let kept = magnitude >> excess;
    let lost = u128::from(kept << excess != magnitude);
    let value = (kept | lost) as f64 * 2f64.powi(excess as i32);
    if integer < 0 { -value } else { value }
}

fn print(from: DType, number: Number) -> String {
    match number {
        Number::Integer(integer) if from == DType::Bool => {
            if integer == 0 { "False" } else { "True" }.to_string()
        }
        Number::Integer(integer) => integer.to_string(),
        Number::Float(float) if float.is_nan() => "NaN".to_string(),
        Number::Float(float) if float.is_infinite() => if float > 0.0 { "INF" } else { "-INF" }.to_string(),
        Number::Float(float) if from == DType::F64 => float.to_string(),
        Number::Float(float) => (float as f32).to_string(),
    }
}

fn parse(cx: &Context<'_>, text: &[u8], to: DType) -> Result<Number, EvalError> {
    let text = String::from_utf8_lossy(text);
    let text = text.trim();
    let number = match text.parse::<i128>() {
        Ok(integer) if !to.is_float() => Some(Number::Integer(integer)),
        // Rust reads INF, -INF and NaN in any case.
        _ => text.parse::<f64>().ok().map(Number::Float),
    };
    number.ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        cx.bad(format!("`{shown}` is not a number"))
    })
}
