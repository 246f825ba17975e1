//! The attention that a model has, by its `config.json`.

use std::path::Path;

use serde_json::Value;

/// Facts of one attention node. Numbers with a point are counted in thousandths, so that they compare.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attention {
    pub causal: bool,
    pub window: Option<u64>,
    pub kv_heads: u64,
    pub softcap: Option<i64>,
    pub scale: i64,
    pub sinks: bool,
    pub alibi: bool,
    pub bias: bool,
}

/// Facts of one mixture of experts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mixture {
    pub experts: u64,
    pub top_k: u64,
    pub router: String,
    pub renormalise: bool,
    pub capacity: Option<u64>,
    /// Groups, and how many of them remain.
    pub groups: Option<[u64; 2]>,
}

/// What the optimised graph holds.
#[derive(Default)]
pub struct Structure {
    pub attention: Vec<Attention>,
    pub mixtures: Vec<Mixture>,
    /// Besides, where the graph takes pictures.
    pub of_pictures: Vec<Attention>,
}

pub fn thousandths(number: f64) -> i64 {
    (number * 1000.0).round() as i64
}

/// Reads a configuration; `None` for models without attention.
pub fn of(config: &Path) -> Option<Structure> {
    let text = std::fs::read_to_string(config).ok()?;
    let config: Value = serde_json::from_str(&text).ok()?;
    let kind = config["model_type"].as_str().unwrap_or_default();
    let mut attention = Vec::new();
    match kind {
        "resnet" | "convnext" | "mobilenet_v2" => return None,
        "bert" | "roberta" | "distilbert" | "vit" | "videomae" | "llada" => {
            attention.extend(layers(&config, false));
        }
        "vit_mae" => {
            attention.extend(layers(&config, false));
            attention.extend(stack(
                &config,
                ["decoder_num_hidden_layers"],
                ["decoder_num_attention_heads"],
                "decoder_hidden_size",
            ));
        }
        // Time and space in each layer.
        "timesformer" => (0..2).for_each(|_| attention.extend(layers(&config, false))),
        "modernbert" => attention.extend(modernbert(&config)),
        "swin" => attention.extend(swin(&config)),
        "clip" | "siglip" => {
            attention.extend(layers(&config["text_config"], kind == "clip"));
            attention.extend(layers(&config["vision_config"], false));
            let pools =
                kind == "siglip" && config["vision_config"]["vision_use_head"].as_bool() != Some(false);
            attention.extend(layers(&config["vision_config"], false).into_iter().take(usize::from(pools)));
        }
        "llava" | "llava_next_video" | "video-vit-llama" => {
            attention.extend(layers(&config["text_config"], true));
            let vision = layers(&config["vision_config"], false);
            // The features of an inner layer are taken: those after it are not run.
            let last = config["vision_feature_layer"].as_i64().unwrap_or(-1);
            let used = vision.len().saturating_sub(last.unsigned_abs() as usize - 1);
            attention.extend(vision.into_iter().take(used));
        }
        "bart" | "marian" | "whisper" => attention.extend(encoder_decoder(&config)),
        "t5" | "switch_transformers" => attention.extend(t5(&config)),
        "vanilla-transformer" => attention.extend(vanilla(&config)),
        "" => attention.extend(timm(&config)),
        _ => attention.extend(layers(&config, true)),
    }
    Some(Structure { attention, mixtures: mixtures(&config), of_pictures: quantiser(&config["vq_config"]) })
}

fn number(config: &Value, names: &[&str]) -> Option<u64> {
    names.iter().find_map(|name| config[*name].as_u64())
}

fn layer_count(config: &Value) -> u64 {
    number(config, &["num_hidden_layers", "n_layer", "n_layers"]).expect("a number of layers")
}

fn query_heads(config: &Value) -> u64 {
    number(config, &["num_attention_heads", "n_head", "n_heads"]).expect("a number of heads")
}

