//! Chameleon (Meta, 2024): `main(input_ids [batch, seq], attention_mask, position_ids, pixel_values [pictures, channels, height,
//! width]) -> logits [batch, seq, vocab]`. Pictures become tokens of the one vocabulary.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::attention::Attention;
use lathe_ops::conv::Padding;
use lathe_ops::norm::GroupNorm;
use lathe_ops::reduce::{ArgReduce, ReduceKind};
use lathe_tensor::Tensor;

use super::Family;
use super::clip::part;
use super::llama;
use crate::error::Fault;
use crate::model::Config;
use crate::model::blocks::attention::HeadNorms;
use crate::model::blocks::conv::Convolution;
use crate::model::blocks::splice::Markers;
use crate::model::decoder::Insert;
use crate::model::net::{Activation, Linear, Net, NormKind, dim, symbol};

/// The families.
pub(super) const FAMILIES: &[Family] = &[Family {
    model_type: "chameleon",
    architectures: &["ChameleonForConditionalGeneration"],
    base: "",
    build: chameleon,
}];

/// Names of the tokens of pictures: this, the letters of a number, and one more letter.
const PREFIX: &str = "IMGIMG";
/// Where the names of the encoder of pictures begin.
const ROOT: &str = "model.vqmodel";

/// Tokens of pictures for the tokens that stand for them.
struct Pictures {
    marker: usize,
    ids: ValueId,
}

impl Insert for Pictures {
    fn ids(&self, net: &mut Net<'_>, ids: ValueId) -> Result<ValueId, Fault> {
        let count = net.b.ty(self.ids).dims[0].clone();
        Markers::new(net, ids, &[self.marker], &count)?.ids(net, ids, self.ids)
    }
}

/// The number in the name of a token of pictures: `A` is 0, `BC` is 12.
fn number(name: &str) -> Option<usize> {
    let letters = name.strip_prefix(PREFIX)?;
    let letters = letters.get(..letters.len().checked_sub(1)?)?;
    let digits: Option<String> = letters
        .bytes()
        .map(|letter| matches!(letter, b'A'..=b'J').then(|| char::from(letter - b'A' + b'0')))
        .collect();
    digits?.parse().ok()
}

/// The token of each of `count` entries of the code book, and all tokens of pictures.
fn vocabulary(config: &Config, count: usize) -> Result<(Vec<i64>, Vec<usize>), Fault> {
    let map = part(config, "vocabulary_map")?;
    let (mut tokens, mut all) = (vec![0; count], Vec::new());
    for name in map.names().filter(|name| name.starts_with(PREFIX)) {
        let token = map.count(name, 0)?;
        all.push(token);
        let wrong = || {
            Fault::bad(format!("`vocabulary_map` has a name of a picture's token without number: {name:?}"))
        };
        if let Some(entry) = tokens.get_mut(number(name).ok_or_else(wrong)?) {
            *entry = token as i64;
        }
    }
    Ok((tokens, all))
}

fn chameleon(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    if config.flag(&["swin_norm"], false)? {
        return Err(Fault::unsupported("`swin_norm`: norms behind attention and feed-forward"));
    }
    let of_pictures = part(config, "vq_config")?;
    let count = of_pictures.size(&["num_embeddings"])?;
    let (tokens, never) = vocabulary(config, count)?;
    let norm = NormKind::Layer { epsilon: 1e-5, bias: true };
    let mut decoder = llama::decoder(config, false, &mut |layer, _, prefix| {
        let at = |name: &str| norm.at(format!("{prefix}.self_attn.{name}"));
        layer.attention.norms = Some(HeadNorms { q: at("q_norm"), k: at("k_norm"), whole: false, own: true });
        Ok(())
    })?;
    decoder.never = never;
    let marker = match config.optional_size(&["image_token_id", "image_token_index"])? {
        Some(marker) => marker,
        None => part(config, "vocabulary_map")?.size(&["<image>"])?,
    };
    let codes = Codes::of(&of_pictures)?;
    decoder.build_with(net, &mut |net, _| {
        let places = codes.build(net)?;
        let table = net.b.constant(Tensor::from_slice(&tokens, &[tokens.len()])?);
        Ok(Pictures { marker, ids: net.rows(table, places)? })
    })
}

