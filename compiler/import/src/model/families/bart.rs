//! BART, Marian and Whisper: layer norms behind (BART, Marian) or before, biases everywhere; Whisper's encoder reads features.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::conv::{Conv, Padding};
use lathe_ops::elementwise::Activation as OpActivation;

use super::Family;
use super::gpt::{attention, layer_norm};
use crate::error::Fault;
use crate::model::blocks::attention::{Attend, Call, Projections, Source};
use crate::model::blocks::mlp::Feed;
use crate::model::net::{Activation, Linear, Net, NormKind, dim, symbol};
use crate::model::seq2seq::{Head, Positions, Seq2Seq, Side};
use crate::model::stack::{Layer, Order};
use crate::model::{Config, Sizes};

/// The families.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        model_type: "bart",
        architectures: &["BartForConditionalGeneration"],
        base: "model.",
        build: bart,
    },
    Family { model_type: "marian", architectures: &["MarianMTModel"], base: "model.", build: marian },
    Family {
        model_type: "whisper",
        architectures: &["WhisperForConditionalGeneration"],
        base: "model.",
        build: whisper,
    },
];

/// What the sides of a family differ in.
struct Style {
    /// Norms stand before attention and feed-forward.
    before: bool,
    /// Keys have a bias.
    key_bias: bool,
    norm: NormKind,
    activation: Activation,
}

/// One side below `model.encoder` or `model.decoder`, without embeddings.
fn side(config: &Config, style: &Style, hidden: usize, decoder: bool) -> Result<Side, Fault> {
    let name = if decoder { "decoder" } else { "encoder" };
    let field = |what: &str| format!("{name}_{what}");
    let (layers, heads) = (config.layers(&[&field("layers")])?, config.size(&[&field("attention_heads")])?);
    let inner = config.size(&[&field("ffn_dim")])?;
    if !hidden.is_multiple_of(heads) {
        return Err(Fault::bad(format!("{heads} attention heads do not divide `d_model` {hidden}")));
    }
    let head_dim = hidden / heads;
    let sizes = Sizes { hidden, layers, heads, kv_heads: heads, head_dim, inner, vocab: 1, context: 1 };
    let norm = style.norm;
    let mut made = Vec::with_capacity(layers);
    for index in 0..layers {
        let prefix = format!("model.{name}.layers.{index}");
        let attend = |part: &str, causal: bool| {
            let at = |name: &str, bias: bool| Linear::new(format!("{prefix}.{part}.{name}"), bias);
            let projections = Projections::Separate {
                q: at("q_proj", true),
                k: at("k_proj", style.key_bias),
                v: at("v_proj", true),
            };
            Attend { causal, ..attention(&sizes, projections, at("out_proj", true)) }
        };
        let feed = Feed::Plain {
            up: Linear::new(format!("{prefix}.fc1"), true),
            down: Linear::new(format!("{prefix}.fc2"), true),
            activation: style.activation,
            inner,
        };
        let first = norm.at(format!("{prefix}.self_attn_layer_norm"));
        let last = norm.at(format!("{prefix}.final_layer_norm"));
        let order = match style.before {
            true => Order::Pre { attention: Some(first), feed: last, from_norm: false },
            false => Order::Post { attention: first, feed: last },
        };
        let mut layer = Layer::new(attend("self_attn", decoder), feed, order);
        if decoder {
            let cross = attend("encoder_attn", false);
            layer.cross = Some((cross, norm.at(format!("{prefix}.encoder_attn_layer_norm"))));
        }
        made.push(layer);
    }
    Ok(Side {
        tokens: "model.shared.weight".to_string(),
        scale: 1.0,
        positions: Positions::None,
        embedding_norm: None,
        buckets: None,
        layers: made,
        norm: style.before.then(|| norm.at(format!("model.{name}.layer_norm"))),
    })
}

/// Both sides of a family of translators, with one table of tokens.
fn translator(config: &Config) -> Result<Seq2Seq, Fault> {
    let hidden = config.size(&["d_model"])?;
    let vocab = config.size(&["vocab_size"])?;
    let style = Style {
        before: false,
        key_bias: true,
        norm: layer_norm(config, &["layer_norm_eps"])?,
        activation: Activation::of(config, &["activation_function"], "gelu")?,
    };
    let scale = if config.flag(&["scale_embedding"], false)? { (hidden as f64).sqrt() } else { 1.0 };
    let [mut encoder, mut decoder] =
        [side(config, &style, hidden, false)?, side(config, &style, hidden, true)?];
    (encoder.scale, decoder.scale) = (scale, scale);
    let bias = Some("final_logits_bias".to_string());
    let head = Head::Tied("model.shared.weight".to_string(), bias);
    Ok(Seq2Seq { hidden, vocab, encoder, decoder, output_scale: 1.0, head })
}

