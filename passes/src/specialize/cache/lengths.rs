//! Arithmetic on the total length where rotary embeddings are declared `dynamic`: their base grows with the text, and keys that are
//! cached keep the rotation of the step that they came in with. So each row of `decode` brings its own length, in the input
//! `length`: that of the text at the end of the step that the row came in with. A row of a prompt brings the length of the whole prompt.
//!
//! Without such embeddings arithmetic on the length refuses: `main` over the whole text would give earlier tokens other values.

use lathe_ir::{Dim, Node, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Cast};
use lathe_ops::position::RotaryScaling;
use lathe_tensor::{DType, Tensor};

use super::build::Decode;
use super::mapped::{Mapped, Refusal, Rows};
use super::positions::Special;

impl Decode<'_> {
    /// An elementwise op with the total length, or what was computed from it, among its operands.
    pub fn lengths(&mut self, node: &Node, op: &Op) -> Special {
        let operands: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        let from_length = |mapped: Mapped| matches!(mapped, Mapped::Length(_) | Mapped::Lengths(_));
        let elementwise = Operation::Op(op.clone()).is_elementwise();
        if !elementwise || !operands.iter().any(|&operand| from_length(self.lookup(operand))) || !self.grows()
        {
            return Ok(None);
        }
        let Some(length) = self.inputs.length else {
            self.asked.length = true;
            return Err(Refusal::new(&node.name, "the total length decides"));
        };
        let mut values = Vec::with_capacity(operands.len());
        let mut rows = false;
        for operand in operands {
            let (value, of_rows) = self.beside_length(node, operand, length)?;
            values.push(value);
            rows |= of_rows;
        }
        let value = self.emit_one(&node.name, op.clone(), &values)?;
        let rank = node.outputs.first().map_or(0, |&output| self.main.ty(output).rank());
        match (rows, rank) {
            (true, 3) => Ok(Some(Mapped::Rows(Rows { value, axis: 1 }))),
            (false, 0 | 1) => Ok(Some(Mapped::Lengths(value))),
            _ => Err(Refusal::new(&node.name, "it relates the total length to more than one row a token")),
        }
    }

    /// An operand as `[1, rows, _]`, or without an axis of rows; and whether `main` has rows for it.
    fn beside_length(
        &mut self,
        node: &Node,
        operand: ValueId,
        length: ValueId,
    ) -> Result<(ValueId, bool), Refusal> {
        let (rank, dtype) = (self.main.ty(operand).rank(), self.main.ty(operand).dtype);
        let three = |rows: Rows| match (rank, rows.axis) {
            (3, 1) => Ok((rows.value, true)),
            _ => Err(Refusal::new(&node.name, "it relates the total length to tokens along another axis")),
        };
        match self.lookup(operand) {
            Mapped::Length(offset) => {
                let column = [1.into(), Dim::symbol(self.rows.clone()), 1.into()];
                let mut value = self.reshape(&node.name, length, &column)?;
                if offset != 0 {
                    let offset = self.constant(Tensor::scalar(offset));
                    value = self.emit_one(&node.name, Op::Binary(Binary::Add), &[value, offset])?;
                }
                if dtype != DType::I64 {
                    let cast = Cast { to: dtype, saturate: true };
                    value = self.emit_one(&node.name, Op::Cast(cast), &[value])?;
                }
                Ok((value, false))
            }
            Mapped::Lengths(value) => Ok((value, false)),
            Mapped::Fixed(value) if rank <= 1 => Ok((value, false)),
            Mapped::Uniform(element) if rank <= 1 => Ok((self.constant(element), false)),
            Mapped::Rows(rows) => three(rows),
            Mapped::Places(places) => three(self.counted(&node.name, operand, &places)?),
            Mapped::Refused(refusal) => Err(refusal),
            _ => Err(Refusal::new(&node.name, "it computes with the total length")),
        }
    }

    /// Whether the rotary embeddings are declared to grow with the text.
    fn grows(&self) -> bool {
        let nodes = self.main.node_ids().filter_map(|id| self.main.node(id));
        let dynamic = |op: &Op| match op {
            Op::RotaryEmbedding(rotary) => rotary.scaling == Some(RotaryScaling::Dynamic),
            _ => false,
        };
        let mut ops = nodes.filter_map(|node| match &node.operation {
            Operation::Op(op) => Some(op),
            _ => None,
        });
        ops.any(dynamic)
    }
}
