//! Decoders: `main(input_ids [batch, seq], attention_mask [batch, seq], position_ids [batch, seq]) -> logits [batch, seq, vocab]`.
//!
//! Which tokens see which is in the attention's attributes; the mask hides padding. The pass that makes `decode` takes it from there.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::reduce::CumSum;
use lathe_tensor::{DType, Tensor};

use super::blocks::attention::Call;
use super::blocks::rope::Rope;
use super::blocks::rotary::Tables;
use super::net::{Linear, Net, Norm, symbol};
use super::stack::{self, Layer};
use super::{Config, Sizes};
use crate::error::Fault;

/// A decoder as data.
#[derive(Clone, Debug)]
pub(crate) struct Decoder {
    /// Its sizes.
    pub sizes: Sizes,
    /// Name of the table of tokens.
    pub tokens: String,
    /// Width of the table, where it differs from that of the rows, with the matrices into them and back.
    pub narrow: Option<(usize, Linear, Linear)>,
    /// Multiplies the rows of tokens.
    pub embedding_scale: f64,
    /// Learned positions.
    pub positions: Option<Learned>,
    /// Behind the embedding.
    pub embedding_norm: Option<Norm>,
    /// Rotary embeddings that layers refer to.
    pub ropes: Vec<Rope>,
    /// What takes the place of some tokens gives the positions of all, one for each section of the rotations.
    pub own_positions: bool,
    /// `main` takes tokens alone: nothing is padded, and positions count from 0.
    pub tokens_only: bool,
    /// ALiBi counts by the mask.
    pub alibi_by_mask: bool,
    /// The layers.
    pub layers: Vec<Layer>,
    /// Behind them.
    pub norm: Option<Norm>,
    /// Into the vocabulary; the table of tokens where it is tied.
    pub head: Option<Linear>,
    /// `softcap * tanh(logit / softcap)`.
    pub softcap: Option<f64>,
    /// Multiplies the logits.
    pub logit_scale: f64,
    /// Tokens that are never next: their logit is the smallest float.
    pub never: Vec<usize>,
}

/// What takes the place of some tokens: pictures.
pub(crate) trait Insert {
    /// Other ids `[batch, seq]`.
    fn ids(&self, _net: &mut Net<'_>, ids: ValueId) -> Result<ValueId, Fault> {
        Ok(ids)
    }

    /// Other rows `[batch, seq, hidden]` for the tokens with these ids.
    fn rows(&self, _net: &mut Net<'_>, _ids: ValueId, rows: ValueId) -> Result<ValueId, Fault> {
        Ok(rows)
    }

    /// Positions i64 `[batch, seq, 1]` of the tokens, one for each section of the rotations, where [`Decoder::own_positions`] says so;
    /// `places [batch, seq]` counts those that the mask keeps.
    fn positions(&self, _net: &mut Net<'_>, _places: ValueId) -> Result<Vec<ValueId>, Fault> {
        Ok(Vec::new())
    }
}

/// Text alone.
struct Text;

impl Insert for Text {}

/// A table of learned positions.
#[derive(Clone, Debug)]
pub(crate) struct Learned {
    /// Name of the table.
    pub name: String,
    /// Its rows.
    pub rows: usize,
    /// Rows before that of position 0.
    pub offset: usize,
    /// Positions count the tokens that the mask keeps, and are no input.
    pub by_mask: bool,
}

impl Decoder {
    /// A decoder with the names and parts of LLaMA and no layers yet. The head is tied where the configuration says so.
    pub(crate) fn llama(config: &Config, sizes: Sizes, norm: super::net::NormKind) -> Result<Self, Fault> {
        let tied = config.flag(&["tie_word_embeddings"], false)?;
        Ok(Self {
            sizes,
            tokens: "model.embed_tokens".to_string(),
            narrow: None,
            embedding_scale: 1.0,
            positions: None,
            embedding_norm: None,
            ropes: Vec::new(),
            own_positions: false,
            tokens_only: false,
            alibi_by_mask: false,
            layers: Vec::new(),
            norm: Some(norm.at("model.norm")),
            head: (!tied).then(|| Linear::plain("lm_head")),
            softcap: None,
            logit_scale: 1.0,
            never: Vec::new(),
        })
    }

    /// Builds `main`.
    ///
    /// # Errors
    /// Where sizes do not fit the weights.
    pub(crate) fn build(&self, net: &mut Net<'_>) -> Result<(), Fault> {
        self.build_with(net, &mut |_, _| Ok(Text))
    }

