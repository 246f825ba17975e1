//! Signals: Fourier transforms and mel filters. Complex numbers are a last axis of two.

use lathe_tensor::{DType, Tensor};
use rustfft::num_complex::Complex;
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};
use crate::fourier::{Sample, Transform};
use crate::walk::Around;

/// Attributes of [`crate::Op::Dft`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dft {
    /// The axis of the signal, negative from the end; input 2 where absent.
    pub axis: Option<i64>,
    /// Frequencies to signal, divided by the length.
    pub inverse: bool,
    /// Only the first half of the frequencies: as the result, or of the inverse as the operand, whose result is real.
    pub onesided: bool,
    /// See [`Stft::exact`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
}

/// Attributes of [`crate::Op::Stft`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stft {
    /// Only the first half of the frequencies.
    pub onesided: bool,
    /// f32 rounds as onnxruntime's transform, whose stages are in f32: models that quantise values by their own range were made with these bits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
}

/// Attributes of [`crate::Op::MelWeightMatrix`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MelWeightMatrix {
    /// Dtype of the result.
    pub to: DType,
}

/// The length of a transform: positive, and small enough to count with.
fn length(cx: &Context<'_>, length: i64) -> Result<usize, EvalError> {
    let bounded = usize::try_from(length).ok().filter(|&length| (1..=u32::MAX as usize).contains(&length));
    bounded.ok_or_else(|| cx.bad(format!("a transform of length {length}")))
}

/// One or two numbers an element.
fn parts(cx: &Context<'_>, x: &Tensor) -> Result<usize, EvalError> {
    match x.shape().last() {
        Some(&parts @ (1 | 2)) => Ok(parts),
        _ => Err(cx.shape("the last axis of x must hold 1 (real) or 2 (complex) numbers")),
    }
}

impl Evaluate for Dft {
    fn arity(&self) -> Arity {
        Arity::of(1, 3)
    }

    /// `x` is `[..., 1]` or `[..., 2]`; input 1 is the length of the transform, to which the signal is cut or padded with
    /// zeros. Without it the length is the signal's, for a one-sided inverse `2 * (size - 1)`.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let parts = parts(cx, x)?;
        let axis = match (self.axis, cx.optional(2)) {
            (Some(axis), None) => axis,
            (None, Some(axis)) => cx.integer("axis", axis)?,
            _ => return Err(cx.bad("the axis is either an attribute or an input")),
        };
        let axis = cx.axis(axis, x.rank())?;
        if axis + 1 == x.rank() {
            return Err(cx.shape("the axis is that of the complex parts"));
        }
        let size = x.shape()[axis];
        let from_half = self.inverse && self.onesided;
        let count = match cx.optional(1) {
            Some(given) => length(cx, cx.integer("dft_length", given)?)?,
            None if from_half => length(cx, 2 * (size as i64 - 1))?,
            None => length(cx, size as i64)?,
        };
        let (kept, out_parts) = match (self.onesided, self.inverse) {
            (true, false) => (count / 2 + 1, 2),
            (true, true) => (count, 1),
            (false, _) => (count, 2),
        };
        let mut shape = x.shape().to_vec();
        (shape[axis], shape[x.rank() - 1]) = (kept, out_parts);
        let lines = Lines { dft: self, cells: cx.floats("x", x)?, parts, axis, count, shape: &shape };
        // The standard's reference takes the inverse in the precision of the operand, the other way in f64.
        let out = match self.inverse && x.dtype() != DType::F64 {
            true => lines.transformed::<f32>(cx, x.shape())?,
            false => lines.transformed::<f64>(cx, x.shape())?,
        };
        Ok(vec![cx.rounded(x.dtype(), &shape, &out)?])
    }
}

/// The lines of a tensor that are transformed.
struct Lines<'a> {
    dft: &'a Dft,
    cells: Vec<f64>,
    parts: usize,
    axis: usize,
    /// Length of the transform.
    count: usize,
    /// Of the result.
    shape: &'a [usize],
}

