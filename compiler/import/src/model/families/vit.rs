//! ViT and DeiT: `main(pixel_values [batch, channels, height, width]) -> logits [batch, labels]`, or `last_hidden_state` of the bare model.

use lathe_ir::{Dim, ValueId};

use super::Family;
use crate::error::Fault;
use crate::model::Config;
use crate::model::blocks::vision::{Encoder, Names, Patches, VIT, VIT_SHORT, pick, token};
use crate::model::net::{Activation, Linear, Net, symbol};

/// The families.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        model_type: "vit",
        architectures: &["ViTForImageClassification", "ViTModel"],
        base: "vit.",
        build: vit,
    },
    Family {
        model_type: "deit",
        architectures: &["DeiTForImageClassification", "DeiTForImageClassificationWithTeacher", "DeiTModel"],
        base: "deit.",
        build: deit,
    },
];

/// A tower whose names begin with `root.`.
pub(super) struct Tower {
    pub encoder: Encoder,
    pub patches: Patches,
    root: String,
    distilled: bool,
}

impl Tower {
    /// The tower of a configuration.
    pub(super) fn of(config: &Config, root: &str, distilled: bool) -> Result<Self, Fault> {
        let (encoder, patches) = (Encoder::of(config, "gelu", 1e-12)?, Patches::of(config)?);
        Ok(Self { encoder, patches, root: root.to_string(), distilled })
    }

    /// Patches with their positions `[batch, count, hidden]`, and the token before them with its own.
    pub(super) fn embed(
        &self,
        net: &mut Net<'_>,
        pixels: ValueId,
        batch: &Dim,
    ) -> Result<[ValueId; 2], Fault> {
        let (root, hidden) = (format!("{}.embeddings", self.root), self.encoder.sizes.hidden);
        let weight = Linear::new(format!("{root}.patch_embeddings.projection"), true);
        let patches = self.patches.build(net, pixels, batch, weight, hidden)?;
        let mut first = token(net, &format!("{root}.cls_token"), &[1, 1, hidden], batch, hidden)?;
        if self.distilled {
            let name = format!("{root}.distillation_token");
            let second = token(net, &name, &[1, 1, hidden], batch, hidden)?;
            first = net.b.concat(&[first, second], 1)?;
        }
        let before = 1 + usize::from(self.distilled);
        let name = format!("{root}.position_embeddings");
        let positions = net.weight(&name, &[1, self.patches.count() + before, hidden])?;
        let of_first = net.b.named(&name).slice(positions, 1, 0, before as i64)?;
        let of_rest = net.b.slice(positions, 1, before as i64, i64::MAX)?;
        Ok([net.b.add(first, of_first)?, net.b.add(patches, of_rest)?])
    }

    /// The names of the layers and the prefix before their numbers, as the file has them.
    fn names(&self, net: &Net<'_>) -> Result<(Names, String), Fault> {
        let short = format!("{}.layers", self.root);
        match net.has(&format!("{short}.0.{}.weight", VIT.norms[0]))? {
            true => Ok((VIT_SHORT, short)),
            false => Ok((VIT, format!("{}.encoder.layer", self.root))),
        }
    }

    /// Layers and the last norm for rows `[batch, seq, hidden]`.
    pub(super) fn encode(
        &self,
        net: &mut Net<'_>,
        x: ValueId,
        batch: &Dim,
        seq: usize,
    ) -> Result<ValueId, Fault> {
        let (names, prefix) = self.names(net)?;
        let layers = self.encoder.layers(&names, &prefix);
        let x = self.encoder.run(net, &layers, x, batch, seq)?;
        net.norm(x, &self.encoder.norm.at(format!("{}.layernorm", self.root)), self.encoder.sizes.hidden)
    }

    /// All rows of pictures `[batch, tokens + count, hidden]`, behind the last norm.
    pub(super) fn build(&self, net: &mut Net<'_>, pixels: ValueId, batch: &Dim) -> Result<ValueId, Fault> {
        let parts = self.embed(net, pixels, batch)?;
        let x = net.b.named(&self.root).concat(&parts, 1)?;
        self.encode(net, x, batch, self.patches.count() + 1 + usize::from(self.distilled))
    }

    /// `last_hidden_state`, and `pooler_output` where the file has a pooler.
    fn bare(&self, net: &mut Net<'_>, config: &Config, x: ValueId) -> Result<(), Fault> {
        let (hidden, name) = (self.encoder.sizes.hidden, format!("{}.pooler.dense", self.root));
        net.b.output("last_hidden_state", x);
        if net.has(&format!("{name}.weight"))? {
            let first = pick(net, x, 0)?;
            let width = config.size_or(&["pooler_output_size"], hidden)?;
            let pooled = net.linear(first, &Linear::new(name, true), hidden, width)?;
            let activation = Activation::of(config, &["pooler_act"], "tanh")?;
            let pooled = net.activate(pooled, activation)?;
            net.b.output("pooler_output", pooled);
        }
        Ok(())
    }
}

/// The first class of transformers that the configuration names.
fn architecture(config: &Config) -> Result<&str, Fault> {
    Ok(config.texts("architectures")?.first().copied().unwrap_or(""))
}

fn vit(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let tower = Tower::of(config, "vit", false)?;
    let batch = symbol("batch");
    let pixels = tower.patches.input(net, "pixel_values", std::slice::from_ref(&batch))?;
    let x = tower.build(net, pixels, &batch)?;
    if architecture(config)? == "ViTModel" {
        return tower.bare(net, config, x);
    }
    let first = pick(net, x, 0)?;
    let hidden = tower.encoder.sizes.hidden;
    let logits = net.linear(first, &Linear::new("classifier", true), hidden, config.labels()?)?;
    net.b.output("logits", logits);
    Ok(())
}

fn deit(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let tower = Tower::of(config, "deit", true)?;
    let batch = symbol("batch");
    let pixels = tower.patches.input(net, "pixel_values", std::slice::from_ref(&batch))?;
    let x = tower.build(net, pixels, &batch)?;
    let architecture = architecture(config)?;
    if architecture == "DeiTModel" {
        return tower.bare(net, config, x);
    }
    let (hidden, labels) = (tower.encoder.sizes.hidden, config.labels()?);
    let mut classify = |name: &str, index: i64| -> Result<ValueId, Fault> {
        let row = pick(net, x, index)?;
        net.linear(row, &Linear::new(name, true), hidden, labels)
    };
    if !architecture.ends_with("WithTeacher") {
        let logits = classify("classifier", 0)?;
        net.b.output("logits", logits);
        return Ok(());
    }
    let both = [classify("cls_classifier", 0)?, classify("distillation_classifier", 1)?];
    let sum = net.b.add(both[0], both[1])?;
    let logits = net.scaled(sum, 0.5)?;
    for (name, value) in [("logits", logits), ("cls_logits", both[0]), ("distillation_logits", both[1])] {
        net.b.output(name, value);
    }
    Ok(())
}
