use lathe_tensor::Tensor;

use super::AffineGrid;
use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};

impl Evaluate for AffineGrid {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    /// For `theta[batch, 2, 3]` or `[batch, 3, 4]` and the sizes `[batch, channels, (depth,) height, width]`: the points
    /// `theta * (x, y, (z,) 1)` of a regular grid, `[batch, (depth,) height, width, 2 or 3]` (ONNX AffineGrid-20).
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let theta = cx.input(0)?;
        let asked = cx.integer_list("size", cx.input(1)?)?;
        let &[batch, rows, columns] = theta.shape() else {
            return Err(cx.shape("theta must have three axes"));
        };
        if !(matches!(rows, 2 | 3) && columns == rows + 1 && asked.len() == rows + 2) {
            return Err(cx.shape(format!("theta and the sizes {asked:?} are not of 2 or 3 axes of space")));
        }
        let sizes = asked.iter().map(|&size| usize::try_from(size).ok()).collect::<Option<Vec<_>>>();
        let sizes = sizes.ok_or_else(|| cx.bad(format!("the sizes {asked:?}")))?;
        if sizes[0] != batch {
            return Err(cx.shape(format!("theta holds {batch} maps for a batch of {}", sizes[0])));
        }
        let space = &sizes[2..];
        let shape: Vec<usize> = [batch].into_iter().chain(space.iter().copied()).chain([rows]).collect();
        let mut out = cx.filled(cx.count(&shape)?, 0.0)?;
        let maps = cx.floats("theta", theta)?;
        let points = cx.count(space)?;
        for (flat, out) in out.chunks_exact_mut(rows).enumerate() {
            cx.work(rows * columns)?;
            let map = &maps[flat / points * rows * columns..][..rows * columns];
            // Coordinates in the order x, y, z: the last axis first.
            let (mut rest, mut point) = (flat % points, [1.0; 4]);
            for (axis, &size) in space.iter().rev().enumerate() {
                point[axis] = self.coordinate(rest % size, size);
                rest /= size;
            }
            point[rows] = 1.0;
            for (cell, row) in out.iter_mut().zip(map.chunks_exact(columns)) {
                *cell = row.iter().zip(&point).map(|(factor, value)| factor * value).sum();
            }
        }
        Ok(vec![cx.rounded(theta.dtype(), &shape, &out)?])
    }
}

impl AffineGrid {
    fn coordinate(&self, index: usize, size: usize) -> f64 {
        match self.align_corners {
            true if size == 1 => -1.0,
            true => 2.0 * index as f64 / (size as f64 - 1.0) - 1.0,
            false => (2.0 * index as f64 + 1.0) / size as f64 - 1.0,
        }
    }
}
