//! T5 and Switch Transformers: relative positions in buckets, RMS norms, unscaled scores; Switch chooses one expert a token.

use lathe_ops::elementwise::Activation as OpActivation;
use lathe_ops::moe::Gate;

use super::Family;
use super::gpt::attention;
use crate::error::Fault;
use crate::model::blocks::attention::{Attend, Projections};
use crate::model::blocks::buckets::Buckets;
use crate::model::blocks::mlp::{Feed, GateInput, Gated};
use crate::model::blocks::moe::{Experts, Matrices};
use crate::model::net::{Activation, Linear, Net, NormKind};
use crate::model::seq2seq::{Head, Positions, Seq2Seq, Side};
use crate::model::stack::{Layer, Order};
use crate::model::{Config, Sizes};

/// The families.
pub(super) const FAMILIES: &[Family] = &[
    Family { model_type: "t5", architectures: &["T5ForConditionalGeneration"], base: "", build: t5 },
    Family { model_type: "mt5", architectures: &["MT5ForConditionalGeneration"], base: "", build: t5 },
    Family {
        model_type: "switch_transformers",
        architectures: &["SwitchTransformersForConditionalGeneration"],
        base: "",
        build: switch,
    },
];

/// Makes the feed-forward of a layer: the configuration, the prefix of the sublayer, whether it is the decoder's, its number.
type MakeFeed<'a> = &'a dyn Fn(&str, bool, usize) -> Result<Feed, Fault>;

fn t5(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let (hidden, inner) = (config.size(&["d_model"])?, config.size(&["d_ff"])?);
    let kind = config.text(&["feed_forward_proj"])?.unwrap_or("relu");
    let (gated, name) = match kind.strip_prefix("gated-") {
        Some("gelu") => (true, "gelu_new"),
        Some(name) => (true, name),
        None => (false, kind),
    };
    let named = Config::from_fields([("dense_act_fn".to_string(), name.into())].into_iter().collect());
    let activation = Activation::of(&named, &["dense_act_fn"], "relu")?;
    let feed = |prefix: &str, _: bool, _: usize| {
        let at = |name: &str| Linear::plain(format!("{prefix}.DenseReluDense.{name}"));
        Ok(match gated {
            true => {
                let input = GateInput::Separate { gate: at("wi_0"), up: at("wi_1") };
                Feed::Gated(Gated { input, down: at("wo"), activation, inner })
            }
            false => Feed::Plain { up: at("wi"), down: at("wo"), activation, inner },
        })
    };
    model(config, hidden, &feed)?.build(net)?;
    ignore_copies(net);
    Ok(())
}

fn switch(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let (hidden, inner) = (config.size(&["d_model"])?, config.size(&["d_ff"])?);
    let activation = Activation::of(config, &["dense_act_fn"], "relu")?;
    let (experts, capacity) = (config.size(&["num_experts"])?, config.size_or(&["expert_capacity"], 64)?);
    let bias = config.flag(&["router_bias"], false)?;
    if config.flag(&["router_ignore_padding_tokens"], false)? {
        return Err(Fault::unsupported("`router_ignore_padding_tokens`"));
    }
    let steps = [sparse_step(config, "encoder")?, sparse_step(config, "decoder")?];
    let feed = |prefix: &str, decoder: bool, layer: usize| {
        let step = steps[usize::from(decoder)];
        let prefix = format!("{prefix}.mlp");
        if !(step == 1 || (step > 0 && layer % step == 1)) {
            let at = |name: &str| Linear::plain(format!("{prefix}.{name}"));
            return Ok(Feed::Plain { up: at("wi"), down: at("wo"), activation, inner });
        }
        if activation != Activation::Relu {
            return Err(Fault::unsupported("experts with another activation than `relu`"));
        }
        let mut op = Experts::attributes(experts, 1);
        op.capacity = Some(capacity);
        (op.activation, op.gate) = (OpActivation::Relu, Gate::None);
        Ok(Feed::Experts(Box::new(Experts {
            router: Linear::new(format!("{prefix}.router.classifier"), bias),
            selection_bias: None,
            matrices: Matrices::Each {
                prefix: format!("{prefix}.experts.expert_"),
                gate: None,
                up: "wi",
                down: "wo",
            },
            inner,
            op,
            shared: None,
        })))
    };
    model(config, hidden, &feed)?.build(net)?;
    ignore_copies(net);
    Ok(())
}

