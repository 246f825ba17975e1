//! GPT-2, GPT-NeoX, GPT-J, OPT: layer norms with bias, plain feed-forwards, learned positions or rotations of a part of a head.

use super::Family;
use crate::error::Fault;
use crate::model::blocks::attention::{Attend, Projections};
use crate::model::blocks::mlp::Feed;
use crate::model::blocks::rope::RopeConfig;
use crate::model::decoder::{Decoder, Learned};
use crate::model::net::{Activation, Linear, Net, NormKind};
use crate::model::stack::{Layer, Order};
use crate::model::{Config, Sizes};

/// The families.
pub(super) const FAMILIES: &[Family] = &[
    Family { model_type: "gpt2", architectures: &["GPT2LMHeadModel"], base: "transformer.", build: gpt2 },
    Family {
        model_type: "gpt_neox",
        architectures: &["GPTNeoXForCausalLM"],
        base: "gpt_neox.",
        build: gpt_neox,
    },
    Family { model_type: "gptj", architectures: &["GPTJForCausalLM"], base: "transformer.", build: gptj },
    Family { model_type: "opt", architectures: &["OPTForCausalLM"], base: "model.", build: opt },
];

/// A layer norm with bias.
pub(super) fn layer_norm(config: &Config, names: &[&str]) -> Result<NormKind, Fault> {
    Ok(NormKind::Layer { epsilon: config.epsilon(names, 1e-5)?, bias: true })
}

