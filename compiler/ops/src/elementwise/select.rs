//! Clip and Where.

use lathe_tensor::Tensor;

use super::{Clip, Where, unary};
use crate::EvalError;
use crate::cells::{Float, NUMBERS, with_float, with_integer};
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::{Walk, broadcast_strides};

impl Evaluate for Clip {
    fn arity(&self) -> Arity {
        Arity::of(1, 3)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        for (index, name) in [(1, "min"), (2, "max")] {
            let Some(bound) = cx.optional(index) else { continue };
            cx.same_dtype(name, x, bound)?;
            if bound.len() != 1 {
                return Err(cx.shape(format!("{name} has {} elements, expected 1", bound.len())));
            }
        }
        let result = with_integer!(x.dtype(), T => {
            let (low, high) = (bound::<T>(cx, 1)?, bound::<T>(cx, 2)?);
            let cells = cx.cells::<T>(x)?;
            cx.build(x.shape(), cells.iter().map(|&cell| {
                let raised = low.map_or(cell, |low| cell.max(low));
                high.map_or(raised, |high| raised.min(high))
            }))?
        }, _ => with_float!(x.dtype(), T => {
            let low = bound::<T>(cx, 1)?.map_or(f64::NEG_INFINITY, T::wide);
            let high = bound::<T>(cx, 2)?.map_or(f64::INFINITY, T::wide);
            let cells = cx.cells::<T>(x)?;
            cx.build(x.shape(), cells.iter().map(|&cell| <T as Float>::round(unary::clip(cell.wide(), low, high))))?
        }, _ => return Err(cx.dtype("x", x.dtype(), NUMBERS))));
        Ok(vec![result])
    }
}

fn bound<T: lathe_tensor::Element>(cx: &Context<'_>, index: usize) -> Result<Option<T>, EvalError> {
    let Some(bound) = cx.optional(index) else { return Ok(None) };
    Ok(cx.cells::<T>(bound)?.first().copied())
}

impl Evaluate for Where {
    fn arity(&self) -> Arity {
        Arity::of(3, 3)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (condition, a, b) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        let bits = cx.bools("condition", condition)?;
        let shape = cx.broadcast(&[condition.shape(), a.shape(), b.shape()])?;
        cx.count(&shape)?;
        let strides = [condition, a, b].map(|operand| broadcast_strides(operand.shape(), &shape));
        let cells = Walk::new(&shape, strides, [0; 3]).map(|[bit, i, j]| {
            let cell = if bits[bit] { (0, i) } else { (1, j) };
            Some(cell)
        });
        Ok(vec![cx.pick(&[a, b], None, &shape, cells)?])
    }
}
