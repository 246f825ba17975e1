//! Encoders of pictures: patches as tokens, and layers that see all of them (Dosovitskiy et al., "An image is worth 16x16 words", 2020).

use lathe_ir::{Dim, ValueId};

use super::attention::{Attend, Call, Projections};
use super::conv::Convolution;
use super::mlp::Feed;
use crate::error::Fault;
use crate::model::net::{Activation, Linear, Net, NormKind, dim};
use crate::model::stack::{self, Layer, Order};
use crate::model::{Config, Sizes};

/// The patches of a picture.
#[derive(Clone, Debug)]
pub(crate) struct Patches {
    /// Channels of the picture.
    pub channels: usize,
    /// Height and width of the picture.
    pub picture: [usize; 2],
    /// Height and width of a patch.
    pub patch: [usize; 2],
}

impl Patches {
    /// `image_size`, `patch_size` and `num_channels`.
    pub(crate) fn of(config: &Config) -> Result<Self, Fault> {
        let channels = config.size_or(&["num_channels"], 3)?;
        let (picture, patch) = (config.pair("image_size")?, config.pair("patch_size")?);
        if patch[0] > picture[0] || patch[1] > picture[1] {
            return Err(Fault::bad(format!(
                "`patch_size` {patch:?} is larger than `image_size` {picture:?}"
            )));
        }
        Ok(Self { channels, picture, patch })
    }

    /// Rows and columns of patches.
    pub(crate) fn grid(&self) -> [usize; 2] {
        [self.picture[0] / self.patch[0], self.picture[1] / self.patch[1]]
    }

    /// Number of patches.
    pub(crate) fn count(&self) -> usize {
        self.grid().iter().product()
    }

    /// The input `[..., channels, height, width]`.
    pub(crate) fn input(&self, net: &mut Net<'_>, name: &str, leading: &[Dim]) -> Result<ValueId, Fault> {
        let [height, width] = self.picture;
        Ok(net.floats(name, &[leading, &[dim(self.channels)?, dim(height)?, dim(width)?]].concat()))
    }

    /// Patches of `[batch, channels, height, width]` as rows `[batch, count, hidden]`.
    pub(crate) fn build(
        &self,
        net: &mut Net<'_>,
        pixels: ValueId,
        batch: &Dim,
        weight: Linear,
        hidden: usize,
    ) -> Result<ValueId, Fault> {
        let x = Convolution::patches(weight, [self.channels, hidden], &self.patch).build(net, pixels)?;
        rows(net, x, batch, hidden, self.count())
    }
}

/// `[batch, hidden, ...]` as rows `[batch, count, hidden]`.
pub(crate) fn rows(
    net: &mut Net<'_>,
    x: ValueId,
    batch: &Dim,
    hidden: usize,
    count: usize,
) -> Result<ValueId, Fault> {
    let x = net.b.reshape_to(x, [batch.clone(), dim(hidden)?, dim(count)?])?;
    Ok(net.b.transpose(x, &[0, 2, 1])?)
}

/// A learned row as the first token of each sequence, `[batch, 1, hidden]`.
pub(crate) fn token(
    net: &mut Net<'_>,
    name: &str,
    sizes: &[usize],
    batch: &Dim,
    hidden: usize,
) -> Result<ValueId, Fault> {
    let row = net.weight(name, sizes)?;
    net.b.named(name);
    net.expanded(row, [batch.clone(), dim(1)?, dim(hidden)?])
}

/// One token of each sequence, `[batch, hidden]`.
pub(crate) fn pick(net: &mut Net<'_>, x: ValueId, index: i64) -> Result<ValueId, Fault> {
    let index = net.b.scalar(index);
    Ok(net.b.gather(x, index, 1)?)
}

/// The tokens behind the first, `[batch, seq - 1, hidden]`.
pub(crate) fn rest(net: &mut Net<'_>, x: ValueId) -> Result<ValueId, Fault> {
    Ok(net.b.slice(x, 1, 1, i64::MAX)?)
}

