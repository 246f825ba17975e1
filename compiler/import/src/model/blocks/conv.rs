//! Convolutions and what stands behind them in networks of pictures.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::conv::{Conv, Padding};
use lathe_ops::elementwise;
use lathe_ops::norm::BatchNorm;
use lathe_ops::reduce::ReduceKind;

use crate::error::Fault;
use crate::model::net::{Linear, Net, Norm, dim, symbol};

/// A convolution over the axes behind `[batch, channels]`.
#[derive(Clone, Debug)]
pub(crate) struct Convolution {
    /// Name of the weights `[outputs, inputs / groups, kernel...]`.
    pub weight: Linear,
    /// Channels before.
    pub inputs: usize,
    /// Channels behind.
    pub outputs: usize,
    /// Cells of the window along each axis.
    pub kernel: Vec<usize>,
    /// Its steps.
    pub strides: Vec<usize>,
    /// Distance of its cells.
    pub dilation: usize,
    /// Cells around the picture.
    pub padding: Padding,
    /// Groups of channels.
    pub groups: usize,
}

impl Convolution {
    /// A square window that keeps the size where its stride is 1, without bias.
    pub(crate) fn square(
        name: impl std::fmt::Display,
        channels: [usize; 2],
        kernel: usize,
        stride: usize,
    ) -> Self {
        let pad = vec![(kernel / 2) as i64; 2];
        Self {
            weight: Linear::plain(name),
            inputs: channels[0],
            outputs: channels[1],
            kernel: vec![kernel; 2],
            strides: vec![stride; 2],
            dilation: 1,
            padding: Padding::Explicit { begins: pad.clone(), ends: pad },
            groups: 1,
        }
    }

    /// Windows side by side, with bias or without: patches.
    pub(crate) fn patches(weight: Linear, channels: [usize; 2], kernel: &[usize]) -> Self {
        let pad = vec![0; kernel.len()];
        Self {
            weight,
            inputs: channels[0],
            outputs: channels[1],
            kernel: kernel.to_vec(),
            strides: kernel.to_vec(),
            dilation: 1,
            padding: Padding::Explicit { begins: pad.clone(), ends: pad },
            groups: 1,
        }
    }

    /// Builds it.
    pub(crate) fn build(&self, net: &mut Net<'_>, x: ValueId) -> Result<ValueId, Fault> {
        let name = &self.weight.name;
        if !self.inputs.is_multiple_of(self.groups) || !self.outputs.is_multiple_of(self.groups) {
            let (inputs, outputs, groups) = (self.inputs, self.outputs, self.groups);
            return Err(Fault::bad(format!("{groups} groups do not divide {inputs} and {outputs} channels")));
        }
        let sizes = [&[self.outputs, self.inputs / self.groups], &self.kernel[..]].concat();
        let weight = net.weight(&format!("{name}.weight"), &sizes)?;
        let bias = match self.weight.bias {
            true => Some(net.weight(&format!("{name}.bias"), &[self.outputs])?),
            false => None,
        };
        let op = Conv {
            strides: self.strides.clone(),
            dilations: vec![self.dilation; self.kernel.len()],
            padding: self.padding.clone(),
            groups: self.groups,
            activation: elementwise::Activation::None,
        };
        let mut inputs = vec![Some(x), Some(weight)];
        inputs.extend(bias.map(Some));
        Ok(net.b.named(name).apply(Op::Conv(op), &inputs)?)
    }
}

/// Batch normalisation by the statistics of training.
pub(crate) fn batch_norm(
    net: &mut Net<'_>,
    x: ValueId,
    name: &str,
    channels: usize,
    epsilon: f32,
) -> Result<ValueId, Fault> {
    let mut inputs = vec![x];
    for part in ["weight", "bias", "running_mean", "running_var"] {
        inputs.push(net.weight(&format!("{name}.{part}"), &[channels])?);
    }
    let op = BatchNorm { epsilon, momentum: 0.9, training: false };
    Ok(net.b.named(name).op(Op::BatchNorm(op), &inputs)?)
}

/// A norm over the channels of `[batch, channels, height, width]`.
pub(crate) fn channel_norm(
    net: &mut Net<'_>,
    x: ValueId,
    norm: &Norm,
    channels: usize,
) -> Result<ValueId, Fault> {
    let rows = net.b.named(&norm.name).transpose(x, &[0, 2, 3, 1])?;
    let rows = net.norm(rows, norm, channels)?;
    Ok(net.b.transpose(rows, &[0, 3, 1, 2])?)
}

/// The input `pixel_values [batch, channels, height, width]` of any size.
pub(crate) fn pixels(net: &mut Net<'_>, channels: usize) -> Result<ValueId, Fault> {
    let dims = [symbol("batch"), dim(channels)?, symbol("height"), symbol("width")];
    Ok(net.floats("pixel_values", &dims))
}

/// The mean over height and width, `[batch, channels]`.
pub(crate) fn pool(net: &mut Net<'_>, x: ValueId) -> Result<ValueId, Fault> {
    Ok(net.b.named("pooler").reduce(ReduceKind::Mean, x, &[2, 3], false)?)
}
