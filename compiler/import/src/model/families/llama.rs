//! LLaMA and what differs from it in a few facts: Mistral, Qwen 2 and 3, Phi-3, Gemma 2 and 3, and the mixtures of experts of
//! that line.

use super::Family;
use crate::error::Fault;
use crate::model::blocks::attention::{Attend, HeadNorms, Projections};
use crate::model::blocks::mlp::{Feed, GateInput, Gated};
use crate::model::blocks::rope::RopeConfig;
use crate::model::decoder::Decoder;
use crate::model::net::{Activation, Linear, Net, NormKind};
use crate::model::stack::{Layer, Order};
use crate::model::{Config, Sizes};

/// The families.
pub(super) const FAMILIES: &[Family] = &[
    Family { model_type: "llama", architectures: &["LlamaForCausalLM"], base: "model.", build: llama },
    Family { model_type: "mistral", architectures: &["MistralForCausalLM"], base: "model.", build: llama },
    Family { model_type: "qwen2", architectures: &["Qwen2ForCausalLM"], base: "model.", build: qwen2 },
    Family { model_type: "qwen3", architectures: &["Qwen3ForCausalLM"], base: "model.", build: qwen3 },
    Family { model_type: "phi3", architectures: &["Phi3ForCausalLM"], base: "model.", build: phi3 },
    Family { model_type: "gemma", architectures: &["GemmaForCausalLM"], base: "model.", build: gemma1 },
    Family { model_type: "gemma2", architectures: &["Gemma2ForCausalLM"], base: "model.", build: gemma2 },
    Family {
        model_type: "gemma3_text",
        architectures: &["Gemma3ForCausalLM"],
        base: "model.",
        build: gemma3,
    },
];

/// The last windows of keys that each layer sees, by `layer_types` or by the older fields.
pub(super) fn windows(config: &Config, sizes: &Sizes) -> Result<Vec<Option<usize>>, Fault> {
    let window = match config.flag(&["use_sliding_window"], true)? {
        true => Some(config.count("sliding_window", 0)?).filter(|window| *window > 0),
        false => None,
    };
    let types = config.texts("layer_types")?;
    if types.is_empty() {
        let first = config.count("max_window_layers", 0)?;
        return Ok((0..sizes.layers).map(|layer| window.filter(|_| layer >= first)).collect());
    }
    if types.len() != sizes.layers {
        let reason = format!("`layer_types` has {} entries for {} layers", types.len(), sizes.layers);
        return Err(Fault::bad(reason));
    }
    let kinds = types.iter().map(|kind| match *kind {
        "full_attention" => Ok(None),
        "sliding_attention" => {
            window.map(Some).ok_or_else(|| Fault::bad("`sliding_window` is missing for sliding layers"))
        }
        other => Err(config.unknown("layer_types", other, &["full_attention", "sliding_attention"])),
    });
    kinds.collect()
}

/// `x / sqrt(mean(x^2) + eps) * w`.
pub(super) fn rms(config: &Config) -> Result<NormKind, Fault> {
    Ok(NormKind::Rms { epsilon: config.epsilon(&["rms_norm_eps"], 1e-6)?, plus_one: false })
}

/// The attention of layer `prefix.self_attn` with a matrix each for queries, keys and values.
pub(super) fn attention(sizes: &Sizes, prefix: &str, bias: bool, out_bias: bool) -> Attend {
    let named = |name: &str, bias: bool| Linear::new(format!("{prefix}.self_attn.{name}"), bias);
    Attend {
        projections: Projections::Separate {
            q: named("q_proj", bias),
            k: named("k_proj", bias),
            v: named("v_proj", bias),
        },
        out: named("o_proj", out_bias),
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        head_dim: sizes.head_dim,
        value_dim: sizes.head_dim,
        norms: None,
        rope: Some(0),
        causal: true,
        window: None,
        around: None,
        scale: 1.0 / (sizes.head_dim as f64).sqrt(),
        softcap: 0.0,
        sinks: None,
        slopes: None,
        clip: None,
    }
}

/// Norms before attention and feed-forward.
pub(super) fn pre_norms(norm: NormKind, prefix: &str) -> Order {
    Order::Pre {
        attention: Some(norm.at(format!("{prefix}.input_layernorm"))),
        feed: norm.at(format!("{prefix}.post_attention_layernorm")),
        from_norm: false,
    }
}

/// Norms of each head's queries and keys.
pub(super) fn head_norms(norm: NormKind, prefix: &str, whole: bool) -> HeadNorms {
    let named = |name: &str| norm.at(format!("{prefix}.self_attn.{name}"));
    HeadNorms { q: named("q_norm"), k: named("k_norm"), whole, own: false }
}

/// A decoder whose layers are those of LLaMA, changed by `change`, which gets the layer's number and prefix.
pub(super) fn decoder(
    config: &Config,
    bias: bool,
    change: &mut dyn FnMut(&mut Layer, usize, &str) -> Result<(), Fault>,
) -> Result<Decoder, Fault> {
    let sizes = config.sizes()?;
    let norm = rms(config)?;
    let activation = Activation::of(config, &["hidden_act", "hidden_activation"], "silu")?;
    let mlp_bias = config.flag(&["mlp_bias"], false)?;
    let out_bias = config.flag(&["attention_bias"], false)?;
    let mut decoder = Decoder::llama(config, sizes, norm)?;
    decoder.ropes = vec![RopeConfig::of(config, None, sizes.context)?.rope(sizes.head_dim)?];
    for (index, window) in windows(config, &sizes)?.into_iter().enumerate() {
        let prefix = format!("model.layers.{index}");
        let feed = Gated::llama(&format!("{prefix}.mlp"), activation, sizes.inner, mlp_bias);
        let attention = Attend { window, ..attention(&sizes, &prefix, bias || out_bias, out_bias) };
        let mut layer = Layer::new(attention, Feed::Gated(feed), pre_norms(norm, &prefix));
        change(&mut layer, index, &prefix)?;
        decoder.layers.push(layer);
    }
    Ok(decoder)
}

