//! Normalisations.

use lathe_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::{Around, Walk, broadcast_strides, product};

mod rounding;

pub use rounding::Rounding;

/// Attributes of [`crate::Op::BatchNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm {
    /// Added to the variance.
    #[serde(with = "crate::float")]
    pub epsilon: f32,
    /// Weight of the old running statistics in training.
    #[serde(with = "crate::float")]
    pub momentum: f32,
    /// Normalise by the batch's own statistics and return the running ones.
    pub training: bool,
}

/// Attributes of [`crate::Op::LayerNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerNorm {
    /// First normalised axis; negative counts from the end.
    pub axis: i64,
    /// Added to the variance.
    #[serde(with = "crate::float")]
    pub epsilon: f32,
    /// How it rounds in f32.
    #[serde(default, skip_serializing_if = "Rounding::is_free")]
    pub rounding: Rounding,
}

/// Attributes of [`crate::Op::RmsNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RmsNorm {
    /// First normalised axis; negative counts from the end.
    pub axis: i64,
    /// Added to the variance.
    #[serde(with = "crate::float")]
    pub epsilon: f32,
    /// How it rounds in f32.
    #[serde(default, skip_serializing_if = "Rounding::is_free")]
    pub rounding: Rounding,
}

/// Attributes of [`crate::Op::InstanceNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceNorm {
    /// Added to the variance.
    #[serde(with = "crate::float")]
    pub epsilon: f32,
}

/// Attributes of [`crate::Op::GroupNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupNorm {
    /// Number of channel groups.
    pub groups: usize,
    /// Scale and bias are per group (opset 18), not per channel.
    pub per_group: bool,
    /// Added to the variance.
    #[serde(with = "crate::float")]
    pub epsilon: f32,
}

/// Attributes of [`crate::Op::Softmax`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Softmax {
    /// The axis; negative counts from the end.
    pub axis: i64,
    /// The logarithm of softmax.
    pub log: bool,
}

/// Mean and variance (divided by the count) of some values.
fn moments(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|value| (value - mean) * (value - mean)).sum::<f64>() / count;
    (mean, variance)
}

/// Input `index` as f64, which must be `[size]`.
fn vector(cx: &Context<'_>, index: usize, name: &str, size: usize) -> Result<Vec<f64>, EvalError> {
    let input = cx.input(index)?;
    if input.shape() != [size] {
        return Err(cx.shape(format!("{name} is not [{size}]")));
    }
    cx.floats(name, input)
}

/// The sizes `(batch, channels, spatial)` of `x`.
fn channels(cx: &Context<'_>, x: &Tensor) -> Result<(usize, usize, usize), EvalError> {
    match x.shape() {
        [batch, channels, spatial @ ..] => Ok((*batch, *channels, product(spatial))),
        _ => Err(cx.shape("x must have a batch and a channel axis")),
    }
}

impl Evaluate for BatchNorm {
    fn arity(&self) -> Arity {
        Arity::of(5, 5).outputs(1, if self.training { 3 } else { 1 })
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        // An input of rank 1 has no channel axis but one channel.
        let (_, channels, spatial) = if x.rank() == 1 { (x.len(), 1, 1) } else { channels(cx, x)? };
        let (scale, bias) = (vector(cx, 1, "scale", channels)?, vector(cx, 2, "bias", channels)?);
        let mut statistics = [vector(cx, 3, "mean", channels)?, vector(cx, 4, "var", channels)?];
        let mut cells = cx.floats("x", x)?;
        let channel_of = |flat: usize| flat / spatial % channels;
        let mut running = Vec::new();
        if self.training && !cells.is_empty() {
            let momentum = f64::from(self.momentum);
            let [means, variances] = &mut statistics;
            let (mut running_mean, mut running_variance) = (means.clone(), variances.clone());
            for channel in 0..channels {
                cx.work(cells.len() / channels)?;
                let planes = cells.chunks_exact(spatial).skip(channel).step_by(channels);
                let (mean, variance) = moments(planes.flatten().copied());
                running_mean[channel] = means[channel] * momentum + mean * (1.0 - momentum);
                running_variance[channel] = variances[channel] * momentum + variance * (1.0 - momentum);
                (means[channel], variances[channel]) = (mean, variance);
            }
            running = vec![running_mean, running_variance];
        } else if self.training {
            running = statistics.to_vec();
        }
        let [mean, variance] = &statistics;
        for (flat, cell) in cells.iter_mut().enumerate() {
            cx.step()?;
            let channel = channel_of(flat);
            let normal = (*cell - mean[channel]) / (variance[channel] + f64::from(self.epsilon)).sqrt();
            *cell = normal * scale[channel] + bias[channel];
        }
        let mut results = vec![cx.rounded(x.dtype(), x.shape(), &cells)?];
        for (values, input) in running.iter().zip([3, 4]) {
            results.push(cx.rounded(cx.input(input)?.dtype(), &[channels], values)?);
        }
        Ok(results)
    }
}

