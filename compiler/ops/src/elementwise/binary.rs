//! Functions and comparisons of two operands.

use std::cmp::Ordering;

use lathe_tensor::{DType, Tensor};

use super::{Binary, Compare};
use crate::EvalError;
use crate::cells::{Float, Integer, NUMBERS, with_float, with_integer};
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::{Walk, broadcast_strides};

/// The broadcast shape of two operands and the offsets of their elements at each index.
fn pairs(cx: &Context<'_>, a: &Tensor, b: &Tensor) -> Result<(Vec<usize>, Walk<2>), EvalError> {
    let shape = cx.broadcast(&[a.shape(), b.shape()])?;
    cx.count(&shape)?;
    let strides = [broadcast_strides(a.shape(), &shape), broadcast_strides(b.shape(), &shape)];
    let walk = Walk::new(&shape, strides, [0, 0]);
    Ok((shape, walk))
}

impl Evaluate for Binary {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let (shape, walk) = pairs(cx, a, b)?;
        let logic: Option<fn(bool, bool) -> bool> = match self {
            Binary::And => Some(|a, b| a && b),
            Binary::Or => Some(|a, b| a || b),
            Binary::Xor => Some(|a, b| a != b),
            _ => None,
        };
        if let Some(logic) = logic {
            let (a, b) = (cx.bools("a", a)?, cx.bools("b", b)?);
            return Ok(vec![cx.build_bools(&shape, walk.map(|[i, j]| logic(a[i], b[j])))?]);
        }
        if *self == Binary::Pow && a.dtype() != b.dtype() {
            return Ok(vec![mixed_pow(cx, a, b, &shape, walk)?]);
        }
        cx.same_dtype("b", a, b)?;
        let bitwise = matches!(
            self,
            Binary::BitAnd | Binary::BitOr | Binary::BitXor | Binary::ShiftLeft | Binary::ShiftRight
        );
        if bitwise && !a.dtype().is_integer() {
            return Err(cx.dtype("a", a.dtype(), "an integer"));
        }
        let result = with_integer!(a.dtype(), T => self.integers::<T>(cx, a, b, &shape, walk)?, _ => {
            with_float!(a.dtype(), T => {
                let function = self.of_floats();
                let (a, b) = (cx.cells::<T>(a)?, cx.cells::<T>(b)?);
                let cells = walk.map(|[i, j]| <T as Float>::round(function(a[i].wide(), b[j].wide())));
                cx.build(&shape, cells)?
            }, _ => return Err(cx.dtype("a", a.dtype(), NUMBERS)))
        });
        Ok(vec![result])
    }
}

impl Binary {
    fn integers<T: Integer>(
        self,
        cx: &Context<'_>,
        a: &Tensor,
        b: &Tensor,
        shape: &[usize],
        walk: Walk<2>,
    ) -> Result<Tensor, EvalError> {
        let (a, b) = (cx.cells::<T>(a)?, cx.cells::<T>(b)?);
        let mut failure = None;
        let tensor = cx.build(
            shape,
            walk.map_while(|[i, j]| match self.of_integers(a[i].wide(), b[j].wide(), T::DTYPE.bits()) {
                Ok(value) => Some(T::wrap(value)),
                Err(reason) => {
                    failure = Some(reason);
                    None
                }
            }),
        );
        match failure {
            Some(reason) => Err(cx.bad(reason)),
            None => tensor,
        }
    }

    /// The function over floats.
    pub(crate) fn of_floats(self) -> fn(f64, f64) -> f64 {
        match self {
            Binary::Add => |a, b| a + b,
            Binary::Sub => |a, b| a - b,
            Binary::Mul => |a, b| a * b,
            Binary::Div => |a, b| a / b,
            Binary::Pow => f64::powf,
            Binary::Min => minimum,
            Binary::Max => maximum,
            // The remainder has the sign of the divisor, a zero included.
            Binary::Mod => |a, b| match a % b {
                0.0 => 0f64.copysign(b),
                rest if (rest < 0.0) != (b < 0.0) => rest + b,
                rest => rest,
            },
            Binary::FMod => |a, b| a % b,
            // The boolean and bitwise ones never get here.
            Binary::And
            | Binary::Or
            | Binary::Xor
            | Binary::BitAnd
            | Binary::BitOr
            | Binary::BitXor
            | Binary::ShiftLeft
            | Binary::ShiftRight => |_, _| f64::NAN,
        }
    }

