//! Convolutions over any number of spatial axes: `x[batch, channels, spatial...]`, `w[out_channels, channels / groups, kernel...]`.

use std::ops::Range;

use lathe_tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::elementwise::Activation;
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::{Walk, broadcast_strides, product, strides};
use crate::window::{Window, Windows};

/// Attributes of [`crate::Op::Conv`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conv {
    /// Steps of the window, one a spatial axis.
    pub strides: Vec<usize>,
    /// Distance of the kernel's cells, one a spatial axis.
    pub dilations: Vec<usize>,
    /// How the borders are padded.
    pub padding: Padding,
    /// Channel groups.
    pub groups: usize,
    /// Applied to the result.
    pub activation: Activation,
}

/// Attributes of [`crate::Op::ConvTranspose`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvTranspose {
    /// Steps, one a spatial axis.
    pub strides: Vec<usize>,
    /// Distance of the kernel's cells.
    pub dilations: Vec<usize>,
    /// Cropped from the borders.
    pub padding: Padding,
    /// Added to the end of each output axis.
    pub output_padding: Vec<usize>,
    /// The spatial sizes asked for; padding follows from it.
    pub output_shape: Option<Vec<usize>>,
    /// Channel groups.
    pub groups: usize,
    /// Applied to the result.
    pub activation: Activation,
    /// f32 rounds as onnxruntime's: models that quantise values by their own range were made with these bits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
}

/// How the borders of a window op are padded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// Cells before and after each spatial axis; negative crops.
    Explicit {
        /// Before.
        begins: Vec<i64>,
        /// After.
        ends: Vec<i64>,
    },
    /// So that the output is `ceil(input / stride)`; the odd cell goes to the end.
    SameUpper,
    /// The same; the odd cell goes to the beginning.
    SameLower,
}

impl Evaluate for Conv {
    fn arity(&self) -> Arity {
        Arity::of(2, 4)
    }

    /// Sums are taken in f64; the residual is added before the activation.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, w) = (cx.input(0)?, cx.input(1)?);
        let ([batch, channels, spatial @ ..], [out_channels, w_channels, kernel @ ..]) =
            (x.shape(), w.shape())
        else {
            return Err(cx.shape("x and w must have a batch and a channel axis"));
        };
        let attributes =
            Windows { kernel, strides: &self.strides, dilations: &self.dilations, padding: &self.padding };
        let windows = attributes.slide(cx, spatial, false)?;
        let groups = self.groups;
        let fits =
            groups > 0 && out_channels % groups == 0 && w_channels.checked_mul(groups) == Some(*channels);
        if !fits || kernel.len() != spatial.len() || spatial.is_empty() {
            return Err(cx.shape(format!("x and w do not fit with {groups} groups")));
        }
        let shape: Vec<usize> =
            [*batch, *out_channels].into_iter().chain(windows.iter().map(|window| window.output)).collect();
        let mut sums = start(cx, &shape)?;
        let (x_cells, w_cells) = (cx.floats("x", x)?, cx.floats("w", w)?);
        let (in_size, out_size) = (product(spatial), product(&shape[2..]));
        let per_group = out_channels / groups;
        for (plane, sums) in sums.chunks_exact_mut(out_size.max(1)).enumerate() {
            let (n, m) = (plane / out_channels, plane % out_channels);
            for c in 0..*w_channels {
                let x_plane = (n * channels + m / per_group * w_channels + c) * in_size;
                let taps = Taps::new(&windows, kernel, (m * w_channels + c) * product(kernel));
                for tap in taps {
                    let weight = w_cells[tap.weight];
                    tap.rows(cx, &windows, |out, input, stride, len| {
                        let cells = x_cells[x_plane + input..].iter().step_by(stride);
                        sums[out..out + len]
                            .iter_mut()
                            .zip(cells)
                            .for_each(|(sum, cell)| *sum += weight * cell);
                    })?;
                }
            }
        }
        finish(cx, &shape, sums, x, &self.activation)
    }
}

