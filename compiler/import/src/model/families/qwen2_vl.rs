//! Qwen2-VL (Wang et al., 2024): `main(input_ids [batch, seq], attention_mask, pixel_values [patches, channels * time * height * width],
//! image_grid_thw [images, 3], mm_token_type_ids [batch, seq]) -> logits [batch, seq, vocab]`, for videos also `pixel_values_videos
//! [video_patches, ...]` and `video_grid_thw [videos, 3]`.
//!
//! Pictures and videos of any size are rows of patches, as the model's processor makes them. Their rows turn by their place in the grid, and so do those of the language model, by three positions
//! each (M-RoPE). `mm_token_type_ids` says what the ids say already, and is not read.

use lathe_ir::{Dim, ValueId};
use lathe_ops::position::RotaryScaling;
use lathe_tensor::DType;

use super::Family;
use super::clip::part;
use super::llama;
use crate::error::Fault;
use crate::model::Config;
use crate::model::Sizes;
use crate::model::blocks::attention::{Attend, Call, Projections};
use crate::model::blocks::grids::Grids;
use crate::model::blocks::mlp::Feed;
use crate::model::blocks::rope::{Rope, RopeConfig, Scaling, frequencies};
use crate::model::blocks::rotary::Tables;
use crate::model::blocks::splice::Markers;
use crate::model::blocks::vision::bidirectional;
use crate::model::decoder::{Decoder, Insert};
use crate::model::net::{Activation, Linear, Net, NormKind, dim, symbol};
use crate::model::stack::{self, Layer, Order};

/// The families.
pub(super) const FAMILIES: &[Family] = &[Family {
    model_type: "qwen2_vl",
    architectures: &["Qwen2VLForConditionalGeneration"],
    base: "",
    build: qwen2_vl,
}];

/// The norms of the tower.
const NORM: NormKind = NormKind::Layer { epsilon: 1e-6, bias: true };

/// The vision tower.
struct Tower {
    sizes: Sizes,
    /// Width of the language model's rows.
    width: usize,
    channels: usize,
    /// Frames, rows and columns of pixels in a patch.
    patch: [usize; 3],
    /// Patches of a side that become one row.
    merge: usize,
    activation: Activation,
    theta: f64,
}

impl Tower {
    fn of(config: &Config, width: usize) -> Result<Self, Fault> {
        let hidden = config.size_or(&["embed_dim"], 1280)?;
        let heads = config.size_or(&["num_heads"], 16)?;
        if !hidden.is_multiple_of(heads) || !(hidden / heads).is_multiple_of(4) {
            return Err(Fault::bad(format!("{heads} heads of a tower of width {hidden}")));
        }
        let ratio = config.positive(&["mlp_ratio"])?.unwrap_or(4.0);
        let inner = hidden as f64 * ratio;
        if !(1.0..1e9).contains(&inner) {
            return Err(Fault::bad(format!("`mlp_ratio` is {ratio}")));
        }
        let layers = if config.has("depth") { config.layers(&["depth"])? } else { 32 };
        let head_dim = hidden / heads;
        let sizes = Sizes {
            hidden,
            layers,
            heads,
            kv_heads: heads,
            head_dim,
            inner: inner as usize,
            vocab: 0,
            context: 0,
        };
        let side = config.size_or(&["patch_size"], 14)?;
        let merge = config.size_or(&["spatial_merge_size"], 2)?;
        if merge > 1 << 10 {
            return Err(Fault::bad(format!("`spatial_merge_size` is {merge}")));
        }
        let rope = config.part("rope_parameters")?;
        let theta = rope.map(|rope| rope.positive(&["rope_theta"])).transpose()?.flatten();
        Ok(Self {
            sizes,
            width,
            channels: config.size_or(&["in_channels", "in_chans"], 3)?,
            patch: [config.size_or(&["temporal_patch_size"], 2)?, side, side],
            merge,
            activation: Activation::of(config, &["hidden_act"], "quick_gelu")?,
            theta: theta.unwrap_or(10_000.0),
        })
    }

    /// Floats of a patch.
    fn pixels(&self) -> Result<usize, Fault> {
        let all = self.patch.iter().try_fold(self.channels, |all, size| all.checked_mul(*size));
        all.ok_or_else(|| Fault::bad(format!("patches of {:?} pixels", self.patch)))
    }