/// The encoder of a VQ-GAN (Esser et al., 2020) and its code book.
struct Codes {
    channels: usize,
    resolution: usize,
    /// Channels of each level, of half the resolution of the one before.
    widths: Vec<usize>,
    first: usize,
    blocks: usize,
    /// Resolutions whose blocks are followed by attention.
    attends: Vec<usize>,
    /// Attention between the last two blocks.
    attends_last: bool,
    latent: usize,
    width: usize,
    entries: usize,
}

impl Codes {
    fn of(config: &Config) -> Result<Self, Fault> {
        let first = config.size_or(&["base_channels"], 128)?;
        let factors = config.list("channel_multiplier")?;
        let resolution = config.size_or(&["resolution"], 512)?;
        if factors.is_empty() || factors.len() > 16 || factors.iter().any(|&factor| factor > 1024) {
            return Err(Fault::bad(format!("`channel_multiplier` is {factors:?}")));
        }
        let attends =
            if config.has("attn_resolutions") { config.list("attn_resolutions")? } else { Vec::new() };
        let vanilla = config.text(&["attn_type"])?.unwrap_or("vanilla") == "vanilla";
        let latent = config.size_or(&["latent_channels"], 256)?;
        let double = config.flag(&["double_latent"], false)?;
        Ok(Self {
            channels: config.size_or(&["in_channels"], 3)?,
            resolution,
            widths: factors.iter().map(|factor| first.saturating_mul(*factor)).collect(),
            first,
            blocks: config.layers(&["num_res_blocks"])?,
            attends: if vanilla { attends } else { Vec::new() },
            attends_last: vanilla,
            latent: if double { 2 * latent } else { latent },
            width: config.size_or(&["embed_dim"], 256)?,
            entries: config.size(&["num_embeddings"])?,
        })
    }

    /// Entries of the code book that are next to each cell, `[pictures * cells]`.
    fn build(&self, net: &mut Net<'_>) -> Result<ValueId, Fault> {
        let pictures = symbol("pictures");
        let side = dim(self.resolution)?;
        let pixels = [pictures.clone(), dim(self.channels)?, side.clone(), side];
        let pixels = net.floats("pixel_values", &pixels);
        let (x, side) = self.encode(net, pixels, &pictures)?;
        let quant = Convolution::patches(
            Linear::new(format!("{ROOT}.quant_conv"), true),
            [self.latent, self.width],
            &[1; 2],
        );
        let x = quant.build(net, x)?;
        // Only the way back to pixels needs it.
        net.ignore(|name| name.starts_with("model.vqmodel.post_quant_conv."));
        let cells = Dim::product(&[pictures, dim(side)?, dim(side)?]);
        let x = net.b.named("quantize").transpose(x, &[0, 2, 3, 1])?;
        let x = net.b.reshape_to(x, [cells, dim(self.width)?])?;
        let name = format!("{ROOT}.quantize.embedding.weight");
        let book = net.weight(&name, &[self.entries, self.width])?;
        let columns = net.transposed(&name, self.entries, self.width)?;
        // |x - e|^2 without |x|^2, which all entries share.
        let lengths = net.b.reduce(ReduceKind::SumSquare, book, &[1], false)?;
        let products = net.b.named("quantize").matmul(x, columns)?;
        let products = net.scaled(products, 2.0)?;
        let distances = net.b.sub(lengths, products)?;
        let op = ArgReduce { min: true, axis: 1, keep_dims: false, select_last: false };
        Ok(net.b.op(Op::ArgReduce(op), &[distances])?)
    }

    fn conv(
        &self,
        net: &mut Net<'_>,
        name: String,
        x: ValueId,
        channels: [usize; 2],
        kernel: usize,
    ) -> Result<ValueId, Fault> {
        let mut conv = Convolution::square(name, channels, kernel, 1);
        conv.weight.bias = true;
        conv.build(net, x)
    }

