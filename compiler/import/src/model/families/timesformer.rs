//! TimeSformer (Bertasius et al., 2021): `main(pixel_values [batch, frames, channels, height, width]) -> logits [batch, labels]`. Each
//! layer attends over the frames of a patch, then over the patches of a frame.

use lathe_ir::{Dim, ValueId};
use lathe_ops::reduce::ReduceKind;

use super::Family;
use crate::error::Fault;
use crate::model::Config;
use crate::model::blocks::attention::Call;
use crate::model::blocks::vision::{Encoder, Names, Patches, VIT, pick, rest, token};
use crate::model::net::{Linear, Net, dim, symbol};

/// The families.
pub(super) const FAMILIES: &[Family] = &[Family {
    model_type: "timesformer",
    architectures: &["TimesformerForVideoClassification"],
    base: "timesformer.",
    build: timesformer,
}];

/// Attention over the patches of a frame.
const SPACE: Names = Names { projections: &["attention.attention.qkv"], ..VIT };
/// Attention over the frames of a patch.
const TIME: Names = Names {
    projections: &["temporal_attention.attention.qkv"],
    out: "temporal_attention.output.dense",
    ..VIT
};

/// The sizes of a video.
struct Video {
    batch: Dim,
    frames: usize,
    patches: usize,
    encoder: Encoder,
}

impl Video {
    /// `batch * factor`.
    fn times(&self, factor: usize) -> Result<Dim, Fault> {
        Ok(Dim::product(&[self.batch.clone(), dim(factor)?]))
    }

    fn reshape(&self, net: &mut Net<'_>, x: ValueId, sizes: &[usize]) -> Result<ValueId, Fault> {
        let sizes = sizes.iter().map(|&size| dim(size)).collect::<Result<Vec<_>, _>>()?;
        Ok(net.b.reshape_to(x, [std::slice::from_ref(&self.batch), &sizes[..], &[self.width()?]].concat())?)
    }

    /// Sequences `[batch * factor, seq, hidden]`.
    fn sequences(&self, net: &mut Net<'_>, x: ValueId, factor: usize, seq: usize) -> Result<ValueId, Fault> {
        Ok(net.b.reshape_to(x, [self.times(factor)?, dim(seq)?, self.width()?])?)
    }

    fn width(&self) -> Result<Dim, Fault> {
        dim(self.encoder.sizes.hidden)
    }

    /// Rows of frames `[batch, frames, patches, hidden]` as `[batch, patches * frames, hidden]`.
    fn by_patch(&self, net: &mut Net<'_>, x: ValueId) -> Result<ValueId, Fault> {
        let x = net.b.transpose(x, &[0, 2, 1, 3])?;
        self.reshape(net, x, &[self.patches * self.frames])
    }

    /// The first token and the rows by patch.
    fn embed(&self, net: &mut Net<'_>, pixels: ValueId, patches: &Patches) -> Result<[ValueId; 2], Fault> {
        let (root, hidden) = ("timesformer.embeddings", self.encoder.sizes.hidden);
        let frames = self.times(self.frames)?;
        let [height, width] = patches.picture;
        let picture = [frames.clone(), dim(patches.channels)?, dim(height)?, dim(width)?];
        let pictures = net.b.named(root).reshape_to(pixels, picture)?;
        let weight = Linear::new(format!("{root}.patch_embeddings.projection"), true);
        let x = patches.build(net, pictures, &frames, weight, hidden)?;
        let positions = net.weight(&format!("{root}.position_embeddings"), &[1, self.patches + 1, hidden])?;
        let of_first = net.b.named(root).slice(positions, 1, 0, 1)?;
        let of_rest = rest(net, positions)?;
        let first = token(net, &format!("{root}.cls_token"), &[1, 1, hidden], &self.batch, hidden)?;
        let first = net.b.add(first, of_first)?;
        let x = net.b.add(x, of_rest)?;
        let x = self.reshape(net, x, &[self.frames, self.patches])?;
        let times = net.weight(&format!("{root}.time_embeddings"), &[1, self.frames, hidden])?;
        let times = net.b.named(root).unsqueeze(times, &[2])?;
        let x = net.b.add(x, times)?;
        Ok([first, self.by_patch(net, x)?])
    }

