//! ArgReduce and TopK: the order of elements along an axis.

use std::cmp::Ordering;

use lathe_tensor::{DType, Element, Tensor};

use super::{ArgReduce, TopK};
use crate::EvalError;
use crate::cells::{NUMBERS, with_float, with_integer};
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::Around;

/// The order of two elements; NaN is above all numbers, as in NumPy's sort and argmax.
#[allow(clippy::eq_op)] // Only NaN differs from itself.
fn order<T: PartialOrd>(a: &T, b: &T) -> Ordering {
    a.partial_cmp(b).unwrap_or_else(|| (a != a).cmp(&(b != b)))
}

impl Evaluate for ArgReduce {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    /// NaN is the extreme of both kinds.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let axis = cx.axis(self.axis, x.rank())?;
        let around = Around::of(x.shape(), axis);
        let mut shape = x.shape().to_vec();
        match self.keep_dims {
            true => shape[axis] = 1,
            false => drop(shape.remove(axis)),
        }
        if around.size == 0 && cx.count(&shape)? > 0 {
            return Err(cx.shape(format!("axis {axis} has no elements")));
        }
        let result = with_integer!(x.dtype(), T => self.indices::<T>(cx, x, around, &shape)?, _ => {
            with_float!(x.dtype(), T => self.indices::<T>(cx, x, around, &shape)?, _ => {
                return Err(cx.dtype("x", x.dtype(), NUMBERS))
            })
        });
        Ok(vec![result])
    }
}

impl ArgReduce {
    #[allow(clippy::eq_op)] // Only NaN differs from itself.
    fn indices<T: Element>(
        &self,
        cx: &Context<'_>,
        x: &Tensor,
        around: Around,
        shape: &[usize],
    ) -> Result<Tensor, EvalError> {
        let cells = cx.cells::<T>(x)?;
        let rank = |cell: &T, other: &T| match (self.min, cell != cell, other != other) {
            (true, false, false) => order(other, cell),
            _ => order(cell, other),
        };
        let extreme = |start: usize| {
            let mut best = 0;
            for place in 1..around.size {
                let (cell, held) =
                    (&cells[start + place * around.inner], &cells[start + best * around.inner]);
                match rank(cell, held) {
                    Ordering::Greater => best = place,
                    Ordering::Equal if self.select_last => best = place,
                    _ => {}
                }
            }
            best as i64
        };
        let mut out = cx.zeros(DType::I64, shape)?;
        let slots = out.as_mut_slice::<i64>().map_err(|source| cx.tensor(source))?;
        for (slot, start) in slots.iter_mut().zip(around.lines()) {
            cx.work(around.size)?;
            *slot = extreme(start);
        }
        Ok(out)
    }
}

impl Evaluate for TopK {
    fn arity(&self) -> Arity {
        Arity::of(2, 2).outputs(2, 2)
    }

    /// Of equal elements the one with the lower index comes first. The result is sorted whether asked or not.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let axis = cx.axis(self.axis, x.rank())?;
        let size = x.shape()[axis];
        let k = cx.integer("k", cx.input(1)?)?;
        let k = usize::try_from(k).ok().filter(|&k| k <= size);
        let k =
            k.ok_or_else(|| cx.bad(format!("k is not between 0 and the {size} elements of axis {axis}")))?;
        let mut shape = x.shape().to_vec();
        shape[axis] = k;
        with_integer!(x.dtype(), T => self.pick::<T>(cx, x, axis, &shape), _ => {
            with_float!(x.dtype(), T => self.pick::<T>(cx, x, axis, &shape), _ => {
                Err(cx.dtype("x", x.dtype(), NUMBERS))
            })
        })
    }
}

impl TopK {
    fn pick<T: Element>(
        &self,
        cx: &Context<'_>,
        x: &Tensor,
        axis: usize,
        shape: &[usize],
    ) -> Result<Vec<Tensor>, EvalError> {
        let cells = cx.cells::<T>(x)?;
        let (from, to) = (Around::of(x.shape(), axis), Around::of(shape, axis));
        let mut values = cx.zeros(T::DTYPE, shape)?;
        let mut indices = cx.zeros(DType::I64, shape)?;
        let slots = values.as_mut_slice::<T>().map_err(|source| cx.tensor(source))?;
        let index_slots = indices.as_mut_slice::<i64>().map_err(|source| cx.tensor(source))?;
        let mut places = cx.filled(from.size, 0usize)?;
        for (start, to_start) in from.lines().zip(to.lines()) {
            cx.work(from.size)?;
            places.iter_mut().enumerate().for_each(|(place, slot)| *slot = place);
            let cell = |place: usize| &cells[start + place * from.inner];
            // The sort is stable, which keeps equal elements in the order of their indices.
            places.sort_by(
                |&a, &b| if self.largest { order(cell(b), cell(a)) } else { order(cell(a), cell(b)) },
            );
            for (rank, &place) in places.iter().take(to.size).enumerate() {
                slots[to_start + rank * to.inner] = *cell(place);
                index_slots[to_start + rank * to.inner] = place as i64;
            }
        }
        Ok(vec![values, indices])
    }
}
