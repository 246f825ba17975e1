//! Masked autoencoders (He et al., 2021): `main(pixel_values [batch, channels, height, width], noise [batch, patches]) ->
//! loss [], logits [batch, patches, values], mask [batch, patches], ids_restore [batch, patches]`.
//!
//! The layers of the encoder see the patches of the least noise alone.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Compare;
use lathe_ops::gather::GatherNd;
use lathe_ops::reduce::{ReduceKind, TopK};
use lathe_tensor::DType;

use super::Family;
use super::vit::Tower;
use crate::error::Fault;
use crate::model::blocks::vision::{Encoder, VIT, VIT_SHORT, rest};
use crate::model::net::{Linear, Net, dim, symbol};
use crate::model::{Config, Sizes};

/// The families.
pub(super) const FAMILIES: &[Family] =
    &[Family { model_type: "vit_mae", architectures: &["ViTMAEForPreTraining"], base: "", build: vit_mae }];

fn vit_mae(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let tower = Tower::of(config, "vit", false)?;
    let (batch, count) = (symbol("batch"), tower.patches.count());
    let ratio = config.number(&["mask_ratio"], 0.75)?;
    if !(0.0..1.0).contains(&ratio) {
        return Err(Fault::bad(format!("`mask_ratio` is {ratio}; it must be at least 0 and below 1")));
    }
    let kept = (count as f64 * (1.0 - ratio)) as usize;
    let pixels = tower.patches.input(net, "pixel_values", std::slice::from_ref(&batch))?;
    let noise = net.floats("noise", &[batch.clone(), dim(count)?]);
    let shuffle = ascending(net, noise, count)?;
    let restore = ascending(net, shuffle, count)?;
    let [first, patches] = tower.embed(net, pixels, &batch)?;
    let visible = net.b.slice(shuffle, 1, 0, kept as i64)?;
    let patches = rows(net, patches, visible)?;
    let x = net.b.named("vit").concat(&[first, patches], 1)?;
    let x = tower.encode(net, x, &batch, kept + 1)?;
    let logits = decode(net, config, &tower, x, restore, kept)?;
    let limit = net.b.scalar(kept as i64);
    let shown = net.b.named("mask").op(Op::Compare(Compare::GreaterOrEqual), &[restore, limit])?;
    let mask = net.b.cast(shown, DType::F32)?;
    let target = patchify(net, &tower, pixels, &batch)?;
    let loss = loss(net, config, target, logits, mask)?;
    for (name, value) in [("loss", loss), ("logits", logits), ("mask", mask), ("ids_restore", restore)] {
        net.b.output(name, value);
    }
    Ok(())
}

/// Places of the elements of `[batch, count]` in ascending order.
fn ascending(net: &mut Net<'_>, x: ValueId, count: usize) -> Result<ValueId, Fault> {
    let all = net.b.list(&[count as i64])?;
    let op = Op::TopK(TopK { axis: -1, largest: false, sorted: true });
    Ok(net.b.named("shuffle").apply_many(op, &[Some(x), Some(all)], 2)?[1])
}

/// Rows of `[batch, seq, hidden]` by index `[batch, count]`.
fn rows(net: &mut Net<'_>, x: ValueId, index: ValueId) -> Result<ValueId, Fault> {
    let index = net.b.unsqueeze(index, &[2])?;
    Ok(net.b.op(Op::GatherNd(GatherNd { batch_dims: 1 }), &[x, index])?)
}

