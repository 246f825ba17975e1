//! The walk over `main`: each node becomes what it is for rows, or a reason why it has no such meaning.

use lathe_ir::{Node, Operation};
use lathe_ops::Op;

use super::build::Decode;
use super::mapped::{Mapped, Refusal};
use super::positions::Special;

impl Decode<'_> {
    /// Maps a node. A refusal stays with its results: it counts only where the logits need them.
    pub fn node(&mut self, node: &Node) {
        let results = match self.map(node) {
            Ok(results) => results,
            Err(refusal) => node.outputs.iter().map(|_| Mapped::Refused(refusal.clone())).collect(),
        };
        for (output, result) in node.outputs.iter().zip(results) {
            self.mapped[output.index()] = Some(result);
        }
    }

    fn map(&mut self, node: &Node) -> Result<Vec<Mapped>, Refusal> {
        let known: Option<Vec<_>> =
            node.outputs.iter().map(|&output| self.known(output).map(Mapped::Sizes)).collect();
        if let Some(known) = known {
            return Ok(known);
        }
        let op = match &node.operation {
            Operation::Op(op) => op,
            _ => {
                let reason = format!("`{}` is not followed", node.operation.name());
                return Err(Refusal::new(&node.name, reason));
            }
        };
        if let Op::Attention(attention) = op {
            let operand = |index: usize| node.inputs.get(index).copied().flatten();
            let mut source = |index: usize| {
                operand(index).is_some_and(|value| matches!(self.lookup(value), Mapped::Source))
            };
            return match (source(0), source(1) && source(2)) {
                (true, _) => Ok(vec![Mapped::Source; node.outputs.len()]),
                (false, true) => self.cross_attention(node, attention),
                (false, false) => self.attention(node, attention),
            };
        }
        if let Some(special) = self.special(node, op)? {
            return Ok(node.outputs.iter().map(|_| special.clone()).collect());
        }
        if self.is_source(node)? {
            return Ok(vec![Mapped::Source; node.outputs.len()]);
        }
        self.row_wise(node, op)
    }

    /// Positions, masks, regimes and the past: what is more than row-wise.
    fn special(&mut self, node: &Node, op: &Op) -> Special {
        let first = match op {
            Op::Range(_) => self.range(node)?,
            Op::CumSum(sum) => match self.counted_tokens(node, sum)? {
                None => self.cum_sum(node, sum)?,
                counted => counted,
            },
            Op::Binary(kind) => match self.shifted_count(node, *kind)? {
                None => match self.shifted(node, *kind)? {
                    None => self.sized(node, *kind)?,
                    shifted => shifted,
                },
                shifted => shifted,
            },
            Op::Gather(gather) => self.picked(node, gather)?,
            Op::Compare(kind) => match self.within(node, *kind)? {
                None => self.regime(node, *kind)?,
                within => within,
            },
            Op::Pad(pad) => self.room(node, pad),
            Op::ScatterElements(scatter) => self.written(node, scatter)?,
            Op::Slice(_) => match self.behind_prefix(node)? {
                None => self.sliced(node)?,
                behind => behind,
            },
            Op::Reduce(reduce) => self.largest(node, reduce)?,
            Op::ConstantOfShape(fill) => self.filled(node, fill)?,
            Op::Concat(concat) => match self.joined(node, concat)? {
                None => self.prefixed(node, concat)?,
                joined => joined,
            },
            _ => None,
        };
        if first.is_some() {
            return Ok(first);
        }
        let elementwise = Operation::Op(op.clone()).is_elementwise();
        let mut second = match elementwise {
            true => self.uniform_elementwise(node, op)?,
            false => self.uniform_view(node, op)?,
        };
        if second.is_none() {
            second = match elementwise {
                true => self.keyed_elementwise(node, op)?,
                false => self.keyed_view(node, op)?,
            };
        }
        if second.is_none() {
            second = self.viewed(node, op)?;
        }
        match second {
            Some(found) => Ok(Some(found)),
            None => self.lengths(node, op),
        }
    }
}