    /// The function over integers of `bits` bits, before wrapping.
    fn of_integers(self, a: i128, b: i128, bits: usize) -> Result<i128, &'static str> {
        match self {
            Binary::Add => Ok(a + b),
            Binary::Sub => Ok(a - b),
            Binary::Mul => Ok(a.wrapping_mul(b)),
            Binary::Div | Binary::Mod | Binary::FMod if b == 0 => Err("an integer is divided by zero"),
            Binary::Div => Ok(a / b),
            Binary::Mod => Ok((a % b + b) % b),
            Binary::FMod => Ok(a % b),
            Binary::Pow => power(a, b).ok_or("zero is raised to a negative power"),
            Binary::Min => Ok(a.min(b)),
            Binary::Max => Ok(a.max(b)),
            Binary::BitAnd => Ok(a & b),
            Binary::BitOr => Ok(a | b),
            Binary::BitXor => Ok(a ^ b),
            // Beyond the width all bits are shifted out: what is left is the sign.
            Binary::ShiftLeft if b < 0 || b >= bits as i128 => Ok(0),
            Binary::ShiftLeft => Ok(a << b),
            Binary::ShiftRight if b < 0 || b >= bits as i128 => Ok(if a < 0 { -1 } else { 0 }),
            Binary::ShiftRight => Ok(a >> b),
            Binary::And | Binary::Or | Binary::Xor => Err("booleans are expected"),
        }
    }
}

/// The smaller; NaN where either is.
pub(crate) fn minimum(a: f64, b: f64) -> f64 {
    if a.is_nan() || a < b { a } else { b }
}

/// The larger; NaN where either is.
pub(crate) fn maximum(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// `base` to the `exponent`, modulo 2^128; a negative exponent truncates to zero but for a base of 1 and -1.
fn power(base: i128, exponent: i128) -> Option<i128> {
    if exponent < 0 {
        return match base {
            0 => None,
            1 => Some(1),
            -1 => Some(if exponent % 2 == 0 { 1 } else { -1 }),
            _ => Some(0),
        };
    }
    let (mut result, mut square, mut rest) = (1i128, base, exponent);
    while rest > 0 {
        if rest & 1 == 1 {
            result = result.wrapping_mul(square);
        }
        square = square.wrapping_mul(square);
        rest >>= 1;
    }
    Some(result)
}

/// `a` to the `b` where their dtypes differ: exact for integers, else by f64; the result has the dtype of `a`.
fn mixed_pow(
    cx: &Context<'_>,
    a: &Tensor,
    b: &Tensor,
    shape: &[usize],
    walk: Walk<2>,
) -> Result<Tensor, EvalError> {
    let wide = with_integer!(b.dtype(), T => {
        Some(cx.cells::<T>(b)?.iter().map(|&cell| cell.wide()).collect::<Vec<i128>>())
    }, _ => None);
    let floats = cx.numbers("b", b)?;
    with_integer!(a.dtype(), T => {
        let bases = cx.cells::<T>(a)?;
        let mut failed = false;
        let tensor = cx.build(shape, walk.map_while(|[i, j]| {
            let base = bases[i].wide();
            let value = match &wide {
                Some(exponents) => power(base, exponents[j]),
                None => Some((base as f64).powf(floats[j]) as i128),
            };
            failed |= value.is_none();
            value.map(<T as Integer>::wrap)
        }));
        if failed { Err(cx.bad("zero is raised to a negative power")) } else { tensor }
    }, _ => with_float!(a.dtype(), T => {
        let bases = cx.cells::<T>(a)?;
        cx.build(shape, walk.map(|[i, j]| <T as Float>::round(bases[i].wide().powf(floats[j]))))
    }, _ => Err(cx.dtype("a", a.dtype(), NUMBERS))))
}

impl Evaluate for Compare {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        cx.same_dtype("b", a, b)?;
        let (shape, walk) = pairs(cx, a, b)?;
        let holds = |ordering: Option<Ordering>| self.holds(ordering);
        let result = match a.dtype() {
            DType::Bool if *self == Compare::Equal => {
                let (a, b) = (cx.bools("a", a)?, cx.bools("b", b)?);
                cx.build_bools(&shape, walk.map(|[i, j]| a[i] == b[j]))?
            }
            DType::String if *self == Compare::Equal => {
                let a = a.strings().map_err(|source| cx.tensor(source))?;
                let b = b.strings().map_err(|source| cx.tensor(source))?;
                cx.build_bools(&shape, walk.map(|[i, j]| a[i] == b[j]))?
            }
            dtype => with_integer!(dtype, T => {
                let (a, b) = (cx.cells::<T>(a)?, cx.cells::<T>(b)?);
                cx.build_bools(&shape, walk.map(|[i, j]| holds(a[i].partial_cmp(&b[j]))))?
            }, _ => with_float!(dtype, T => {
                let (a, b) = (cx.cells::<T>(a)?, cx.cells::<T>(b)?);
                cx.build_bools(&shape, walk.map(|[i, j]| holds(a[i].partial_cmp(&b[j]))))?
            }, _ => return Err(cx.dtype("a", dtype, NUMBERS)))),
        };
        Ok(vec![result])
    }
}

impl Compare {
    /// Whether the comparison holds for operands in that order; `None` is unordered (NaN).
    fn holds(self, ordering: Option<Ordering>) -> bool {
        match (self, ordering) {
            (_, None) => false,
            (Compare::Equal, Some(ordering)) => ordering.is_eq(),
            (Compare::Less, Some(ordering)) => ordering.is_lt(),
            (Compare::LessOrEqual, Some(ordering)) => ordering.is_le(),
            (Compare::Greater, Some(ordering)) => ordering.is_gt(),
            (Compare::GreaterOrEqual, Some(ordering)) => ordering.is_ge(),
        }
    }
}
