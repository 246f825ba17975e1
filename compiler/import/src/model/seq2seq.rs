//! Encoders and decoders: `main(input_ids [batch, enc_seq], attention_mask [batch, enc_seq], decoder_input_ids [batch, dec_seq]) ->
//! logits [batch, dec_seq, vocab]`, where the first may be features in place of tokens.

use lathe_ir::{Dim, ValueId};
use lathe_tensor::{DType, Tensor};

use super::blocks::attention::{Call, Source};
use super::blocks::buckets::Buckets;
use super::net::{Linear, Net, Norm, symbol};
use super::stack::{self, Layer};
use super::weights::Weight;
use crate::error::Fault;

/// The encoder or the decoder.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    /// Name of the table of tokens, with `.weight`.
    pub tokens: String,
    /// Multiplies the rows of tokens.
    pub scale: f64,
    /// What is added for each position.
    pub positions: Positions,
    /// Behind the embedding.
    pub embedding_norm: Option<Norm>,
    /// Relative positions of the attention.
    pub buckets: Option<Buckets>,
    /// The layers.
    pub layers: Vec<Layer>,
    /// Behind them.
    pub norm: Option<Norm>,
}

/// What is added to the rows of tokens for their positions.
#[derive(Clone, Debug)]
pub(crate) enum Positions {
    /// Nothing.
    None,
    /// Rows of a table of the checkpoint.
    Learned {
        /// Its name.
        name: String,
        /// Its rows.
        rows: usize,
        /// Rows before that of position 0.
        offset: usize,
    },
    /// Sines in the first half of a row, cosines in the second (Marian).
    Sinusoids {
        /// Rows of the table.
        rows: usize,
    },
}

/// Both, and the head.
#[derive(Clone, Debug)]
pub(crate) struct Seq2Seq {
    /// Width of a row.
    pub hidden: usize,
    /// Tokens of both.
    pub vocab: usize,
    /// The encoder; `None` where the caller encodes.
    pub encoder: Side,
    /// The decoder.
    pub decoder: Side,
    /// Multiplies the last rows.
    pub output_scale: f64,
    /// Into the vocabulary.
    pub head: Head,
}

/// How rows become logits.
#[derive(Clone, Debug)]
pub(crate) enum Head {
    /// A matrix of its own.
    Own(Linear),
    /// The table of this name, with a row `[1, vocab]` of this name added where there is one.
    Tied(String, Option<String>),
}

impl Seq2Seq {
    /// Builds `main` over tokens.
    pub(crate) fn build(&self, net: &mut Net<'_>) -> Result<(), Fault> {
        let (batch, seq) = (symbol("batch"), symbol("enc_seq"));
        let ids = net.integers("input_ids", &[batch.clone(), seq.clone()]);
        let mask = net.integers("attention_mask", &[batch.clone(), seq.clone()]);
        let decoder_ids = net.integers("decoder_input_ids", &[batch.clone(), symbol("dec_seq")]);
        let padding = net.b.named("attention_mask").cast(mask, DType::Bool)?;
        let call = self.encoder.call(net, batch.clone(), seq, Some(padding))?;
        let rows = self.encoder.embed(net, &call, ids, self.vocab, self.hidden)?;
        let rows = self.encoder.run(net, &call, rows, None, self.hidden)?;
        self.decode(net, batch, decoder_ids, Source { rows, call: &call })
    }

    /// The decoder and the head over what the encoder made.
    pub(crate) fn decode(
        &self,
        net: &mut Net<'_>,
        batch: Dim,
        ids: ValueId,
        source: Source<'_>,
    ) -> Result<(), Fault> {
        let call = self.decoder.call(net, batch, symbol("dec_seq"), None)?;
        let y = self.decoder.embed(net, &call, ids, self.vocab, self.hidden)?;
        let y = self.decoder.run(net, &call, y, Some(source), self.hidden)?;
        let y = net.scaled(y, self.output_scale)?;
        let logits = match &self.head {
            Head::Own(head) => net.linear(y, head, self.hidden, self.vocab)?,
            Head::Tied(table, bias) => {
                let matrix = net.transposed(table, self.vocab, self.hidden)?;
                let logits = net.b.named("lm_head").matmul(y, matrix)?;
                match bias {
                    Some(name) => {
                        let bias = net.weight(name, &[1, self.vocab])?;
                        net.b.add(logits, bias)?
                    }
                    None => logits,
                }
            }
        };
        net.b.output("logits", logits);
        Ok(())
    }
}

impl Side {
    fn call(&self, net: &mut Net<'_>, batch: Dim, seq: Dim, padding: Option<ValueId>) -> Result<Call, Fault> {
        let bias = match &self.buckets {
            Some(buckets) => Some(buckets.build(net, &seq)?),
            None => None,
        };
        Ok(Call { batch, seq, padding, tables: Vec::new(), alibi_positions: None, bias })
    }

    fn embed(
        &self,
        net: &mut Net<'_>,
        call: &Call,
        ids: ValueId,
        vocab: usize,
        width: usize,
    ) -> Result<ValueId, Fault> {
        let table = net.matrix(&self.tokens, &[vocab, width])?;
        net.b.named(&self.tokens);
        let x = net.rows(table, ids)?;
        let mut x = net.scaled(x, self.scale)?;
        let (table, offset) = match &self.positions {
            Positions::None => (None, 0),
            Positions::Learned { name, rows, offset } => (Some(net.weight(name, &[*rows, width])?), *offset),
            Positions::Sinusoids { rows } => (Some(sinusoids(net, *rows, width)?), 0),
        };
        if let Some(table) = table {
            net.b.named("positions");
            let mut places = net.counts(&call.seq)?;
            if offset > 0 {
                let offset = net.b.scalar(offset as i64);
                places = net.b.add(places, offset)?;
            }
            let rows = net.rows(table, places)?;
            x = net.b.add(x, rows)?;
        }
        match &self.embedding_norm {
            Some(norm) => net.norm(x, norm, width),
            None => Ok(x),
        }
    }

    /// The layers and the last norm.
    pub(crate) fn run(
        &self,
        net: &mut Net<'_>,
        call: &Call,
        x: ValueId,
        source: Option<Source<'_>>,
        width: usize,
    ) -> Result<ValueId, Fault> {
        let x = stack::layers(net, &self.layers, call, x, source, width)?;
        match &self.norm {
            Some(norm) => net.norm(x, norm, width),
            None => Ok(x),
        }
    }
}

/// Marian's table: position `p` has `sin(p / 10000^(2j / width))` and, half a row later, the cosine.
fn sinusoids(net: &mut Net<'_>, rows: usize, width: usize) -> Result<ValueId, Fault> {
    let count = rows.checked_mul(width).filter(|count| *count <= 1 << 28);
    let count = count.ok_or_else(|| Fault::bad(format!("{rows} positions of {width} are too many")))?;
    let half = width.div_ceil(2);
    let mut table = Vec::with_capacity(count);
    for place in 0..rows {
        let angle = |pair: usize| place as f64 / 10_000f64.powf((2 * pair) as f64 / width as f64);
        table.extend((0..half).map(|pair| angle(pair).sin() as f32));
        table.extend((0..width - half).map(|pair| angle(pair).cos() as f32));
    }
    let table = Tensor::from_slice(&table, &[rows, width])?;
    net.constant("positions", Weight::dense(table))
}