/// Multiplies by `scale` and adds `bias`, which broadcast to `shape`.
fn affine(
    cx: &Context<'_>,
    cells: &mut [f64],
    shape: &[usize],
    scale: &Tensor,
    bias: Option<&Tensor>,
) -> Result<(), EvalError> {
    cx.broadcasts_to("scale", scale.shape(), shape)?;
    let factors = cx.floats("scale", scale)?;
    for (cell, [i]) in cells.iter_mut().zip(Walk::new(shape, [broadcast_strides(scale.shape(), shape)], [0]))
    {
        *cell *= factors[i];
    }
    let Some(bias) = bias else { return Ok(()) };
    cx.broadcasts_to("bias", bias.shape(), shape)?;
    let offsets = cx.floats("bias", bias)?;
    for (cell, [i]) in cells.iter_mut().zip(Walk::new(shape, [broadcast_strides(bias.shape(), shape)], [0])) {
        *cell += offsets[i];
    }
    Ok(())
}

/// The element count of one normalised group and the shape of the statistics `[..., 1, ...]` for a first axis.
fn groups(cx: &Context<'_>, x: &Tensor, axis: i64) -> Result<(usize, Vec<usize>), EvalError> {
    let axis = cx.axis(axis, x.rank())?;
    let mut statistics = x.shape().to_vec();
    statistics[axis..].fill(1);
    Ok((product(&x.shape()[axis..]), statistics))
}

impl Evaluate for LayerNorm {
    fn arity(&self) -> Arity {
        Arity::of(2, 3).outputs(1, 3)
    }

    /// Outputs 1 and 2 are f32 (ONNX `stash_type` 1).
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let (size, shape) = groups(cx, x, self.axis)?;
        if cx.wanted() == 1 && self.rounding.is_promised(x) {
            return rounding::norm(cx, x, (size, false), self.epsilon, self.rounding);
        }
        let mut cells = cx.floats("x", x)?;
        let count = cx.count(&shape)?;
        let (mut means, mut inverses) = (cx.filled(count, f64::NAN)?, cx.filled(count, f64::NAN)?);
        for (group, cells) in cells.chunks_exact_mut(size.max(1)).enumerate() {
            cx.work(size)?;
            let (mean, variance) = moments(cells.iter().copied());
            let inverse = 1.0 / (variance + f64::from(self.epsilon)).sqrt();
            (means[group], inverses[group]) = (mean, inverse);
            cells.iter_mut().for_each(|cell| *cell = (*cell - mean) * inverse);
        }
        affine(cx, &mut cells, x.shape(), cx.input(1)?, cx.optional(2))?;
        let mut results = vec![cx.rounded(x.dtype(), x.shape(), &cells)?];
        if cx.wanted() > 1 {
            results.push(cx.rounded(DType::F32, &shape, &means)?);
            results.push(cx.rounded(DType::F32, &shape, &inverses)?);
        }
        Ok(results)
    }
}

impl Evaluate for RmsNorm {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let (size, _) = groups(cx, x, self.axis)?;
        if self.rounding.is_promised(x) {
            return rounding::norm(cx, x, (size, true), self.epsilon, self.rounding);
        }
        let mut cells = cx.floats("x", x)?;
        for cells in cells.chunks_exact_mut(size.max(1)) {
            cx.work(size)?;
            let square = cells.iter().map(|cell| cell * cell).sum::<f64>() / size as f64;
            let inverse = 1.0 / (square + f64::from(self.epsilon)).sqrt();
            cells.iter_mut().for_each(|cell| *cell *= inverse);
        }
        affine(cx, &mut cells, x.shape(), cx.input(1)?, None)?;
        Ok(vec![cx.rounded(x.dtype(), x.shape(), &cells)?])
    }
}