/// The values of all patches: hidden ones begin as one learned row.
fn decode(
    net: &mut Net<'_>,
    config: &Config,
    tower: &Tower,
    x: ValueId,
    restore: ValueId,
    kept: usize,
) -> Result<ValueId, Fault> {
    let hidden = config.size(&["decoder_hidden_size"])?;
    let heads = config.size(&["decoder_num_attention_heads"])?;
    if hidden % heads != 0 {
        return Err(Fault::bad(format!("{heads} heads do not divide `decoder_hidden_size` {hidden}")));
    }
    let sizes = Sizes {
        hidden,
        layers: config.layers(&["decoder_num_hidden_layers"])?,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        inner: config.size(&["decoder_intermediate_size"])?,
        ..tower.encoder.sizes
    };
    let encoder = Encoder { sizes, ..tower.encoder.clone() };
    let (batch, count) = (symbol("batch"), tower.patches.count());
    let x = net.linear(x, &Linear::new("decoder.decoder_embed", true), tower.encoder.sizes.hidden, hidden)?;
    let first = net.b.slice(x, 1, 0, 1)?;
    let shown = rest(net, x)?;
    let blank = net.weight("decoder.mask_token", &[1, 1, hidden])?;
    let blank = net.expanded(blank, [batch.clone(), dim(count - kept)?, dim(hidden)?])?;
    let all = net.b.concat(&[shown, blank], 1)?;
    let all = rows(net, all, restore)?;
    let x = net.b.concat(&[first, all], 1)?;
    let positions = net.weight("decoder.decoder_pos_embed", &[1, count + 1, hidden])?;
    let x = net.b.named("decoder").add(x, positions)?;
    let mut layers = encoder.layers(&VIT, "decoder.decoder_layers");
    for (names, prefix) in [(VIT, "decoder.decoder_encoder.layer"), (VIT_SHORT, "decoder.decoder_layers")] {
        if net.has(&format!("{prefix}.0.{}.weight", names.out))? {
            layers = encoder.layers(&names, prefix);
        }
    }
    let x = encoder.run(net, &layers, x, &batch, count + 1)?;
    let x = net.norm(x, &encoder.norm.at("decoder.decoder_norm"), hidden)?;
    let values = tower.patches.channels * tower.patches.patch.iter().product::<usize>();
    let x = net.linear(x, &Linear::new("decoder.decoder_pred", true), hidden, values)?;
    rest(net, x)
}

/// The values of each patch, `[batch, patches, height * width * channels]`.
fn patchify(net: &mut Net<'_>, tower: &Tower, pixels: ValueId, batch: &Dim) -> Result<ValueId, Fault> {
    let patches = &tower.patches;
    let ([rows, columns], [height, width]) = (patches.grid(), patches.patch);
    if rows * height != patches.picture[0] || columns * width != patches.picture[1] {
        return Err(Fault::bad("`patch_size` must divide `image_size`"));
    }
    let sizes = [patches.channels, rows, height, columns, width];
    let sizes = sizes.iter().map(|&size| dim(size)).collect::<Result<Vec<_>, _>>()?;
    let x = net.b.named("target").reshape_to(pixels, [std::slice::from_ref(batch), &sizes[..]].concat())?;
    let x = net.b.transpose(x, &[0, 2, 4, 3, 5, 1])?;
    let values = height * width * patches.channels;
    Ok(net.b.reshape_to(x, [batch.clone(), dim(patches.count())?, dim(values)?])?)
}

/// The mean squared error of the hidden patches.
fn loss(
    net: &mut Net<'_>,
    config: &Config,
    mut target: ValueId,
    logits: ValueId,
    mask: ValueId,
) -> Result<ValueId, Fault> {
    net.b.named("loss");
    if config.flag(&["norm_pix_loss"], false)? {
        let values = net.b.ty(target).dims.last().and_then(Dim::as_constant).unwrap_or(1);
        let mean = net.b.reduce(ReduceKind::Mean, target, &[-1], true)?;
        let centred = net.b.sub(target, mean)?;
        let square = net.b.mul(centred, centred)?;
        let sum = net.b.reduce(ReduceKind::Sum, square, &[-1], true)?;
        let variance = net.scaled(sum, 1.0 / (values as f64 - 1.0).max(1.0))?;
        let epsilon = net.b.scalar(1e-6f32);
        let variance = net.b.add(variance, epsilon)?;
        let deviation = net.b.sqrt(variance)?;
        target = net.b.div(centred, deviation)?;
    }
    let error = net.b.sub(logits, target)?;
    let error = net.b.mul(error, error)?;
    let error = net.b.reduce(ReduceKind::Mean, error, &[-1], false)?;
    let hidden = net.b.mul(error, mask)?;
    let sum = net.b.reduce(ReduceKind::Sum, hidden, &[0, 1], false)?;
    let count = net.b.reduce(ReduceKind::Sum, mask, &[0, 1], false)?;
    Ok(net.b.div(sum, count)?)
}
