//! MobileNetV2 (Sandler et al., 2018): `main(pixel_values [batch, channels, height, width]) -> logits [batch, labels]`.

use lathe_ir::ValueId;
use lathe_ops::conv::Padding;

use super::Family;
use crate::error::Fault;
use crate::model::Config;
use crate::model::blocks::conv::{Convolution, batch_norm, pixels, pool};
use crate::model::net::{Activation, Linear, Net};

/// The families.
pub(super) const FAMILIES: &[Family] = &[Family {
    model_type: "mobilenet_v2",
    architectures: &["MobileNetV2ForImageClassification"],
    base: "mobilenet_v2.",
    build: mobilenet,
}];

/// Channels behind the stem and each layer, at full width.
const CHANNELS: [usize; 17] = [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320];
/// Stride of each layer.
const STRIDES: [usize; 16] = [2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1];
/// Channels of the last convolution, at full width.
const LAST: usize = 1280;

/// What the layers share.
struct Blocks {
    activation: Activation,
    epsilon: f32,
    /// Pads as TensorFlow does, so that the end gets the odd cell.
    same: bool,
    /// Widths are multiples of this.
    divisor: usize,
    least: usize,
    multiplier: f64,
    expansion: f64,
}

/// The window of a convolution.
#[derive(Clone, Copy)]
struct Window {
    kernel: usize,
    stride: usize,
    dilation: usize,
    groups: usize,
}

const POINT: Window = Window { kernel: 1, stride: 1, dilation: 1, groups: 1 };

impl Blocks {
    fn of(config: &Config) -> Result<Self, Fault> {
        let positive = |name: &str, default: f64| -> Result<f64, Fault> {
            Ok(config.positive(&[name])?.unwrap_or(default).min(1024.0))
        };
        Ok(Self {
            activation: Activation::of(config, &["hidden_act"], "relu6")?,
            epsilon: config.epsilon(&["layer_norm_eps"], 1e-3)?,
            same: config.flag(&["tf_padding"], true)?,
            divisor: config.size_or(&["depth_divisible_by"], 8)?,
            least: config.size_or(&["min_depth"], 8)?,
            multiplier: positive("depth_multiplier", 1.0)?,
            expansion: positive("expand_ratio", 6.0)?,
        })
    }

    /// The multiple of the divisor next to `factor * channels`, and not less than nine tenths of it.
    fn rounded(&self, channels: usize, factor: f64) -> usize {
        let wanted = (channels as f64 * factor).round_ties_even();
        let multiple = (wanted + self.divisor as f64 / 2.0) as usize / self.divisor * self.divisor;
        let multiple = multiple.max(self.least);
        if (multiple as f64) < 0.9 * wanted { multiple + self.divisor } else { multiple }
    }

    fn width(&self, channels: usize) -> usize {
        self.rounded(channels, self.multiplier)
    }

    /// A convolution, its norm, and an activation where `active`.
    fn convolve(
        &self,
        net: &mut Net<'_>,
        prefix: &str,
        x: ValueId,
        channels: [usize; 2],
        window: Window,
        active: bool,
    ) -> Result<ValueId, Fault> {
        let Window { kernel, stride, dilation, groups } = window;
        let pad = vec![((kernel - 1) / 2 * dilation) as i64; 2];
        let padding =
            if self.same { Padding::SameUpper } else { Padding::Explicit { begins: pad.clone(), ends: pad } };
        let conv = Convolution::square(format!("{prefix}.convolution"), channels, kernel, stride);
        let x = Convolution { padding, dilation, groups, ..conv }.build(net, x)?;
        let x = batch_norm(net, x, &format!("{prefix}.normalization"), channels[1], self.epsilon)?;
        if active { net.activate(x, self.activation) } else { Ok(x) }
    }

    /// Wide between two narrow ends, with a residual where they are alike.
    fn inverted(
        &self,
        net: &mut Net<'_>,
        prefix: &str,
        x: ValueId,
        [inputs, outputs]: [usize; 2],
        window: Window,
    ) -> Result<ValueId, Fault> {
        let wide = self.rounded(inputs, self.expansion);
        let window = Window { groups: wide, ..window };
        let made = self.convolve(net, &format!("{prefix}.expand_1x1"), x, [inputs, wide], POINT, true)?;
        let made = self.convolve(net, &format!("{prefix}.conv_3x3"), made, [wide; 2], window, true)?;
        let made =
            self.convolve(net, &format!("{prefix}.reduce_1x1"), made, [wide, outputs], POINT, false)?;
        match window.stride == 1 && inputs == outputs {
            true => Ok(net.b.named(prefix).add(x, made)?),
            false => Ok(made),
        }
    }

    fn stem(
        &self,
        net: &mut Net<'_>,
        config: &Config,
        x: ValueId,
        [channels, outputs]: [usize; 2],
    ) -> Result<ValueId, Fault> {
        let (root, wide) = ("mobilenet_v2.conv_stem", self.width(32));
        let window = Window { kernel: 3, stride: 2, ..POINT };
        let mut x = self.convolve(net, &format!("{root}.first_conv"), x, [channels, wide], window, true)?;
        if !config.flag(&["first_layer_is_expansion"], true)? {
            x = self.convolve(net, &format!("{root}.expand_1x1"), x, [wide; 2], POINT, true)?;
        }
        let window = Window { kernel: 3, groups: wide, ..POINT };
        let x = self.convolve(net, &format!("{root}.conv_3x3"), x, [wide; 2], window, true)?;
        self.convolve(net, &format!("{root}.reduce_1x1"), x, [wide, outputs], POINT, false)
    }
}

fn mobilenet(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let blocks = Blocks::of(config)?;
    let widths = CHANNELS.map(|channels| blocks.width(channels));
    let channels = config.size_or(&["num_channels"], 3)?;
    let limit = config.size_or(&["output_stride"], 32)?;
    let x = pixels(net, channels)?;
    let mut x = blocks.stem(net, config, x, [channels, widths[0]])?;
    // Beyond the stride that is asked for, windows grow instead of pictures shrinking.
    let (mut reached, mut spread) = (2, 1);
    for (index, stride) in STRIDES.into_iter().enumerate() {
        let (stride, dilation) = if reached == limit { (1, spread) } else { (stride, 1) };
        match reached == limit {
            true => spread *= STRIDES[index],
            false => reached *= stride,
        }
        let window = Window { kernel: 3, stride, dilation, groups: 1 };
        let prefix = format!("mobilenet_v2.layer.{index}");
        x = blocks.inverted(net, &prefix, x, [widths[index], widths[index + 1]], window)?;
    }
    let fine = config.flag(&["finegrained_output"], true)? && blocks.multiplier < 1.0;
    let last = if fine { LAST } else { blocks.width(LAST) };
    let x = blocks.convolve(net, "mobilenet_v2.conv_1x1", x, [widths[16], last], POINT, true)?;
    let pooled = pool(net, x)?;
    let logits = net.linear(pooled, &Linear::new("classifier", true), last, config.labels()?)?;
    net.b.output("logits", logits);
    Ok(())
}
