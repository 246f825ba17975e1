//! Reads one symbolic element of a value.

use std::cell::{Cell as Mutable, RefCell};

use lathe_ir::{Answer, Dim, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Binary;
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
                _ if is_full_size(dim, out) || self.space.is_size_of(dim, at) => Some(at.clone()),
                // An undecided broadcast of two sizes to one of them: it is that one where there is a cell.
                _ if joins(dim, out) => Some(at.clone()),
                // One of the two: the other is as long where it is long enough.
                _ if joins(out, dim) => {
                    self.assume(at, dim)?;
                    Some(at.clone())
                }
                _ => None,
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
        let dtype = self.context.ty(value).dtype;
        if matches!(op, Op::Unary(_) | Op::Binary(_)) && dtype.is_integer() && !dtype.is_signed_integer() {
            // Differences wrap around.
            return None;
        }
        let operand = |place: usize| -> Option<Cell> {
            let x = node.inputs.get(place).copied().flatten()?;
            Some(self.cell(x, &self.operand_index(x, value, index)?))
        };
        match op {
            Op::Unary(kind) => operand(0)?.unary(*kind),
            Op::Binary(Binary::Add) if self.context.ty(value).dtype == DType::F32 => {
                let (a, b) = (operand(0)?, operand(1)?);
                self.absorbed(&a, &b).or_else(|| a.binary(Binary::Add, &b))
            }
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
            // A running sum of one number.
            Op::CumSum(sum) => {
                let Cell::Int(each) = operand(0)? else { return None };
                let x = node.inputs.first().copied().flatten()?;
                let axis = self.scalar(node.inputs.get(1).copied().flatten()?)?.as_constant()?;
                let axis = axis_of(axis, index.len())?;
                each.as_constant()?;
                let before = match sum.reverse {
                    false => index[axis].clone(),
                    true => self.dim(x, axis).sub(&index[axis]).sub(&Dim::constant(1)),
                };
                let own = Dim::constant(i64::from(!sum.exclusive));
                Some(Cell::Int(before.add(&own).mul(&each)))
            }
            Op::Concat(concat) => self.concat(&node.inputs, axis_of(concat.axis, index.len())?, index),
            _ => None,
        }
    }

    /// A large number plus an integer of 64 bits is the number: less than half of its last digit is added, in f32. Otherwise each alternative
    /// for itself.
    fn absorbed(&self, a: &Cell, b: &Cell) -> Option<Cell> {
        let whole = |value: ValueId| !self.context.ty(value).dtype.is_float();
        match (a, b) {
            (Cell::Real(large), Cell::Element(value, _)) | (Cell::Element(value, _), Cell::Real(large))
                if large.abs() >= 1e30 && whole(*value) =>
            {
                Some(Cell::Real(*large))
            }
            (Cell::Select(condition, x, y), other) | (other, Cell::Select(condition, x, y)) => {
                let each = |x: &Cell| self.absorbed(x, other).or_else(|| x.binary(Binary::Add, other));
                Some(Cell::select(condition.clone(), each(x)?, each(y)?))
            }
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
            Cell::Element(..) | Cell::Offset { .. }
                if !from.is_float() && matches!(to, DType::F32 | DType::F64 | DType::I64) =>
            {
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

/// Whether a size is an undecided broadcast of `part` and another.
fn joins(size: &Dim, part: &Dim) -> bool {
    match size.as_atom() {
        Some(lathe_ir::Atom::Broadcast(pair)) => pair.0 == *part || pair.1 == *part,
        _ => false,
    }
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
