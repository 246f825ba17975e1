//! Elementwise ops: the dims broadcast; small integers are computed.

use lathe_ops::elementwise::{Binary, Cast, Compare, Unary};
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use super::known;
use crate::{Answer, Dim, IrError};

pub(super) fn unary(cx: &mut Context<'_>, kind: Unary) -> Outputs {
    use Unary::*;
    let x = cx.ty(0)?;
    match kind {
        Sqrt | Exp | Log | Tanh | Sigmoid | Logistic | Reciprocal | Floor | Ceil | Round | Sin | Cos
        | Tan | Asin | Acos | Atan | Sinh | Cosh | Asinh | Acosh | Atanh | HardSwish | Silu | Softplus
        | IsNan | IsInf => cx.dtype_of(0, "a float", DType::is_float)?,
        Not => cx.dtype_of(0, "bool", |dtype| dtype == DType::Bool)?,
        BitNot => cx.dtype_of(0, "an integer", DType::is_integer)?,
        Neg | Abs | Erf | Relu | Sign => {
            cx.dtype_of(0, "a number", |dtype| !matches!(dtype, DType::Bool | DType::String))?;
        }
        Identity => {}
    }
    let dtype = if matches!(kind, IsNan | IsInf) { DType::Bool } else { x.dtype };
    let known = cx.elements(0).and_then(|elements| elements.iter().map(|a| unary_element(kind, a)).collect());
    Ok(vec![Output::new(dtype, x.dims.clone()).with(known)])
}

fn unary_element(kind: Unary, a: &Dim) -> Option<Dim> {
    match kind {
        Unary::Identity => Some(a.clone()),
        Unary::Neg => Some(a.scale(-1)),
        Unary::Relu => Some(a.max(&Dim::constant(0))),
        Unary::Not => Some(Dim::constant(1).sub(a)),
        Unary::Abs => match a.at_least(0) {
            Answer::Yes => Some(a.clone()),
            Answer::No => Some(a.scale(-1)),
            Answer::Unknown => None,
        },
        Unary::Sign => match (a.at_least(1), a.at_least(0)) {
            (Answer::Yes, _) => Some(Dim::constant(1)),
            (_, Answer::No) => Some(Dim::constant(-1)),
            _ => (a.as_constant() == Some(0)).then(|| Dim::constant(0)),
        },
        _ => None,
    }
}

/// The type of an op that keeps its first operand's.
pub(super) fn same_float(cx: &mut Context<'_>) -> Outputs {
    cx.dtype_of(0, "a float", DType::is_float)?;
    let x = cx.ty(0)?;
    Ok(vec![Output::new(x.dtype, x.dims.clone())])
}

pub(super) fn binary(cx: &mut Context<'_>, kind: Binary) -> Outputs {
    let dtype = match kind {
        Binary::Pow => cx.ty(0)?.dtype,
        _ => cx.same_dtype(0, 1)?,
    };
    let (what, accept): (_, fn(DType) -> bool) = match kind {
        Binary::And | Binary::Or | Binary::Xor => ("bool", |dtype| dtype == DType::Bool),
        Binary::BitAnd | Binary::BitOr | Binary::BitXor | Binary::ShiftLeft | Binary::ShiftRight => {
            ("an integer", DType::is_integer)
        }
        _ => ("a number", |dtype| !matches!(dtype, DType::Bool | DType::String)),
    };
    cx.dtype_of(0, what, accept)?;
    cx.dtype_of(1, what, accept)?;
    let dims = broadcast(cx, 0, 1)?;
    let known = known::broadcast(cx, [0, 1], &dims)
        .and_then(|[a, b]| a.iter().zip(&b).map(|(a, b)| binary_element(kind, a, b)).collect());
    Ok(vec![Output::new(dtype, dims).with(known)])
}

fn broadcast(cx: &mut Context<'_>, a: usize, b: usize) -> Result<Vec<Dim>, IrError> {
    let (a, b) = (cx.ty(a)?, cx.ty(b)?);
    cx.broadcast_dims(&a.dims, &b.dims)
}

fn binary_element(kind: Binary, a: &Dim, b: &Dim) -> Option<Dim> {
    let positive = |dim: &Dim| dim.at_least(0) == Answer::Yes;
    match kind {
        Binary::Add => Some(a.add(b)),
        Binary::Sub => Some(a.sub(b)),
        Binary::Mul => Some(a.mul(b)),
        Binary::Min => Some(a.min(b)),
        Binary::Max => Some(a.max(b)),
        Binary::Div => truncating_quotient(a, b),
        Binary::Mod => (b.as_constant() != Some(0)).then(|| a.modulo(b)),
        // Equal where both signs are the same; a divisor of 0 is an error when it happens.
        Binary::FMod => (positive(a) && positive(b) && b.as_constant() != Some(0)).then(|| a.modulo(b)),
        Binary::Pow => match b.as_constant() {
            Some(exponent @ 0..=4) => Some(Dim::product((0..exponent).map(|_| a))),
            _ => None,
        },
        Binary::And => Some(a.mul(b)),
        Binary::Or => Some(a.add(b).sub(&a.mul(b))),
        Binary::Xor => Some(a.add(b).sub(&a.mul(b).scale(2))),
        Binary::BitAnd | Binary::BitOr | Binary::BitXor | Binary::ShiftLeft | Binary::ShiftRight => None,
    }
}