/// `1 / sqrt` of what the scores are scaled by.
fn scale(config: &Value) -> i64 {
    let hidden = number(config, &["hidden_size", "n_embd", "d_model", "dim"]);
    let size = match (config["query_pre_attn_scalar"].as_f64(), number(config, &["qk_nope_head_dim"])) {
        (Some(scalar), _) => scalar,
        (None, Some(nope)) => (nope + number(config, &["qk_rope_head_dim"]).unwrap_or(0)) as f64,
        (None, None) => {
            let whole = || hidden.map(|hidden| hidden / query_heads(config));
            number(config, &["head_dim"]).or_else(whole).expect("a head size") as f64
        }
    };
    thousandths(1.0 / size.sqrt())
}

/// One attention a layer of an encoder or a decoder.
fn layers(config: &Value, causal: bool) -> Vec<Attention> {
    let kind = config["model_type"].as_str().unwrap_or_default();
    let layer = Attention {
        causal,
        kv_heads: number(config, &["num_key_value_heads"]).unwrap_or_else(|| query_heads(config)),
        softcap: config["attn_logit_softcapping"].as_f64().map(thousandths),
        scale: scale(config),
        sinks: kind == "gpt_oss",
        alibi: ["bloom", "mpt"].contains(&kind),
        ..Attention::default()
    };
    let window = config["sliding_window"].as_u64().filter(|window| *window > 0);
    let window = window.filter(|_| config["use_sliding_window"].as_bool() != Some(false));
    let slides = |index: usize| match config["layer_types"].as_array() {
        Some(types) => types[index] == "sliding_attention",
        None => true,
    };
    let layers = 0..layer_count(config) as usize;
    layers.map(|index| Attention { window: window.filter(|_| slides(index)), ..layer.clone() }).collect()
}

/// Layers under other names.
fn stack(config: &Value, [count]: [&str; 1], [heads]: [&str; 1], hidden: &str) -> Vec<Attention> {
    let count = number(config, &[count]).expect("a number of layers");
    let heads = number(config, &[heads]).expect("a number of heads");
    let size = number(config, &[hidden]).expect("a hidden size") as f64 / heads as f64;
    let layer = Attention { kv_heads: heads, scale: thousandths(1.0 / size.sqrt()), ..Attention::default() };
    vec![layer; count as usize]
}

/// The window of a layer that sees to both sides is both sides together.
fn modernbert(config: &Value) -> Vec<Attention> {
    let window = number(config, &["local_attention"]);
    let types = config["layer_types"].as_array().cloned().unwrap_or_default();
    let layers = layers(config, false).into_iter().zip(types);
    layers
        .map(|(layer, kind)| Attention { window: window.filter(|_| kind == "sliding_attention"), ..layer })
        .collect()
}

/// Windows are a part of the batch, shifts and relative positions a bias.
fn swin(config: &Value) -> Vec<Attention> {
    let list = |name: &str| -> Vec<u64> {
        config[name].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
    };
    let hidden = number(config, &["embed_dim"]).expect("an embedding size");
    let stages = list("depths").into_iter().zip(list("num_heads")).enumerate();
    stages
        .flat_map(|(stage, (depth, heads))| {
            let size = ((hidden << stage) / heads) as f64;
            let scale = thousandths(1.0 / size.sqrt());
            vec![Attention { kv_heads: heads, scale, bias: true, ..Attention::default() }; depth as usize]
        })
        .collect()
}

/// The encoder that turns pictures into tokens (Chameleon): in the middle, and behind the blocks of some resolutions.
fn quantiser(config: &Value) -> Vec<Attention> {
    if config["attn_type"] != "vanilla" {
        return Vec::new();
    }
    let list = |name: &str| -> Vec<u64> {
        config[name].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
    };
    let at = |channels: u64| {
        let scale = thousandths(1.0 / (channels as f64).sqrt());
        Attention { kv_heads: 1, scale, ..Attention::default() }
    };
    let (base, widths) = (number(config, &["base_channels"]).unwrap_or(0), list("channel_multiplier"));
    let (resolution, blocks) =
        (number(config, &["resolution"]).unwrap_or(0), number(config, &["num_res_blocks"]).unwrap_or(0));
    let attends = list("attn_resolutions");
    let levels = widths.iter().enumerate().filter(|(level, _)| attends.contains(&(resolution >> level)));
    let levels = levels.flat_map(|(_, width)| (0..blocks).map(move |_| at(base * width)));
    levels.chain(widths.last().map(|width| at(base * width))).collect()
}

