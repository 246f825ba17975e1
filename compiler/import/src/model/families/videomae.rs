//! VideoMAE (Tong et al., 2022): `main(pixel_values [batch, frames, channels, height, width]) -> logits [batch, labels]`. Patches span
//! a few frames.

use lathe_ops::reduce::ReduceKind;
use lathe_tensor::Tensor;

use super::Family;
use crate::error::Fault;
use crate::model::Config;
use crate::model::blocks::attention::Projections;
use crate::model::blocks::conv::Convolution;
use crate::model::blocks::vision::{Encoder, Patches, VIT, pick, rows};
use crate::model::net::{Linear, Net, NormKind, dim, symbol};

/// The families.
pub(super) const FAMILIES: &[Family] = &[Family {
    model_type: "videomae",
    architectures: &["VideoMAEForVideoClassification"],
    base: "videomae.",
    build: videomae,
}];

/// Sines at even places and cosines at odd ones, `[1, count, hidden]` (Vaswani et al., 2017).
fn sinusoids(count: usize, hidden: usize) -> Result<Tensor, Fault> {
    let value = |position: usize, place: usize| {
        let angle = position as f64 / 10_000f64.powf((place / 2 * 2) as f64 / hidden as f64);
        (if place.is_multiple_of(2) { angle.sin() } else { angle.cos() }) as f32
    };
    if count.checked_mul(hidden).is_none_or(|elements| elements > 1 << 28) {
        return Err(Fault::resource(format!("positions of {count} patches with {hidden} elements each")));
    }
    let values: Vec<f32> =
        (0..count).flat_map(|position| (0..hidden).map(move |place| value(position, place))).collect();
    Ok(Tensor::from_slice(&values, &[1, count, hidden])?)
}

fn videomae(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let (mut encoder, patches) = (Encoder::of(config, "gelu", 1e-12)?, Patches::of(config)?);
    encoder.qkv_bias = config.flag(&["qkv_bias", "qv_bias"], true)?;
    let (frames, span) = (config.size(&["num_frames"])?, config.size_or(&["tubelet_size"], 2)?);
    let (batch, hidden) = (symbol("batch"), encoder.sizes.hidden);
    let count = (frames / span).saturating_mul(patches.count());
    if count == 0 {
        return Err(Fault::bad(format!("`num_frames` is {frames}; a patch has {span} frames")));
    }
    let pixels = patches.input(net, "pixel_values", &[batch.clone(), dim(frames)?])?;
    let video = net.b.named("pixel_values").transpose(pixels, &[0, 2, 1, 3, 4])?;
    let weight = Linear::new("videomae.embeddings.patch_embeddings.projection", true);
    let kernel = [span, patches.patch[0], patches.patch[1]];
    let x = Convolution::patches(weight, [patches.channels, hidden], &kernel).build(net, video)?;
    let x = rows(net, x, &batch, hidden, count)?;
    let positions = net.b.constant(sinusoids(count, hidden)?);
    let x = net.b.named("videomae.embeddings").add(x, positions)?;
    let prefix = "videomae.encoder.layer";
    let mut layers = encoder.layers(&VIT, prefix);
    for (index, layer) in layers.iter_mut().enumerate() {
        // Queries and values have a bias, keys do not.
        if let Projections::Separate { k, .. } = &mut layer.attention.projections {
            k.bias = false;
        }
        let attention = format!("{prefix}.{index}.attention.attention");
        net.rename(format!("{attention}.query.bias"), format!("{attention}.q_bias"));
        net.rename(format!("{attention}.value.bias"), format!("{attention}.v_bias"));
    }
    let x = encoder.run(net, &layers, x, &batch, count)?;
    let row = match config.flag(&["use_mean_pooling"], true)? {
        true => {
            let mean = net.b.named("pooler").reduce(ReduceKind::Mean, x, &[1], false)?;
            // The epsilon of this one is not configured.
            let norm = NormKind::Layer { epsilon: 1e-5, bias: true };
            net.norm(mean, &norm.at("fc_norm"), hidden)?
        }
        false => {
            let x = net.norm(x, &encoder.norm.at("videomae.layernorm"), hidden)?;
            pick(net, x, 0)?
        }
    };
    let logits = net.linear(row, &Linear::new("classifier", true), hidden, config.labels()?)?;
    net.b.output("logits", logits);
    Ok(())
}
