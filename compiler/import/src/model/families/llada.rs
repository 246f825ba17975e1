//! LLaDA: a LLaMA whose tokens see each other in both directions, for masked diffusion (Nie et al., "Large language diffusion models", 2025).

use super::Family;
use super::gpt::attention;
use super::llama::rms;
use crate::error::Fault;
use crate::model::blocks::attention::Projections;
use crate::model::blocks::mlp::{Feed, GateInput, Gated};
use crate::model::blocks::rope::RopeConfig;
use crate::model::decoder::Decoder;
use crate::model::net::{Activation, Linear, Net};
use crate::model::stack::{Layer, Order};
use crate::model::{Config, Sizes};

/// The families.
pub(super) const FAMILIES: &[Family] =
    &[Family { model_type: "llada", architectures: &["LLaDAModelLM"], base: "model.", build: llada }];

fn llada(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    for (field, wanted) in [("block_type", "llama"), ("layer_norm_type", "rms")] {
        if let Some(other) = config.text(&[field])?.filter(|other| *other != wanted) {
            return Err(config.unknown(field, other, &[wanted]));
        }
    }
    for field in ["alibi", "attention_layer_norm", "input_emb_norm", "scale_logits"] {
        if config.flag(&[field], false)? {
            return Err(Fault::unsupported(format!("`{field}`")));
        }
    }
    let sizes = config.sizes()?;
    let sizes = Sizes { vocab: config.size_or(&["embedding_size"], sizes.vocab)?, ..sizes };
    let norm = rms(config)?;
    let activation = Activation::of(config, &["activation_type"], "silu")?;
    let bias = config.flag(&["include_bias"], false)?;
    let qkv_bias = config.flag(&["include_qkv_bias"], bias)?;
    let root = "model.transformer";
    let mut decoder = Decoder::llama(config, sizes, norm)?;
    decoder.tokens = format!("{root}.wte");
    decoder.norm = Some(norm.at(format!("{root}.ln_f")));
    let tied = config.flag(&["weight_tying"], false)?;
    decoder.head = (!tied).then(|| Linear::new(format!("{root}.ff_out"), bias));
    decoder.tokens_only = true;
    decoder.ropes = vec![RopeConfig::of(config, None, sizes.context)?.rope(sizes.head_dim)?];
    for index in 0..sizes.layers {
        let named = |name: &str, bias: bool| Linear::new(format!("{root}.blocks.{index}.{name}"), bias);
        let projections = Projections::Separate {
            q: named("q_proj", qkv_bias),
            k: named("k_proj", qkv_bias),
            v: named("v_proj", qkv_bias),
        };
        let mut attention = attention(&sizes, projections, named("attn_out", bias));
        (attention.causal, attention.rope) = (false, Some(0));
        let input = GateInput::Separate { gate: named("ff_proj", bias), up: named("up_proj", bias) };
        let feed = Gated { input, down: named("ff_out", bias), activation, inner: sizes.inner };
        let order = Order::Pre {
            attention: Some(norm.at(format!("{root}.blocks.{index}.attn_norm"))),
            feed: norm.at(format!("{root}.blocks.{index}.ff_norm")),
            from_norm: false,
        };
        decoder.layers.push(Layer::new(attention, Feed::Gated(feed), order));
    }
    decoder.build(net)
}
