//! BLOOM, MPT and Falcon: linear biases by distance in place of positions (Falcon: or rotations), merged projections.

use super::Family;
use super::gpt::{attention, decoder, layer_norm};
use crate::error::Fault;
use crate::model::blocks::attention::{Projections, alibi_slopes};
use crate::model::blocks::mlp::Feed;
use crate::model::blocks::rope::RopeConfig;
use crate::model::net::{Activation, Linear, Net, NormKind};
use crate::model::stack::{Layer, Order};
use crate::model::{Config, Sizes};

/// The families.
pub(super) const FAMILIES: &[Family] = &[
    Family { model_type: "bloom", architectures: &["BloomForCausalLM"], base: "transformer.", build: bloom },
    Family {
        model_type: "mpt",
        architectures: &["MptForCausalLM", "MPTForCausalLM"],
        base: "transformer.",
        build: mpt,
    },
    Family {
        model_type: "falcon",
        architectures: &["FalconForCausalLM"],
        base: "transformer.",
        build: falcon,
    },
];

fn bloom(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let sizes = config.sizes()?;
    let sizes = Sizes { inner: sizes.hidden.saturating_mul(4), ..sizes };
    let norm = layer_norm(config, &["layer_norm_epsilon"])?;
    let names = ["transformer.word_embeddings", "transformer.ln_f", "lm_head"];
    let mut decoder = decoder(config, sizes, names, norm, true)?;
    decoder.embedding_norm = Some(norm.at("transformer.word_embeddings_layernorm"));
    decoder.alibi_by_mask = true;
    let from_norm = config.flag(&["apply_residual_connection_post_layernorm"], false)?;
    for index in 0..sizes.layers {
        let prefix = format!("transformer.h.{index}");
        let named = |name: &str| Linear::new(format!("{prefix}.{name}"), true);
        let projections = Projections::Grouped(named("self_attention.query_key_value"));
        let mut attention = attention(&sizes, projections, named("self_attention.dense"));
        attention.slopes = Some(alibi_slopes(sizes.heads));
        let feed = Feed::Plain {
            up: named("mlp.dense_h_to_4h"),
            down: named("mlp.dense_4h_to_h"),
            activation: Activation::GeluTanh,
            inner: sizes.inner,
        };
        let order = Order::Pre {
            attention: Some(norm.at(format!("{prefix}.input_layernorm"))),
            feed: norm.at(format!("{prefix}.post_attention_layernorm")),
            from_norm,
        };
        decoder.layers.push(Layer::new(attention, feed, order));
    }
    decoder.build(net)
}

fn mpt(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let sizes = config.sizes()?;
    // The class of transformers has this width whatever `expansion_ratio` says.
    let sizes = Sizes { inner: sizes.hidden.saturating_mul(4), ..sizes };
    let norm = NormKind::Layer { epsilon: config.epsilon(&["layer_norm_epsilon"], 1e-5)?, bias: false };
    let names = ["transformer.wte", "transformer.norm_f", "lm_head"];
    let mut decoder = decoder(config, sizes, names, norm, true)?;
    let attn = config.part("attn_config")?.unwrap_or_else(|| Config::from_fields(Default::default()));
    let slopes = mpt_slopes(sizes.heads, attn.positive(&["alibi_bias_max"])?.unwrap_or(8.0));
    let (clip, scale) = (attn.positive(&["clip_qkv"])?, attn.positive(&["softmax_scale"])?);
    for index in 0..sizes.layers {
        let prefix = format!("transformer.blocks.{index}");
        let named = |name: &str| Linear::plain(format!("{prefix}.{name}"));
        let mut attention =
            attention(&sizes, Projections::Merged(named("attn.Wqkv")), named("attn.out_proj"));
        attention.slopes = Some(slopes.clone());
        attention.clip = clip;
        attention.scale = scale.unwrap_or(attention.scale);
        let feed = Feed::Plain {
            up: named("ffn.up_proj"),
            down: named("ffn.down_proj"),
            activation: Activation::Gelu,
            inner: sizes.inner,
        };
        let order = Order::Pre {
            attention: Some(norm.at(format!("{prefix}.norm_1"))),
            feed: norm.at(format!("{prefix}.norm_2")),
            from_norm: false,
        };
        decoder.layers.push(Layer::new(attention, feed, order));
    }
    decoder.build(net)
}

/// Slopes `2^(-k * most / n)` for the next power of two `n`; where that is more than the heads, those of even `k` first.
fn mpt_slopes(heads: usize, most: f64) -> Vec<f64> {
    let count = heads.next_power_of_two();
    let slope = |index: usize| (2.0f64).powf(-(index as f64) * most / count as f64);
    if count == heads {
        return (1..=count).map(slope).collect();
    }
    (2..=count).step_by(2).chain((1..=count).step_by(2)).map(slope).take(heads).collect()
}

fn falcon(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let new = config.flag(&["new_decoder_architecture"], false)?;
    let mut sizes = config.sizes()?;
    sizes.inner = config.size_or(&["ffn_hidden_size"], sizes.hidden.saturating_mul(4))?;
    let one = config.flag(&["multi_query"], true)?;
    if !new {
        sizes.kv_heads = if one { 1 } else { sizes.heads };
    }
    let norm = layer_norm(config, &["layer_norm_epsilon"])?;
    let activation = Activation::of(config, &["activation", "hidden_act"], "gelu")?;
    let names = ["transformer.word_embeddings", "transformer.ln_f", "lm_head"];
    let mut decoder = decoder(config, sizes, names, norm, true)?;
    let alibi = config.flag(&["alibi"], false)?;
    decoder.alibi_by_mask = alibi;
    if !alibi {
        decoder.ropes = vec![RopeConfig::of(config, None, sizes.context)?.rope(sizes.head_dim)?];
    }
    let (bias, parallel) = (config.flag(&["bias"], false)?, config.flag(&["parallel_attn"], true)?);
    let norms = config.size_or(&["num_ln_in_parallel_attn"], if new { 2 } else { 1 })?;
    for index in 0..sizes.layers {
        let prefix = format!("transformer.h.{index}");
        let named = |name: &str| Linear::new(format!("{prefix}.{name}"), bias);
        let all = named("self_attention.query_key_value");
        let projections = if one && !new { Projections::Merged(all) } else { Projections::Grouped(all) };
        let mut attention = attention(&sizes, projections, named("self_attention.dense"));
        attention.rope = (!alibi).then_some(0);
        if alibi {
            // The bias is added before the scores are scaled.
            let scale = attention.scale;
            attention.slopes =
                Some(alibi_slopes(sizes.heads).into_iter().map(|slope| slope * scale).collect());
        }
        let feed = Feed::Plain {
            up: named("mlp.dense_h_to_4h"),
            down: named("mlp.dense_4h_to_h"),
            activation,
            inner: sizes.inner,
        };
        let at = |name: &str| norm.at(format!("{prefix}.{name}"));
        let order = match (new && norms == 2, parallel || new) {
            (true, _) => Order::Parallel { attention: at("ln_attn"), feed: Some(at("ln_mlp")) },
            (false, true) => Order::Parallel { attention: at("input_layernorm"), feed: None },
            (false, false) => Order::Pre {
                attention: Some(at("input_layernorm")),
                feed: at("post_attention_layernorm"),
                from_norm: false,
            },
        };
        decoder.layers.push(Layer::new(attention, feed, order));
    }
    decoder.build(net)
}