/// Causal attention to all keys, each head with its own, without positions.
pub(super) fn attention(sizes: &Sizes, projections: Projections, out: Linear) -> Attend {
    Attend {
        projections,
        out,
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        head_dim: sizes.head_dim,
        value_dim: sizes.head_dim,
        norms: None,
        rope: None,
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

/// A decoder whose embeddings, last norm and head have these names, without layers.
pub(super) fn decoder(
    config: &Config,
    sizes: Sizes,
    [tokens, norm, head]: [&str; 3],
    kind: NormKind,
    tied: bool,
) -> Result<Decoder, Fault> {
    let mut decoder = Decoder::llama(config, sizes, kind)?;
    decoder.tokens = tokens.to_string();
    decoder.norm = Some(kind.at(norm));
    let tied = config.flag(&["tie_word_embeddings"], tied)?;
    decoder.head = (!tied).then(|| Linear::plain(head));
    Ok(decoder)
}

fn gpt2(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let sizes = config.sizes()?;
    let norm = layer_norm(config, &["layer_norm_epsilon"])?;
    let activation = Activation::of(config, &["activation_function"], "gelu_new")?;
    let names = ["transformer.wte", "transformer.ln_f", "lm_head"];
    let mut decoder = decoder(config, sizes, names, norm, true)?;
    let name = "transformer.wpe".to_string();
    decoder.positions = Some(Learned { name, rows: sizes.context, offset: 0, by_mask: false });
    let scaled = config.flag(&["scale_attn_weights"], true)?;
    let by_layer = config.flag(&["scale_attn_by_inverse_layer_idx"], false)?;
    let stored = |name: String| Linear { name, bias: true, transposed: true };
    for index in 0..sizes.layers {
        let prefix = format!("transformer.h.{index}");
        let projections = Projections::Merged(stored(format!("{prefix}.attn.c_attn")));
        let mut attention = attention(&sizes, projections, stored(format!("{prefix}.attn.c_proj")));
        if !scaled {
            attention.scale = 1.0;
        }
        if by_layer {
            attention.scale /= (index + 1) as f64;
        }
        let feed = Feed::Plain {
            up: stored(format!("{prefix}.mlp.c_fc")),
            down: stored(format!("{prefix}.mlp.c_proj")),
            activation,
            inner: sizes.inner,
        };
        let order = Order::Pre {
            attention: Some(norm.at(format!("{prefix}.ln_1"))),
            feed: norm.at(format!("{prefix}.ln_2")),
            from_norm: false,
        };
        decoder.layers.push(Layer::new(attention, feed, order));
    }
    decoder.build(net)
}

fn gpt_neox(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let sizes = config.sizes()?;
    let norm = layer_norm(config, &["layer_norm_eps"])?;
    let activation = Activation::of(config, &["hidden_act"], "gelu")?;
    let names = ["gpt_neox.embed_in", "gpt_neox.final_layer_norm", "embed_out"];
    let mut decoder = decoder(config, sizes, names, norm, false)?;
    decoder.ropes = vec![RopeConfig::of(config, None, sizes.context)?.rope(sizes.head_dim)?];
    let parallel = config.flag(&["use_parallel_residual"], true)?;
    let bias = config.flag(&["attention_bias"], true)?;
    for index in 0..sizes.layers {
        let prefix = format!("gpt_neox.layers.{index}");
        let projections =
            Projections::Grouped(Linear::new(format!("{prefix}.attention.query_key_value"), bias));
        let mut attention =
            attention(&sizes, projections, Linear::new(format!("{prefix}.attention.dense"), bias));
        attention.rope = Some(0);
        let feed = Feed::Plain {
            up: Linear::new(format!("{prefix}.mlp.dense_h_to_4h"), true),
            down: Linear::new(format!("{prefix}.mlp.dense_4h_to_h"), true),
            activation,
            inner: sizes.inner,
        };
        let first = norm.at(format!("{prefix}.input_layernorm"));
        let second = norm.at(format!("{prefix}.post_attention_layernorm"));
        let order = match parallel {
            true => Order::Parallel { attention: first, feed: Some(second) },
            false => Order::Pre { attention: Some(first), feed: second, from_norm: false },
        };
        decoder.layers.push(Layer::new(attention, feed, order));
    }
    decoder.build(net)
}

fn gptj(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let sizes = config.sizes()?;
    let norm = layer_norm(config, &["layer_norm_epsilon"])?;
    let activation = Activation::of(config, &["activation_function"], "gelu_new")?;
    let names = ["transformer.wte", "transformer.ln_f", "lm_head"];
    let mut decoder = decoder(config, sizes, names, norm, false)?;
    decoder.head =
        Some(Linear::new(if decoder.head.is_some() { "lm_head" } else { "transformer.wte" }, true));
    let rotated = config.size_or(&["rotary_dim"], 64)?;
    if rotated > sizes.head_dim {
        return Err(Fault::bad(format!("`rotary_dim` is {rotated}, a head has {}", sizes.head_dim)));
    }
    let mut rope = RopeConfig::of(config, None, sizes.context)?.rope(rotated)?;
    rope.interleaved = true;
    decoder.ropes = vec![rope];
    for index in 0..sizes.layers {
        let prefix = format!("transformer.h.{index}");
        let named = |name: &str| Linear::plain(format!("{prefix}.attn.{name}"));
        let projections =
            Projections::Separate { q: named("q_proj"), k: named("k_proj"), v: named("v_proj") };
        let mut attention = attention(&sizes, projections, named("out_proj"));
        attention.rope = Some(0);
        let feed = Feed::Plain {
            up: Linear::new(format!("{prefix}.mlp.fc_in"), true),
            down: Linear::new(format!("{prefix}.mlp.fc_out"), true),
            activation,
            inner: sizes.inner,
        };
        let order = Order::Parallel { attention: norm.at(format!("{prefix}.ln_1")), feed: None };
        decoder.layers.push(Layer::new(attention, feed, order));
    }
    decoder.build(net)
}

fn opt(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let sizes = config.sizes()?;
    let norm = layer_norm(config, &["layer_norm_eps"])?;
    let activation = Activation::of(config, &["activation_function"], "relu")?;
    let bias = config.flag(&["enable_bias"], true)?;
    let before = config.flag(&["do_layer_norm_before"], true)?;
    let names = ["model.decoder.embed_tokens", "model.decoder.final_layer_norm", "lm_head"];
    let mut decoder = decoder(config, sizes, names, norm, true)?;
    if !before || config.flag(&["_remove_final_layer_norm"], false)? {
        decoder.norm = None;
    }
    let narrow = config.size_or(&["word_embed_proj_dim"], sizes.hidden)?;
    if narrow != sizes.hidden {
        let (into, out) = ("model.decoder.project_in", "model.decoder.project_out");
        decoder.narrow = Some((narrow, Linear::plain(into), Linear::plain(out)));
    }
    let name = "model.decoder.embed_positions".to_string();
    decoder.positions = Some(Learned { name, rows: sizes.context + 2, offset: 2, by_mask: true });
    for index in 0..sizes.layers {
        let prefix = format!("model.decoder.layers.{index}");
        let named = |name: &str| Linear::new(format!("{prefix}.{name}"), bias);
        let projections = Projections::Separate {
            q: named("self_attn.q_proj"),
            k: named("self_attn.k_proj"),
            v: named("self_attn.v_proj"),
        };
        let attention = attention(&sizes, projections, named("self_attn.out_proj"));
        let feed = Feed::Plain { up: named("fc1"), down: named("fc2"), activation, inner: sizes.inner };
        let first = norm.at(format!("{prefix}.self_attn_layer_norm"));
        let second = norm.at(format!("{prefix}.final_layer_norm"));
        let order = match before {
            true => Order::Pre { attention: Some(first), feed: second, from_norm: false },
            false => Order::Post { attention: first, feed: second },
        };
        decoder.layers.push(Layer::new(attention, feed, order));
    }
    decoder.build(net)
}
