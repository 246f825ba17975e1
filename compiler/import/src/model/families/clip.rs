//! CLIP (Radford et al., 2021) and SigLIP (Zhai et al., 2023): a tower of text and a tower of pictures,
//! `main(input_ids [texts, seq], attention_mask, pixel_values [batch, channels, height, width]) ->
//! logits_per_image [batch, texts], logits_per_text, text_embeds, image_embeds`.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::gather::GatherNd;
use lathe_ops::reduce::{ArgReduce, ReduceKind};
use lathe_tensor::DType;

use super::Family;
use crate::error::Fault;
use crate::model::Config;
use crate::model::blocks::attention::{Call, Projections, Source};
use crate::model::blocks::vision::{CLIP, Encoder, Patches, bidirectional, pick, token};
use crate::model::net::{Linear, Net, dim, symbol};
use crate::model::stack::{self, Layer};

/// The families.
pub(super) const FAMILIES: &[Family] = &[
    Family { model_type: "clip", architectures: &["CLIPModel"], base: "", build: clip },
    Family { model_type: "siglip", architectures: &["SiglipModel"], base: "", build: siglip },
];

/// A part of the configuration.
pub(super) fn part(config: &Config, name: &str) -> Result<Config, Fault> {
    config.part(name)?.ok_or_else(|| Fault::bad(format!("`{name}` is missing")))
}

/// A tower of pictures whose names begin with `root.`.
pub(super) struct Tower {
    pub encoder: Encoder,
    pub patches: Patches,
    root: String,
    /// A token before the patches, and a norm before the layers; the patches then have no bias.
    first: bool,
}

impl Tower {
    /// CLIP's.
    pub(super) fn clip(config: &Config, root: &str) -> Result<Self, Fault> {
        let (encoder, patches) = (Encoder::of(config, "quick_gelu", 1e-5)?, Patches::of(config)?);
        Ok(Self { encoder, patches, root: root.to_string(), first: true })
    }

    fn siglip(config: &Config, root: &str) -> Result<Self, Fault> {
        let (encoder, patches) = (Encoder::of(config, "gelu_pytorch_tanh", 1e-6)?, Patches::of(config)?);
        Ok(Self { encoder, patches, root: root.to_string(), first: false })
    }

    /// Number of rows of a picture.
    pub(super) fn count(&self) -> usize {
        self.patches.count() + usize::from(self.first)
    }

    /// The layers.
    pub(super) fn layers(&self) -> Vec<Layer> {
        self.encoder.layers(&CLIP, &format!("{}.encoder.layers", self.root))
    }

    /// Rows `[batch, count, hidden]` behind these layers.
    pub(super) fn build(
        &self,
        net: &mut Net<'_>,
        pixels: ValueId,
        batch: &Dim,
        layers: &[Layer],
    ) -> Result<ValueId, Fault> {
        let (root, hidden) = (format!("{}.embeddings", self.root), self.encoder.sizes.hidden);
        let weight = Linear::new(format!("{root}.patch_embedding"), !self.first);
        let mut x = self.patches.build(net, pixels, batch, weight, hidden)?;
        if self.first {
            let first = token(net, &format!("{root}.class_embedding"), &[hidden], batch, hidden)?;
            x = net.b.concat(&[first, x], 1)?;
        }
        let name = format!("{root}.position_embedding");
        let positions = net.weight(&format!("{name}.weight"), &[self.count(), hidden])?;
        x = net.b.named(&name).add(x, positions)?;
        if self.first {
            // The checkpoints spell it so.
            x = net.norm(x, &self.encoder.norm.at(format!("{}.pre_layrnorm", self.root)), hidden)?;
        }
        self.encoder.run(net, layers, x, batch, self.count())
    }

    /// The last norm.
    fn norm(&self, net: &mut Net<'_>, x: ValueId) -> Result<ValueId, Fault> {
        net.norm(x, &self.encoder.norm.at(format!("{}.post_layernorm", self.root)), self.encoder.sizes.hidden)
    }

    /// A learned query's view of all rows, `[batch, hidden]`.
    fn head(&self, net: &mut Net<'_>, x: ValueId, batch: &Dim) -> Result<ValueId, Fault> {
        let (head, hidden) = (format!("{}.head", self.root), self.encoder.sizes.hidden);
        let probe = token(net, &format!("{head}.probe"), &[1, 1, hidden], batch, hidden)?;
        let named = |name: &str| Linear::new(format!("{head}.attention.{name}"), true);
        let parts = ["q_proj", "k_proj", "v_proj"].map(named);
        let [q, k, v] = parts;
        let attention =
            bidirectional(&self.encoder.sizes, Projections::Separate { q, k, v }, named("out_proj"));
        let rows = Call::unpadded(batch.clone(), dim(self.count())?);
        let call = Call::unpadded(batch.clone(), dim(1)?);
        let source = Source { rows: x, call: &rows };
        let x = attention.build(net, &call, probe, Some(source), hidden)?;
        let normed = net.norm(x, &self.encoder.norm.at(format!("{head}.layernorm")), hidden)?;
        let fed = self.encoder.feed(CLIP.feed, &head).build(net, normed, hidden)?;
        let x = net.b.add(x, fed)?;
        pick(net, x, 0)
    }
}

