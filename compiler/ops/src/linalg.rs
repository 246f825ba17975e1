//! Linear algebra.

use lathe_tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};

/// [`crate::Op::Det`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Det {}

impl Evaluate for Det {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    /// The determinant of each square matrix `[..., n, n]`, by elimination with partial pivoting in f64 (ONNX Det-11).
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let [batch @ .., rows, columns] = x.shape() else {
            return Err(cx.shape("x must have two axes at least"));
        };
        if rows != columns {
            return Err(cx.shape("the matrices are not square"));
        }
        let mut cells = cx.floats("x", x)?;
        let mut results = cx.filled(cx.count(batch)?, 1.0)?;
        for (result, matrix) in results.iter_mut().zip(cells.chunks_exact_mut((rows * columns).max(1))) {
            *result = determinant(cx, matrix, *rows)?;
        }
        Ok(vec![cx.rounded(x.dtype(), batch, &results)?])
    }
}

fn determinant(cx: &Context<'_>, matrix: &mut [f64], size: usize) -> Result<f64, EvalError> {
    let mut result = 1.0;
    for column in 0..size {
        let magnitude = |row: &usize| matrix[row * size + column].abs();
        let pivot = (column..size).max_by(|a, b| magnitude(a).total_cmp(&magnitude(b))).unwrap_or(column);
        if pivot != column {
            (0..size).for_each(|j| matrix.swap(pivot * size + j, column * size + j));
            result = -result;
        }
        let head = matrix[column * size + column];
        result *= head;
        if head == 0.0 {
            return Ok(result);
        }
        for row in column + 1..size {
            cx.work(size)?;
            let factor = matrix[row * size + column] / head;
            for j in column..size {
                matrix[row * size + j] -= factor * matrix[column * size + j];
            }
        }
    }
    Ok(result)
}
