//! Reductions and scans along axes.

mod order;
mod scan;

use lathe_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::cells::{Integer, NUMBERS, with_integer};
use crate::elementwise::binary::{maximum, minimum};
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::{Walk, product, strides};

/// Attributes of [`crate::Op::Reduce`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reduce {
    /// What is computed.
    pub kind: ReduceKind,
    /// The axes where they are constant; all axes where neither attribute nor input names any.
    pub axes: Option<Vec<i64>>,
    /// Keep reduced axes with size 1.
    pub keep_dims: bool,
    /// An empty list of axes reduces nothing instead of everything.
    pub noop_with_empty_axes: bool,
}

/// Attributes of [`crate::Op::ArgReduce`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArgReduce {
    /// The smallest instead of the largest.
    pub min: bool,
    /// The axis.
    pub axis: i64,
    /// Keep the axis with size 1.
    pub keep_dims: bool,
    /// The last of equal elements instead of the first.
    pub select_last: bool,
}

/// Attributes of [`crate::Op::TopK`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopK {
    /// The axis.
    pub axis: i64,
    /// The largest instead of the smallest.
    pub largest: bool,
    /// In order.
    pub sorted: bool,
}

/// Attributes of [`crate::Op::CumSum`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CumSum {
    /// Leave the element itself out.
    pub exclusive: bool,
    /// Sum from the end.
    pub reverse: bool,
}

/// Attributes of [`crate::Op::CumProd`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CumProd {
    /// Leave the element itself out.
    pub exclusive: bool,
    /// Multiply from the end.
    pub reverse: bool,
}

/// What [`Reduce`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum ReduceKind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

impl Evaluate for Reduce {
    fn arity(&self) -> Arity {
        Arity::of(1, 2)
    }

    /// Floats are summed in f64, integers wrap at the end. An empty set gives what a neutral start gives: 0, 1, the
    /// largest or the smallest value, and NaN for the mean.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let (shape, sets) = self.shapes(cx, x)?;
        let count = cx.count(&shape)?;
        let result = match x.dtype() {
            DType::Bool => {
                let is_max = match self.kind {
                    ReduceKind::Max => true,
                    ReduceKind::Min => false,
                    _ => return Err(cx.dtype("x", x.dtype(), NUMBERS)),
                };
                let bits = cx.bools("x", x)?;
                let mut out = cx.filled(count, !is_max)?;
                sets.visit(cx, |to, from| {
                    out[to] = if is_max { out[to] | bits[from] } else { out[to] & bits[from] }
                })?;
                cx.build_bools(&shape, out.into_iter())?
            }
            _ => with_integer!(x.dtype(), T => self.integers::<T>(cx, x, &shape, &sets, count)?, _ => {
                let cells = cx.floats("x", x)?;
                let sums = self.floats(cx, &cells, &sets, count)?;
                cx.rounded(x.dtype(), &shape, &sums)?
            }),
        };
        Ok(vec![result])
    }
}

/// Which elements of `x` go to which element of the result.
struct Sets {
    x_strides: Vec<isize>,
    x_shape: Vec<usize>,
    /// Axes that stay, and axes that are reduced.
    kept: Vec<usize>,
    reduced: Vec<usize>,
}

impl Sets {
    fn part(&self, axes: &[usize]) -> (Vec<usize>, Vec<isize>) {
        (axes.iter().map(|&a| self.x_shape[a]).collect(), axes.iter().map(|&a| self.x_strides[a]).collect())
    }

    /// Number of elements of each set.
    fn size(&self) -> usize {
        product(&self.part(&self.reduced).0)
    }

    /// Calls `visit(result element, x element)` for all, the result's elements in order.
    fn visit(&self, cx: &Context<'_>, mut visit: impl FnMut(usize, usize)) -> Result<(), EvalError> {
        let ((outer, outer_strides), (inner, inner_strides)) =
            (self.part(&self.kept), self.part(&self.reduced));
        if self.size() == 0 {
            return Ok(());
        }
        for (to, [start]) in Walk::new(&outer, [outer_strides], [0]).enumerate() {
            for [from] in Walk::new(&inner, [inner_strides.clone()], [start]) {
                cx.step()?;
                visit(to, from);
            }
        }
        Ok(())
    }
}

