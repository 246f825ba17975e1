//! Reads one symbolic element of a value.

use std::cell::{Cell as Mutable, RefCell};

use lathe_ir::{Answer, Dim, Operation, ValueId};
use lathe_ops::Op;
use lathe_tensor::DType;

use super::movement::{axis_of, source};
use super::{Cell, Formula, Space, table};
use crate::Context;

/// Nodes that one question may look at: graphs are shared, elements are not.
const FUEL: usize = 4000;

/// Reads elements of the values of a function at the coordinates of a space.
pub(crate) struct Reader<'a> {
    /// The function.
    pub context: Context<'a>,
    /// The coordinates.
    pub space: Space,
    fuel: Mutable<usize>,
    assumed: RefCell<Vec<(Dim, Dim)>>,
}

impl<'a> Reader<'a> {
    /// A reader for cells of these sizes.
    pub fn new(context: Context<'a>, dims: &[Dim]) -> Self {
        Self { context, space: Space::new(dims), fuel: Mutable::new(FUEL), assumed: RefCell::default() }
    }

    /// What had to be assumed: each first is below its second at every cell. Whoever uses what was read must see to it.
    pub fn assumptions(&self) -> Vec<(Dim, Dim)> {
        self.assumed.borrow().clone()
    }

    /// Notes that `index < size` must hold; `None` where it surely does not.
    pub fn assume(&self, index: &Dim, size: &Dim) -> Option<()> {
        self.space.never_negative(index).then_some(())?;
        let pair = (index.clone(), size.clone());
        let mut assumed = self.assumed.borrow_mut();
        if !assumed.contains(&pair) {
            assumed.push(pair);
        }
        Some(())
    }

    /// The lifted sizes of a value.
    pub fn dims(&self, value: ValueId) -> Vec<Dim> {
        self.context.ty(value).dims.iter().map(|dim| self.space.lift(dim)).collect()
    }

    /// The lifted size of an axis of a value.
    pub fn dim(&self, value: ValueId, axis: usize) -> Dim {
        self.context.ty(value).dims.get(axis).map_or_else(|| Dim::constant(1), |dim| self.space.lift(dim))
    }

    /// The elements of a small tensor of integers, lifted.
    pub fn integers(&self, value: ValueId) -> Option<Vec<Dim>> {
        if let Some(known) = &self.context.body().value(value).known {
            return Some(known.iter().map(|dim| self.space.lift(dim)).collect());
        }
        let tensor = self.context.constant(value).filter(|tensor| tensor.len() <= 64)?;
        match tensor.dtype() {
            DType::I64 => Some(tensor.to_slice::<i64>().ok()?.iter().copied().map(Dim::constant).collect()),
            DType::I32 => {
                Some(tensor.to_slice::<i32>().ok()?.iter().map(|&v| Dim::constant(v.into())).collect())
            }
            _ => None,
        }
    }

    /// The index into an operand of the element that broadcasting takes for `index` of the result.
    pub fn operand_index(&self, operand: ValueId, result: ValueId, index: &[Dim]) -> Option<Vec<Dim>> {
        self.index_into(operand, &self.dims(result), index)
    }

    /// The same for a result of these lifted sizes.
    pub fn index_into(&self, operand: ValueId, to: &[Dim], index: &[Dim]) -> Option<Vec<Dim>> {
        let from = self.dims(operand);
        let skip = to.len().checked_sub(from.len())?;
        let pairs = from.iter().zip(to.get(skip..)?).zip(index.get(skip..)?);
        pairs
            .map(|((dim, out), at)| match dim.as_constant() {
                Some(1) => Some(Dim::constant(0)),
                _ => is_full_size(dim, out).then(|| at.clone()),
            })
            .collect()
    }

    /// The element at an index.
    pub fn cell(&self, value: ValueId, index: &[Dim]) -> Cell {
        let opaque = || Cell::Element(value, index.to_vec());
        let fuel = self.fuel.get();
        if fuel == 0 {
            return opaque();
        }
        self.fuel.set(fuel - 1);
        if let Some(tensor) = self.context.constant(value) {
            return table::cell(&self.space, tensor, index).unwrap_or_else(opaque);
        }
        if let Some(known) = self.known(value, index) {
            return known;
        }
        if let Some((x, index)) = source(self, value, index) {
            return self.cell(x, &index);
        }
        self.computed(value, index).unwrap_or_else(opaque)
    }

    /// An element that inference knows as a size.
    fn known(&self, value: ValueId, index: &[Dim]) -> Option<Cell> {
        let known = self.context.body().value(value).known.as_ref()?;
        let place = match (known.len(), index) {
            (1, _) => 0,
            (_, [at]) => usize::try_from(at.as_constant()?).ok()?,
            _ => return None,
        };
        let dim = self.space.lift(known.get(place)?);
        Some(match self.context.ty(value).dtype {
            DType::Bool => Cell::Bool(Formula::Known(dim.as_constant()? != 0)),
            _ => Cell::Int(dim),
        })
    }

