//! Layer and RMS norms of f32 to the last bit, in the orders of sums in which onnxruntime computes them.

use lathe_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::evaluate::Context;
use crate::walk::{Walk, broadcast_strides};

/// How a layer or RMS norm of f32 rounds. Models that quantise values by their own range were made with the bits of onnxruntime's operators:
/// there the last one may decide about a code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// Any way.
    #[default]
    Free,
    /// As the operators LayerNormalization and RMSNormalization: the mean from a sum in f64, squares in eight sums of fused products, factors
    /// that are the reciprocal of the deviation, scale and bias in one step.
    Rows,
    /// As the formula `d / deviation` of elementwise operators and means.
    Quotient,
    /// As the formula `d * (1 / deviation)`.
    Factor,
    /// As the operators SkipLayerNormalization (Welford's running moments) and SkipSimplifiedLayerNormalization: element by element.
    Ascending,
}

impl Rounding {
    /// Whether nothing is promised.
    pub fn is_free(&self) -> bool {
        *self == Rounding::Free
    }

    /// Whether the bits of a norm of `x` are promised.
    pub(super) fn is_promised(self, x: &Tensor) -> bool {
        !self.is_free() && x.dtype() == DType::F32
    }
}

/// Rows of fewer elements are added up one by one in [`Rounding::Rows`].
const LEAST: [usize; 2] = [8, 16];

/// Mean (0 in an RMS norm) and standard deviation of a row, and how it is meant to round.
struct Statistics {
    mean: f32,
    deviation: f32,
    rounding: Rounding,
}

impl Statistics {
    fn of(row: &[f32], index: usize, rms: bool, epsilon: f32, rounding: Rounding) -> Self {
        let rounding = match rounding {
            Rounding::Rows if row.len() < LEAST[usize::from(rms)] => Rounding::Ascending,
            other => other,
        };
        let count = row.len() as f32;
        let (mean, squares) = match rounding {
            Rounding::Ascending if rms => (0.0, row.iter().fold(0.0, |sum, x| sum + x * x)),
            Rounding::Ascending => running_moments(row),
            Rounding::Free | Rounding::Rows => {
                let sum: f64 = row.iter().map(|&x| f64::from(x)).sum();
                let mean = if rms { 0.0 } else { (sum / row.len() as f64) as f32 };
                (mean, fused_squares(row, mean))
            }
            Rounding::Quotient | Rounding::Factor => {
                let lead = (index * row.len()).wrapping_neg() % 4;
                let mean = if rms { 0.0 } else { by_fours(row, lead) / count };
                let squares: Vec<f32> = row.iter().map(|x| (x - mean) * (x - mean)).collect();
                (mean, by_fours(&squares, lead))
            }
        };
        Self { mean, deviation: (squares / count + epsilon).sqrt(), rounding }
    }

    /// The normalised element, with its scale and bias.
    fn apply(&self, x: f32, scale: f32, bias: Option<f32>) -> f32 {
        let d = x - self.mean;
        let normal = match self.rounding {
            Rounding::Quotient | Rounding::Ascending => d / self.deviation,
            Rounding::Free | Rounding::Rows | Rounding::Factor => d * (1.0 / self.deviation),
        };
        match bias {
            Some(bias) if self.rounding == Rounding::Rows => normal.mul_add(scale, bias),
            Some(bias) => normal * scale + bias,
            None => normal * scale,
        }
    }
}

/// Mean and sum of squared distances from it, by Welford's recurrence.
fn running_moments(row: &[f32]) -> (f32, f32) {
    let (mut mean, mut squares) = (0.0_f32, 0.0_f32);
    for (count, x) in (1..).zip(row) {
        let d = x - mean;
        mean += d / count as f32;
        squares += d * (x - mean);
    }
    (mean, squares)
}

/// Sum of squared distances: eight sums of fused products, which meet 4, 2 and 1 apart, and the last few elements one by one.
fn fused_squares(row: &[f32], centre: f32) -> f32 {
    let mut sums = [0.0_f32; 8];
    let eights = row.chunks_exact(8);
    let rest = eights.remainder();
    for eight in eights {
        for (sum, x) in sums.iter_mut().zip(eight) {
            *sum = (x - centre).mul_add(x - centre, *sum);
        }
    }
    for half in [4, 2, 1] {
        (0..half).for_each(|lane| sums[lane] += sums[lane + half]);
    }
    // Four of the rest are rounded apart, fewer are fused.
    let (four, last) = rest.split_at(rest.len() / 4 * 4);
    let sum = four.iter().fold(sums[0], |sum, x| sum + (x - centre) * (x - centre));
    last.iter().fold(sum, |sum, x| (x - centre).mul_add(x - centre, sum))
}

/// Sum in the order of Eigen's vectors of four, of which the first begins at `lead`.
fn by_fours(row: &[f32], lead: usize) -> f32 {
    let (first, body) = row.split_at(lead.min(row.len()));
    if body.len() < 4 {
        return row.iter().fold(0.0, |sum, x| sum + x);
    }
    let mut sums = [0.0_f32; 8];
    let eights = body.chunks_exact(8);
    let fours = eights.remainder().chunks_exact(4);
    let last = fours.remainder();
    for eight in eights {
        sums.iter_mut().zip(eight).for_each(|(sum, x)| *sum += x);
    }
    (0..4).for_each(|lane| sums[lane] += sums[lane + 4]);
    for four in fours {
        sums.iter_mut().zip(four).for_each(|(sum, x)| *sum += x);
    }
    let sum = (sums[0] + sums[2]) + (sums[1] + sums[3]);
    first.iter().chain(last).fold(sum, |sum, x| sum + x)
}

/// The layer norm of rows of `size` elements, or their RMS norm.
pub(super) fn norm(
    cx: &Context<'_>,
    x: &Tensor,
    (size, rms): (usize, bool),
    epsilon: f32,
    rounding: Rounding,
) -> Result<Vec<Tensor>, EvalError> {
    let narrow = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect::<Vec<_>>();
    let cells = narrow(cx.floats("x", x)?);
    let scale = cx.input(1)?;
    cx.broadcasts_to("scale", scale.shape(), x.shape())?;
    let scales = narrow(cx.floats("scale", scale)?);
    let bias = cx.optional(2);
    let biases = match bias {
        Some(bias) => {
            cx.broadcasts_to("bias", bias.shape(), x.shape())?;
            Some(narrow(cx.floats("bias", bias)?))
        }
        None => None,
    };
    let strides = |of: Option<&Tensor>| match of {
        Some(of) => broadcast_strides(of.shape(), x.shape()),
        None => vec![0; x.rank()],
    };
    let mut places = Walk::new(x.shape(), [strides(Some(scale)), strides(bias)], [0, 0]);
    let mut results = Vec::with_capacity(cells.len());
    for (index, row) in cells.chunks_exact(size.max(1)).enumerate() {
        cx.work(size)?;
        let statistics = Statistics::of(row, index, rms, epsilon, rounding);
        for &cell in row {
            let Some([scale, bias]) = places.next() else { break };
            let bias = biases.as_ref().map(|biases| biases[bias]);
            results.push(f64::from(statistics.apply(cell, scales[scale], bias)));
        }
    }
    Ok(vec![cx.rounded(DType::F32, x.shape(), &results)?])
}
