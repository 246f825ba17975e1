//! Probabilities of classes from those of pairs of classes.

use lathe_tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};

/// Attributes of [`crate::Op::CoupleProbabilities`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CoupleProbabilities {
    /// Number of classes.
    pub classes: usize,
}

impl Evaluate for CoupleProbabilities {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    /// Input `p f32[rows, pairs]`: of the pair `(i, j)` with `i < j`, in order of `i` and then `j`, how likely it is class `i` of both. The result
    /// `[rows, classes]` minimises `sum_ij (p_ji P_i - p_ij P_j)^2` (Wu, Lin and Weng, "Probability estimates for multi-class classification by
    /// pairwise coupling", second method), by at most `max(100, classes)` rounds.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (p, classes) = (cx.input(0)?, self.classes);
        let pairs = classes.checked_mul(classes.saturating_sub(1)).ok_or_else(|| cx.too_large(None))? / 2;
        let rows = match *p.shape() {
            [rows, count] if count == pairs && classes > 0 => rows,
            _ => return Err(cx.shape(format!("{classes} classes have {pairs} pairs"))),
        };
        let given = cx.floats("p", p)?;
        let square = classes.checked_mul(classes).ok_or_else(|| cx.too_large(None))?;
        let (mut r, mut q) = (cx.filled(square, 0.0f64)?, cx.filled(square, 0.0f64)?);
        let mut results = cx.filled(cx.count(&[rows, classes])?, 0.0f32)?;
        for row in 0..rows {
            let mut pair = given[row * pairs..][..pairs].iter();
            for i in 0..classes {
                for j in i + 1..classes {
                    let p = pair.next().copied().unwrap_or(0.5);
                    (r[i * classes + j], r[j * classes + i]) = (p, 1.0 - p);
                }
            }
            let shares = couple(cx, classes, &r, &mut q)?;
            let slots = &mut results[row * classes..][..classes];
            slots.iter_mut().zip(shares).for_each(|(slot, share)| *slot = share as f32);
        }
        Ok(vec![cx.tensor_of(&results, &[rows, classes])?])
    }
}

fn couple(cx: &Context<'_>, classes: usize, r: &[f64], q: &mut [f64]) -> Result<Vec<f64>, EvalError> {
    let at = |i: usize, j: usize| i * classes + j;
    for t in 0..classes {
        cx.work(classes)?;
        let others = (0..classes).filter(|j| *j != t);
        q[at(t, t)] = others.clone().map(|j| r[at(j, t)] * r[at(j, t)]).sum();
        others.for_each(|j| q[at(t, j)] = -r[at(j, t)] * r[at(t, j)]);
    }
    let mut shares = vec![1.0 / classes as f64; classes];
    for _ in 0..classes.max(100) {
        cx.work(classes.saturating_mul(classes))?;
        let dot = |t: usize, shares: &[f64]| -> f64 { (0..classes).map(|j| q[at(t, j)] * shares[j]).sum() };
        let mut slopes: Vec<f64> = (0..classes).map(|t| dot(t, &shares)).collect();
        let mut level: f64 = slopes.iter().zip(&shares).map(|(slope, share)| slope * share).sum();
        if slopes.iter().all(|slope| (slope - level).abs() < 0.005 / classes as f64) {
            break;
        }
        for t in 0..classes {
            let curve = q[at(t, t)];
            let step = (level - slopes[t]) / curve;
            shares[t] += step;
            level = (level + step * (step * curve + 2.0 * slopes[t])) / ((1.0 + step) * (1.0 + step));
            for j in 0..classes {
                slopes[j] = (slopes[j] + step * q[at(t, j)]) / (1.0 + step);
                shares[j] /= 1.0 + step;
            }
        }
    }
    Ok(shares)
}