/// Every how many layers experts stand; 0 for none.
fn sparse_step(config: &Config, side: &str) -> Result<usize, Fault> {
    let layers = config.layers(&["num_layers"])?;
    let layers = if side == "decoder" { config.size_or(&["num_decoder_layers"], layers)? } else { layers };
    let sparse = config.count(&format!("num_sparse_{side}_layers"), 3)?;
    config.count(&format!("{side}_sparse_step"), layers.checked_div(sparse).unwrap_or(0))
}

/// The table of tokens is stored again for each side in some checkpoints.
fn ignore_copies(net: &mut Net<'_>) {
    net.ignore(|name| {
        ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"].contains(&name)
            || name == "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    });
}

fn model(config: &Config, hidden: usize, feed: MakeFeed<'_>) -> Result<Seq2Seq, Fault> {
    let layers = config.layers(&["num_layers"])?;
    let heads = config.size(&["num_heads"])?;
    let head_dim = config.size(&["d_kv"])?;
    let vocab = config.size(&["vocab_size"])?;
    let sizes =
        Sizes { hidden, layers, heads, kv_heads: heads, head_dim, inner: hidden, vocab, context: 512 };
    let decoder_layers = config.size_or(&["num_decoder_layers"], layers)?;
    let tied = config.flag(&["tie_word_embeddings"], true)?;
    let scaled = config.flag(&["scale_decoder_outputs"], tied)?;
    let head = match tied {
        true => Head::Tied("shared.weight".to_string(), None),
        false => Head::Own(Linear::plain("lm_head")),
    };
    Ok(Seq2Seq {
        hidden,
        vocab,
        encoder: side(config, &sizes, layers, false, feed)?,
        decoder: side(config, &sizes, decoder_layers, true, feed)?,
        output_scale: if scaled { (hidden as f64).powf(-0.5) } else { 1.0 },
        head,
    })
}

fn side(
    config: &Config,
    sizes: &Sizes,
    layers: usize,
    decoder: bool,
    feed: MakeFeed<'_>,
) -> Result<Side, Fault> {
    let name = if decoder { "decoder" } else { "encoder" };
    let norm = NormKind::Rms { epsilon: config.epsilon(&["layer_norm_epsilon"], 1e-6)?, plus_one: false };
    let attend = |prefix: &str, causal: bool| {
        let at = |name: &str| Linear::plain(format!("{prefix}.{name}"));
        let projections = Projections::Separate { q: at("q"), k: at("k"), v: at("v") };
        Attend { causal, scale: 1.0, ..attention(sizes, projections, at("o")) }
    };
    let mut made = Vec::with_capacity(layers);
    for index in 0..layers {
        let sublayer = |number: usize| format!("{name}.block.{index}.layer.{number}");
        let last = sublayer(if decoder { 2 } else { 1 });
        let order = Order::Pre {
            attention: Some(norm.at(format!("{}.layer_norm", sublayer(0)))),
            feed: norm.at(format!("{last}.layer_norm")),
            from_norm: false,
        };
        let own = attend(&format!("{}.SelfAttention", sublayer(0)), decoder);
        let mut layer = Layer::new(own, feed(&last, decoder, index)?, order);
        if decoder {
            let cross = attend(&format!("{}.EncDecAttention", sublayer(1)), false);
            layer.cross = Some((cross, norm.at(format!("{}.layer_norm", sublayer(1)))));
        }
        made.push(layer);
    }
    Ok(Side {
        tokens: "shared.weight".to_string(),
        scale: 1.0,
        positions: Positions::None,
        embedding_norm: None,
        buckets: Some(Buckets {
            name: format!("{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
            count: config.size_or(&["relative_attention_num_buckets"], 32)?,
            most: config.size_or(&["relative_attention_max_distance"], 128)?,
            both_sides: !decoder,
            heads: sizes.heads,
        }),
        layers: made,
        norm: Some(norm.at(format!("{name}.final_layer_norm"))),
    })
}