/// Normalises each run of `size` elements to mean 0 and variance 1.
fn normalise(cx: &Context<'_>, cells: &mut [f64], size: usize, epsilon: f32) -> Result<(), EvalError> {
    for cells in cells.chunks_exact_mut(size.max(1)) {
        cx.work(size)?;
        let (mean, variance) = moments(cells.iter().copied());
        let deviation = (variance + f64::from(epsilon)).sqrt();
        cells.iter_mut().for_each(|cell| *cell = (*cell - mean) / deviation);
    }
    Ok(())
}

impl Evaluate for InstanceNorm {
    fn arity(&self) -> Arity {
        Arity::of(3, 3)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let (_, channels, spatial) = channels(cx, x)?;
        let (scale, bias) = (vector(cx, 1, "scale", channels)?, vector(cx, 2, "bias", channels)?);
        let mut cells = cx.floats("x", x)?;
        normalise(cx, &mut cells, spatial, self.epsilon)?;
        for (plane, cells) in cells.chunks_exact_mut(spatial.max(1)).enumerate() {
            let channel = plane % channels;
            cells.iter_mut().for_each(|cell| *cell = *cell * scale[channel] + bias[channel]);
        }
        Ok(vec![cx.rounded(x.dtype(), x.shape(), &cells)?])
    }
}

impl Evaluate for GroupNorm {
    fn arity(&self) -> Arity {
        Arity::of(3, 3)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let (_, channels, spatial) = channels(cx, x)?;
        if self.groups == 0 || channels % self.groups != 0 {
            return Err(cx.shape(format!("{channels} channels do not divide into {} groups", self.groups)));
        }
        let per_group = channels / self.groups;
        let size = if self.per_group { self.groups } else { channels };
        let (scale, bias) = (vector(cx, 1, "scale", size)?, vector(cx, 2, "bias", size)?);
        let mut cells = cx.floats("x", x)?;
        normalise(cx, &mut cells, per_group * spatial, self.epsilon)?;
        for (plane, cells) in cells.chunks_exact_mut(spatial.max(1)).enumerate() {
            let channel = plane % channels;
            let place = if self.per_group { channel / per_group } else { channel };
            cells.iter_mut().for_each(|cell| *cell = *cell * scale[place] + bias[place]);
        }
        Ok(vec![cx.rounded(x.dtype(), x.shape(), &cells)?])
    }
}

/// The denominator of a softmax. bf16 has no wider sum behind it: it is rounded after each addition, in runs of 16 that are
/// added exactly, so that a long line does not stop growing.
pub(crate) fn total(dtype: DType, weights: impl Iterator<Item = f64>, round: impl Fn(f64) -> f64) -> f64 {
    if dtype != DType::BF16 {
        return round(weights.sum());
    }
    let (mut sum, mut run) = (0.0, 0.0);
    for (index, weight) in weights.enumerate() {
        if index % 16 == 0 {
            sum += std::mem::take(&mut run);
        }
        run = round(run + weight);
    }
    round(sum + run)
}

impl Evaluate for Softmax {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let mut cells = cx.floats("x", x)?;
        let narrow = matches!(x.dtype(), DType::F16 | DType::BF16);
        // A scalar is a line of one element.
        let shape = if x.rank() == 0 { &[1] } else { x.shape() };
        let around = Around::of(shape, cx.axis(self.axis, shape.len())?);
        for start in around.lines() {
            cx.work(around.size)?;
            let line = || (start..).step_by(around.inner).take(around.size);
            let largest = line().map(|i| cells[i]).fold(f64::NEG_INFINITY, f64::max);
            // Narrow floats round after each step, as the ops that softmax is defined by do.
            let round = |value: f64| if narrow { cx.round_to(x.dtype(), value) } else { value };
            let sum = total(x.dtype(), line().map(|i| round(round(cells[i] - largest).exp())), round);
            for i in line() {
                let shifted = round(cells[i] - largest);
                cells[i] = if self.log { shifted - round(sum.ln()) } else { round(shifted.exp()) / sum };
            }
        }
        Ok(vec![cx.rounded(x.dtype(), x.shape(), &cells)?])
    }
}