    /// Latent channels of each cell, and the cells of a side.
    fn encode(&self, net: &mut Net<'_>, x: ValueId, pictures: &Dim) -> Result<(ValueId, usize), Fault> {
        let (root, mut side, mut width) = (format!("{ROOT}.encoder"), self.resolution, self.first);
        let mut x = self.conv(net, format!("{root}.conv_in"), x, [self.channels, width], 3)?;
        for (level, &next) in self.widths.iter().enumerate() {
            let prefix = format!("{root}.down.{level}");
            for block in 0..self.blocks {
                x = self.block(net, &format!("{prefix}.block.{block}"), x, [width, next])?;
                width = next;
                if self.attends.contains(&side) {
                    x = self.attend(net, &format!("{prefix}.attn.{block}"), x, pictures, [side, width])?;
                }
            }
            if level + 1 < self.widths.len() {
                let mut conv = Convolution::square(format!("{prefix}.downsample.conv"), [width; 2], 3, 2);
                conv.weight.bias = true;
                conv.padding = Padding::Explicit { begins: vec![0; 2], ends: vec![1; 2] };
                x = conv.build(net, x)?;
                side /= 2;
            }
        }
        let middle = format!("{root}.mid");
        x = self.block(net, &format!("{middle}.block_1"), x, [width; 2])?;
        if self.attends_last {
            x = self.attend(net, &format!("{middle}.attn_1"), x, pictures, [side, width])?;
        }
        x = self.block(net, &format!("{middle}.block_2"), x, [width; 2])?;
        x = self.norm(net, &format!("{root}.norm_out"), x, width)?;
        x = net.activate(x, Activation::Silu)?;
        Ok((self.conv(net, format!("{root}.conv_out"), x, [width, self.latent], 3)?, side))
    }

    fn norm(&self, net: &mut Net<'_>, name: &str, x: ValueId, width: usize) -> Result<ValueId, Fault> {
        if !width.is_multiple_of(32) {
            return Err(Fault::bad(format!("32 groups do not divide {width} channels")));
        }
        let scale = net.weight(&format!("{name}.weight"), &[width])?;
        let bias = net.weight(&format!("{name}.bias"), &[width])?;
        let op = GroupNorm { groups: 32, per_group: false, epsilon: 1e-6 };
        Ok(net.b.named(name).op(Op::GroupNorm(op), &[x, scale, bias])?)
    }

    /// Two convolutions and a residual.
    fn block(
        &self,
        net: &mut Net<'_>,
        prefix: &str,
        x: ValueId,
        [input, output]: [usize; 2],
    ) -> Result<ValueId, Fault> {
        let made = self.norm(net, &format!("{prefix}.norm1"), x, input)?;
        let made = net.activate(made, Activation::Silu)?;
        let made = self.conv(net, format!("{prefix}.conv1"), made, [input, output], 3)?;
        let made = self.norm(net, &format!("{prefix}.norm2"), made, output)?;
        let made = net.activate(made, Activation::Silu)?;
        let made = self.conv(net, format!("{prefix}.conv2"), made, [output; 2], 3)?;
        let x = match input == output {
            true => x,
            false => self.conv(net, format!("{prefix}.nin_shortcut"), x, [input, output], 1)?,
        };
        Ok(net.b.named(prefix).add(x, made)?)
    }

    /// Attention of all cells to all, with one head.
    fn attend(
        &self,
        net: &mut Net<'_>,
        prefix: &str,
        x: ValueId,
        pictures: &Dim,
        [side, width]: [usize; 2],
    ) -> Result<ValueId, Fault> {
        let normed = self.norm(net, &format!("{prefix}.norm"), x, width)?;
        let cells = side * side;
        let mut heads = Vec::new();
        for part in ["q", "k", "v"] {
            let part = self.conv(net, format!("{prefix}.{part}"), normed, [width; 2], 1)?;
            let part = net.b.reshape_to(part, [pictures.clone(), dim(1)?, dim(width)?, dim(cells)?])?;
            heads.push(net.b.transpose(part, &[0, 1, 3, 2])?);
        }
        let op = Attention {
            q_heads: None,
            kv_heads: None,
            causal: false,
            scale: Some((1.0 / (width as f64).sqrt()) as f32),
            softcap: 0.0,
            qk_output: 0,
            left_window: None,
            right_window: None,
            softmax_in_f64: false,
            bottom_right: false,
            exact: false,
            divisor: None,
        };
        let made = net.b.named(prefix).op(Op::Attention(op), &heads)?;
        let made = net.b.transpose(made, &[0, 1, 3, 2])?;
        let made = net.b.reshape_to(made, [pictures.clone(), dim(width)?, dim(side)?, dim(side)?])?;
        let made = self.conv(net, format!("{prefix}.proj_out"), made, [width; 2], 1)?;
        Ok(net.b.named(prefix).add(x, made)?)
    }
}
