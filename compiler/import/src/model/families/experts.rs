//! Mixtures of experts of LLaMA's line: Mixtral, OLMoE, Qwen 2 and 3 MoE, DeepSeek-V3, gpt-oss.

use lathe_ops::moe::{Clamped, Gate, Groups, Router};

use super::Family;
use super::llama::{decoder, head_norms, rms};
use crate::error::Fault;
use crate::model::Config;
use crate::model::blocks::attention::{Latent, Projections};
use crate::model::blocks::mlp::{Feed, Gated};
use crate::model::blocks::moe::{Experts, Matrices, Shared};
use crate::model::blocks::rope::RopeConfig;
use crate::model::net::{Activation, Linear, Net};
use crate::model::stack::Layer;

/// The families.
pub(super) const FAMILIES: &[Family] = &[
    Family { model_type: "mixtral", architectures: &["MixtralForCausalLM"], base: "model.", build: mixtral },
    Family { model_type: "olmoe", architectures: &["OlmoeForCausalLM"], base: "model.", build: olmoe },
    Family {
        model_type: "qwen2_moe",
        architectures: &["Qwen2MoeForCausalLM"],
        base: "model.",
        build: qwen2_moe,
    },
    Family {
        model_type: "qwen3_moe",
        architectures: &["Qwen3MoeForCausalLM"],
        base: "model.",
        build: qwen3_moe,
    },
    Family {
        model_type: "deepseek_v3",
        architectures: &["DeepseekV3ForCausalLM"],
        base: "model.",
        build: deepseek,
    },
    Family { model_type: "gpt_oss", architectures: &["GptOssForCausalLM"], base: "model.", build: gpt_oss },
];

/// Numbers of experts, and of those that a token passes through.
fn counts(config: &Config) -> Result<(usize, usize), Fault> {
    let experts = config.size(&["num_local_experts", "num_experts", "n_routed_experts"])?;
    let top_k = config.size(&["num_experts_per_tok", "experts_per_token"])?;
    Ok((experts, top_k))
}

/// Experts below `PREFIX.mlp` with the names of LLaMA's feed-forward.
fn experts(config: &Config, prefix: &str, inner: usize, renormalise: bool) -> Result<Experts, Fault> {
    let (experts, top_k) = counts(config)?;
    let activation = Activation::of(config, &["hidden_act"], "silu")?;
    if activation != Activation::Silu {
        return Err(Fault::unsupported("experts with another activation than `silu`"));
    }
    let mut op = Experts::attributes(experts, top_k);
    op.renormalise = renormalise;
    Ok(Experts {
        router: Linear::plain(format!("{prefix}.mlp.gate")),
        selection_bias: None,
        matrices: Matrices::Each {
            prefix: format!("{prefix}.mlp.experts."),
            gate: Some("gate_proj"),
            up: "up_proj",
            down: "down_proj",
        },
        inner,
        op,
        shared: None,
    })
}

/// Whether a layer of a Qwen has experts.
fn is_sparse(config: &Config, layer: usize) -> Result<bool, Fault> {
    let dense = config.numbers("mlp_only_layers")?.unwrap_or_default();
    let step = config.size_or(&["decoder_sparse_step"], 1)?;
    Ok(!dense.contains(&(layer as f64)) && (layer + 1).is_multiple_of(step))
}

fn mixtral(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let inner = config.size(&["intermediate_size"])?;
    let change = &mut |layer: &mut Layer, _, prefix: &str| {
        let mut experts = experts(config, prefix, inner, true)?;
        experts.router = Linear::plain(format!("{prefix}.block_sparse_moe.gate"));
        let prefix = format!("{prefix}.block_sparse_moe.experts.");
        experts.matrices = Matrices::Each { prefix, gate: Some("w1"), up: "w3", down: "w2" };
        layer.feed = Feed::Experts(Box::new(experts));
        Ok(())
    };
    decoder(config, false, change)?.build(net)
}

fn olmoe(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let inner = config.size(&["intermediate_size"])?;
    let renormalise = config.flag(&["norm_topk_prob"], false)?;
    let (norm, clip) = (rms(config)?, config.positive(&["clip_qkv"])?);
    let change = &mut |layer: &mut Layer, _, prefix: &str| {
        layer.attention.norms = Some(head_norms(norm, prefix, true));
        layer.attention.clip = clip;
        layer.feed = Feed::Experts(Box::new(experts(config, prefix, inner, renormalise)?));
        Ok(())
    };
    decoder(config, false, change)?.build(net)
}

fn qwen2_moe(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let inner = config.size(&["moe_intermediate_size"])?;
    let shared_inner = config.size(&["shared_expert_intermediate_size"])?;
    let renormalise = config.flag(&["norm_topk_prob"], false)?;
    let change = &mut |layer: &mut Layer, index: usize, prefix: &str| {
        if !is_sparse(config, index)? {
            return Ok(());
        }
        let mut experts = experts(config, prefix, inner, renormalise)?;
        experts.op.shared_experts = 1;
        let shared = format!("{prefix}.mlp.shared_expert");
        let gate = Some(Linear::plain(format!("{shared}_gate")));
        experts.shared =
            Some(Shared { feed: Gated::llama(&shared, Activation::Silu, shared_inner, false), gate });
        layer.feed = Feed::Experts(Box::new(experts));
        Ok(())
    };
    decoder(config, config.flag(&["qkv_bias"], true)?, change)?.build(net)
}