fn llama(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    decoder(config, false, &mut |_, _, _| Ok(()))?.build(net)
}

fn qwen2(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    decoder(config, true, &mut |_, _, _| Ok(()))?.build(net)
}

fn qwen3(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let norm = rms(config)?;
    let change = &mut |layer: &mut Layer, _, prefix: &str| {
        layer.attention.norms = Some(head_norms(norm, prefix, false));
        Ok(())
    };
    decoder(config, false, change)?.build(net)
}

fn phi3(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let change = &mut |layer: &mut Layer, _, prefix: &str| {
        layer.attention.projections =
            Projections::Merged(Linear::plain(format!("{prefix}.self_attn.qkv_proj")));
        if let Feed::Gated(gated) = &mut layer.feed {
            gated.input = GateInput::Merged(Linear::plain(format!("{prefix}.mlp.gate_up_proj")));
        }
        Ok(())
    };
    decoder(config, false, change)?.build(net)
}

/// What Gemma 2 and 3 share: norms on both sides, weights less 1, scaled embeddings, capped scores.
fn gemma(config: &Config) -> Result<Decoder, Fault> {
    let norm = NormKind::Rms { epsilon: config.epsilon(&["rms_norm_eps"], 1e-6)?, plus_one: true };
    let softcap = config.positive(&["attn_logit_softcapping"])?.unwrap_or(0.0);
    let scalar = config.positive(&["query_pre_attn_scalar"])?;
    let activation = Activation::of(config, &["hidden_activation", "hidden_act"], "gelu_pytorch_tanh")?;
    let change = &mut |layer: &mut Layer, _, prefix: &str| {
        let named = |name: &str| norm.at(format!("{prefix}.{name}"));
        layer.order = Order::Sandwich {
            attention: [named("input_layernorm"), named("post_attention_layernorm")],
            feed: [named("pre_feedforward_layernorm"), named("post_feedforward_layernorm")],
        };
        layer.attention.softcap = softcap;
        if let Some(scalar) = scalar {
            layer.attention.scale = scalar.powf(-0.5);
        }
        if let Feed::Gated(gated) = &mut layer.feed {
            gated.activation = activation;
        }
        Ok(())
    };
    let mut decoder = decoder(config, false, change)?;
    decoder.norm = Some(norm.at("model.norm"));
    decoder.embedding_scale = (decoder.sizes.hidden as f64).sqrt();
    decoder.softcap = config.positive(&["final_logit_softcapping"])?;
    if config.flag(&["tie_word_embeddings"], true)? {
        decoder.head = None;
    }
    Ok(decoder)
}

/// The first Gemma: LLaMA's layers with norms less 1, gates of GELU and scaled embeddings.
fn gemma1(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let norm = NormKind::Rms { epsilon: config.epsilon(&["rms_norm_eps"], 1e-6)?, plus_one: true };
    // Configurations of that time say `hidden_act: gelu` and mean the approximation.
    let activation = Activation::of(config, &["hidden_activation"], "gelu_pytorch_tanh")?;
    let change = &mut |layer: &mut Layer, _, prefix: &str| {
        layer.order = pre_norms(norm, prefix);
        if let Feed::Gated(gated) = &mut layer.feed {
            gated.activation = activation;
        }
        Ok(())
    };
    let mut decoder = decoder(config, false, change)?;
    decoder.norm = Some(norm.at("model.norm"));
    decoder.embedding_scale = (decoder.sizes.hidden as f64).sqrt();
    if config.flag(&["tie_word_embeddings"], true)? {
        decoder.head = None;
    }
    decoder.build(net)
}

fn gemma2(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let mut decoder = gemma(config)?;
    if config.texts("layer_types")?.is_empty() {
        // Without a list every other layer slides, the first one too.
        for layer in decoder.layers.iter_mut().skip(1).step_by(2) {
            layer.attention.window = None;
        }
    }
    decoder.build(net)
}

fn gemma3(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let mut decoder = gemma(config)?;
    let norm = NormKind::Rms { epsilon: config.epsilon(&["rms_norm_eps"], 1e-6)?, plus_one: true };
    if config.texts("layer_types")?.is_empty() {
        // Without a list the last of every six layers sees everything.
        let pattern = config.size_or(&["sliding_window_pattern", "_sliding_window_pattern"], 6)?;
        for layer in decoder.layers.iter_mut().skip(pattern - 1).step_by(pattern) {
            layer.attention.window = None;
        }
    }
    let Sizes { head_dim, context, .. } = decoder.sizes;
    let local = match config.part("rope_parameters")? {
        Some(_) => RopeConfig::of(config, Some("sliding_attention"), context)?,
        None => {
            RopeConfig::unscaled(config, config.positive(&["rope_local_base_freq"])?.unwrap_or(1e4), context)?
        }
    };
    let mut global = RopeConfig::of(config, Some("full_attention"), context)?;
    if config.part("rope_parameters")?.is_none() && !config.has("rope_theta") {
        global.default_theta(1e6);
    }
    decoder.ropes = vec![global.rope(head_dim)?, local.rope(head_dim)?];
    for (index, layer) in decoder.layers.iter_mut().enumerate() {
        layer.attention.norms = Some(head_norms(norm, &format!("model.layers.{index}"), false));
        layer.attention.rope = Some(usize::from(layer.attention.window.is_some()));
    }
    decoder.build(net)
}