    /// A quarter of a head's elements turns by the row, the next by the column, and so again.
    fn rope(&self) -> Rope {
        let half = frequencies(self.theta, self.sizes.head_dim / 2);
        let sections = vec![half.len(); 2];
        let scaling =
            Scaling::Fixed { kind: RotaryScaling::None, frequencies: [&half[..], &half[..]].concat() };
        Rope {
            theta: self.theta,
            dims: self.sizes.head_dim,
            scaling,
            attention_factor: 1.0,
            interleaved: false,
            sections,
        }
    }

    fn layer(&self, index: usize) -> Layer {
        let prefix = format!("visual.blocks.{index}");
        let named = |name: &str| Linear::new(format!("{prefix}.{name}"), true);
        let projections = Projections::Merged(named("attn.qkv"));
        let attention = bidirectional(&self.sizes, projections, named("attn.proj"));
        let (up, down) = (named("mlp.fc1"), named("mlp.fc2"));
        let feed = Feed::Plain { up, down, activation: self.activation, inner: self.sizes.inner };
        let norm = |name: &str| NORM.at(format!("{prefix}.{name}"));
        let order = Order::Pre { attention: Some(norm("norm1")), feed: norm("norm2"), from_norm: false };
        Layer::new(Attend { rope: Some(0), ..attention }, feed, order)
    }

    /// Rows of the language model `[patches / merge^2, width]`.
    fn build(&self, net: &mut Net<'_>, grids: &Grids, pixels: ValueId) -> Result<ValueId, Fault> {
        let (hidden, width) = (self.sizes.hidden, self.pixels()?);
        let patches = net.b.ty(pixels).dims[0].clone();
        let [time, height, columns] = self.patch;
        let weight = "visual.patch_embed.proj.weight";
        let weight = net.weight(weight, &[hidden, self.channels, time, height, columns])?;
        let weight = net.b.reshape_to(weight, [dim(hidden)?, dim(width)?])?;
        let weight = net.b.transpose(weight, &[1, 0])?;
        let x = net.b.named("visual.patch_embed").matmul(pixels, weight)?;
        let frames = grids.frames(net)?;
        let x = net.rows(x, frames.index)?;
        let [batch, seq] = frames.dims.clone();
        let mut call = Call::unpadded(batch, seq);
        call.padding = Some(frames.real);
        call.tables.push(Tables::sectioned(net, &self.rope(), &frames.positions)?);
        let layers: Vec<Layer> = (0..self.sizes.layers).map(|index| self.layer(index)).collect();
        let x = stack::layers(net, &layers, &call, x, None, hidden)?;
        let x = net.b.reshape_to(x, [Dim::constant(-1), dim(hidden)?])?;
        let back = grids.back(net, &frames, &patches)?;
        let x = net.rows(x, back)?;
        self.merge(net, x, &patches)
    }

    /// Squares of patches as one row each.
    fn merge(&self, net: &mut Net<'_>, x: ValueId, patches: &Dim) -> Result<ValueId, Fault> {
        let hidden = self.sizes.hidden;
        let x = net.norm(x, &NORM.at("visual.merger.ln_q"), hidden)?;
        let cells = self.merge * self.merge;
        let wide = hidden.checked_mul(cells).ok_or_else(|| Fault::bad("squares of patches are too large"))?;
        let x = net.b.reshape_to(x, [patches.floor_div(&dim(cells)?), dim(wide)?])?;
        let named = |name: &str| Linear::new(format!("visual.merger.mlp.{name}"), true);
        let x = net.linear(x, &named("0"), wide, wide)?;
        let x = net.activate(x, Activation::Gelu)?;
        net.linear(x, &named("2"), wide, self.width)
    }
}

/// Rows of pictures, or of videos, for the tokens that stand for them.
struct Shown {
    markers: Markers,
    rows: ValueId,
    /// Positions of rows, and of what follows them.
    moves: ValueId,
    steps: ValueId,
}

