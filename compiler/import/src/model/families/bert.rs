//! BERT, RoBERTa, DistilBERT and ModernBERT: `main(input_ids, attention_mask[, token_type_ids]) -> last_hidden_state`, or `logits` by
//! the head that the architecture names.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::gather::Gather;
use lathe_ops::reduce::CumSum;
use lathe_tensor::DType;

use super::Family;
use super::gpt::attention;
use crate::error::Fault;
use crate::model::blocks::attention::{Call, Projections};
use crate::model::blocks::mlp::{Feed, GateInput, Gated};
use crate::model::blocks::rope::RopeConfig;
use crate::model::blocks::rotary::Tables;
use crate::model::net::{Activation, Linear, Net, Norm, NormKind, symbol};
use crate::model::stack::{self, Layer, Order};
use crate::model::{Config, Sizes};

/// The families.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        model_type: "bert",
        architectures: &[
            "BertModel",
            "BertForMaskedLM",
            "BertForSequenceClassification",
            "BertForTokenClassification",
        ],
        base: "bert.",
        build: bert,
    },
    Family {
        model_type: "roberta",
        architectures: &[
            "RobertaModel",
            "RobertaForMaskedLM",
            "RobertaForSequenceClassification",
            "RobertaForTokenClassification",
        ],
        base: "roberta.",
        build: roberta,
    },
    Family {
        model_type: "xlm-roberta",
        architectures: &[
            "XLMRobertaModel",
            "XLMRobertaForMaskedLM",
            "XLMRobertaForSequenceClassification",
            "XLMRobertaForTokenClassification",
        ],
        base: "roberta.",
        build: roberta,
    },
    Family {
        model_type: "distilbert",
        architectures: &[
            "DistilBertModel",
            "DistilBertForMaskedLM",
            "DistilBertForSequenceClassification",
            "DistilBertForTokenClassification",
        ],
        base: "distilbert.",
        build: distilbert,
    },
    Family {
        model_type: "modernbert",
        architectures: &[
            "ModernBertModel",
            "ModernBertForMaskedLM",
            "ModernBertForSequenceClassification",
            "ModernBertForTokenClassification",
        ],
        base: "model.",
        build: modernbert,
    },
];

/// An encoder whose inputs are there.
pub(super) struct Encoder {
    pub sizes: Sizes,
    pub norm: NormKind,
    pub activation: Activation,
    ids: ValueId,
    pub call: Call,
}

/// What stands behind the layers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    Model,
    MaskedLm,
    Sequence,
    Token,
}

impl Task {
    pub(super) fn of(config: &Config) -> Result<Self, Fault> {
        let names = config.texts("architectures")?;
        let name = names.first().copied().unwrap_or("");
        Ok(match name {
            _ if name.ends_with("ForMaskedLM") => Task::MaskedLm,
            _ if name.ends_with("ForSequenceClassification") => Task::Sequence,
            _ if name.ends_with("ForTokenClassification") => Task::Token,
            _ => Task::Model,
        })
    }
}

impl Encoder {
    pub(super) fn new(net: &mut Net<'_>, config: &Config, epsilon: f64) -> Result<Self, Fault> {
        let sizes = config.sizes()?;
        let (batch, seq) = (symbol("batch"), symbol("seq"));
        let dims = [batch.clone(), seq.clone()];
        let ids = net.integers("input_ids", &dims);
        let mask = net.integers("attention_mask", &dims);
        let padding = net.b.named("attention_mask").cast(mask, DType::Bool)?;
        let call = Call {
            batch,
            seq,
            padding: Some(padding),
            tables: Vec::new(),
            alibi_positions: None,
            bias: None,
        };
        let epsilon = config.epsilon(&["layer_norm_eps", "norm_eps"], epsilon)?;
        let norm = NormKind::Layer { epsilon, bias: config.flag(&["norm_bias"], true)? };
        let activation = Activation::of(config, &["hidden_act", "hidden_activation", "activation"], "gelu")?;
        Ok(Self { sizes, norm, activation, ids, call })
    }

    /// Rows of a table by ids `[batch or 1, seq]`.
    fn look_up(&self, net: &mut Net<'_>, table: &str, rows: usize, ids: ValueId) -> Result<ValueId, Fault> {
        let table = net.matrix(&format!("{table}.weight"), &[rows, self.sizes.hidden])?;
        net.rows(table, ids)
    }

