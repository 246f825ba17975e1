//! Buffers of keys and values (GroupQueryAttention): the past with room behind it, into which the new ones are written at their places.
//! In `decode` that is what a concatenation behind the past is: the state holds the one, the rows are the other.

use lathe_ir::{Answer, Dim, Node, Operation, Source, ValueId};
use lathe_ops::Op;
use lathe_ops::gather::{Reduction, ScatterElements};
use lathe_ops::shape::{Pad, PadMode};

use super::build::Decode;
use super::interface::{Role, layer_of};
use super::mapped::{Mapped, Part, Refusal};
use super::positions::{Special, axis_of};

/// The axis of the tokens in keys and values `[batch, kv_heads, tokens, head_dim]`.
const TOKENS: usize = 2;

impl Decode<'_> {
    /// The part of the past that a value is: an input, or a half of one that holds keys and values.
    pub fn past_part(&self, value: ValueId) -> Option<Part> {
        if let Some((layer, keys)) = self.past_input(value) {
            return Some(Part { layer: layer.to_string(), keys: keys? });
        }
        let (_, node) = self.main.producer(value)?;
        let (Operation::Op(Op::Gather(gather)), [Some(both), Some(half)]) =
            (&node.operation, &node.inputs[..])
        else {
            return None;
        };
        let half = self.known(*half).filter(|half| gather.axis == 0 && half.len() == 1)?;
        match (self.past_input(*both)?, half[0].as_constant()?) {
            ((layer, None), half @ (0 | 1)) => Some(Part { layer: layer.to_string(), keys: half == 0 }),
            _ => None,
        }
    }

    /// Layer and kind of an input of the past.
    fn past_input(&self, value: ValueId) -> Option<(&str, Option<bool>)> {
        let is_past = match self.main.value(value).source {
            Source::Input(index) => self.interface.roles.get(index) == Some(&Role::Past),
            _ => false,
        };
        layer_of(self.main.value(value).name.as_deref().filter(|_| is_past)?)
    }

    /// The past with as many places behind it as there are new tokens.
    pub fn room(&mut self, node: &Node, pad: &Pad) -> Option<Mapped> {
        let [Some(past), Some(pads), rest @ ..] = &node.inputs[..] else { return None };
        let part = self.past_part(*past)?;
        // Without a list of axes there is a begin and an end for each of them.
        let whole = rest.get(1).copied().flatten().is_none() && pad.mode == PadMode::Constant;
        let pads = self.known(*pads).filter(|pads| whole && pads.len() == 8)?;
        let untouched =
            pads.iter().enumerate().all(|(at, pad)| at == 4 + TOKENS || pad.as_constant() == Some(0));
        (untouched && self.is_total(*node.outputs.first()?)).then_some(Mapped::Room(part))
    }

    /// New keys or values written behind the past.
    pub fn written(&mut self, node: &Node, scatter: &ScatterElements) -> Special {
        let [Some(data), Some(places), Some(rows)] = node.inputs[..] else { return Ok(None) };
        let Mapped::Room(part) = self.lookup(data) else { return Ok(None) };
        let behind = match self.lookup(places) {
            Mapped::Places(places) => {
                places.axis == TOKENS && places.new && places.offset.equals(&self.past()) == Answer::Yes
            }
            Mapped::Refused(refusal) => return Err(refusal),
            _ => false,
        };
        let replaces = scatter.reduction == Reduction::Replace && axis_of(scatter.axis, 4) == Some(TOKENS);
        match self.lookup(rows) {
            Mapped::Rows(rows) if rows.axis == TOKENS && behind && replaces => {
                Ok(Some(Mapped::Joined(rows, part)))
            }
            Mapped::Refused(refusal) => Err(refusal),
            _ => Err(Refusal::new(&node.name, "new keys or values are not written behind the past")),
        }
    }

    /// Whether the tokens of keys or values are the past's and the new ones.
    fn is_total(&self, value: ValueId) -> bool {
        let total: Dim = self.past().add(&self.seq());
        let tokens = self.main.ty(value).dims.get(TOKENS);
        tokens.is_some_and(|tokens| self.normal(tokens).equals(&total) == Answer::Yes)
    }
}
