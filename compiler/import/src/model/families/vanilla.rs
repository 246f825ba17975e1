//! The Transformer of the paper (Vaswani et al., "Attention is all you need", 2017) as PyTorch's `nn.Transformer` holds it: norms behind
//! attention and feed-forward, queries, keys and values in one matrix.

use super::Family;
use super::gpt::attention;
use crate::error::Fault;
use crate::model::blocks::attention::{Attend, Projections};
use crate::model::blocks::mlp::Feed;
use crate::model::net::{Activation, Linear, Net, NormKind};
use crate::model::seq2seq::{Head, Positions, Seq2Seq, Side};
use crate::model::stack::{Layer, Order};
use crate::model::{Config, Sizes};

/// The families.
pub(super) const FAMILIES: &[Family] =
    &[Family { model_type: "vanilla-transformer", architectures: &[], base: "", build: vanilla }];

fn vanilla(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    if config.flag(&["norm_first"], false)? {
        return Err(Fault::unsupported("`norm_first`"));
    }
    let hidden = config.size(&["d_model"])?;
    let vocab = config.size(&["vocab_size"])?;
    let [encoder, decoder] = [side(config, hidden, false)?, side(config, hidden, true)?];
    let head = Head::Own(Linear::new("out", true));
    Seq2Seq { hidden, vocab, encoder, decoder, output_scale: 1.0, head }.build(net)
}

fn side(config: &Config, hidden: usize, decoder: bool) -> Result<Side, Fault> {
    let name = if decoder { "decoder" } else { "encoder" };
    let (heads, layers) = (config.size(&["nhead"])?, config.layers(&[&format!("num_{name}_layers")])?);
    let inner = config.size(&["dim_feedforward"])?;
    if !hidden.is_multiple_of(heads) {
        return Err(Fault::bad(format!("`nhead` {heads} does not divide `d_model` {hidden}")));
    }
    let head_dim = hidden / heads;
    let sizes = Sizes { hidden, layers, heads, kv_heads: heads, head_dim, inner, vocab: 1, context: 1 };
    let norm = NormKind::Layer { epsilon: config.epsilon(&["layer_norm_eps"], 1e-5)?, bias: true };
    let activation = Activation::of(config, &["activation"], "relu")?;
    let mut made = Vec::with_capacity(layers);
    for index in 0..layers {
        let prefix = format!("tr.{name}.layers.{index}");
        let at = |name: &str| Linear::new(format!("{prefix}.{name}"), true);
        let attend = |part: &str, causal: bool| {
            let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|name| at(&format!("{part}.{name}")));
            let out = at(&format!("{part}.out_proj"));
            Attend { causal, ..attention(&sizes, Projections::Separate { q, k, v }, out) }
        };
        let feed = Feed::Plain { up: at("linear1"), down: at("linear2"), activation, inner };
        let last = if decoder { "norm3" } else { "norm2" };
        let order = Order::Post {
            attention: norm.at(format!("{prefix}.norm1")),
            feed: norm.at(format!("{prefix}.{last}")),
        };
        let mut layer = Layer::new(attend("self_attn", decoder), feed, order);
        if decoder {
            layer.cross = Some((attend("multihead_attn", false), norm.at(format!("{prefix}.norm2"))));
        }
        made.push(layer);
    }
    let scaled = config.flag(&["scale_embedding"], true)?;
    Ok(Side {
        tokens: "embed.weight".to_string(),
        scale: if scaled { (hidden as f64).sqrt() } else { 1.0 },
        positions: Positions::Learned { name: "pe".to_string(), rows: config.size(&["max_len"])?, offset: 0 },
        embedding_norm: None,
        buckets: None,
        layers: made,
        norm: Some(norm.at(format!("tr.{name}.norm"))),
    })
}