impl Shown {
    /// Of the inputs `pixels` and `grid`, whose numbers of patches and of pictures are the symbols `sizes`.
    fn new(
        net: &mut Net<'_>,
        tower: &Tower,
        ids: ValueId,
        marker: usize,
        [pixels, grid]: [&str; 2],
        sizes: [&str; 2],
    ) -> Result<Self, Fault> {
        let [patches, pictures] = sizes.map(symbol);
        let pixels = net.floats(pixels, &[patches.clone(), dim(tower.pixels()?)?]);
        let grid = net.integers(grid, &[pictures, dim(3)?]);
        let grids = Grids::new(net, grid, tower.merge)?;
        let rows = tower.build(net, &grids, pixels)?;
        let count = patches.floor_div(&dim(tower.merge * tower.merge)?);
        let (moves, steps) = (grids.moves(net, &count)?, grids.steps(net, &count)?);
        let markers = Markers::new(net, ids, &[marker], &count)?;
        Ok(Self { markers, rows, moves, steps })
    }

    /// How the positions of all tokens move by these: by time, height and width, `[batch, seq, 1]` each.
    fn moved(&self, net: &mut Net<'_>) -> Result<Vec<ValueId>, Fault> {
        let moves = net.rows(self.moves, self.markers.index)?;
        let parts = net.split(moves, &[1, 1, 1, 1])?;
        let marked = net.b.unsqueeze(self.markers.marked, &[2])?;
        let earlier = self.markers.earlier(net, self.steps)?;
        let earlier = net.b.unsqueeze(earlier, &[2])?;
        let mut moved = Vec::with_capacity(3);
        for part in &parts[..3] {
            let own = net.b.select(marked, *part, parts[3])?;
            moved.push(net.b.sub(own, earlier)?);
        }
        Ok(moved)
    }
}

/// What stands between the words, and everybody's positions.
struct Pictures {
    shown: Vec<Shown>,
    hidden: usize,
}

impl Insert for Pictures {
    fn rows(&self, net: &mut Net<'_>, _: ValueId, rows: ValueId) -> Result<ValueId, Fault> {
        let mut rows = rows;
        for shown in &self.shown {
            rows = shown.markers.rows(net, rows, shown.rows, self.hidden)?;
        }
        Ok(rows)
    }

    fn positions(&self, net: &mut Net<'_>, places: ValueId) -> Result<Vec<ValueId>, Fault> {
        net.b.named("mrope");
        let places = net.b.unsqueeze(places, &[2])?;
        let mut positions = vec![places; 3];
        for shown in &self.shown {
            for (position, moved) in positions.iter_mut().zip(shown.moved(net)?) {
                *position = net.b.add(*position, moved)?;
            }
        }
        Ok(positions)
    }
}

/// The language model: of `text_config`, or of the fields beside `vision_config` as published checkpoints have them.
fn language(config: &Config) -> Result<Decoder, Fault> {
    let text = match config.part("text_config")? {
        Some(text) if config.has("tie_word_embeddings") => {
            text.with("tie_word_embeddings", config.flag(&["tie_word_embeddings"], false)?)
        }
        Some(text) => text,
        None => config.clone(),
    };
    let mut decoder = llama::decoder(&text, true, &mut |_, _, _| Ok(()))?;
    let context = decoder.sizes.context;
    let rope = RopeConfig::of(&text, None, context)?.rope(decoder.sizes.head_dim)?;
    if rope.sections.len() != 3 {
        return Err(Fault::bad("`mrope_section` of time, height and width is missing"));
    }
    decoder.ropes = vec![rope];
    decoder.own_positions = true;
    Ok(decoder)
}

fn qwen2_vl(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    net.rename("model.", "model.language_model.");
    net.rename("visual.", "model.visual.");
    let decoder = language(config)?;
    let tower = Tower::of(&part(config, "vision_config")?, decoder.sizes.hidden)?;
    let image = config.size(&["image_token_id"])?;
    let video = config.optional_size(&["video_token_id"])?;
    decoder.build_with(net, &mut |net, ids| {
        let dims = net.b.ty(ids).dims.clone();
        net.b.input("mm_token_type_ids", lathe_ir::ValueType::new(DType::I32, dims));
        let (inputs, sizes) = (["pixel_values", "image_grid_thw"], ["patches", "images"]);
        let mut shown = vec![Shown::new(net, &tower, ids, image, inputs, sizes)?];
        if let Some(video) = video {
            let (inputs, sizes) = (["pixel_values_videos", "video_grid_thw"], ["video_patches", "videos"]);
            shown.push(Shown::new(net, &tower, ids, video, inputs, sizes)?);
        }
        Ok(Pictures { shown, hidden: decoder.sizes.hidden })
    })
}