/// Integer division rounds towards zero.
fn truncating_quotient(a: &Dim, b: &Dim) -> Option<Dim> {
    if let (Some(a), Some(b)) = (a.as_constant(), b.as_constant()) {
        return a.checked_div(b).map(Dim::constant);
    }
    if b.as_constant() == Some(0) {
        return None;
    }
    let (over, under) = (a.at_least(0), b.at_least(0));
    match (over, under) {
        (Answer::Yes, Answer::Yes) => Some(a.floor_div(b)),
        (Answer::Yes, Answer::No) => Some(a.floor_div(&b.scale(-1)).scale(-1)),
        _ if b.as_constant().is_some() => a.exact_quotient(b),
        _ => None,
    }
}

pub(super) fn compare(cx: &mut Context<'_>, kind: Compare) -> Outputs {
    cx.same_dtype(0, 1)?;
    let dims = broadcast(cx, 0, 1)?;
    let known = known::broadcast(cx, [0, 1], &dims)
        .and_then(|[a, b]| a.iter().zip(&b).map(|(a, b)| compare_element(kind, a, b)).collect());
    Ok(vec![Output::new(DType::Bool, dims).with(known)])
}

fn compare_element(kind: Compare, a: &Dim, b: &Dim) -> Option<Dim> {
    known::decided(match kind {
        Compare::Equal => a.equals(b),
        Compare::Less => b.sub(a).at_least(1),
        Compare::LessOrEqual => b.sub(a).at_least(0),
        Compare::Greater => a.sub(b).at_least(1),
        Compare::GreaterOrEqual => a.sub(b).at_least(0),
    })
}

pub(super) fn clip(cx: &mut Context<'_>) -> Outputs {
    let x = cx.ty(0)?;
    for bound in [1, 2] {
        if cx.optional(bound).is_some() {
            cx.same_dtype(0, bound)?;
            if Dim::product(&cx.ty(bound)?.dims).equals(&Dim::constant(1)) == Answer::No {
                return Err(cx.bad(format!("operand {bound} must be a scalar")));
            }
        }
    }
    let bound = |index: usize| match cx.optional(index) {
        None => Some(None),
        Some(_) => cx.elements(index)?.first().cloned().map(Some),
    };
    let known = cx.elements(0).zip(bound(1)).zip(bound(2)).map(|((elements, low), high)| {
        let clipped = |x: &Dim| {
            let raised = low.as_ref().map_or_else(|| x.clone(), |low| x.max(low));
            high.as_ref().map_or_else(|| raised.clone(), |high| raised.min(high))
        };
        elements.iter().map(clipped).collect()
    });
    Ok(vec![Output::new(x.dtype, x.dims.clone()).with(known)])
}

pub(super) fn select(cx: &mut Context<'_>) -> Outputs {
    cx.dtype_of(0, "bool", |dtype| dtype == DType::Bool)?;
    let dtype = cx.same_dtype(1, 2)?;
    let branches = broadcast(cx, 1, 2)?;
    let dims = cx.broadcast_dims(&cx.ty(0)?.dims, &branches)?;
    let known = known::broadcast(cx, [0, 1, 2], &dims).and_then(|[condition, a, b]| {
        condition
            .iter()
            .zip(a.iter().zip(&b))
            .map(|(condition, (a, b))| match condition.as_constant() {
                Some(0) => Some(b.clone()),
                Some(_) => Some(a.clone()),
                None => (a == b).then(|| a.clone()),
            })
            .collect()
    });
    Ok(vec![Output::new(dtype, dims).with(known)])
}

pub(super) fn bit_cast(cx: &mut Context<'_>, to: DType) -> Outputs {
    let x = cx.ty(0)?;
    if x.dtype == DType::String || x.dtype.bits() != to.bits() {
        return Err(cx.bad(format!("{} is not as wide as {to}", x.dtype)));
    }
    Ok(vec![Output::new(to, x.dims.clone())])
}

pub(super) fn cast(cx: &mut Context<'_>, attributes: &Cast) -> Outputs {
    let x = cx.ty(0)?;
    let known = match (x.dtype, attributes.to) {
        (_, DType::Bool) => cx.elements(0).and_then(|elements| {
            let truth = |a: &Dim| Some(Dim::constant(1).sub(&known::decided(a.equals(&Dim::constant(0)))?));
            elements.iter().map(truth).collect()
        }),
        (DType::I64 | DType::I32 | DType::Bool, DType::I64 | DType::I32) => cx.elements(0),
        _ => None,
    };
    Ok(vec![Output::new(attributes.to, x.dims.clone()).with(known)])
}