    /// The same, with more inputs behind those of text; `insert` makes what takes the place of some tokens of these ids.
    pub(crate) fn build_with<I: Insert>(
        &self,
        net: &mut Net<'_>,
        insert: &mut dyn FnMut(&mut Net<'_>, ValueId) -> Result<I, Fault>,
    ) -> Result<(), Fault> {
        let (batch, seq) = (symbol("batch"), symbol("seq"));
        let dims = [batch.clone(), seq.clone()];
        let ids = net.integers("input_ids", &dims);
        let mask = (!self.tokens_only).then(|| net.integers("attention_mask", &dims));
        let rotates = !self.ropes.is_empty() && !self.own_positions;
        let counts = self.positions.as_ref().is_some_and(|learned| !learned.by_mask) || rotates;
        let positions = match counts {
            true if self.tokens_only => Some(net.counts(&seq)?),
            true => Some(net.integers("position_ids", &dims)),
            false => None,
        };
        let padding = match mask {
            Some(mask) => Some(net.b.named("attention_mask").cast(mask, DType::Bool)?),
            None => None,
        };
        let insert = insert(net, ids)?;
        let ids = insert.ids(net, ids)?;
        let x = self.embed(net, ids, mask, positions)?;
        let x = insert.rows(net, ids, x)?;
        let mut tables = Vec::new();
        let own = match mask.filter(|_| self.own_positions) {
            Some(mask) => {
                let places = masked_positions(net, mask)?;
                insert.positions(net, places)?
            }
            None => Vec::new(),
        };
        for rope in &self.ropes {
            match positions {
                Some(positions) => tables.push(Tables::new(net, rope, positions)?),
                None => tables.push(Tables::sectioned(net, rope, &own)?),
            }
        }
        let alibi_positions = match mask.filter(|_| self.alibi_by_mask) {
            Some(mask) => Some(masked_positions(net, mask)?),
            None => None,
        };
        let call = Call { batch, seq, padding, tables, alibi_positions, bias: None };
        let x = stack::layers(net, &self.layers, &call, x, None, self.sizes.hidden)?;
        self.finish(net, x)
    }

    /// Rows of tokens `[batch, seq, hidden]`.
    pub(crate) fn embed(
        &self,
        net: &mut Net<'_>,
        ids: ValueId,
        mask: Option<ValueId>,
        positions: Option<ValueId>,
    ) -> Result<ValueId, Fault> {
        let hidden = self.sizes.hidden;
        let width = self.narrow.as_ref().map_or(hidden, |(width, ..)| *width);
        let table = net.matrix(&format!("{}.weight", self.tokens), &[self.sizes.vocab, width])?;
        net.b.named(&self.tokens);
        let mut x = net.rows(table, ids)?;
        if let Some((width, into, _)) = &self.narrow {
            x = net.linear(x, into, *width, hidden)?;
        }
        x = net.scaled(x, self.embedding_scale)?;
        if let Some(learned) = &self.positions {
            let mut places = match (mask.filter(|_| learned.by_mask), positions) {
                (Some(mask), _) => masked_positions(net, mask)?,
                (None, Some(positions)) => positions,
                (None, None) => return Err(Fault::bad("learned positions without positions")),
            };
            if learned.offset > 0 {
                let offset = net.b.scalar(learned.offset as i64);
                places = net.b.add(places, offset)?;
            }
            let table = net.weight(&format!("{}.weight", learned.name), &[learned.rows, hidden])?;
            net.b.named(&learned.name);
            let rows = net.rows(table, places)?;
            x = net.b.add(x, rows)?;
        }
        match &self.embedding_norm {
            Some(norm) => net.norm(x, norm, hidden),
            None => Ok(x),
        }
    }

    /// The last norm and the logits.
    pub(crate) fn finish(&self, net: &mut Net<'_>, mut x: ValueId) -> Result<(), Fault> {
        let Sizes { hidden, vocab, .. } = self.sizes;
        if let Some(norm) = &self.norm {
            x = net.norm(x, norm, hidden)?;
        }
        let mut width = hidden;
        if let Some((narrow, _, out)) = &self.narrow {
            x = net.linear(x, out, hidden, *narrow)?;
            width = *narrow;
        }
        let mut logits = match &self.head {
            Some(head) => net.linear(x, head, width, vocab)?,
            None => net.linear(x, &Linear::plain(&self.tokens), width, vocab)?,
        };
        if self.head.is_none() {
            // Some checkpoints hold the tied matrix a second time.
            net.ignore(|name| name == "lm_head.weight");
        }
        logits = net.scaled(logits, self.logit_scale)?;
        if let Some(softcap) = self.softcap {
            logits = net.softcap(logits, softcap)?;
        }
        if !self.never.is_empty() {
            let mut shown = vec![true; vocab];
            for &token in self.never.iter().filter(|&&token| token < vocab) {
                shown[token] = false;
            }
            let shown = net.b.constant(Tensor::from_bools(&shown, &[vocab])?);
            let lowest = net.b.scalar(f32::MIN);
            logits = net.b.named("logits").select(shown, logits, lowest)?;
        }
        net.b.output("logits", logits);
        Ok(())
    }
}

/// `(cumsum(mask) - 1) * mask`: the number of tokens before each that count.
fn masked_positions(net: &mut Net<'_>, mask: ValueId) -> Result<ValueId, Fault> {
    let axis = net.b.scalar(1i64);
    let counts = net.b.op(Op::CumSum(CumSum { exclusive: false, reverse: false }), &[mask, axis])?;
    let one = net.b.scalar(1i64);
    let places = net.b.sub(counts, one)?;
    Ok(net.b.mul(places, mask)?)
}
