//! Ops that make elements: Range, ConstantOfShape, Trilu.

use lathe_tensor::{DType, Tensor};

use super::layout::sizes;
use super::{ConstantOfShape, Range, Trilu};
use crate::EvalError;
use crate::cells::{Float, Integer, NUMBERS, with_float, with_integer};
use crate::evaluate::{Arity, Context, Evaluate};
use crate::pick::set_code;
use crate::walk::product;

impl Evaluate for Range {
    fn arity(&self) -> Arity {
        Arity::of(3, 3)
    }

    /// `max(ceil((limit - start) / delta), 0)` elements `start + i * delta`.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let inputs = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
        for (input, name) in inputs.iter().zip(["start", "limit", "delta"]) {
            cx.same_dtype(name, inputs[0], input)?;
            if input.len() != 1 {
                return Err(cx.shape(format!("{name} has {} elements, expected 1", input.len())));
            }
        }
        let result = with_integer!(inputs[0].dtype(), T => {
            let mut values = [0i128; 3];
            for (value, input) in values.iter_mut().zip(inputs) {
                *value = cx.cells::<T>(input)?[0].wide();
            }
            let [start, limit, delta] = values;
            if delta == 0 {
                return Err(cx.bad("delta is 0"));
            }
            let distance = if delta > 0 { limit - start } else { start - limit };
            let count = (distance + delta.abs() - 1).max(0) / delta.abs();
            let count = usize::try_from(count).map_err(|_| cx.too_large(None))?;
            cx.build(&[count], (0..count).map(|i| <T as Integer>::wrap(start + i as i128 * delta)))?
        }, _ => with_float!(inputs[0].dtype(), T => {
            let mut values = [0f64; 3];
            for (value, input) in values.iter_mut().zip(inputs) {
                *value = cx.cells::<T>(input)?[0].wide();
            }
            let [start, limit, delta] = values;
            let count = ((limit - start) / delta).ceil().max(0.0);
            // NaN has become 0 by `max`, though not for operands that are NaN or a delta of 0.
            if delta == 0.0 || !start.is_finite() || !limit.is_finite() || delta.is_nan() {
                return Err(cx.bad("start and limit must be finite and delta a number but 0"));
            }
            let count = if count < usize::MAX as f64 { count as usize } else { return Err(cx.too_large(None)) };
            cx.build(&[count], (0..count).map(|i| {
                // A single step of infinite size starts at `start`.
                let moved = if i == 0 { 0.0 } else { i as f64 * delta };
                <T as Float>::round(start + moved)
            }))?
        }, _ => return Err(cx.dtype("start", inputs[0].dtype(), NUMBERS))));
        Ok(vec![result])
    }
}

impl Evaluate for ConstantOfShape {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    /// A string constant is the empty string.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let shape = sizes(cx, "shape", cx.input(0)?)?;
        let mut out = cx.zeros(self.dtype, &shape)?;
        let count = out.len();
        match self.dtype.element_bytes() {
            Some(size) => {
                let element = self.bits.to_le_bytes();
                out.bytes_mut()
                    .chunks_exact_mut(size)
                    .for_each(|slot| slot.copy_from_slice(&element[..size]));
            }
            None if self.dtype == DType::String => {}
            None => (0..count).for_each(|i| set_code(self.dtype, out.bytes_mut(), i, self.bits as u8)),
        }
        Ok(vec![out])
    }
}

impl Evaluate for Trilu {
    fn arity(&self) -> Arity {
        Arity::of(1, 2)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let k = match cx.optional(1) {
            Some(k) => i128::from(cx.integer("k", k)?),
            None => 0,
        };
        let [.., rows, columns] = *x.shape() else { return Err(cx.shape("x has less than two axes")) };
        let matrix = product(&[rows, columns]);
        let cells = (0..x.len()).map(|element| {
            let (row, column) = (element % matrix / columns, element % columns);
            let ahead = column as i128 - row as i128;
            let kept = if self.upper { ahead >= k } else { ahead <= k };
            kept.then_some((0, element))
        });
        Ok(vec![cx.pick(&[x], None, x.shape(), cells)?])
    }
}