impl Lines<'_> {
    fn transformed<T: Sample>(&self, cx: &Context<'_>, x_shape: &[usize]) -> Result<Vec<f64>, EvalError> {
        let Self { parts, axis, count, shape, .. } = *self;
        let rank = shape.len();
        let (size, kept, out_parts) = (x_shape[axis], shape[axis], shape[rank - 1]);
        let from_half = self.dft.inverse && self.dft.onesided;
        let mut out = cx.filled(cx.count(shape)?, 0.0)?;
        let mut transform = Transform::<T>::new(cx, count, self.dft.inverse)?;
        let (from, to) = (Around::of(&x_shape[..rank - 1], axis), Around::of(&shape[..rank - 1], axis));
        let read = |start: usize, place: usize| {
            let element = (start + place * from.inner) * parts;
            let imaginary = if parts == 2 { self.cells[element + 1] } else { 0.0 };
            Complex::new(T::of(self.cells[element]), T::of(imaginary))
        };
        let zero = Complex::new(T::of(0.0), T::of(0.0));
        let scale = if self.dft.inverse { T::of(1.0) / T::of(count as f64) } else { T::of(1.0) };
        for line in 0..from.outer * from.inner {
            let (outer, inner) = (line / from.inner, line % from.inner);
            let start = outer * from.size * from.inner + inner;
            for (place, cell) in transform.buffer.iter_mut().enumerate() {
                // The second half of the frequencies of a real signal mirrors the first.
                *cell = match place {
                    _ if from_half && place > count / 2 => match count - place {
                        mirror if mirror < size => read(start, mirror).conj(),
                        _ => zero,
                    },
                    _ if place < size => read(start, place),
                    _ => zero,
                };
            }
            transform.run(cx)?;
            let start = outer * to.size * to.inner + inner;
            for (place, &cell) in transform.buffer.iter().take(kept).enumerate() {
                let element = (start + place * to.inner) * out_parts;
                let cell = cell * scale;
                out[element] = cell.re.wide();
                if out_parts == 2 {
                    out[element + 1] = cell.im.wide();
                }
            }
        }
        Ok(out)
    }
}

impl Evaluate for Stft {
    fn arity(&self) -> Arity {
        Arity::of(2, 4)
    }

    /// Inputs `signal[batch, length, 1|2], frame_step, window[frame]?, frame_length?`; the result is
    /// `[batch, frames, frequencies, 2]`. A signal shorter than a frame has no frame.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let parts = parts(cx, x)?;
        let &[batch, size, _] = x.shape() else {
            return Err(cx.shape("the signal must be [batch, length, 1 or 2]"));
        };
        let step = length(cx, cx.integer("frame_step", cx.input(1)?)?)?;
        let window = cx.optional(2).map(|window| cx.floats("window", window)).transpose()?;
        let frame = match (cx.optional(3), &window) {
            (Some(given), _) => length(cx, cx.integer("frame_length", given)?)?,
            (None, Some(window)) => length(cx, window.len() as i64)?,
            (None, None) => length(cx, size as i64)?,
        };
        if window.as_ref().is_some_and(|window| window.len() != frame) {
            return Err(cx.shape(format!("the window is not [{frame}]")));
        }
        let frames = size.checked_sub(frame).map_or(0, |room| room / step + 1);
        let kept = if self.onesided { frame / 2 + 1 } else { frame };
        let shape = [batch, frames, kept, 2];
        let cells = cx.floats("signal", x)?;
        let signal = Frames { cells, parts, size, step, frames, kept, window };
        let out = signal.transformed(cx, frame, cx.count(&shape)?)?;
        Ok(vec![cx.rounded(x.dtype(), &shape, &out)?])
    }
}