impl Reduce {
    /// The shape of the result and what goes to each of its elements.
    fn shapes(&self, cx: &Context<'_>, x: &Tensor) -> Result<(Vec<usize>, Sets), EvalError> {
        let given = match (&self.axes, cx.optional(1)) {
            (_, Some(axes)) => cx.integer_list("axes", axes)?,
            (Some(axes), None) => axes.clone(),
            (None, None) => Vec::new(),
        };
        let reduces = match given.is_empty() {
            true => vec![!self.noop_with_empty_axes; x.rank()],
            false => cx.axis_set(&given, x.rank())?,
        };
        let (reduced, kept): (Vec<usize>, Vec<usize>) = (0..x.rank()).partition(|&axis| reduces[axis]);
        let mut shape = x.shape().to_vec();
        match self.keep_dims {
            true => reduced.iter().for_each(|&axis| shape[axis] = 1),
            false => shape = kept.iter().map(|&axis| x.shape()[axis]).collect(),
        }
        cx.count(&shape)?;
        Ok((shape, Sets { x_strides: strides(x.shape()), x_shape: x.shape().to_vec(), kept, reduced }))
    }

    fn floats(&self, cx: &Context<'_>, x: &[f64], sets: &Sets, count: usize) -> Result<Vec<f64>, EvalError> {
        let (start, step): (f64, fn(f64, f64) -> f64) = match self.kind {
            ReduceKind::Sum | ReduceKind::Mean | ReduceKind::LogSum => (0.0, |sum, x| sum + x),
            ReduceKind::Max | ReduceKind::LogSumExp => (f64::NEG_INFINITY, maximum),
            ReduceKind::Min => (f64::INFINITY, minimum),
            ReduceKind::Prod => (1.0, |product, x| product * x),
            ReduceKind::L1 => (0.0, |sum, x| sum + x.abs()),
            ReduceKind::L2 | ReduceKind::SumSquare => (0.0, |sum, x| sum + x * x),
        };
        let mut out = cx.filled(count, start)?;
        sets.visit(cx, |to, from| out[to] = step(out[to], x[from]))?;
        match self.kind {
            ReduceKind::Mean => out.iter_mut().for_each(|sum| *sum /= sets.size() as f64),
            ReduceKind::L2 => out.iter_mut().for_each(|sum| *sum = sum.sqrt()),
            ReduceKind::LogSum => out.iter_mut().for_each(|sum| *sum = sum.ln()),
            ReduceKind::LogSumExp => {
                let largest = out;
                let mut sums = cx.filled(count, 0.0)?;
                // An infinite largest element is the result, or the start of an empty set.
                let shift = |to: usize| if largest[to].is_infinite() { 0.0 } else { largest[to] };
                sets.visit(cx, |to, from| sums[to] += (x[from] - shift(to)).exp())?;
                sums.iter_mut().enumerate().for_each(|(to, sum)| *sum = sum.ln() + shift(to));
                out = sums;
            }
            _ => {}
        }
        Ok(out)
    }

    fn integers<T: Integer>(
        &self,
        cx: &Context<'_>,
        x: &Tensor,
        shape: &[usize],
        sets: &Sets,
        count: usize,
    ) -> Result<Tensor, EvalError> {
        let (start, step): (i128, fn(i128, i128) -> i128) = match self.kind {
            ReduceKind::Sum | ReduceKind::Mean => (0, i128::wrapping_add),
            ReduceKind::Max => (T::RANGE.0, i128::max),
            ReduceKind::Min => (T::RANGE.1, i128::min),
            ReduceKind::Prod => (1, i128::wrapping_mul),
            ReduceKind::L1 => (0, |sum, x| sum.wrapping_add(x.abs())),
            ReduceKind::SumSquare => (0, |sum, x| sum.wrapping_add(x.wrapping_mul(x))),
            ReduceKind::L2 | ReduceKind::LogSum | ReduceKind::LogSumExp => {
                let cells = cx.numbers("x", x)?;
                let values = self.floats(cx, &cells, sets, count)?;
                // Truncated, as a cast of the float result.
                return cx.build(shape, values.iter().map(|&value| T::wrap(value as i128)));
            }
        };
        let cells = cx.cells::<T>(x)?;
        let mut out = cx.filled(count, start)?;
        sets.visit(cx, |to, from| out[to] = step(out[to], cells[from].wide()))?;
        if self.kind == ReduceKind::Mean {
            let size = sets.size() as i128;
            if size == 0 && count > 0 {
                return Err(cx.bad("the mean of no integers"));
            }
            out.iter_mut().for_each(|sum| *sum /= size);
        }
        cx.build(shape, out.iter().map(|&value| T::wrap(value)))
    }
}
