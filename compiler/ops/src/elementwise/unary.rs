//! Functions of one operand.

use lathe_tensor::{DType, Tensor};

use super::{Activation, Gelu, HardSigmoid, LeakyRelu, Unary};
use crate::cells::{FLOATS, Float, Integer, NUMBERS, with_float, with_integer};
use crate::evaluate::{Arity, Context, Evaluate};
use crate::{EvalError, minifloat};

impl Evaluate for Unary {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let result = match self {
            Unary::Identity => x.clone(),
            Unary::Not => {
                let bools = cx.bools("x", x)?;
                cx.build_bools(x.shape(), bools.into_iter().map(|bit| !bit))?
            }
            Unary::IsNan => test(cx, x, f64::is_nan)?,
            Unary::IsInf => test(cx, x, f64::is_infinite)?,
            _ => self.numeric(cx, x)?,
        };
        Ok(vec![result])
    }
}

impl Unary {
    fn numeric(self, cx: &Context<'_>, x: &Tensor) -> Result<Tensor, EvalError> {
        with_integer!(x.dtype(), T => {
            let Some(function) = self.of_integers(x.dtype()) else {
                return Err(cx.dtype("x", x.dtype(), FLOATS));
            };
            let cells = cx.cells::<T>(x)?;
            cx.build(x.shape(), cells.iter().map(|&cell| <T as Integer>::wrap(function(cell.wide()))))
        }, _ => {
            let Some(function) = self.of_floats() else {
                return Err(cx.dtype("x", x.dtype(), "bool"));
            };
            map(cx, x, function)
        })
    }

    /// The function over floats; `None` for those that are not numeric.
    pub(crate) fn of_floats(self) -> Option<fn(f64) -> f64> {
        Some(match self {
            Unary::Neg => |x| -x,
            Unary::Abs => f64::abs,
            Unary::Sqrt => f64::sqrt,
            Unary::Exp => f64::exp,
            Unary::Log => f64::ln,
            Unary::Erf => libm::erf,
            Unary::Tanh => f64::tanh,
            Unary::Sigmoid | Unary::Logistic => sigmoid,
            Unary::Relu => relu,
            Unary::Reciprocal => |x| 1.0 / x,
            Unary::Floor => f64::floor,
            Unary::Ceil => f64::ceil,
            Unary::Round => f64::round_ties_even,
            // NaN has no sign, and the sign of a zero is that zero.
            Unary::Sign => |x| if x == 0.0 || x.is_nan() { x } else { x.signum() },
            Unary::Sin => f64::sin,
            Unary::Cos => f64::cos,
            Unary::Tan => f64::tan,
            Unary::Asin => f64::asin,
            Unary::Acos => f64::acos,
            Unary::Atan => f64::atan,
            Unary::Sinh => f64::sinh,
            Unary::Cosh => f64::cosh,
            Unary::Asinh => f64::asinh,
            Unary::Acosh => f64::acosh,
            Unary::Atanh => f64::atanh,
            Unary::HardSwish => hard_swish,
            Unary::Silu => silu,
            Unary::Softplus => softplus,
            Unary::Not | Unary::BitNot | Unary::IsNan | Unary::IsInf | Unary::Identity => return None,
        })
    }

    /// The function over integers, where ONNX defines one.
    fn of_integers(self, dtype: DType) -> Option<fn(i128) -> i128> {
        Some(match self {
            Unary::Neg if dtype.is_signed_integer() => |x| -x,
            Unary::Abs => i128::abs,
            Unary::Sign => i128::signum,
            Unary::BitNot => |x| !x,
            Unary::Relu if dtype.is_signed_integer() => |x| x.max(0),
            // Truncated: only 0 gives 0, and large integers give 1.
            Unary::Erf => |x| libm::erf(x as f64) as i128,
            _ => return None,
        })
    }
}

fn map(cx: &Context<'_>, x: &Tensor, function: impl Fn(f64) -> f64) -> Result<Tensor, EvalError> {
    with_float!(x.dtype(), T => {
        let cells = cx.cells::<T>(x)?;
        cx.build(x.shape(), cells.iter().map(|&cell| <T as Float>::round(function(cell.wide()))))
    }, _ => Err(cx.dtype("x", x.dtype(), NUMBERS)))
}

fn test(cx: &Context<'_>, x: &Tensor, test: fn(f64) -> bool) -> Result<Tensor, EvalError> {
    with_float!(x.dtype(), T => {
        let cells = cx.cells::<T>(x)?;
        cx.build_bools(x.shape(), cells.iter().map(|&cell| test(cell.wide())))
    }, _ => match minifloat::format_of(x.dtype()).filter(|_| x.dtype().bits() == 8) {
        Some(format) => {
            cx.build_bools(x.shape(), x.bytes().iter().map(|&code| test(format.decode(u16::from(code)))))
        }
        None => Err(cx.dtype("x", x.dtype(), "a float of 8 to 64 bits")),
    })
}

impl Evaluate for LeakyRelu {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let activation = Activation::LeakyRelu { alpha: self.alpha };
        Ok(vec![map(cx, cx.input(0)?, |x| activation.apply(x))?])
    }
}

impl Evaluate for HardSigmoid {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let activation = Activation::HardSigmoid { alpha: self.alpha, beta: self.beta };
        Ok(vec![map(cx, cx.input(0)?, |x| activation.apply(x))?])
    }
}

impl Evaluate for Gelu {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let activation = if self.tanh { Activation::GeluTanh } else { Activation::Gelu };
        Ok(vec![map(cx, cx.input(0)?, |x| activation.apply(x))?])
    }
}

impl Activation {
    /// The activation of one value.
    pub fn apply(&self, x: f64) -> f64 {
        match *self {
            Activation::None => x,
            Activation::Relu => relu(x),
            Activation::LeakyRelu { alpha } => {
                if x < 0.0 {
                    f64::from(alpha) * x
                } else {
                    x
                }
            }
            Activation::Sigmoid => sigmoid(x),
            Activation::Tanh => x.tanh(),
            Activation::Gelu => gelu(x),
            Activation::GeluTanh => gelu_tanh(x),
            Activation::Silu => silu(x),
            Activation::HardSigmoid { alpha, beta } => hard_sigmoid(f64::from(alpha), f64::from(beta), x),
            Activation::HardSwish => hard_swish(x),
            Activation::Clip { min, max } => clip(x, f64::from(min), f64::from(max)),
        }
    }
}

/// `min(max(x, low), high)`; NaN stays, and `high` wins over `low`.
pub(crate) fn clip(x: f64, low: f64, high: f64) -> f64 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

fn relu(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

pub(crate) fn hard_sigmoid(alpha: f64, beta: f64, x: f64) -> f64 {
    clip(alpha * x + beta, 0.0, 1.0)
}

fn hard_swish(x: f64) -> f64 {
    x * hard_sigmoid(1.0 / 6.0, 0.5, x)
}

/// `ln(1 + exp(x))`, without overflow.
pub(crate) fn softplus(x: f64) -> f64 {
    if x.is_nan() { x } else { x.max(0.0) + (-x.abs()).exp().ln_1p() }
}

fn gelu(x: f64) -> f64 {
    // erfc keeps the digits of the lower tail that 1 + erf cancels.
    0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    // 1 + tanh(y) = 2 sigmoid(2 y), which keeps the digits of the lower tail.
    x * sigmoid(2.0 * inner)
}
