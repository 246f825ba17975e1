//! Matrix products.

use std::num::Wrapping;
use std::ops::{AddAssign, Mul};

use lathe_tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::cells::{FLOATS, Integer, with_integer};
use crate::elementwise::Activation;
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::{Walk, broadcast_strides};

/// Attributes of [`crate::Op::MatMul`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MatMul {
    /// Where the right operand is a constant in quantised blocks, the left one may be rounded to 8-bit integers, as `accuracy_level` 4 of
    /// `MatMulNBits` allows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub coarse: bool,
}

/// Attributes of [`crate::Op::Linear`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// Applied to the sum.
    pub activation: Activation,
}

impl Evaluate for MatMul {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        Linear { activation: Activation::None }.evaluate(cx)
    }
}

impl Evaluate for Linear {
    fn arity(&self) -> Arity {
        Arity::of(2, 4)
    }

    /// Float sums are taken in f64, integer ones wrap. Integers allow no activation.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, w) = (cx.input(0)?, cx.input(1)?);
        cx.same_dtype("w", x, w)?;
        let product = Product::of(cx, x.shape(), w.shape())?;
        for (index, name) in [(2, "bias"), (3, "residual")] {
            let Some(added) = cx.optional(index) else { continue };
            cx.same_dtype(name, x, added)?;
            cx.broadcasts_to(name, added.shape(), &product.shape)?;
        }
        let result = with_integer!(x.dtype(), T => {
            if self.activation != Activation::None {
                return Err(cx.dtype("x", x.dtype(), FLOATS));
            }
            let wide = |tensor: &Tensor| -> Result<Vec<Wrapping<i128>>, EvalError> {
                cx.spend(tensor.len().saturating_mul(size_of::<i128>()))?;
                Ok(cx.cells::<T>(tensor)?.iter().map(|&cell| Wrapping(cell.wide())).collect())
            };
            let sums = product.sum_all(cx, wide)?;
            cx.build(&product.shape, sums.iter().map(|sum| <T as Integer>::wrap(sum.0)))?
        }, _ => {
            let mut sums = product.sum_all(cx, |tensor| cx.floats("x", tensor))?;
            sums.iter_mut().for_each(|sum| *sum = self.activation.apply(*sum));
            cx.rounded(x.dtype(), &product.shape, &sums)?
        });
        Ok(vec![result])
    }
}

/// The sizes of a batched product `[batch..., m, k] @ [batch..., k, n]`.
pub(crate) struct Product {
    /// Shape of the result.
    pub shape: Vec<usize>,
    batch: Vec<usize>,
    a_strides: Vec<isize>,
    b_strides: Vec<isize>,
    m: usize,
    k: usize,
    n: usize,
}

impl Product {
    /// By NumPy's rules: an operand of rank 1 is a row on the left and a column on the right.
    pub fn of(cx: &Context<'_>, a: &[usize], b: &[usize]) -> Result<Self, EvalError> {
        let (a_batch, m, a_k) = match a {
            [] => return Err(cx.shape("the left operand is a scalar")),
            [k] => (&[][..], None, *k),
            [batch @ .., m, k] => (batch, Some(*m), *k),
        };
        let (b_batch, b_k, n) = match b {
            [] => return Err(cx.shape("the right operand is a scalar")),
            [k] => (&[][..], *k, None),
            [batch @ .., k, n] => (batch, *k, Some(*n)),
        };
        if a_k != b_k {
            return Err(cx.shape(format!("the inner sizes {a_k} and {b_k} differ")));
        }
        let batch = cx.broadcast(&[a_batch, b_batch])?;
        let shape: Vec<usize> = batch.iter().copied().chain(m).chain(n).collect();
        cx.count(&shape)?;
        let (m, n) = (m.unwrap_or(1), n.unwrap_or(1));
        let matrices = |own: &[usize], size: usize| -> Vec<isize> {
            let strides = broadcast_strides(own, &batch);
            strides.into_iter().map(|stride| stride.wrapping_mul(size as isize)).collect()
        };
        let a_strides = matrices(a_batch, m.saturating_mul(a_k));
        let b_strides = matrices(b_batch, n.saturating_mul(a_k));
        Ok(Self { shape, batch, a_strides, b_strides, m, k: a_k, n })
    }

    /// The product of inputs 0 and 1, plus inputs 2 and 3 where they are, widened by `wide`.
    fn sum_all<T: Cell>(
        &self,
        cx: &Context<'_>,
        wide: impl Fn(&Tensor) -> Result<Vec<T>, EvalError>,
    ) -> Result<Vec<T>, EvalError> {
        let mut sums = self.multiply(cx, &wide(cx.input(0)?)?, &wide(cx.input(1)?)?)?;
        for added in [cx.optional(2), cx.optional(3)].into_iter().flatten() {
            let cells = wide(added)?;
            let walk = Walk::new(&self.shape, [broadcast_strides(added.shape(), &self.shape)], [0]);
            for (sum, [i]) in sums.iter_mut().zip(walk) {
                *sum += cells[i];
            }
        }
        Ok(sums)
    }

    /// The products, summed over `k` in ascending order.
    pub fn multiply<T: Cell>(&self, cx: &Context<'_>, a: &[T], b: &[T]) -> Result<Vec<T>, EvalError> {
        let mut out = cx.filled(cx.count(&self.shape)?, T::default())?;
        if out.is_empty() {
            return Ok(out);
        }
        let walk = Walk::new(&self.batch, [self.a_strides.clone(), self.b_strides.clone()], [0, 0]);
        for (matrix, [a_start, b_start]) in out.chunks_exact_mut(self.m * self.n).zip(walk) {
            for (i, row) in matrix.chunks_exact_mut(self.n).enumerate() {
                let a_row = &a[a_start + i * self.k..][..self.k];
                for (p, &factor) in a_row.iter().enumerate() {
                    cx.work(self.n)?;
                    let b_row = &b[b_start + p * self.n..][..self.n];
                    row.iter_mut().zip(b_row).for_each(|(sum, &cell)| *sum += factor * cell);
                }
            }
        }
        Ok(out)
    }
}

/// What products are summed in.
pub(crate) trait Cell: Copy + Default + AddAssign + Mul<Output = Self> {}

impl<T: Copy + Default + AddAssign + Mul<Output = T>> Cell for T {}
