//! LLaVA (Liu et al., 2023) and LLaVA-NeXT-Video: `main(input_ids [batch, seq], attention_mask, position_ids, pixel_values
//! [pictures, channels, height, width]) -> logits [batch, seq, vocab]`, for videos `pixel_values_videos [videos, frames, ...]`.
//!
//! CLIP's rows of a picture, projected to the width of the language model, take the place of the tokens that stand for them.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::conv::Padding;
use lathe_ops::pool::{AveragePool, MaxPool};

use super::Family;
use super::clip::{Tower, part};
use super::llama;
use crate::error::Fault;
use crate::model::Config;
use crate::model::blocks::splice::Markers;
use crate::model::blocks::vision::rest;
use crate::model::decoder::{Decoder, Insert};
use crate::model::net::{Activation, Linear, Net, dim, symbol};

/// The families.
pub(super) const FAMILIES: &[Family] = &[
    Family { model_type: "llava", architectures: &["LlavaForConditionalGeneration"], base: "", build: llava },
    Family {
        model_type: "llava_next_video",
        architectures: &["LlavaNextVideoForConditionalGeneration"],
        base: "",
        build: llava_next_video,
    },
];

/// Rows of pictures for the tokens that stand for them.
struct Pictures {
    marker: usize,
    rows: ValueId,
    hidden: usize,
}

impl Insert for Pictures {
    fn rows(&self, net: &mut Net<'_>, ids: ValueId, rows: ValueId) -> Result<ValueId, Fault> {
        let count = net.b.ty(self.rows).dims[0].clone();
        Markers::new(net, ids, &[self.marker], &count)?.rows(net, rows, self.rows, self.hidden)
    }
}

/// The language model of `text_config`, whose names begin with `prefix` in the file.
pub(super) fn language(net: &mut Net<'_>, config: &Config, prefix: &str) -> Result<Decoder, Fault> {
    let mut text = part(config, "text_config")?;
    let known = ["llama", "mistral", "qwen2"];
    let kind = text.text(&["model_type"])?.unwrap_or("llama").to_string();
    if !known.contains(&kind.as_str()) {
        return Err(text.unknown("model_type", &kind, &known));
    }
    // The head is tied where the whole says so, whatever the part says.
    if config.has("tie_word_embeddings") {
        text = text.with("tie_word_embeddings", config.flag(&["tie_word_embeddings"], false)?);
    }
    net.rename("model.", format!("{prefix}.model."));
    net.rename("lm_head.", format!("{prefix}.lm_head."));
    net.rename("model.", format!("model.{prefix}."));
    llama::decoder(&text, kind == "qwen2", &mut |_, _, _| Ok(()))
}

/// What the language model sees of a picture.
struct Projector {
    tower: Tower,
    /// Layers of the tower that run.
    layers: usize,
    /// Without the first token.
    patches_only: bool,
    activation: Activation,
    bias: bool,
    width: usize,
}

impl Projector {
    fn of(net: &mut Net<'_>, config: &Config, width: usize) -> Result<Self, Fault> {
        net.rename("vision_tower.", "vision_tower.vision_model.");
        net.rename("vision_tower.", "model.vision_tower.vision_model.");
        net.rename("vision_tower.", "model.vision_tower.");
        net.rename("multi_modal_projector.", "model.multi_modal_projector.");
        let tower = Tower::clip(&part(config, "vision_config")?, "vision_tower")?;
        let all = tower.encoder.sizes.layers as f64;
        let layer = config.number(&["vision_feature_layer"], -2.0)?;
        // Counted from the end where negative; 0 is what the layers get.
        let layers = if layer < 0.0 { all + 1.0 + layer } else { layer };
        if layers < 0.0 || layers > all || layers.fract() != 0.0 {
            return Err(Fault::bad(format!("`vision_feature_layer` is {layer}; the tower has {all} layers")));
        }
        let strategies = ["default", "full"];
        let strategy = config.text(&["vision_feature_select_strategy"])?.unwrap_or("default");
        if !strategies.contains(&strategy) {
            return Err(config.unknown("vision_feature_select_strategy", strategy, &strategies));
        }
        Ok(Self {
            tower,
            layers: layers as usize,
            patches_only: strategy == "default",
            activation: Activation::of(config, &["projector_hidden_act"], "gelu")?,
            bias: config.flag(&["multimodal_projector_bias"], true)?,
            width,
        })
    }

