//! Longformer (Beltagy et al., 2020): `main(input_ids [batch, seq], attention_mask, global_attention_mask[, token_type_ids]) ->
//! last_hidden_state`, or `logits` by the head that the architecture names. Any number of tokens, of which any may be global.

use lathe_ir::ValueId;

use super::Family;
use super::bert::{BERT, Encoder, Task, bert_embeddings, padded_positions};
use crate::error::Fault;
use crate::model::Config;
use crate::model::blocks::longformer::{Globals, Sliding};
use crate::model::blocks::mlp::Feed;
use crate::model::net::{Linear, Net};

/// The families.
pub(super) const FAMILIES: &[Family] = &[Family {
    model_type: "longformer",
    architectures: &[
        "LongformerModel",
        "LongformerForMaskedLM",
        "LongformerForSequenceClassification",
        "LongformerForTokenClassification",
    ],
    base: "longformer.",
    build: longformer,
}];

/// Tokens that each layer's queries see on either side.
fn windows(config: &Config, layers: usize) -> Result<Vec<usize>, Fault> {
    let windows = match config.has("attention_window") {
        true => config.sizes_of("attention_window", layers)?,
        false => vec![512; layers],
    };
    match windows.iter().find(|window| !window.is_multiple_of(2)) {
        Some(window) => Err(Fault::bad(format!("`attention_window` has {window}; windows are even"))),
        None => Ok(windows.into_iter().map(|window| window / 2).collect()),
    }
}

fn layer(
    net: &mut Net<'_>,
    encoder: &Encoder,
    globals: &Globals,
    x: ValueId,
    prefix: &str,
    around: usize,
) -> Result<ValueId, Fault> {
    let (hidden, heads, head_dim) = (encoder.sizes.hidden, encoder.sizes.heads, encoder.sizes.head_dim);
    let named = |name: &str| Linear::new(format!("{prefix}.{name}"), true);
    let attention = Sliding { prefix: format!("{prefix}.attention.self"), heads, head_dim, around };
    let made = attention.build(net, globals, x)?;
    let made = net.linear(made, &named(BERT.attention[3]), heads * head_dim, hidden)?;
    let sum = net.b.add(x, made)?;
    let x = net.norm(sum, &encoder.norm.at(format!("{prefix}.{}", BERT.norms[0])), hidden)?;
    let [up, down] = BERT.feed;
    let feed = Feed::Plain {
        up: named(up),
        down: named(down),
        activation: encoder.activation,
        inner: encoder.sizes.inner,
    };
    let made = feed.build(net, x, hidden)?;
    let sum = net.b.add(x, made)?;
    net.norm(sum, &encoder.norm.at(format!("{prefix}.{}", BERT.norms[1])), hidden)
}

fn longformer(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let encoder = Encoder::new(net, config, 1e-12)?;
    let sizes = encoder.sizes;
    if sizes.heads * sizes.head_dim != sizes.hidden {
        return Err(Fault::bad("heads do not make up the hidden size"));
    }
    let dims = [encoder.call.batch.clone(), encoder.call.seq.clone()];
    let marks = net.integers("global_attention_mask", &dims);
    let counted = encoder.call.padding.ok_or_else(|| Fault::bad("a mask is missing"))?;
    let globals = Globals::new(net, dims, counted, marks)?;
    let places = padded_positions(net, config, &encoder)?;
    let mut x = bert_embeddings(net, &encoder, config, "longformer.", places)?;
    for (index, around) in windows(config, sizes.layers)?.into_iter().enumerate() {
        x = layer(net, &encoder, &globals, x, &format!("longformer.encoder.layer.{index}"), around)?;
    }
    net.ignore(|name| {
        name.starts_with("longformer.pooler.")
            || name.starts_with("pooler.")
            || name.starts_with("lm_head.decoder.")
    });
    match Task::of(config)? {
        Task::Model => net.b.output("last_hidden_state", x),
        Task::MaskedLm => encoder.roberta_lm(net, x, "longformer.embeddings.word_embeddings")?,
        Task::Sequence => {
            let first = encoder.first(net, x)?;
            let dense = Linear::new("classifier.dense", true);
            let pooled = net.linear(first, &dense, sizes.hidden, sizes.hidden)?;
            let pooled = net.b.tanh(pooled)?;
            encoder.classify(net, config, pooled, "classifier.out_proj")?;
        }
        Task::Token => encoder.classify(net, config, x, "classifier")?,
    }
    Ok(())
}