/// Rows of text `[texts, seq, hidden]` behind the last norm, and the ids.
fn text(net: &mut Net<'_>, config: &Config, encoder: &Encoder) -> Result<[ValueId; 2], Fault> {
    let (root, hidden) = ("text_model.embeddings", encoder.sizes.hidden);
    let (batch, seq) = (symbol("texts"), symbol("seq"));
    let ids = net.integers("input_ids", &[batch.clone(), seq.clone()]);
    let mask = net.integers("attention_mask", &[batch.clone(), seq.clone()]);
    let padding = net.b.named("attention_mask").cast(mask, DType::Bool)?;
    let table =
        net.matrix(&format!("{root}.token_embedding.weight"), &[config.size(&["vocab_size"])?, hidden])?;
    net.b.named(root);
    let x = net.rows(table, ids)?;
    let places = net.counts(&seq)?;
    let name = format!("{root}.position_embedding.weight");
    let table = net.weight(&name, &[config.size(&["max_position_embeddings"])?, hidden])?;
    let positions = net.rows(table, places)?;
    let x = net.b.add(x, positions)?;
    let call = Call { padding: Some(padding), ..Call::unpadded(batch, seq) };
    let layers = encoder.layers(&CLIP, "text_model.encoder.layers");
    let x = stack::layers(net, &layers, &call, x, None, hidden)?;
    Ok([net.norm(x, &encoder.norm.at("text_model.final_layer_norm"), hidden)?, ids])
}

/// The row of the token that ends a text. Old checkpoints name 2 as its id whatever it is: there it is the largest.
fn end(net: &mut Net<'_>, config: &Config, [x, ids]: [ValueId; 2]) -> Result<ValueId, Fault> {
    let end = config.count("eos_token_id", 2)? as i64;
    net.b.named("text_model.pooler");
    let scores = match end {
        2 => ids,
        end => {
            let end = net.b.scalar(end);
            let found = net.b.equal(ids, end)?;
            net.b.cast(found, DType::I64)?
        }
    };
    let op = ArgReduce { min: false, axis: 1, keep_dims: true, select_last: false };
    let place = net.b.op(Op::ArgReduce(op), &[scores])?;
    Ok(net.b.op(Op::GatherNd(GatherNd { batch_dims: 1 }), &[x, place])?)
}

/// `x / |x|`.
fn unit(net: &mut Net<'_>, x: ValueId) -> Result<ValueId, Fault> {
    let length = net.b.reduce(ReduceKind::L2, x, &[-1], true)?;
    Ok(net.b.div(x, length)?)
}

/// Similarities of all pictures and texts.
fn compare(
    net: &mut Net<'_>,
    text: ValueId,
    image: ValueId,
    scale: ValueId,
    bias: Option<ValueId>,
) -> Result<(), Fault> {
    net.b.named("logits");
    let (text, image) = (unit(net, text)?, unit(net, image)?);
    let columns = net.b.transpose(image, &[1, 0])?;
    let cosines = net.b.matmul(text, columns)?;
    let scale = net.b.exp(scale)?;
    let mut per_text = net.b.mul(cosines, scale)?;
    if let Some(bias) = bias {
        per_text = net.b.add(per_text, bias)?;
    }
    let per_image = net.b.transpose(per_text, &[1, 0])?;
    for (name, value) in [
        ("logits_per_image", per_image),
        ("logits_per_text", per_text),
        ("text_embeds", text),
        ("image_embeds", image),
    ] {
        net.b.output(name, value);
    }
    Ok(())
}

fn clip(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let (of_text, of_image) = (part(config, "text_config")?, part(config, "vision_config")?);
    let width = config.size_or(&["projection_dim"], 512)?;
    let encoder = Encoder { causal: true, ..Encoder::of(&of_text, "quick_gelu", 1e-5)? };
    let rows = text(net, &of_text, &encoder)?;
    let row = end(net, &of_text, rows)?;
    let text = net.linear(row, &Linear::plain("text_projection"), encoder.sizes.hidden, width)?;
    let (tower, batch) = (Tower::clip(&of_image, "vision_model")?, symbol("batch"));
    let pixels = tower.patches.input(net, "pixel_values", std::slice::from_ref(&batch))?;
    let x = tower.build(net, pixels, &batch, &tower.layers())?;
    let first = pick(net, x, 0)?;
    let first = tower.norm(net, first)?;
    let image = net.linear(first, &Linear::plain("visual_projection"), tower.encoder.sizes.hidden, width)?;
    let scale = net.weight("logit_scale", &[])?;
    compare(net, text, image, scale, None)
}

fn siglip(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let (of_text, of_image) = (part(config, "text_config")?, part(config, "vision_config")?);
    if !of_image.flag(&["vision_use_head"], true)? {
        return Err(Fault::unsupported(
            "`vision_config.vision_use_head` false: pictures without an embedding",
        ));
    }
    let encoder = Encoder::of(&of_text, "gelu_pytorch_tanh", 1e-6)?;
    let [rows, _] = text(net, &of_text, &encoder)?;
    let last = pick(net, rows, -1)?;
    let width = of_text.size_or(&["projection_size"], encoder.sizes.hidden)?;
    let text = net.linear(last, &Linear::new("text_model.head", true), encoder.sizes.hidden, width)?;
    let (tower, batch) = (Tower::siglip(&of_image, "vision_model")?, symbol("batch"));
    let pixels = tower.patches.input(net, "pixel_values", std::slice::from_ref(&batch))?;
    let x = tower.build(net, pixels, &batch, &tower.layers())?;
    let x = tower.norm(net, x)?;
    let image = tower.head(net, x, &batch)?;
    let (scale, bias) = (net.weight("logit_scale", &[1])?, net.weight("logit_bias", &[1])?);
    compare(net, text, image, scale, Some(bias))
}
