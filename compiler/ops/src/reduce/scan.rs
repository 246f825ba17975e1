//! Running sums and products.

use lathe_tensor::Tensor;

use super::{CumProd, CumSum};
use crate::EvalError;
use crate::cells::{Integer, with_integer};
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::Around;

impl Evaluate for CumSum {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    /// Floats are summed in f64, integers wrap.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let scan = Scan { exclusive: self.exclusive, reverse: self.reverse };
        scan.evaluate(cx, (0, i128::wrapping_add), (0.0, |sum, cell| sum + cell))
    }
}

impl Evaluate for CumProd {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    /// Floats are multiplied in f64, integers wrap.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let scan = Scan { exclusive: self.exclusive, reverse: self.reverse };
        scan.evaluate(cx, (1, i128::wrapping_mul), (1.0, |product, cell| product * cell))
    }
}

/// How a scan walks.
struct Scan {
    exclusive: bool,
    reverse: bool,
}

/// A start that changes nothing and a step.
type Fold<T> = (T, fn(T, T) -> T);

impl Scan {
    fn evaluate(
        &self,
        cx: &Context<'_>,
        integers: Fold<i128>,
        floats: Fold<f64>,
    ) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let axis = cx.axis(cx.integer("axis", cx.input(1)?)?, x.rank())?;
        let around = Around::of(x.shape(), axis);
        let result = with_integer!(x.dtype(), T => {
            cx.spend(x.len().saturating_mul(size_of::<i128>()))?;
            let cells: Vec<i128> = cx.cells::<T>(x)?.iter().map(|&cell| cell.wide()).collect();
            let totals = self.scan(cx, around, &cells, integers)?;
            cx.build(x.shape(), totals.iter().map(|&total| <T as Integer>::wrap(total)))?
        }, _ => {
            let totals = self.scan(cx, around, &cx.floats("x", x)?, floats)?;
            cx.rounded(x.dtype(), x.shape(), &totals)?
        });
        Ok(vec![result])
    }

    fn scan<T: Copy>(
        &self,
        cx: &Context<'_>,
        around: Around,
        cells: &[T],
        (start, step): Fold<T>,
    ) -> Result<Vec<T>, EvalError> {
        let mut out = cx.filled(cells.len(), start)?;
        for first in around.lines() {
            let mut total = start;
            for index in 0..around.size {
                cx.step()?;
                let place = if self.reverse { around.size - 1 - index } else { index };
                let i = first + place * around.inner;
                let next = step(total, cells[i]);
                out[i] = if self.exclusive { total } else { next };
                total = next;
            }
        }
        Ok(out)
    }
}