fn qwen3_moe(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let inner = config.size(&["moe_intermediate_size"])?;
    let renormalise = config.flag(&["norm_topk_prob"], false)?;
    let norm = rms(config)?;
    let change = &mut |layer: &mut Layer, index: usize, prefix: &str| {
        layer.attention.norms = Some(head_norms(norm, prefix, false));
        if is_sparse(config, index)? {
            layer.feed = Feed::Experts(Box::new(experts(config, prefix, inner, renormalise)?));
        }
        Ok(())
    };
    decoder(config, false, change)?.build(net)
}

fn deepseek(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let sizes = config.sizes()?;
    let inner = config.size(&["moe_intermediate_size"])?;
    let dense = config.count("first_k_dense_replace", 0)?;
    let shared_experts = config.count("n_shared_experts", 0)?;
    let renormalise = config.flag(&["norm_topk_prob"], true)?;
    let scale = config.positive(&["routed_scaling_factor"])?.unwrap_or(1.0);
    let groups = Groups { count: config.size_or(&["n_group"], 1)?, top: config.size_or(&["topk_group"], 1)? };
    let (nope, rope) = (config.size(&["qk_nope_head_dim"])?, config.size(&["qk_rope_head_dim"])?);
    let (value_dim, kv_rank) = (config.size(&["v_head_dim"])?, config.size(&["kv_lora_rank"])?);
    let q_rank = config.optional_size(&["q_lora_rank"])?;
    let bias = config.flag(&["attention_bias"], false)?;
    let ropes = RopeConfig::of(config, None, sizes.context)?;
    let score_scale = ((nope + rope) as f64).powf(-0.5) * ropes.score_factor()?;
    let norm = rms(config)?;
    let change = &mut |layer: &mut Layer, index: usize, prefix: &str| {
        let at = |name: &str| format!("{prefix}.self_attn.{name}");
        let attention = &mut layer.attention;
        attention.projections = Projections::Latent(Box::new(Latent {
            q_down: q_rank
                .map(|rank| (Linear::new(at("q_a_proj"), bias), norm.at(at("q_a_layernorm")), rank)),
            q_up: Linear::plain(at(if q_rank.is_some() { "q_b_proj" } else { "q_proj" })),
            kv_down: Linear::new(at("kv_a_proj_with_mqa"), bias),
            kv_norm: norm.at(at("kv_a_layernorm")),
            kv_up: Linear::plain(at("kv_b_proj")),
            kv_rank,
            nope,
            rope,
        }));
        (attention.head_dim, attention.value_dim, attention.scale) = (nope + rope, value_dim, score_scale);
        attention.kv_heads = attention.heads;
        if index < dense {
            return Ok(());
        }
        let mut experts = experts(config, prefix, inner, renormalise)?;
        experts.selection_bias = Some(format!("{prefix}.mlp.gate.e_score_correction_bias"));
        experts.op.router = Router::Sigmoid;
        experts.op.epsilon = 1e-20;
        experts.op.scale = scale as f32;
        experts.op.groups = (groups.count > 1).then_some(groups);
        if shared_experts > 0 {
            experts.op.shared_experts = shared_experts;
            let feed = Gated::llama(
                &format!("{prefix}.mlp.shared_experts"),
                Activation::Silu,
                inner.saturating_mul(shared_experts),
                false,
            );
            experts.shared = Some(Shared { feed, gate: None });
        }
        layer.feed = Feed::Experts(Box::new(experts));
        Ok(())
    };
    let mut decoder = decoder(config, false, change)?;
    let mut rotation = ropes.rope(rope)?;
    rotation.interleaved = config.flag(&["rope_interleave"], true)?;
    decoder.ropes = vec![rotation];
    decoder.build(net)?;
    // Layers behind the last predict more tokens at once, which nothing here asks for.
    net.ignore(|name| {
        let layer =
            name.strip_prefix("model.layers.").and_then(|name| name.split('.').next()?.parse::<usize>().ok());
        layer.is_some_and(|layer| layer >= sizes.layers)
    });
    Ok(())
}

fn gpt_oss(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let inner = config.size(&["intermediate_size"])?;
    let alpha = config.number(&["swiglu_alpha"], 1.702)? as f32;
    let limit = config.positive(&["swiglu_limit"])?.unwrap_or(7.0) as f32;
    let change = &mut |layer: &mut Layer, _, prefix: &str| {
        let mut experts = experts(config, prefix, inner, true)?;
        experts.router = Linear::new(format!("{prefix}.mlp.router"), true);
        experts.matrices = Matrices::Stacked { prefix: format!("{prefix}.mlp.experts") };
        experts.op.gate = Gate::Interleaved;
        experts.op.clamped = Some(Clamped { alpha, limit });
        experts.op.transposed = false;
        layer.feed = Feed::Experts(Box::new(experts));
        layer.attention.sinks = Some(format!("{prefix}.self_attn.sinks"));
        Ok(())
    };
    decoder(config, true, change)?.build(net)
}