/// Zeros, with the bias (input 2, `[out_channels]`) added and the residual (input 3) checked.
fn start(cx: &Context<'_>, shape: &[usize]) -> Result<Vec<f64>, EvalError> {
    let mut sums = cx.filled(cx.count(shape)?, 0.0)?;
    if let Some(bias) = cx.optional(2) {
        cx.same_dtype("bias", cx.input(0)?, bias)?;
        if bias.shape() != &shape[1..2] {
            return Err(cx.shape(format!("bias is not [{}]", shape[1])));
        }
        let bias = cx.floats("bias", bias)?;
        let plane = product(&shape[2..]).max(1);
        for (plane, sums) in sums.chunks_exact_mut(plane).enumerate() {
            sums.fill(bias[plane % shape[1]]);
        }
    }
    if let Some(residual) = cx.optional(3) {
        cx.same_dtype("residual", cx.input(0)?, residual)?;
        cx.broadcasts_to("residual", residual.shape(), shape)?;
    }
    Ok(sums)
}

fn finish(
    cx: &Context<'_>,
    shape: &[usize],
    mut sums: Vec<f64>,
    x: &Tensor,
    activation: &Activation,
) -> Result<Vec<Tensor>, EvalError> {
    if let Some(residual) = cx.optional(3) {
        let cells = cx.floats("residual", residual)?;
        let walk = Walk::new(shape, [broadcast_strides(residual.shape(), shape)], [0]);
        sums.iter_mut().zip(walk).for_each(|(sum, [i])| *sum += cells[i]);
    }
    sums.iter_mut().for_each(|sum| *sum = activation.apply(*sum));
    Ok(vec![cx.rounded(x.dtype(), shape, &sums)?])
}

/// The cells of a kernel: `(cell of w, kernel index on each axis)`.
struct Taps<'a> {
    windows: &'a [Window],
    walk: Walk<1>,
    kernel: &'a [usize],
    start: usize,
}

/// One cell of a kernel.
struct Tap {
    /// Its element of `w`.
    weight: usize,
    /// For each axis: its kernel index and the outputs at which it lies in the input.
    axes: Vec<(usize, Range<usize>)>,
}

impl<'a> Taps<'a> {
    fn new(windows: &'a [Window], kernel: &'a [usize], start: usize) -> Self {
        Self { windows, walk: Walk::new(kernel, [strides(kernel)], [0]), kernel, start }
    }
}

impl Iterator for Taps<'_> {
    type Item = Tap;

    fn next(&mut self) -> Option<Tap> {
        let [flat] = self.walk.next()?;
        let mut rest = flat;
        let mut axes = Vec::with_capacity(self.kernel.len());
        for (window, &size) in self.windows.iter().zip(self.kernel).rev() {
            axes.push((rest % size, window.output_range(rest % size)));
            rest /= size;
        }
        axes.reverse();
        Some(Tap { weight: self.start + flat, axes })
    }
}

impl Tap {
    /// Visits the outputs that meet this cell as rows along the last axis: `visit(out, input, stride, len)` with flat
    /// offsets in the output and input planes and the step between the row's inputs.
    fn rows(
        &self,
        cx: &Context<'_>,
        windows: &[Window],
        mut visit: impl FnMut(usize, usize, usize, usize),
    ) -> Result<(), EvalError> {
        let counts: Vec<usize> = self.axes.iter().map(|(_, outputs)| outputs.len()).collect();
        let (Some(&len), Some(last)) = (counts.last(), windows.last()) else { return Ok(()) };
        let outputs: Vec<usize> = windows.iter().map(|window| window.output).collect();
        let inputs: Vec<usize> = windows.iter().map(|window| window.input).collect();
        let (out_strides, in_strides) = (strides(&outputs), strides(&inputs));
        if len == 0 {
            return Ok(());
        }
        let (mut out_start, mut in_start) = (0, 0);
        for (axis, (k, range)) in self.axes.iter().enumerate() {
            if range.is_empty() {
                return Ok(());
            }
            out_start += range.start * out_strides[axis] as usize;
            in_start += windows[axis].position(range.start, *k) as usize * in_strides[axis] as usize;
        }
        let steps = in_strides
            .iter()
            .zip(windows)
            .map(|(stride, window)| stride.wrapping_mul(window.stride as isize));
        let rows = &counts[..counts.len() - 1];
        for [out, input] in Walk::new(rows, [out_strides, steps.collect()], [out_start, in_start]) {
            cx.work(len)?;
            visit(out, input, last.stride, len);
        }
        Ok(())
    }
}