    /// Rows of pictures of the tower, `[batch, rows, hidden]`.
    fn see(&self, net: &mut Net<'_>, pixels: ValueId, batch: &Dim) -> Result<ValueId, Fault> {
        let layers = self.tower.layers();
        let x = self.tower.build(net, pixels, batch, &layers[..self.layers])?;
        // The file holds the layers and the norm behind the one that counts.
        net.ignore(|name| name.contains("vision_tower.") || name.ends_with("image_newline"));
        if self.patches_only { rest(net, x) } else { Ok(x) }
    }

    /// Rows `[batch, rows, hidden]` as `[batch * rows, width]`.
    fn project(&self, net: &mut Net<'_>, x: ValueId) -> Result<ValueId, Fault> {
        let (hidden, width) = (self.tower.encoder.sizes.hidden, self.width);
        let named = |name: &str| Linear::new(format!("multi_modal_projector.{name}"), self.bias);
        let x = net.linear(x, &named("linear_1"), hidden, width)?;
        let x = net.activate(x, self.activation)?;
        let x = net.linear(x, &named("linear_2"), width, width)?;
        let dims = net.b.ty(x).dims.clone();
        let rows = Dim::product(&dims[..2]);
        Ok(net.b.reshape_to(x, [rows, dim(width)?])?)
    }
}

fn llava(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let decoder = language(net, config, "language_model")?;
    let projector = Projector::of(net, config, decoder.sizes.hidden)?;
    let marker = config.size(&["image_token_index", "image_token_id"])?;
    decoder.build_with(net, &mut |net, _| {
        let batch = symbol("pictures");
        let pixels = projector.tower.patches.input(net, "pixel_values", std::slice::from_ref(&batch))?;
        let x = projector.see(net, pixels, &batch)?;
        Ok(Pictures { marker, rows: projector.project(net, x)?, hidden: projector.width })
    })
}

/// Neighbouring patches of a frame as one: the mean or the largest of `stride * stride`.
fn pooled(
    net: &mut Net<'_>,
    config: &Config,
    projector: &Projector,
    x: ValueId,
    batch: &Dim,
) -> Result<ValueId, Fault> {
    let ([rows, columns], hidden) = (projector.tower.patches.grid(), projector.tower.encoder.sizes.hidden);
    let stride = config.size_or(&["spatial_pool_stride"], 2)?;
    if !projector.patches_only || stride > rows.min(columns) {
        return Err(Fault::unsupported(format!(
            "pooling {stride} by {stride} of a grid of {rows} by {columns} patches, or with the first token"
        )));
    }
    let grid = [batch.clone(), dim(rows)?, dim(columns)?, dim(hidden)?];
    let x = net.b.named("vision_resampler").reshape_to(x, grid)?;
    let x = net.b.transpose(x, &[0, 3, 1, 2])?;
    let (kernel, ones) = (vec![stride; 2], vec![1; 2]);
    let padding = Padding::Explicit { begins: vec![0; 2], ends: vec![0; 2] };
    let (strides, dilations, ceil_mode) = (kernel.clone(), ones, false);
    let op = match config.text(&["spatial_pool_mode"])?.unwrap_or("average") {
        "average" => Op::AveragePool(AveragePool {
            kernel,
            strides,
            dilations,
            padding,
            ceil_mode,
            count_include_pad: false,
        }),
        "max" => Op::MaxPool(MaxPool { kernel, strides, dilations, padding, ceil_mode, column_major: false }),
        other => return Err(config.unknown("spatial_pool_mode", other, &["average", "max"])),
    };
    let x = net.b.op(op, &[x])?;
    let x = net.b.reshape_to(x, [batch.clone(), dim(hidden)?, dim((rows / stride) * (columns / stride))?])?;
    Ok(net.b.transpose(x, &[0, 2, 1])?)
}

fn llava_next_video(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let decoder = language(net, config, "language_model")?;
    let projector = Projector::of(net, config, decoder.sizes.hidden)?;
    let marker = config.size(&["video_token_index", "video_token_id"])?;
    decoder.build_with(net, &mut |net, _| {
        let (videos, frames) = (symbol("videos"), symbol("frames"));
        let patches = &projector.tower.patches;
        let pixels = patches.input(net, "pixel_values_videos", &[videos.clone(), frames.clone()])?;
        let batch = Dim::product(&[videos, frames]);
        let [height, width] = patches.picture;
        let pictures = [batch.clone(), dim(patches.channels)?, dim(height)?, dim(width)?];
        let pixels = net.b.reshape_to(pixels, pictures)?;
        let x = projector.see(net, pixels, &batch)?;
        let x = pooled(net, config, &projector, x, &batch)?;
        Ok(Pictures { marker, rows: projector.project(net, x)?, hidden: projector.width })
    })
}
