//! Deformable convolution: each cell of the kernel is moved by an offset of its own.

use lathe_tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::conv::Padding;
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::{product, strides};
use crate::window::{Window, Windows};

/// Attributes of [`crate::Op::DeformConv`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeformConv {
    /// Steps of the window, one a spatial axis.
    pub strides: Vec<usize>,
    /// Distance of the kernel's cells.
    pub dilations: Vec<usize>,
    /// How the borders are padded.
    pub padding: Padding,
    /// Channel groups.
    pub groups: usize,
    /// Groups of channels that share offsets.
    pub offset_groups: usize,
}

/// Sizes of one evaluation.
struct Sizes<'a> {
    spatial: &'a [usize],
    kernel: &'a [usize],
    windows: Vec<Window>,
    channels: usize,
    out_channels: usize,
    /// Channels of a group.
    width: usize,
    /// Cells of the kernel, and of a plane of the result.
    cells: usize,
    plane: usize,
}

/// The operands as f64.
struct Operands {
    x: Vec<f64>,
    w: Vec<f64>,
    offset: Vec<f64>,
    mask: Option<Vec<f64>>,
}

impl Evaluate for DeformConv {
    fn arity(&self) -> Arity {
        Arity::of(3, 5)
    }

    /// Inputs `x[batch, channels, spatial...], w[out_channels, channels / groups, kernel...], offset[batch, offset_groups *
    /// cells * axes, out...], bias[out_channels]?, mask[batch, offset_groups * cells, out...]?`; values between pixels are
    /// linear, those outside 0 (ONNX DeformConv-22). In f64.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let sizes = self.sizes(cx)?;
        let batch = x.shape()[0];
        let outputs: Vec<usize> = sizes.windows.iter().map(|window| window.output).collect();
        let shape: Vec<usize> =
            [batch, sizes.out_channels].into_iter().chain(outputs.iter().copied()).collect();
        let check = |name: &str, tensor: &Tensor, per_cell: usize| {
            let channels = self.offset_groups.saturating_mul(sizes.cells).saturating_mul(per_cell);
            let expected: Vec<usize> = [batch, channels].into_iter().chain(outputs.iter().copied()).collect();
            if tensor.shape() == expected {
                Ok(())
            } else {
                Err(cx.shape(format!("{name} is not {expected:?}")))
            }
        };
        check("offset", cx.input(2)?, sizes.spatial.len())?;
        if let Some(mask) = cx.optional(4) {
            check("mask", mask, 1)?;
        }
        let mut out = cx.filled(cx.count(&shape)?, 0.0)?;
        let bias = cx.optional(3).map(|bias| cx.floats("bias", bias)).transpose()?;
        if bias.as_ref().is_some_and(|bias| bias.len() != sizes.out_channels) {
            return Err(cx.shape(format!("bias is not [{}]", sizes.out_channels)));
        }
        let operands = Operands {
            x: cx.floats("x", x)?,
            w: cx.floats("w", cx.input(1)?)?,
            offset: cx.floats("offset", cx.input(2)?)?,
            mask: cx.optional(4).map(|mask| cx.floats("mask", mask)).transpose()?,
        };
        for (flat, cell) in out.iter_mut().enumerate() {
            let (map, place) = (flat / sizes.plane, flat % sizes.plane);
            let (n, m) = (map / sizes.out_channels, map % sizes.out_channels);
            let sum = self.sum(cx, &sizes, &operands, [n, m, place])?;
            *cell = sum + bias.as_ref().map_or(0.0, |bias| bias[m]);
        }
        Ok(vec![cx.rounded(x.dtype(), &shape, &out)?])
    }
}

impl DeformConv {
    fn sizes<'a>(&'a self, cx: &Context<'a>) -> Result<Sizes<'a>, EvalError> {
        let ([_, channels, spatial @ ..], [out_channels, width, kernel @ ..]) =
            (cx.input(0)?.shape(), cx.input(1)?.shape())
        else {
            return Err(cx.shape("x and w must have a batch and a channel axis"));
        };
        let attributes =
            Windows { kernel, strides: &self.strides, dilations: &self.dilations, padding: &self.padding };
        let windows = attributes.slide(cx, spatial, false)?;
        let (groups, offsets) = (self.groups, self.offset_groups);
        let fits = groups > 0
            && out_channels % groups == 0
            && width.checked_mul(groups) == Some(*channels)
            && offsets > 0
            && channels % offsets == 0;
        if !fits || kernel.len() != spatial.len() || spatial.is_empty() {
            return Err(cx.shape(format!("x and w do not fit with {groups} and {offsets} groups")));
        }
        let plane = cx.count(&windows.iter().map(|window| window.output).collect::<Vec<_>>())?;
        Ok(Sizes {
            spatial,
            kernel,
            windows,
            channels: *channels,
            out_channels: *out_channels,
            width: *width,
            cells: product(kernel),
            plane,
        })
    }

    /// The sum of the kernel at one place of output channel `m`.
    fn sum(
        &self,
        cx: &Context<'_>,
        sizes: &Sizes<'_>,
        operands: &Operands,
        [n, m, place]: [usize; 3],
    ) -> Result<f64, EvalError> {
        let axes = sizes.spatial.len();
        let plane = product(sizes.spatial);
        let first = m / (sizes.out_channels / self.groups) * sizes.width;
        let mut sum = 0.0;
        for cell in 0..sizes.cells {
            for c in 0..sizes.width {
                cx.work(1 << axes.min(16))?;
                let channel = first + c;
                let group = channel / (sizes.channels / self.offset_groups);
                let row = (n * self.offset_groups + group) * sizes.cells + cell;
                let (mut rest_place, mut rest_cell) = (place, cell);
                let mut point = vec![0.0; axes];
                for axis in (0..axes).rev() {
                    let window = &sizes.windows[axis];
                    let position =
                        window.position(rest_place % window.output, rest_cell % sizes.kernel[axis]);
                    (rest_place, rest_cell) = (rest_place / window.output, rest_cell / sizes.kernel[axis]);
                    point[axis] =
                        position as f64 + operands.offset[(row * axes + axis) * sizes.plane + place];
                }
                let picture = &operands.x[(n * sizes.channels + channel) * plane..][..plane];
                let mask = operands.mask.as_ref().map_or(1.0, |mask| mask[row * sizes.plane + place]);
                let weight = operands.w[(m * sizes.width + c) * sizes.cells + cell];
                sum += weight * mask * linear(picture, sizes.spatial, &point);
            }
        }
        Ok(sum)
    }
}

/// The value between the pixels around a point; those outside count as 0.
fn linear(picture: &[f64], sizes: &[usize], point: &[f64]) -> f64 {
    let steps = strides(sizes);
    let corners = 1usize << sizes.len().min(16);
    (0..corners)
        .map(|corner| {
            let (mut weight, mut place) = (1.0, 0);
            for (axis, &size) in sizes.iter().enumerate() {
                let floor = point[axis].floor();
                let upper = corner >> axis & 1 == 1;
                let at = if upper { floor + 1.0 } else { floor };
                let share = point[axis] - floor;
                weight *= if upper { share } else { 1.0 - share };
                if !(at >= 0.0 && at < size as f64) {
                    return 0.0;
                }
                place += at as usize * steps[axis] as usize;
            }
            weight * picture[place]
        })
        .sum()
}