/// Self-attention of both sides and cross-attention.
fn encoder_decoder(config: &Value) -> Vec<Attention> {
    let encoder = stack(config, ["encoder_layers"], ["encoder_attention_heads"], "d_model");
    let decoder = stack(config, ["decoder_layers"], ["decoder_attention_heads"], "d_model");
    let causal = decoder.iter().map(|layer| Attention { causal: true, ..layer.clone() });
    encoder.into_iter().chain(causal).chain(decoder.clone()).collect()
}

/// Not scaled; relative positions in self-attention alone.
fn t5(config: &Value) -> Vec<Attention> {
    let heads = number(config, &["num_heads"]).expect("a number of heads");
    let cross = Attention { kv_heads: heads, scale: 1000, ..Attention::default() };
    let encoder = Attention { bias: true, ..cross.clone() };
    let decoder = Attention { causal: true, ..encoder.clone() };
    let count = |names: &[&str]| number(config, names).expect("a number of layers") as usize;
    let below = count(&["num_decoder_layers", "num_layers"]);
    [vec![encoder; count(&["num_layers"])], vec![decoder; below], vec![cross; below]].concat()
}

fn vanilla(config: &Value) -> Vec<Attention> {
    let encoder = stack(config, ["num_encoder_layers"], ["nhead"], "d_model");
    let decoder = stack(config, ["num_decoder_layers"], ["nhead"], "d_model");
    let causal = decoder.iter().map(|layer| Attention { causal: true, ..layer.clone() });
    encoder.into_iter().chain(causal).chain(decoder.clone()).collect()
}

fn timm(config: &Value) -> Vec<Attention> {
    stack(&config["model_args"], ["depth"], ["num_heads"], "embed_dim")
}

/// One mixture a sparse layer.
fn mixtures(config: &Value) -> Vec<Mixture> {
    let Some(experts) = number(config, &["num_local_experts", "num_experts", "n_routed_experts"]) else {
        return Vec::new();
    };
    let kind = config["model_type"].as_str().unwrap_or_default();
    let groups = number(config, &["n_group"]).zip(number(config, &["topk_group"]));
    let mixture = Mixture {
        experts,
        top_k: if kind == "switch_transformers" {
            1
        } else {
            number(config, &["num_experts_per_tok"]).unwrap_or(1)
        },
        router: if kind == "deepseek_v3" { "sigmoid" } else { "softmax" }.to_string(),
        // A softmax over the chosen logits alone is one.
        renormalise: ["mixtral", "gpt_oss"].contains(&kind)
            || config["norm_topk_prob"].as_bool() == Some(true),
        capacity: config["expert_capacity"].as_u64(),
        groups: groups.filter(|groups| groups.0 > 1).map(|groups| [groups.0, groups.1]),
    };
    vec![mixture; sparse_layers(config)]
}

fn sparse_layers(config: &Value) -> usize {
    let of_sides = ["num_sparse_encoder_layers", "num_sparse_decoder_layers"];
    let of_sides: u64 = of_sides.iter().filter_map(|name| config[*name].as_u64()).sum();
    if of_sides > 0 {
        return of_sides as usize;
    }
    let dense = number(config, &["first_k_dense_replace"]).unwrap_or(0);
    let step = number(config, &["decoder_sparse_step"]).unwrap_or(1).max(1);
    let named: Vec<u64> =
        config["mlp_only_layers"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    let sparse = |layer: &u64| *layer >= dense && (layer + 1).is_multiple_of(step) && !named.contains(layer);
    (0..layer_count(config)).filter(sparse).count()
}
