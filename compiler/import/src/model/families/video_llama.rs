//! A ViT over sampled frames, their mean as a prefix of a LLaMA:
//! `main(video [batch, time, channels, height, width], input_ids [batch, seq]) -> logits [batch, seq, vocab]`.

use lathe_ir::{Dim, ValueId};
use lathe_ops::reduce::ReduceKind;
use lathe_tensor::Tensor;

use super::Family;
use super::clip::part;
use super::llava::language;
use super::vit::Tower;
use crate::error::Fault;
use crate::model::Config;
use crate::model::blocks::attention::Call;
use crate::model::blocks::rotary::Tables;
use crate::model::blocks::vision::rest;
use crate::model::net::{Linear, Net, dim, symbol};
use crate::model::stack;

/// The families.
pub(super) const FAMILIES: &[Family] =
    &[Family { model_type: "video-vit-llama", architectures: &[], base: "", build: video_llama }];

/// Frames of `[batch, time, ...]` at equal distances from the first to the last: `floor(i * (time - 1) / (frames - 1))`.
fn sample(net: &mut Net<'_>, video: ValueId, time: &Dim, frames: usize) -> Result<ValueId, Fault> {
    let numbers: Vec<i64> = (0..frames as i64).collect();
    let numbers = net.b.constant(Tensor::from_slice(&numbers, &[frames])?);
    let last = net.b.named("sampling").dims([time.sub(&Dim::constant(1))])?;
    let product = net.b.mul(numbers, last)?;
    let distance = net.b.scalar((frames as i64 - 1).max(1));
    let index = net.b.div(product, distance)?;
    Ok(net.b.gather(video, index, 1)?)
}

/// The mean over frames of the patches' rows, `[batch, patches, hidden]`.
fn see(net: &mut Net<'_>, config: &Config, tower: &Tower) -> Result<ValueId, Fault> {
    let (batch, time) = (symbol("batch"), symbol("time"));
    let frames = config.size(&["frames"])?;
    if frames > 1 << 16 {
        return Err(Fault::bad(format!("`frames` is {frames}")));
    }
    let patches = &tower.patches;
    let video = patches.input(net, "video", &[batch.clone(), time.clone()])?;
    let sampled = sample(net, video, &time, frames)?;
    let pictures = Dim::product(&[batch.clone(), dim(frames)?]);
    let [height, width] = patches.picture;
    let shape = [pictures.clone(), dim(patches.channels)?, dim(height)?, dim(width)?];
    let pixels = net.b.reshape_to(sampled, shape)?;
    let x = tower.build(net, pixels, &pictures)?;
    let x = rest(net, x)?;
    let shape = [batch, dim(frames)?, dim(patches.count())?, dim(tower.encoder.sizes.hidden)?];
    let x = net.b.reshape_to(x, shape)?;
    Ok(net.b.named("pool").reduce(ReduceKind::Mean, x, &[1], false)?)
}

fn video_llama(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let tower = Tower::of(&part(config, "vision_config")?, "vit", false)?;
    let decoder = language(net, config, "llm")?;
    let hidden = decoder.sizes.hidden;
    let prefix = see(net, config, &tower)?;
    net.ignore(|name| name.starts_with("vit.pooler."));
    let prefix = net.linear(prefix, &Linear::new("proj", true), tower.encoder.sizes.hidden, hidden)?;
    let (batch, seq) = (symbol("batch"), symbol("seq"));
    let ids = net.integers("input_ids", &[batch.clone(), seq.clone()]);
    let text = decoder.embed(net, ids, None, None)?;
    let x = net.b.named("prefix").concat(&[prefix, text], 1)?;
    let count = tower.patches.count();
    let all = seq.add(&dim(count)?);
    let positions = net.counts(&all)?;
    let mut call = Call::unpadded(batch, all);
    for rope in &decoder.ropes {
        call.tables.push(Tables::new(net, rope, positions)?);
    }
    let x = stack::layers(net, &decoder.layers, &call, x, None, hidden)?;
    let x = net.b.slice(x, 1, count as i64, i64::MAX)?;
    decoder.finish(net, x)
}