/// Tables that some checkpoints hold again.
fn ignore_copies(net: &mut Net<'_>) {
    net.ignore(|name| {
        let copies =
            ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"];
        copies.contains(&name)
    });
}

fn bart(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let mut model = translator(config)?;
    let norm = layer_norm(config, &["layer_norm_eps"])?;
    let rows = config.size(&["max_position_embeddings"])? + 2;
    for (name, side) in [("encoder", &mut model.encoder), ("decoder", &mut model.decoder)] {
        let name = format!("model.{name}");
        side.embedding_norm = Some(norm.at(format!("{name}.layernorm_embedding")));
        let name = format!("{name}.embed_positions.weight");
        side.positions = Positions::Learned { name, rows, offset: 2 };
    }
    model.build(net)?;
    ignore_copies(net);
    Ok(())
}

fn marian(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    for (field, wanted) in [("share_encoder_decoder_embeddings", true), ("tie_word_embeddings", true)] {
        if config.flag(&[field], wanted)? != wanted {
            return Err(Fault::unsupported(format!("`{field}`: separate tables of tokens")));
        }
    }
    let mut model = translator(config)?;
    let rows = config.size(&["max_position_embeddings"])?;
    model.encoder.positions = Positions::Sinusoids { rows };
    model.decoder.positions = Positions::Sinusoids { rows };
    model.build(net)?;
    ignore_copies(net);
    net.ignore(|name| name.ends_with(".embed_positions.weight"));
    Ok(())
}

fn whisper(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let hidden = config.size(&["d_model"])?;
    let vocab = config.size(&["vocab_size"])?;
    let style = Style {
        before: true,
        key_bias: false,
        norm: layer_norm(config, &["layer_norm_eps"])?,
        activation: Activation::of(config, &["activation_function"], "gelu")?,
    };
    let scale = if config.flag(&["scale_embedding"], false)? { (hidden as f64).sqrt() } else { 1.0 };
    let table = "model.decoder.embed_tokens.weight".to_string();
    let mut decoder = side(config, &style, hidden, true)?;
    decoder.tokens.clone_from(&table);
    decoder.scale = scale;
    decoder.positions = Positions::Learned {
        name: "model.decoder.embed_positions.weight".to_string(),
        rows: config.size(&["max_target_positions"])?,
        offset: 0,
    };
    let encoder = side(config, &style, hidden, false)?;
    let model = Seq2Seq { hidden, vocab, encoder, decoder, output_scale: 1.0, head: Head::Tied(table, None) };
    let (batch, length) = (symbol("batch"), config.size(&["max_source_positions"])?);
    let mels = config.size(&["num_mel_bins"])?;
    let features = net.floats("input_features", &[batch.clone(), dim(mels)?, dim(length)?.scale(2)]);
    let ids = net.integers("decoder_input_ids", &[batch.clone(), symbol("dec_seq")]);
    let x = convolve(net, features, "model.encoder.conv1", [mels, hidden], 1)?;
    let x = convolve(net, x, "model.encoder.conv2", [hidden, hidden], 2)?;
    let x = net.b.transpose(x, &[0, 2, 1])?;
    let positions = net.weight("model.encoder.embed_positions.weight", &[length, hidden])?;
    let x = net.b.named("model.encoder.embed_positions").add(x, positions)?;
    let call = Call {
        batch: batch.clone(),
        seq: dim(length)?,
        padding: None,
        tables: Vec::new(),
        alibi_positions: None,
        bias: None,
    };
    let rows = model.encoder.run(net, &call, x, None, hidden)?;
    model.decode(net, batch, ids, Source { rows, call: &call })?;
    net.ignore(|name| name == "proj_out.weight");
    Ok(())
}

/// A convolution of width 3 with GELU.
fn convolve(
    net: &mut Net<'_>,
    x: ValueId,
    name: &str,
    [input, output]: [usize; 2],
    stride: usize,
) -> Result<ValueId, Fault> {
    let weight = net.weight(&format!("{name}.weight"), &[output, input, 3])?;
    let bias = net.weight(&format!("{name}.bias"), &[output])?;
    let conv = Conv {
        strides: vec![stride],
        dilations: vec![1],
        padding: Padding::Explicit { begins: vec![1], ends: vec![1] },
        groups: 1,
        activation: OpActivation::None,
    };
    let x = net.b.named(name).op(Op::Conv(conv), &[x, weight, bias])?;
    net.activate(x, Activation::Gelu)
}
