//! ConvNeXt (Liu et al., 2022): `main(pixel_values [batch, channels, height, width]) -> logits [batch, labels]`.

use lathe_ir::ValueId;

use super::Family;
use crate::error::Fault;
use crate::model::Config;
use crate::model::blocks::conv::{Convolution, channel_norm, pixels, pool};
use crate::model::net::{Activation, Linear, Net, NormKind};

/// The families.
pub(super) const FAMILIES: &[Family] = &[Family {
    model_type: "convnext",
    architectures: &["ConvNextForImageClassification"],
    base: "convnext.",
    build: convnext,
}];

/// Norms inside do not take the configuration's epsilon.
const NORM: NormKind = NormKind::Layer { epsilon: 1e-6, bias: true };

/// One layer: a depthwise convolution, and a feed-forward of each cell.
struct Block {
    width: usize,
    activation: Activation,
    scaled: bool,
}

impl Block {
    fn build(&self, net: &mut Net<'_>, prefix: &str, x: ValueId) -> Result<ValueId, Fault> {
        let (width, inner) = (self.width, 4 * self.width);
        let mut conv = Convolution::square(format!("{prefix}.dwconv"), [width; 2], 7, 1);
        (conv.weight.bias, conv.groups) = (true, width);
        let cells = conv.build(net, x)?;
        let cells = net.b.transpose(cells, &[0, 2, 3, 1])?;
        let cells = net.norm(cells, &NORM.at(format!("{prefix}.layernorm")), width)?;
        let cells = net.linear(cells, &Linear::new(format!("{prefix}.pwconv1"), true), width, inner)?;
        let cells = net.activate(cells, self.activation)?;
        let mut cells = net.linear(cells, &Linear::new(format!("{prefix}.pwconv2"), true), inner, width)?;
        if self.scaled {
            let scale = net.weight(&format!("{prefix}.layer_scale_parameter"), &[width])?;
            cells = net.b.mul(cells, scale)?;
        }
        let cells = net.b.named(prefix).transpose(cells, &[0, 3, 1, 2])?;
        Ok(net.b.add(x, cells)?)
    }
}

fn convnext(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let (depths, widths) = (config.list("depths")?, config.list("hidden_sizes")?);
    if depths.len() != widths.len() || depths.iter().any(|&depth| depth > 4096) {
        return Err(Fault::bad(format!("`depths` is {depths:?} and `hidden_sizes` is {widths:?}")));
    }
    let activation = Activation::of(config, &["hidden_act"], "gelu")?;
    let scaled = config.number(&["layer_scale_init_value"], 1e-6)? > 0.0;
    let channels = config.size_or(&["num_channels"], 3)?;
    let patch = config.size_or(&["patch_size"], 4)?;
    let mut x = pixels(net, channels)?;
    let mut before = widths.first().copied().unwrap_or(1);
    let root = "convnext.embeddings";
    let weight = Linear::new(format!("{root}.patch_embeddings"), true);
    x = Convolution::patches(weight, [channels, before], &[patch; 2]).build(net, x)?;
    x = channel_norm(net, x, &NORM.at(format!("{root}.layernorm")), before)?;
    for (stage, (&depth, &width)) in depths.iter().zip(&widths).enumerate() {
        let prefix = format!("convnext.encoder.stages.{stage}");
        if stage > 0 {
            let down = format!("{prefix}.downsampling_layer");
            x = channel_norm(net, x, &NORM.at(format!("{down}.0")), before)?;
            let weight = Linear::new(format!("{down}.1"), true);
            x = Convolution::patches(weight, [before, width], &[2; 2]).build(net, x)?;
        }
        let block = Block { width, activation, scaled };
        for layer in 0..depth {
            x = block.build(net, &format!("{prefix}.layers.{layer}"), x)?;
        }
        before = width;
    }
    let pooled = pool(net, x)?;
    let norm = NormKind::Layer { epsilon: config.epsilon(&["layer_norm_eps"], 1e-12)?, bias: true };
    let pooled = net.norm(pooled, &norm.at("convnext.layernorm"), before)?;
    let logits = net.linear(pooled, &Linear::new("classifier", true), before, config.labels()?)?;
    net.b.output("logits", logits);
    Ok(())
}
