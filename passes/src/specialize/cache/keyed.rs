//! Biases by distance (T5): what `main` computes of a query's and a key's position is computed in `decode` for each row and every
//! place that the block table has room for. Places behind a row's own are computed and never read.

use lathe_ir::{Dim, Node, Operation, Symbol, ValueId};
use lathe_ops::attention::paged::KvPage;
use lathe_ops::elementwise::{Binary, Cast};
use lathe_ops::{Op, shape};
use lathe_tensor::{DType, Tensor};

use super::build::Decode;
use super::mapped::{Fact, Keyed, Mapped, Places, Refusal};
use super::positions::Special;

/// Where rows and keys stand, counted from the last axis.
type Sides = (usize, usize);

impl Decode<'_> {
    /// The number of places in the block table of layers without a window.
    fn width(&self) -> Dim {
        Dim::symbol(Symbol::new("pages")).mul(&Dim::constant(KvPage::TOKENS as i64))
    }

    /// An elementwise op over positions of rows and of keys. Of two counts along different axes the right one is taken for the keys';
    /// the attention checks that it was.
    pub fn keyed_elementwise(&mut self, node: &Node, op: &Op) -> Special {
        let operands: Vec<_> = node.inputs.iter().flatten().copied().collect();
        let Some(sides) = self.sides(&operands) else { return Ok(None) };
        let mut values = Vec::with_capacity(operands.len());
        for &operand in &operands {
            match self.keyed_operand(node, operand, sides)? {
                Some(value) => values.push(Some(value)),
                None => return Ok(None),
            }
        }
        let fact = self.fact(op, &operands, sides);
        let made = self.emit(&node.name, op.clone(), &values, 1)?;
        Ok(made.first().and_then(|&value| self.keyed(value, fact)).map(Mapped::Keyed))
    }

    /// Rows and keys among the operands.
    fn sides(&mut self, operands: &[ValueId]) -> Option<Sides> {
        let mut counts = Vec::new();
        for &operand in operands {
            let rank = self.main.ty(operand).rank();
            match self.lookup(operand) {
                Mapped::Keyed(keyed) => return Some((rank - keyed.rows, rank - keyed.keys)),
                Mapped::Places(places) => counts.push(rank - places.axis),
                _ => {}
            }
        }
        match counts[..] {
            [a, b] if a != b => Some((a.max(b), a.min(b))),
            _ => None,
        }
    }

    fn keyed_operand(
        &mut self,
        node: &Node,
        operand: ValueId,
        sides: Sides,
    ) -> Result<Option<ValueId>, Refusal> {
        let rank = self.main.ty(operand).rank();
        let apart = |dims: &[Dim]| {
            [sides.0, sides.1].into_iter().all(|side| {
                dims.len()
                    .checked_sub(side)
                    .and_then(|axis| dims.get(axis))
                    .is_none_or(|dim| dim.as_constant() == Some(1))
            })
        };
        match self.lookup(operand) {
            Mapped::Keyed(keyed) => {
                Ok(((rank - keyed.rows, rank - keyed.keys) == sides).then_some(keyed.value))
            }
            Mapped::Places(places) if rank - places.axis == sides.0 => {
                self.counted(&node.name, operand, &places).map(|rows| Some(rows.value))
            }
            Mapped::Places(places) if rank - places.axis == sides.1 => {
                self.key_places(node, operand, &places).map(Some)
            }
            Mapped::Fixed(value) => Ok(apart(&self.ty(value).dims).then_some(value)),
            Mapped::Uniform(element) => Ok(Some(self.constant(element))),
            Mapped::Refused(refusal) => Err(refusal),
            _ => Ok(None),
        }
    }

    /// `0, 1, ...` for every place of the block table, plus what the counts begin at.
    fn key_places(&mut self, node: &Node, value: ValueId, places: &Places) -> Result<ValueId, Refusal> {
        let by = places.offset.as_constant().filter(|_| !places.new || self.interface.past.is_none());
        let by =
            by.ok_or_else(|| Refusal::new(&node.name, "keys that are not counted from the beginning"))?;
        let (start, step) = (self.constant(Tensor::scalar(0i64)), self.constant(Tensor::scalar(1i64)));
        let width = self.width();
        let limit = self.dims(&node.name, std::slice::from_ref(&width), true)?;
        let mut keys = self.emit_one(&node.name, Op::Range(shape::Range {}), &[start, limit, step])?;
        if by != 0 {
            let by = self.constant(Tensor::scalar(by));
            keys = self.emit_one(&node.name, Op::Binary(Binary::Add), &[keys, by])?;
        }
        let ty = self.main.ty(value);
        let (rank, dtype) = (ty.rank(), ty.dtype);
        let mut dims = vec![Dim::constant(1); rank];
        dims[places.axis] = width;
        keys = self.reshape(&node.name, keys, &dims)?;
        if dtype != DType::I64 {
            keys = self.emit_one(&node.name, Op::Cast(Cast { to: dtype, saturate: true }), &[keys])?;
        }
        Ok(keys)
    }

    /// Layout, and a table read by what positions gave.
    pub fn keyed_view(&mut self, node: &Node, op: &Op) -> Special {
        let mapped: Vec<_> = node.inputs.iter().flatten().map(|&input| self.lookup(input)).collect();
        if let (Op::Reshape(_) | Op::Squeeze(_) | Op::Expand(_), Some(Mapped::Keyed(keyed))) =
            (op, mapped.first())
        {
            return self.keyed_reshape(node, keyed, matches!(op, Op::Expand(_)));
        }
        let fact = match (op, mapped.first()) {
            (Op::Transpose(_) | Op::Unsqueeze(_), Some(Mapped::Keyed(keyed))) => keyed.fact,
            _ => None,
        };
        let operands = match (op, &mapped[..]) {
            (Op::Transpose(_), [Mapped::Keyed(keyed)]) => vec![keyed.value],
            (Op::Unsqueeze(_), [Mapped::Keyed(keyed), axes @ ..]) => {
                let mut operands = vec![keyed.value];
                for axis in axes {
                    match axis {
                        Mapped::Fixed(axis) => operands.push(*axis),
                        _ => return Ok(None),
                    }
                }
                operands
            }
            (Op::Gather(_), [Mapped::Fixed(table), Mapped::Keyed(keyed)]) => vec![*table, keyed.value],
            _ => return Ok(None),
        };
        let operands: Vec<_> = operands.into_iter().map(Some).collect();
        let made = self.emit(&node.name, Operation::Op(op.clone()), &operands, 1)?;
        Ok(made.first().and_then(|&value| self.keyed(value, fact)).map(Mapped::Keyed))
    }

    /// Other axes of one place around rows and keys. What an expand repeats besides, broadcasts.
    fn keyed_reshape(&mut self, node: &Node, keyed: &Keyed, expands: bool) -> Special {
        let Some(&output) = node.outputs.first() else { return Ok(None) };
        let dims: Vec<Dim> = self.main.ty(output).dims.iter().map(|dim| self.normal(dim)).collect();
        let own = |&axis: &usize| self.over(&dims[axis]).is_some();
        let axes: Vec<usize> = (0..dims.len()).filter(own).collect();
        let [first, second] = axes[..] else { return Ok(None) };
        let apart = |axis: usize| axis == first || axis == second || dims[axis].as_constant() == Some(1);
        if !expands && !(0..dims.len()).all(apart) {
            return Ok(None);
        }
        let mut sizes = vec![Dim::constant(1); dims.len()];
        let turned = keyed.rows > keyed.keys;
        let (rows, keys) = if turned { (second, first) } else { (first, second) };
        sizes[rows] = Dim::symbol(self.rows.clone());
        sizes[keys] = self.width();
        // Heads of its own would be lost.
        if Dim::product(&self.ty(keyed.value).dims) != Dim::product(&sizes) {
            return Ok(None);
        }
        let value = self.reshape(&node.name, keyed.value, &sizes)?;
        Ok(self.keyed(value, keyed.fact).map(Mapped::Keyed))
    }

    /// A value with one axis of rows and one of keys.
    fn keyed(&self, value: ValueId, fact: Option<Fact>) -> Option<Keyed> {
        let (rows, width) = (Dim::symbol(self.rows.clone()), self.width());
        let dims = &self.ty(value).dims;
        let alone = |size: &Dim| {
            let mut axes = (0..dims.len()).filter(|&axis| dims[axis] == *size);
            axes.next().filter(|_| axes.next().is_none())
        };
        Some(Keyed { value, rows: alone(&rows)?, keys: alone(&width)?, fact })
    }

    /// The bias of an attention, where it is one by row and key: `[1, heads or 1, rows, width]`.
    pub fn bias(&mut self, mask: ValueId, heads: usize) -> Option<ValueId> {
        let Mapped::Keyed(keyed) = self.lookup(mask) else { return None };
        let ty = self.ty(keyed.value);
        let over = [Some(1), Some(heads as i64)];
        let fits = ty.rank() == 4
            && (keyed.rows, keyed.keys) == (2, 3)
            && ty.dtype == DType::F32
            && ty.dims[..2]
                .iter()
                .zip(over)
                .all(|(dim, over)| dim.as_constant() == over || dim.as_constant() == Some(1));
        fits.then_some(keyed.value)
    }
}