    fn computed(&self, value: ValueId, index: &[Dim]) -> Option<Cell> {
        let (_, node) = self.context.body().producer(value)?;
        let Operation::Op(op) = &node.operation else { return None };
        let operand = |place: usize| -> Option<Cell> {
            let x = node.inputs.get(place).copied().flatten()?;
            Some(self.cell(x, &self.operand_index(x, value, index)?))
        };
        match op {
            Op::Unary(kind) => operand(0)?.unary(*kind),
            Op::Binary(kind) => operand(0)?.binary(*kind, &operand(1)?),
            Op::Compare(kind) => operand(0)?.compare(&self.space, *kind, &operand(1)?),
            Op::Where(_) => {
                let condition = operand(0)?.truth(&self.space);
                Some(Cell::select(condition, operand(1)?, operand(2)?))
            }
            Op::Cast(cast) => self.cast(&operand(0)?, node.inputs.first().copied().flatten()?, cast.to),
            Op::ConstantOfShape(fill) => table::scalar(fill.dtype, fill.bits),
            Op::Range(_) => {
                let (start, step) = (operand_scalar(self, node, 0)?, operand_scalar(self, node, 2)?);
                Some(Cell::Int(start.add(&step.mul(index.first()?))))
            }
            Op::Trilu(trilu) => {
                let k = match node.inputs.get(1).copied().flatten() {
                    Some(k) => self.scalar(k)?,
                    None => Dim::constant(0),
                };
                let [.., row, column] = index else { return None };
                let ahead = column.sub(row).sub(&k);
                let kept = if trilu.upper { ahead } else { ahead.scale(-1) };
                let zero = table::scalar(self.context.ty(value).dtype, 0)?;
                let x = node.inputs.first().copied().flatten()?;
                Some(Cell::select(Formula::at_least(&self.space, &kept), self.cell(x, index), zero))
            }
            // A running sum of zeros.
            Op::CumSum(_) => match operand(0)? {
                Cell::Int(dim) if dim.as_constant() == Some(0) => Some(Cell::Int(dim)),
                _ => None,
            },
            Op::Concat(concat) => self.concat(&node.inputs, axis_of(concat.axis, index.len())?, index),
            _ => None,
        }
    }

    fn scalar(&self, value: ValueId) -> Option<Dim> {
        let place = vec![Dim::constant(0); self.context.ty(value).rank()];
        match self.cell(value, &place) {
            Cell::Int(dim) => Some(dim),
            _ => None,
        }
    }

    /// Which piece the element lies in depends on the coordinates.
    fn concat(&self, inputs: &[Option<ValueId>], axis: usize, index: &[Dim]) -> Option<Cell> {
        let pieces: Vec<ValueId> = inputs.iter().copied().flatten().collect();
        let mut offset = Dim::constant(0);
        let mut cells = Vec::new();
        for piece in pieces {
            let mut place = index.to_vec();
            *place.get_mut(axis)? = index.get(axis)?.sub(&offset);
            offset = offset.add(&self.dim(piece, axis));
            let before = offset.sub(index.get(axis)?).sub(&Dim::constant(1));
            cells.push((Formula::at_least(&self.space, &before), self.cell(piece, &place)));
        }
        let (_, last) = cells.pop()?;
        Some(cells.into_iter().rev().fold(last, |rest, (inside, cell)| Cell::select(inside, cell, rest)))
    }

    fn cast(&self, cell: &Cell, x: ValueId, to: DType) -> Option<Cell> {
        let from = self.context.ty(x).dtype;
        if to == DType::Bool {
            return Some(Cell::Bool(cell.truth(&self.space)));
        }
        let number = |value: i64| match to.is_float() {
            true => Cell::Real(value as f64),
            false => Cell::Int(Dim::constant(value)),
        };
        match cell {
            Cell::Bool(_) => cell.number_of_bool(number(1), number(0)),
            Cell::Select(condition, a, b) => {
                Some(Cell::select(condition.clone(), self.cast(a, x, to)?, self.cast(b, x, to)?))
            }
            Cell::Int(dim) if !to.is_float() => Some(Cell::Int(dim.clone())),
            Cell::Int(dim) => dim.as_constant().map(|value| Cell::Real(value as f64)),
            Cell::Real(number) if to == DType::F32 || to == DType::F64 => Some(Cell::Real(*number)),
            // Nonzero integers stay nonzero, and elements are only asked for that.
            Cell::Element(..) if !from.is_float() && matches!(to, DType::F32 | DType::F64 | DType::I64) => {
                Some(cell.clone())
            }
            _ => None,
        }
    }
}

fn operand_scalar(reader: &Reader<'_>, node: &lathe_ir::Node, place: usize) -> Option<Dim> {
    reader.scalar(node.inputs.get(place).copied().flatten()?)
}

/// Whether an operand's axis is as long as the result's wherever the broadcast is valid and a cell exists.
fn is_full_size(dim: &Dim, out: &Dim) -> bool {
    if dim.equals(out) == Answer::Yes {
        return true;
    }
    // min(n, c) with c > 1 broadcasts to n only where both are equal; exporters clamp slices of tables so.
    let largest = dim.constant_part().max(2);
    let clamp = Dim::constant(largest);
    let forms = [out.min(&clamp), clamp.sub(&clamp.sub(out).max(&Dim::constant(0)))];
    forms.contains(dim) || is_min_of(dim, out)
}

fn is_min_of(dim: &Dim, out: &Dim) -> bool {
    match dim.as_atom() {
        Some(lathe_ir::Atom::Min(pair)) => {
            let bound = |a: &Dim, b: &Dim| a == out && b.as_constant().is_some_and(|bound| bound > 1);
            bound(&pair.0, &pair.1) || bound(&pair.1, &pair.0)
        }
        _ => false,
    }
}