/// Overlapping parts of signals.
struct Frames {
    cells: Vec<f64>,
    parts: usize,
    /// Of each signal.
    size: usize,
    step: usize,
    frames: usize,
    /// Frequencies that are kept.
    kept: usize,
    window: Option<Vec<f64>>,
}

impl Frames {
    fn transformed(&self, cx: &Context<'_>, frame: usize, count: usize) -> Result<Vec<f64>, EvalError> {
        let mut out = cx.filled(count, 0.0)?;
        let mut transform = Transform::<f64>::new(cx, frame, false)?;
        for (index, out) in out.chunks_exact_mut(2 * self.kept).enumerate() {
            let start = index / self.frames * self.size + index % self.frames * self.step;
            for (place, cell) in transform.buffer.iter_mut().enumerate() {
                let element = (start + place) * self.parts;
                let weight = self.window.as_ref().map_or(1.0, |window| window[place]);
                let imaginary = if self.parts == 2 { self.cells[element + 1] } else { 0.0 };
                *cell = Complex::new(self.cells[element] * weight, imaginary * weight);
            }
            transform.run(cx)?;
            for (pair, cell) in out.chunks_exact_mut(2).zip(&transform.buffer) {
                (pair[0], pair[1]) = (cell.re, cell.im);
            }
        }
        Ok(out)
    }
}

impl Evaluate for MelWeightMatrix {
    fn arity(&self) -> Arity {
        Arity::of(5, 5)
    }

    /// Triangular filters `[dft_length / 2 + 1, mel_bins]`, equally wide on the mel scale `2595 log10(1 + f / 700)`; inputs
    /// `mel_bins, dft_length, sample_rate, lower_edge, upper_edge` (ONNX MelWeightMatrix-17).
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let whole = |index: usize, name: &str| cx.integer(name, cx.input(index)?);
        let bins =
            usize::try_from(whole(0, "num_mel_bins")?).map_err(|_| cx.bad("a negative number of bins"))?;
        let (size, rate) = (length(cx, whole(1, "dft_length")?)?, whole(2, "sample_rate")?);
        let edge = |index: usize, name: &str| match cx.floats(name, cx.input(index)?)?[..] {
            [edge] if edge.is_finite() && edge >= 0.0 => Ok(edge),
            _ => Err(cx.bad(format!("{name} is not one finite number of at least 0"))),
        };
        let (low, high) = (edge(3, "lower_edge_hertz")?, edge(4, "upper_edge_hertz")?);
        if rate <= 0 {
            return Err(cx.bad(format!("a sample rate of {rate}")));
        }
        let rows = size / 2 + 1;
        let shape = [rows, bins];
        let mut out = cx.filled(cx.count(&shape)?, 0.0)?;
        let mel = |hertz: f64| 2595.0 * (hertz / 700.0).ln_1p() / std::f64::consts::LN_10;
        let width = (mel(high) - mel(low)) / (bins as f64 + 2.0);
        let row_of = |point: usize| {
            let hertz =
                700.0 * ((point as f64 * width + mel(low)) / 2595.0 * std::f64::consts::LN_10).exp_m1();
            ((size as f64 + 1.0) * hertz / rate as f64).floor() as usize
        };
        for bin in 0..bins {
            let [left, centre, right] = [bin, bin + 1, bin + 2].map(row_of);
            cx.work(right.min(rows))?;
            if right > rows {
                return Err(cx.bad("the upper edge lies above half the sample rate"));
            }
            let mut set = |row: usize, value: f64| {
                if row < rows {
                    out[row * bins + bin] = value;
                }
            };
            match centre.saturating_sub(left) {
                0 => set(centre, 1.0),
                rise => (left..=centre).for_each(|row| set(row, (row - left) as f64 / rise as f64)),
            }
            let fall = right.saturating_sub(centre) as f64;
            (centre..right).for_each(|row| set(row, (right - row) as f64 / fall));
        }
        Ok(vec![cx.rounded(self.to, &shape, &out)?])
    }
}
