//! Prefix scans: positions that `main` makes by counting, from its sizes (`Range`) or from its mask (`CumSum`), and what follows from
//! them exactly. In `decode` they are the input `position`.

use lathe_ir::{Answer, Dim, Node, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Cast, Compare};
use lathe_ops::gather::Gather;
use lathe_ops::reduce::{CumSum, Reduce, ReduceKind};
use lathe_tensor::{DType, Tensor};

use super::build::Decode;
use super::mapped::{Mapped, Places, Refusal, Rows};
use super::sees::truth;

/// What a rule makes of a node: `None` where it does not apply.
pub(super) type Special = Result<Option<Mapped>, Refusal>;

impl Decode<'_> {
    /// `range(start, limit, 1)` over new tokens, or over past and new ones.
    pub fn range(&mut self, node: &Node) -> Special {
        let [Some(start), Some(limit), Some(delta)] = node.inputs[..] else { return Ok(None) };
        let (Some(start), Some(limit), Some(delta)) =
            (self.element(start), self.element(limit), self.element(delta))
        else {
            return Ok(None);
        };
        if delta != Dim::constant(1) {
            return Ok(None);
        }
        let length = limit.sub(&start);
        Ok(self.over(&length).map(|new| Mapped::Places(Places { axis: 0, offset: start, new })))
    }

    /// The one element of an operand of sizes.
    fn element(&mut self, value: ValueId) -> Option<Dim> {
        let known = match self.known(value) {
            Some(known) => known,
            None => match self.lookup(value) {
                Mapped::Sizes(known) => known,
                _ => return None,
            },
        };
        match &known[..] {
            [element] => Some(element.clone()),
            _ => None,
        }
    }

    /// Arithmetic on two sizes of which `main` knows one only with its mask.
    pub fn sized(&mut self, node: &Node, kind: Binary) -> Special {
        let [Some(a), Some(b)] = node.inputs[..] else { return Ok(None) };
        let (Some(a), Some(b)) = (self.element(a), self.element(b)) else { return Ok(None) };
        let result = match kind {
            Binary::Add => a.add(&b),
            Binary::Sub => a.sub(&b),
            Binary::Mul => a.mul(&b),
            Binary::Max => a.max(&b),
            Binary::Min => a.min(&b),
            _ => return Ok(None),
        };
        Ok((self.is_single(node) && !result.is_overflow()).then(|| Mapped::Sizes(vec![result])))
    }

    /// Whether the result of a node is one element.
    fn is_single(&self, node: &Node) -> bool {
        let dims = node.outputs.first().map(|&output| &self.main.ty(output).dims);
        dims.is_some_and(|dims| dims.iter().all(|dim| self.normal(dim).as_constant() == Some(1)))
    }

    /// The sum of a mask of ones along past and new tokens: their number.
    fn tokens_of_mask(&mut self, node: &Node, reduce: &Reduce) -> Option<Mapped> {
        let x = node.inputs.first().copied().flatten()?;
        let Mapped::Uniform(element) = self.lookup(x) else { return None };
        let ty = self.main.ty(x);
        let axes = match (&reduce.axes, node.inputs.get(1).copied().flatten()) {
            (Some(axes), _) => axes.clone(),
            (None, Some(axes)) => self.known(axes)?.iter().map(Dim::as_constant).collect::<Option<_>>()?,
            (None, None) => return None,
        };
        let &[axis] = &axes[..] else { return None };
        let along = self.normal(ty.dims.get(axis_of(axis, ty.rank())?)?);
        let counts = matches!(ty.dtype, DType::I64 | DType::I32) && integer(&element) == Some(1);
        let all = along.equals(&self.past().add(&self.seq())) == Answer::Yes;
        (counts && all && self.is_single(node)).then_some(Mapped::Length(0))
    }

    /// A comparison of counts with the total length that holds for all of them: the last count is below it.
    pub fn within(&mut self, node: &Node, kind: Compare) -> Special {
        let [Some(a), Some(b)] = node.inputs[..] else { return Ok(None) };
        let (places, length, strict) = match (kind, self.lookup(a), self.lookup(b)) {
            (Compare::Less, Mapped::Places(places), Mapped::Length(length)) => (places, length, 1),
            (Compare::LessOrEqual, Mapped::Places(places), Mapped::Length(length)) => (places, length, 0),
            (Compare::Greater, Mapped::Length(length), Mapped::Places(places)) => (places, length, 1),
            (Compare::GreaterOrEqual, Mapped::Length(length), Mapped::Places(places)) => (places, length, 0),
            _ => return Ok(None),
        };
        // The last of the counts is the total length less one, and what they begin at.
        let first = if places.new { places.offset.sub(&self.past()) } else { places.offset };
        let holds = first.as_constant().is_some_and(|first| first - 1 + strict <= length);
        Ok(holds.then(|| Mapped::Uniform(truth(true))))
    }

    /// Whether a length is that of the new tokens (`true`), or of past and new ones.
    pub fn over(&self, length: &Dim) -> Option<bool> {
        if length.equals(&self.seq()) == Answer::Yes {
            return Some(true);
        }
        (length.equals(&self.past().add(&self.seq())) == Answer::Yes).then_some(false)
    }

    /// The running sum of a mask of ones: counts from 1 on.
    pub fn cum_sum(&mut self, node: &Node, sum: &CumSum) -> Special {
        let [Some(x), Some(axis)] = node.inputs[..] else { return Ok(None) };
        let Mapped::Uniform(element) = self.lookup(x) else { return Ok(None) };
        let ty = self.main.ty(x);
        let axis = self.known(axis).and_then(|axis| axis.first()?.as_constant());
        let axis = axis.and_then(|axis| axis_of(axis, ty.rank()));
        let (Some(axis), Some(1), false) = (axis, integer(&element), sum.reverse) else {
            return Err(Refusal::new(&node.name, "a running sum of something else than the mask"));
        };
        let Some(new) = self.over(&self.normal(&ty.dims[axis])) else { return Ok(None) };
        let offset = Dim::constant(i64::from(!sum.exclusive));
        Ok(Some(Mapped::Places(Places { axis, offset, new })))
    }

    /// Arithmetic on counts: `x + c`, `x - c`, `x * 1`, also where `c` is a size.
    pub fn shifted(&mut self, node: &Node, kind: Binary) -> Special {
        let [Some(a), Some(b)] = node.inputs[..] else { return Ok(None) };
        let (x, y) = (self.lookup(a), self.lookup(b));
        let (value, other, swapped) = match (&x, &y) {
            (Mapped::Places(_) | Mapped::Length(_), _) => (x, b, false),
            (_, Mapped::Places(_) | Mapped::Length(_)) => (y, a, true),
            _ => return Ok(None),
        };
        let by = match self.uniform(other) {
            Some(element) => integer(&element).map(Dim::constant),
            None => self.element(other),
        };
        let Some(by) = by else { return Ok(None) };
        let by = match kind {
            Binary::Add => by,
            Binary::Sub if !swapped => Dim::constant(0).sub(&by),
            Binary::Mul if by == Dim::constant(1) => Dim::constant(0),
            _ => return Ok(None),
        };
        match value {
            Mapped::Places(places) => {
                let offset = places.offset.add(&by);
                Ok(self
                    .same_axis(node, &places)
                    .map(|axis| Mapped::Places(Places { axis, offset, ..places })))
            }
            Mapped::Length(offset) => Ok(match by.as_constant() {
                Some(by) => Some(Mapped::Length(offset.saturating_add(by))),
                // Less the new tokens it is the past.
                None if self.is_single(node) => {
                    let total = self.past().add(&self.seq());
                    Some(Mapped::Sizes(vec![total.add(&Dim::constant(offset)).add(&by)]))
                }
                None => None,
            }),
            _ => Ok(None),
        }
    }

    /// A change of layout or dtype of counts keeps them.
    pub fn viewed(&mut self, node: &Node, op: &Op) -> Special {
        let Some(Some(x)) = node.inputs.first().copied() else { return Ok(None) };
        let to_number = |to: DType| to.is_float() || matches!(to, DType::I32 | DType::I64);
        let keeps = match op {
            Op::Reshape(_)
            | Op::Squeeze(_)
            | Op::Unsqueeze(_)
            | Op::Transpose(_)
            | Op::Expand(_)
            | Op::Tile(_) => true,
            Op::Cast(cast) => to_number(cast.to),
            _ => false,
        };
        match (self.lookup(x), keeps) {
            (Mapped::Places(places), true) => {
                Ok(self.same_axis(node, &places).map(|axis| Mapped::Places(Places { axis, ..places })))
            }
            (Mapped::Length(offset), true) if !matches!(op, Op::Expand(_) | Op::Tile(_)) => {
                Ok(Some(Mapped::Length(offset)))
            }
            (Mapped::Sizes(sizes), true) if sizes.len() == 1 && self.is_single(node) => {
                let whole = !self.main.ty(node.outputs[0]).dtype.is_float();
                Ok(whole.then_some(Mapped::Sizes(sizes)))
            }
            _ => Ok(None),
        }
    }

    /// The axis of a node's result that runs over the same tokens; `None` where it is not the only one.
    fn same_axis(&self, node: &Node, places: &Places) -> Option<usize> {
        let dims: Vec<_> =
            self.main.ty(*node.outputs.first()?).dims.iter().map(|dim| self.normal(dim)).collect();
        let length = if places.new { self.seq() } else { self.past().add(&self.seq()) };
        let mut axes = (0..dims.len()).filter(|&axis| dims[axis].equals(&length) == Answer::Yes);
        let axis = axes.next()?;
        let alone = axes.next().is_none()
            && dims.iter().enumerate().all(|(other, dim)| other == axis || dim.as_constant().is_some());
        alone.then_some(axis)
    }

    /// A slice of counts that leaves the new tokens, and rows of a constant table from the past's length on.
    pub fn sliced(&mut self, node: &Node) -> Special {
        let [Some(x), Some(starts), Some(ends), Some(axes), Some(steps)] = node.inputs[..] else {
            return Ok(None);
        };
        let single = (self.element(starts), self.element(ends), self.element(axes), self.element(steps));
        let (Some(start), Some(end), Some(axis), Some(step)) = single else { return Ok(None) };
        let rank = self.main.ty(x).rank();
        let Some(axis) = axis.as_constant().and_then(|axis| axis_of(axis, rank)) else { return Ok(None) };
        if step != Dim::constant(1) {
            return Ok(None);
        }
        let (past, seq) = (self.past(), self.seq());
        match self.lookup(x) {
            Mapped::Places(places) if places.axis == axis && !places.new => {
                let begins = start.equals(&past) == Answer::Yes
                    || start.equals(&Dim::constant(0).sub(&seq)) == Answer::Yes;
                let ends = end.as_constant() == Some(i64::MAX) || end.equals(&past.add(&seq)) == Answer::Yes;
                let offset = places.offset.add(&past);
                Ok((begins && ends).then_some(Mapped::Places(Places { offset, new: true, ..places })))
            }
            Mapped::Fixed(table) if self.over(&end.sub(&start)) == Some(true) => {
                let Some(by) = start.sub(&past).as_constant() else { return Ok(None) };
                let index = self.position(&node.name, by, DType::I64, &[Dim::symbol(self.rows.clone())])?;
                let value =
                    self.emit_one(&node.name, Op::Gather(Gather { axis: axis as i64 }), &[table, index])?;
                Ok(Some(Mapped::Rows(Rows { value, axis })))
            }
            _ => Ok(None),
        }
    }

    /// The largest count is the total length, less what it begins at; the sum of a mask is the total length.
    pub fn largest(&mut self, node: &Node, reduce: &Reduce) -> Special {
        let Some(Some(x)) = node.inputs.first().copied() else { return Ok(None) };
        let Mapped::Places(places) = self.lookup(x) else {
            return Ok((reduce.kind == ReduceKind::Sum).then(|| self.tokens_of_mask(node, reduce)).flatten());
        };
        if reduce.kind != ReduceKind::Max || !self.is_single(node) {
            return Ok(None);
        }
        // The last of `length` counts from `offset` on is `offset + length - 1`.
        let length = if places.new { self.seq() } else { self.past().add(&self.seq()) };
        let last = places.offset.add(&length).sub(&Dim::constant(1));
        let above = last.sub(&self.past().add(&self.seq()));
        Ok(above.as_constant().map(Mapped::Length))
    }

    /// `position + by` as a tensor of these sizes, of which one is the number of rows.
    pub fn position(&mut self, name: &str, by: i64, dtype: DType, dims: &[Dim]) -> Result<ValueId, Refusal> {
        let mut value = self.reshape(name, self.inputs.position, dims)?;
        if by != 0 {
            let by = self.constant(Tensor::scalar(by));
            value = self.emit_one(name, Op::Binary(Binary::Add), &[value, by])?;
        }
        if dtype != DType::I64 {
            value = self.emit_one(name, Op::Cast(Cast { to: dtype, saturate: true }), &[value])?;
        }
        Ok(value)
    }

    /// Counts over the new tokens as rows.
    pub fn counted(&mut self, node: &str, value: ValueId, places: &Places) -> Result<Rows, Refusal> {
        let refuse = |reason: &str| Err(Refusal::new(node, reason));
        if !places.new {
            return refuse("it needs one element for each token of the past");
        }
        let Some(by) = places.offset.sub(&self.past()).as_constant() else {
            return refuse("it counts from the beginning of the call, not of the sequence");
        };
        let mut dims = vec![Dim::constant(1); self.main.ty(value).rank()];
        dims[places.axis] = Dim::symbol(self.rows.clone());
        let value = self.position(node, by, self.main.ty(value).dtype, &dims)?;
        Ok(Rows { value, axis: places.axis })
    }
}

/// An axis that may count from the end.
pub(super) fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}

/// The integer that a scalar is.
pub(super) fn integer(element: &Tensor) -> Option<i64> {
    let float = |value: f64| (value.fract() == 0.0 && value.abs() < 1e9).then_some(value as i64);
    match element.dtype() {
        DType::I64 => element.to_slice::<i64>().ok()?.first().copied(),
        DType::I32 => element.to_slice::<i32>().ok()?.first().map(|&value| i64::from(value)),
        DType::F32 => float(f64::from(*element.to_slice::<f32>().ok()?.first()?)),
        _ => None,
    }
}