    /// Layers with norms behind attention and feed-forward, of these names below `prefix.N`.
    fn post_layers(&self, prefix: &str, names: &Names) -> Vec<Layer> {
        let layer = |index: usize| {
            let at = |name: &str| Linear::new(format!("{prefix}.{index}.{name}"), true);
            let norm = |name: &str| self.norm.at(format!("{prefix}.{index}.{name}"));
            let [q, k, v, out] = names.attention;
            let projections = Projections::Separate { q: at(q), k: at(k), v: at(v) };
            let mut attention = attention(&self.sizes, projections, at(out));
            attention.causal = false;
            let [up, down] = names.feed;
            let feed = Feed::Plain {
                up: at(up),
                down: at(down),
                activation: self.activation,
                inner: self.sizes.inner,
            };
            let order = Order::Post { attention: norm(names.norms[0]), feed: norm(names.norms[1]) };
            Layer::new(attention, feed, order)
        };
        (0..self.sizes.layers).map(layer).collect()
    }

    /// The row of the first token, `[batch, hidden]`.
    pub(super) fn first(&self, net: &mut Net<'_>, x: ValueId) -> Result<ValueId, Fault> {
        let zero = net.b.scalar(0i64);
        Ok(net.b.op(Op::Gather(Gather { axis: 1 }), &[x, zero])?)
    }

    /// Dense, activation, and a norm where there is one, then the tied table and its bias.
    fn masked_lm(
        &self,
        net: &mut Net<'_>,
        x: ValueId,
        dense: &Linear,
        norm: &Norm,
        [table, bias]: [&str; 2],
    ) -> Result<(), Fault> {
        let Sizes { hidden, vocab, .. } = self.sizes;
        let x = net.linear(x, dense, hidden, hidden)?;
        let x = net.activate(x, self.activation)?;
        let x = net.norm(x, norm, hidden)?;
        let matrix = net.transposed(&format!("{table}.weight"), vocab, hidden)?;
        let logits = net.b.named("decoder").matmul(x, matrix)?;
        let bias = net.weight(bias, &[vocab])?;
        let logits = net.b.named("decoder").add(logits, bias)?;
        net.b.output("logits", logits);
        Ok(())
    }

    /// RoBERTa's head over the tied table of this name.
    pub(super) fn roberta_lm(&self, net: &mut Net<'_>, x: ValueId, table: &str) -> Result<(), Fault> {
        let dense = Linear::new("lm_head.dense", true);
        self.masked_lm(net, x, &dense, &self.norm.at("lm_head.layer_norm"), [table, "lm_head.bias"])
    }

    pub(super) fn classify(
        &self,
        net: &mut Net<'_>,
        config: &Config,
        x: ValueId,
        name: &str,
    ) -> Result<(), Fault> {
        let bias = config.flag(&["classifier_head_bias"], true)?;
        let logits = net.linear(x, &Linear::new(name, bias), self.sizes.hidden, config.labels()?)?;
        net.b.output("logits", logits);
        Ok(())
    }
}