impl Evaluate for ConvTranspose {
    fn arity(&self) -> Arity {
        Arity::of(2, 3)
    }

    /// Sums are taken in f64.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, w) = (cx.input(0)?, cx.input(1)?);
        let ([batch, channels, spatial @ ..], [w_channels, per_group, kernel @ ..]) = (x.shape(), w.shape())
        else {
            return Err(cx.shape("x and w must have a batch and a channel axis"));
        };
        let groups = self.groups;
        let fits = groups > 0 && channels % groups == 0 && w_channels == channels;
        if !fits || kernel.len() != spatial.len() || spatial.is_empty() {
            return Err(cx.shape(format!("x and w do not fit with {groups} groups")));
        }
        let windows = self.windows(cx, spatial, kernel)?;
        let out_channels = per_group.checked_mul(groups).ok_or_else(|| cx.too_large(None))?;
        let shape: Vec<usize> =
            [*batch, out_channels].into_iter().chain(windows.iter().map(|window| window.input)).collect();
        let mut sums = start(cx, &shape)?;
        let (x_cells, w_cells) = (cx.floats("x", x)?, cx.floats("w", w)?);
        let (in_size, out_size) = (product(spatial), product(&shape[2..]));
        for (plane, sums) in sums.chunks_exact_mut(out_size.max(1)).enumerate() {
            let (n, m) = (plane / out_channels, plane % out_channels);
            let in_channels = channels / groups;
            for c in m / per_group * in_channels..(m / per_group + 1) * in_channels {
                let x_plane = (n * channels + c) * in_size;
                for tap in Taps::new(&windows, kernel, (c * per_group + m % per_group) * product(kernel)) {
                    let weight = w_cells[tap.weight];
                    // The roles are exchanged: the window slides over the result, its outputs are the cells of x.
                    tap.rows(cx, &windows, |from, to, stride, len| {
                        let targets = sums[to..].iter_mut().step_by(stride);
                        let cells = &x_cells[x_plane + from..][..len];
                        targets.zip(cells).for_each(|(sum, cell)| *sum += weight * cell);
                    })?;
                }
            }
        }
        finish(cx, &shape, sums, x, &self.activation)
    }
}

impl ConvTranspose {
    /// The windows that slide over the result and whose outputs are the cells of the input.
    fn windows(&self, cx: &Context<'_>, input: &[usize], kernel: &[usize]) -> Result<Vec<Window>, EvalError> {
        let attributes =
            Windows { kernel, strides: &self.strides, dilations: &self.dilations, padding: &self.padding };
        attributes.check(cx, input.len())?;
        let lists = [Some(&self.output_padding), self.output_shape.as_ref()];
        if lists.into_iter().flatten().any(|list| list.len() != input.len()) {
            return Err(cx.shape("output_padding or output_shape has not one number for each spatial axis"));
        }
        let window = |axis: usize| -> Option<Window> {
            let (kernel, stride, dilation) = (kernel[axis], self.strides[axis], self.dilations[axis]);
            let extent = (kernel as i128 - 1) * dilation as i128 + 1;
            let steps = (input[axis] as i128 - 1).max(0) * stride as i128;
            let full = steps + self.output_padding[axis] as i128 + extent;
            let asked = match (&self.output_shape, &self.padding) {
                (Some(sizes), _) => Some(sizes[axis] as i128),
                (None, Padding::Explicit { .. }) => None,
                (None, _) => Some(input[axis] as i128 * stride as i128),
            };
            let total = asked.map(|asked| (full - asked).max(0));
            let (begin, end) = match (&self.padding, total) {
                (Padding::Explicit { begins, ends }, None) => {
                    (i128::from(begins[axis]), i128::from(ends[axis]))
                }
                (Padding::SameUpper, Some(total)) => (total / 2, total - total / 2),
                (_, Some(total)) => (total - total / 2, total / 2),
                (_, None) => (0, 0),
            };
            let size = usize::try_from(asked.unwrap_or(full - begin - end)).ok()?;
            Some(Window { input: size, output: input[axis], kernel, stride, dilation, begin, end })
        };
        let windows: Option<Vec<Window>> = (0..input.len()).map(window).collect();
        windows.ok_or_else(|| cx.shape("the padding crops more than the result has"))
    }
}