    /// One layer for the first token and the rows by patch.
    fn layer(
        &self,
        net: &mut Net<'_>,
        prefix: &str,
        [first, x]: [ValueId; 2],
    ) -> Result<[ValueId; 2], Fault> {
        let (encoder, hidden) = (&self.encoder, self.encoder.sizes.hidden);
        let norm = |name: &str| encoder.norm.at(format!("{prefix}.{name}"));
        let over_frames = Call::unpadded(self.times(self.patches)?, dim(self.frames)?);
        let rows = self.sequences(net, x, self.patches, self.frames)?;
        let rows = net.norm(rows, &norm("temporal_layernorm"), hidden)?;
        let rows = encoder.attention(&TIME, prefix).build(net, &over_frames, rows, None, hidden)?;
        let rows = self.reshape(net, rows, &[self.patches * self.frames])?;
        let dense = Linear::new(format!("{prefix}.temporal_dense"), true);
        let rows = net.linear(rows, &dense, hidden, hidden)?;
        let x = net.b.add(x, rows)?;

        let frames = self.reshape(net, x, &[self.patches, self.frames])?;
        let frames = net.b.named(prefix).transpose(frames, &[0, 2, 1, 3])?;
        let frames = self.sequences(net, frames, self.frames, self.patches)?;
        let firsts = net.expanded(first, [self.batch.clone(), dim(self.frames)?, self.width()?])?;
        let firsts = self.sequences(net, firsts, self.frames, 1)?;
        let rows = net.b.concat(&[firsts, frames], 1)?;
        let rows = net.norm(rows, &norm(SPACE.norms[0]), hidden)?;
        let over_patches = Call::unpadded(self.times(self.frames)?, dim(self.patches + 1)?);
        let rows = encoder.attention(&SPACE, prefix).build(net, &over_patches, rows, None, hidden)?;
        let firsts = pick(net, rows, 0)?;
        let firsts = self.reshape(net, firsts, &[self.frames])?;
        let mean = net.b.named(prefix).reduce(ReduceKind::Mean, firsts, &[1], true)?;
        let rows = rest(net, rows)?;
        let rows = self.reshape(net, rows, &[self.frames, self.patches])?;
        let rows = self.by_patch(net, rows)?;

        let before = net.b.concat(&[first, x], 1)?;
        let made = net.b.concat(&[mean, rows], 1)?;
        let x = net.b.add(before, made)?;
        let normed = net.norm(x, &norm(SPACE.norms[1]), hidden)?;
        let fed = encoder.feed(SPACE.feed, prefix).build(net, normed, hidden)?;
        let x = net.b.add(x, fed)?;
        Ok([net.b.slice(x, 1, 0, 1)?, rest(net, x)?])
    }
}

fn timesformer(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    if let Some(other) = config.text(&["attention_type"])?.filter(|kind| *kind != "divided_space_time") {
        return Err(config.unknown("attention_type", other, &["divided_space_time"]));
    }
    let (encoder, patches) = (Encoder::of(config, "gelu", 1e-6)?, Patches::of(config)?);
    let frames = config.size_or(&["num_frames"], 8)?;
    let hidden = encoder.sizes.hidden;
    let video = Video { batch: symbol("batch"), frames, patches: patches.count(), encoder };
    let pixels = patches.input(net, "pixel_values", &[video.batch.clone(), dim(frames)?])?;
    let mut x = video.embed(net, pixels, &patches)?;
    for index in 0..video.encoder.sizes.layers {
        x = video.layer(net, &format!("timesformer.encoder.layer.{index}"), x)?;
    }
    let first = net.norm(x[0], &video.encoder.norm.at("timesformer.layernorm"), hidden)?;
    let first = net.b.squeeze(first, &[1])?;
    let logits = net.linear(first, &Linear::new("classifier", true), hidden, config.labels()?)?;
    net.b.output("logits", logits);
    Ok(())
}