/// Names of the parts of a layer.
pub(super) struct Names {
    /// Queries, keys, values, out.
    pub attention: [&'static str; 4],
    /// Up and down.
    pub feed: [&'static str; 2],
    /// Behind attention and feed-forward.
    pub norms: [&'static str; 2],
}

pub(super) const BERT: Names = Names {
    attention: [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    ],
    feed: ["intermediate.dense", "output.dense"],
    norms: ["attention.output.LayerNorm", "output.LayerNorm"],
};

/// Tokens, types and positions below `prefix.embeddings`.
pub(super) fn bert_embeddings(
    net: &mut Net<'_>,
    encoder: &Encoder,
    config: &Config,
    prefix: &str,
    places: ValueId,
) -> Result<ValueId, Fault> {
    let Sizes { hidden, vocab, context, .. } = encoder.sizes;
    let at = |name: &str| format!("{prefix}embeddings.{name}");
    let types = config.size_or(&["type_vocab_size"], 2)?;
    let dims = [encoder.call.batch.clone(), encoder.call.seq.clone()];
    let type_ids = net.integers("token_type_ids", &dims);
    let x = encoder.look_up(net, &at("word_embeddings"), vocab, encoder.ids)?;
    let kind = encoder.look_up(net, &at("token_type_embeddings"), types, type_ids)?;
    let x = net.b.add(x, kind)?;
    let places = encoder.look_up(net, &at("position_embeddings"), context, places)?;
    let x = net.b.add(x, places)?;
    net.norm(x, &encoder.norm.at(at("LayerNorm")), hidden)
}

/// The same, and the layers.
fn bert_rows(
    net: &mut Net<'_>,
    encoder: &Encoder,
    config: &Config,
    prefix: &str,
    places: ValueId,
) -> Result<ValueId, Fault> {
    let x = bert_embeddings(net, encoder, config, prefix, places)?;
    let hidden = encoder.sizes.hidden;
    let layers = encoder.post_layers(&format!("{prefix}encoder.layer"), &BERT);
    stack::layers(net, &layers, &encoder.call, x, None, hidden)
}

fn bert(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let encoder = Encoder::new(net, config, 1e-12)?;
    let hidden = encoder.sizes.hidden;
    let places = net.counts(&encoder.call.seq)?;
    let x = bert_rows(net, &encoder, config, "bert.", places)?;
    net.ignore(|name| {
        name.starts_with("cls.seq_relationship.") || name.starts_with("cls.predictions.decoder.")
    });
    let task = Task::of(config)?;
    match task {
        Task::Model => net.b.output("last_hidden_state", x),
        Task::MaskedLm => {
            let names = ["bert.embeddings.word_embeddings", "cls.predictions.bias"];
            let norm = encoder.norm.at("cls.predictions.transform.LayerNorm");
            let dense = Linear::new("cls.predictions.transform.dense", true);
            encoder.masked_lm(net, x, &dense, &norm, names)?;
        }
        Task::Sequence => {
            let first = encoder.first(net, x)?;
            let pooled = net.linear(first, &Linear::new("bert.pooler.dense", true), hidden, hidden)?;
            let pooled = net.b.tanh(pooled)?;
            encoder.classify(net, config, pooled, "classifier")?;
        }
        Task::Token => encoder.classify(net, config, x, "classifier")?,
    }
    if task != Task::Sequence {
        net.ignore(|name| name.starts_with("bert.pooler.") || name.starts_with("pooler."));
    }
    Ok(())
}

/// Positions as RoBERTa counts them: the tokens that are no padding, from the row behind that of padding on.
pub(super) fn padded_positions(
    net: &mut Net<'_>,
    config: &Config,
    encoder: &Encoder,
) -> Result<ValueId, Fault> {
    let pad = net.b.scalar(config.count("pad_token_id", 1)? as i64);
    let padded = net.b.equal(encoder.ids, pad)?;
    let real = net.b.not(padded)?;
    let real = net.b.cast(real, DType::I64)?;
    let axis = net.b.scalar(1i64);
    let counts = net.b.op(Op::CumSum(CumSum { exclusive: false, reverse: false }), &[real, axis])?;
    let places = net.b.mul(counts, real)?;
    Ok(net.b.add(places, pad)?)
}

fn roberta(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let encoder = Encoder::new(net, config, 1e-12)?;
    let hidden = encoder.sizes.hidden;
    let places = padded_positions(net, config, &encoder)?;
    let x = bert_rows(net, &encoder, config, "roberta.", places)?;
    net.ignore(|name| {
        name.starts_with("roberta.pooler.")
            || name.starts_with("pooler.")
            || name.starts_with("lm_head.decoder.")
    });
    match Task::of(config)? {
        Task::Model => net.b.output("last_hidden_state", x),
        Task::MaskedLm => encoder.roberta_lm(net, x, "roberta.embeddings.word_embeddings")?,
        Task::Sequence => {
            let first = encoder.first(net, x)?;
            let pooled = net.linear(first, &Linear::new("classifier.dense", true), hidden, hidden)?;
            let pooled = net.b.tanh(pooled)?;
            encoder.classify(net, config, pooled, "classifier.out_proj")?;
        }
        Task::Token => encoder.classify(net, config, x, "classifier")?,
    }
    Ok(())
}

fn distilbert(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let encoder = Encoder::new(net, config, 1e-12)?;
    let Sizes { hidden, vocab, context, .. } = encoder.sizes;
    let root = "distilbert.embeddings";
    let x = encoder.look_up(net, &format!("{root}.word_embeddings"), vocab, encoder.ids)?;
    let places = net.counts(&encoder.call.seq)?;
    let places = encoder.look_up(net, &format!("{root}.position_embeddings"), context, places)?;
    let x = net.b.add(x, places)?;
    let x = net.norm(x, &encoder.norm.at(format!("{root}.LayerNorm")), hidden)?;
    let names = Names {
        attention: ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"],
        feed: ["ffn.lin1", "ffn.lin2"],
        norms: ["sa_layer_norm", "output_layer_norm"],
    };
    let layers = encoder.post_layers("distilbert.transformer.layer", &names);
    let x = stack::layers(net, &layers, &encoder.call, x, None, hidden)?;
    match Task::of(config)? {
        Task::Model => net.b.output("last_hidden_state", x),
        Task::MaskedLm => {
            net.ignore(|name| name == "vocab_projector.weight");
            let names = ["distilbert.embeddings.word_embeddings", "vocab_projector.bias"];
            let dense = Linear::new("vocab_transform", true);
            encoder.masked_lm(net, x, &dense, &encoder.norm.at("vocab_layer_norm"), names)?;
        }
        Task::Sequence => {
            let first = encoder.first(net, x)?;
            let pooled = net.linear(first, &Linear::new("pre_classifier", true), hidden, hidden)?;
            let pooled = net.b.relu(pooled)?;
            encoder.classify(net, config, pooled, "classifier")?;
        }
        Task::Token => encoder.classify(net, config, x, "classifier")?,
    }
    Ok(())
}

fn modernbert(net: &mut Net<'_>, config: &Config) -> Result<(), Fault> {
    let mut encoder = Encoder::new(net, config, 1e-5)?;
    let Sizes { hidden, vocab, context, layers, head_dim, inner, .. } = encoder.sizes;
    let norm = NormKind::Layer {
        epsilon: config.epsilon(&["norm_eps"], 1e-5)?,
        bias: config.flag(&["norm_bias"], false)?,
    };
    encoder.norm = norm;
    let table = "model.embeddings.tok_embeddings";
    let x = encoder.look_up(net, table, vocab, encoder.ids)?;
    let x = net.norm(x, &norm.at("model.embeddings.norm"), hidden)?;
    let places = net.counts(&encoder.call.seq)?;
    for (layer_type, field, theta) in [
        ("full_attention", "global_rope_theta", 160_000.0),
        ("sliding_attention", "local_rope_theta", 10_000.0),
    ] {
        let rope = match config.part("rope_parameters")? {
            Some(_) => RopeConfig::of(config, Some(layer_type), context)?,
            None => RopeConfig::unscaled(config, config.positive(&[field])?.unwrap_or(theta), context)?,
        };
        let tables = Tables::new(net, &rope.rope(head_dim)?, places)?;
        encoder.call.tables.push(tables);
    }
    let every = config.size_or(&["global_attn_every_n_layers"], 3)?;
    let types = config.texts("layer_types")?;
    let around = config.size_or(&["local_attention"], 128)? / 2;
    let (bias, mlp_bias) = (config.flag(&["attention_bias"], false)?, config.flag(&["mlp_bias"], false)?);
    let mut made = Vec::with_capacity(layers);
    for index in 0..layers {
        let prefix = format!("model.layers.{index}");
        let local = match types.get(index) {
            Some(kind) => *kind == "sliding_attention",
            None => !index.is_multiple_of(every),
        };
        let projections = Projections::Merged(Linear::new(format!("{prefix}.attn.Wqkv"), bias));
        let mut attention =
            attention(&encoder.sizes, projections, Linear::new(format!("{prefix}.attn.Wo"), bias));
        attention.causal = false;
        attention.around = local.then_some(around);
        attention.rope = Some(usize::from(local));
        let feed = Gated {
            input: GateInput::Merged(Linear::new(format!("{prefix}.mlp.Wi"), mlp_bias)),
            down: Linear::new(format!("{prefix}.mlp.Wo"), mlp_bias),
            activation: encoder.activation,
            inner,
        };
        let order = Order::Pre {
            attention: (index > 0).then(|| norm.at(format!("{prefix}.attn_norm"))),
            feed: norm.at(format!("{prefix}.mlp_norm")),
            from_norm: false,
        };
        made.push(Layer::new(attention, Feed::Gated(feed), order));
    }
    let x = stack::layers(net, &made, &encoder.call, x, None, hidden)?;
    let x = net.norm(x, &norm.at("model.final_norm"), hidden)?;
    let dense = Linear::new("head.dense", config.flag(&["classifier_bias"], false)?);
    let head = norm.at("head.norm");
    match Task::of(config)? {
        Task::Model => net.b.output("last_hidden_state", x),
        Task::MaskedLm => {
            net.ignore(|name| name == "decoder.weight");
            encoder.masked_lm(net, x, &dense, &head, [table, "decoder.bias"])?;
        }
        task => {
            let x = match (task, config.text(&["classifier_pooling"])?.unwrap_or("cls")) {
                (Task::Token, _) => x,
                (_, "cls") => encoder.first(net, x)?,
                (_, other) => return Err(config.unknown("classifier_pooling", other, &["cls"])),
            };
            let x = net.linear(x, &dense, hidden, hidden)?;
            let x = net.activate(x, encoder.activation)?;
            let x = net.norm(x, &head, hidden)?;
            encoder.classify(net, config, x, "classifier")?;
        }
    }
    Ok(())
}
