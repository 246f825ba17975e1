//! ResNet (He et al., 2015): `main(pixel_values [batch, channels, height, width]) -> logits [batch, labels]`.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::conv::Padding;
use lathe_ops::pool::MaxPool;

use super::Family;
use crate::error::Fault;
use crate::model::Config;
use crate::model::blocks::conv::{Convolution, batch_norm, pixels, pool};
use crate::model::net::{Activation, Linear, Net};

/// The families.
pub(super) const FAMILIES: &[Family] = &[Family {
    model_type: "resnet",
    architectures: &["ResNetForImageClassification"],
    base: "resnet.",
    build: resnet,
}];

/// What the layers share.
struct Blocks {
    activation: Activation,
    /// Three convolutions, narrow between the first and the last, instead of two.
    bottleneck: bool,
    /// The first of the three has the stride.
    early_stride: bool,
}

/// A convolution and its norm.
fn convolve(
    net: &mut Net<'_>,
    prefix: &str,
    x: ValueId,
    channels: [usize; 2],
    [kernel, stride]: [usize; 2],
) -> Result<ValueId, Fault> {
    let name = format!("{prefix}.convolution");
    let x = Convolution::square(name, channels, kernel, stride).build(net, x)?;
    batch_norm(net, x, &format!("{prefix}.normalization"), channels[1], 1e-5)
}

impl Blocks {
    fn of(config: &Config) -> Result<Self, Fault> {
        let bottleneck = match config.text(&["layer_type"])?.unwrap_or("bottleneck") {
            "bottleneck" => true,
            "basic" => false,
            other => return Err(config.unknown("layer_type", other, &["bottleneck", "basic"])),
        };
        let activation = Activation::of(config, &["hidden_act"], "relu")?;
        Ok(Self { activation, bottleneck, early_stride: config.flag(&["downsample_in_bottleneck"], false)? })
    }

    /// One layer.
    fn build(
        &self,
        net: &mut Net<'_>,
        prefix: &str,
        x: ValueId,
        [inputs, outputs]: [usize; 2],
        stride: usize,
    ) -> Result<ValueId, Fault> {
        let (early, late) = if self.early_stride { (stride, 1) } else { (1, stride) };
        let narrow = (outputs / 4).max(1);
        let convolutions = match self.bottleneck {
            true => vec![
                ([inputs, narrow], [1, early]),
                ([narrow, narrow], [3, late]),
                ([narrow, outputs], [1, 1]),
            ],
            false => vec![([inputs, outputs], [3, stride]), ([outputs, outputs], [3, 1])],
        };
        let mut made = x;
        for (index, (channels, window)) in convolutions.into_iter().enumerate() {
            if index > 0 {
                made = net.activate(made, self.activation)?;
            }
            made = convolve(net, &format!("{prefix}.layer.{index}"), made, channels, window)?;
        }
        let shortcut = match inputs != outputs || stride != 1 {
            true => convolve(net, &format!("{prefix}.shortcut"), x, [inputs, outputs], [1, stride])?,
            false => x,
        };
        let sum = net.b.named(prefix).add(made, shortcut)?;
        net.activate(sum, self.activation)
    }
}

fn resnet(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let (depths, widths) = (config.list("depths")?, config.list("hidden_sizes")?);
    if depths.len() != widths.len() || depths.iter().any(|&depth| depth > 4096) {
        return Err(Fault::bad(format!("`depths` is {depths:?} and `hidden_sizes` is {widths:?}")));
    }
    let blocks = Blocks::of(config)?;
    let channels = config.size_or(&["num_channels"], 3)?;
    let mut before = config.size_or(&["embedding_size"], 64)?;
    let x = pixels(net, channels)?;
    let x = convolve(net, "resnet.embedder.embedder", x, [channels, before], [7, 2])?;
    let x = net.activate(x, blocks.activation)?;
    let window = MaxPool {
        kernel: vec![3; 2],
        strides: vec![2; 2],
        dilations: vec![1; 2],
        padding: Padding::Explicit { begins: vec![1; 2], ends: vec![1; 2] },
        ceil_mode: false,
        column_major: false,
    };
    let mut x = net.b.named("resnet.embedder.pooler").op(Op::MaxPool(window), &[x])?;
    let early = config.flag(&["downsample_in_first_stage"], false)?;
    for (stage, (&depth, &width)) in depths.iter().zip(&widths).enumerate() {
        for layer in 0..depth {
            let stride = if layer == 0 && (stage > 0 || early) { 2 } else { 1 };
            let prefix = format!("resnet.encoder.stages.{stage}.layers.{layer}");
            x = blocks.build(net, &prefix, x, [before, width], stride)?;
            before = width;
        }
    }
    let pooled = pool(net, x)?;
    let logits = net.linear(pooled, &Linear::new("classifier.1", true), before, config.labels()?)?;
    net.b.output("logits", logits);
    Ok(())
}