/// Names of the parts of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// Queries, keys and values: three names, or one of a matrix of all.
    pub projections: &'static [&'static str],
    /// The projection out.
    pub out: &'static str,
    /// Into the feed-forward and out of it.
    pub feed: [&'static str; 2],
    /// Before attention and feed-forward.
    pub norms: [&'static str; 2],
}

/// ViT's, as published.
pub(crate) const VIT: Names = Names {
    projections: &["attention.attention.query", "attention.attention.key", "attention.attention.value"],
    out: "attention.output.dense",
    feed: ["intermediate.dense", "output.dense"],
    norms: ["layernorm_before", "layernorm_after"],
};

/// ViT's, as transformers 5 has them in memory.
pub(crate) const VIT_SHORT: Names = Names {
    projections: &["attention.q_proj", "attention.k_proj", "attention.v_proj"],
    out: "attention.o_proj",
    feed: ["mlp.fc1", "mlp.fc2"],
    norms: VIT.norms,
};

/// CLIP's.
pub(crate) const CLIP: Names = Names {
    projections: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    out: "self_attn.out_proj",
    feed: ["mlp.fc1", "mlp.fc2"],
    norms: ["layer_norm1", "layer_norm2"],
};

/// A stack with norms before attention and feed-forward.
#[derive(Clone, Debug)]
pub(crate) struct Encoder {
    /// Its sizes.
    pub sizes: Sizes,
    /// Its norms.
    pub norm: NormKind,
    /// Of the feed-forwards.
    pub activation: Activation,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Tokens see no later ones.
    pub causal: bool,
}

impl Encoder {
    /// The facts under the names that ViT has for them.
    pub(crate) fn of(config: &Config, activation: &str, epsilon: f64) -> Result<Self, Fault> {
        Ok(Self {
            sizes: config.sizes_with(0)?,
            norm: NormKind::Layer { epsilon: config.epsilon(&["layer_norm_eps"], epsilon)?, bias: true },
            activation: Activation::of(config, &["hidden_act"], activation)?,
            qkv_bias: config.flag(&["qkv_bias"], true)?,
            causal: false,
        })
    }

    /// The attention of these names below `prefix`.
    pub(crate) fn attention(&self, names: &Names, prefix: &str) -> Attend {
        let named = |name: &str| Linear::new(format!("{prefix}.{name}"), self.qkv_bias);
        let projections = match names.projections {
            [q, k, v] => Projections::Separate { q: named(q), k: named(k), v: named(v) },
            all => Projections::Merged(named(all.first().unwrap_or(&"qkv"))),
        };
        let out = Linear::new(format!("{prefix}.{}", names.out), true);
        Attend { causal: self.causal, ..bidirectional(&self.sizes, projections, out) }
    }

    /// The feed-forward of these names below `prefix`.
    pub(crate) fn feed(&self, [up, down]: [&str; 2], prefix: &str) -> Feed {
        let named = |name: &str| Linear::new(format!("{prefix}.{name}"), true);
        Feed::Plain { up: named(up), down: named(down), activation: self.activation, inner: self.sizes.inner }
    }

    /// The layers `prefix.N`.
    pub(crate) fn layers(&self, names: &Names, prefix: &str) -> Vec<Layer> {
        let layer = |index: usize| {
            let prefix = format!("{prefix}.{index}");
            let [before, after] = names.norms.map(|name| self.norm.at(format!("{prefix}.{name}")));
            let order = Order::Pre { attention: Some(before), feed: after, from_norm: false };
            Layer::new(self.attention(names, &prefix), self.feed(names.feed, &prefix), order)
        };
        (0..self.sizes.layers).map(layer).collect()
    }

    /// Runs layers on rows `[batch, seq, hidden]`.
    pub(crate) fn run(
        &self,
        net: &mut Net<'_>,
        layers: &[Layer],
        x: ValueId,
        batch: &Dim,
        seq: usize,
    ) -> Result<ValueId, Fault> {
        let call = Call::unpadded(batch.clone(), dim(seq)?);
        stack::layers(net, layers, &call, x, None, self.sizes.hidden)
    }
}

/// Attention of all tokens to all, without positions.
pub(crate) fn bidirectional(sizes: &Sizes, projections: Projections, out: Linear) -> Attend {
    Attend {
        projections,
        out,
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        head_dim: sizes.head_dim,
        value_dim: sizes.head_dim,
        norms: None,
        rope: None,
        causal: false,
        window: None,
        around: None,
        scale: 1.0 / (sizes.head_dim as f64).sqrt(),
        softcap: 0.0,
        sinks: None,
        slopes: None,
        clip: None,
    }
}
