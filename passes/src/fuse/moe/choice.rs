//! Which experts a token chose, read from ones and zeros: where an index is that of the expert.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Compare, Unary};

use super::walk::integers;
use crate::mask::{Cell, Reader, source};

/// Ops between the indices and a mask.
const LONGEST: usize = 24;

/// One where the token chose the expert, zero elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice {
    /// The chosen experts.
    pub indices: ValueId,
    /// The place among them, in their order.
    pub at: Dim,
    /// The expert.
    pub expert: Dim,
    /// Most tokens of an expert in a row of tokens.
    pub capacity: Option<usize>,
}

/// Tokens that fill the places of an expert in turn: the coordinate along them, and how many they are.
pub(super) type Row = (Dim, Dim);

/// The value that an element is a copy of, however it was moved.
pub(super) fn origin(reader: &Reader<'_>, mut value: ValueId, mut index: Vec<Dim>) -> (ValueId, Vec<Dim>) {
    while let Some((x, moved)) = source(reader, value, &index) {
        (value, index) = (x, moved);
    }
    (value, index)
}

/// The place of an element in the order of a value's elements.
pub(super) fn place(reader: &Reader<'_>, value: ValueId, index: &[Dim]) -> Dim {
    let sizes = reader.dims(value);
    index.iter().zip(&sizes).fold(Dim::constant(0), |flat, (at, size)| flat.mul(size).add(at))
}

/// The number that an element is.
pub(super) fn number(reader: &Reader<'_>, (value, index): (ValueId, Vec<Dim>)) -> Option<f64> {
    match reader.cell(value, &index) {
        Cell::Real(number) => Some(number),
        Cell::Int(dim) => dim.as_constant().map(|number| number as f64),
        Cell::Bool(crate::mask::Formula::Known(holds)) => Some(f64::from(u8::from(holds))),
        _ => None,
    }
}

/// The choice that the ones of a value show at an index.
pub(super) fn chosen(
    reader: &Reader<'_>,
    value: ValueId,
    index: &[Dim],
    row: Option<&Row>,
    fuel: usize,
) -> Option<Choice> {
    let fuel = fuel.min(LONGEST).checked_sub(1)?;
    let (value, index) = origin(reader, value, index.to_vec());
    let (_, node, op) = reader.context.producer(value)?;
    let operand = |at: usize| -> Option<(ValueId, Vec<Dim>)> {
        let x = node.inputs.get(at).copied().flatten()?;
        Some((x, reader.operand_index(x, value, &index)?))
    };
    let read = |at: usize| {
        let (x, index) = operand(at)?;
        chosen(reader, x, &index, row, fuel)
    };
    match op {
        Op::Cast(_) => read(0),
        Op::Where(_) if number(reader, operand(1)?)? == 1.0 && number(reader, operand(2)?)? == 0.0 => read(0),
        Op::Compare(Compare::Greater) if number(reader, operand(1)?) == Some(0.0) => read(0),
        Op::Compare(Compare::Equal) => {
            let (a, b) = (operand(0)?, operand(1)?);
            let expert = |(value, index): &(ValueId, Vec<Dim>)| match reader.cell(*value, index) {
                Cell::Int(dim) => Some(dim),
                _ => None,
            };
            [(&a, &b), (&b, &a)].into_iter().find_map(|(index, other)| {
                let (indices, at) = index_of(reader, index.0, index.1.clone(), fuel)?;
                Some(Choice { indices, at, expert: expert(other)?, capacity: None })
            })
        }
        Op::Unary(Unary::Not) => zero_compared(reader, operand(0)?, row, fuel),
        Op::Binary(Binary::Mul | Binary::And) => {
            let (a, b) = (operand(0)?, operand(1)?);
            [(&a, &b), (&b, &a)].into_iter().find_map(|(ones, limit)| {
                let choice = chosen(reader, ones.0, &ones.1, row, fuel)?;
                let capacity = capacity(reader, limit.clone(), &choice, row?, fuel)?;
                choice.capacity.is_none().then_some(Choice { capacity: Some(capacity), ..choice })
            })
        }
        _ => None,
    }
}

/// The operand of `x == 0`, whose opposite is `x` itself.
fn zero_compared(
    reader: &Reader<'_>,
    (value, index): (ValueId, Vec<Dim>),
    row: Option<&Row>,
    fuel: usize,
) -> Option<Choice> {
    let (value, index) = origin(reader, value, index);
    let (_, node, Op::Compare(Compare::Equal)) = reader.context.producer(value)? else { return None };
    let (x, zero) = ((*node.inputs.first()?)?, (*node.inputs.get(1)?)?);
    let at = reader.operand_index(zero, value, &index)?;
    (number(reader, (zero, at))? == 0.0).then_some(())?;
    chosen(reader, x, &reader.operand_index(x, value, &index)?, row, fuel)
}

/// The indices of a choice that an element is one of, and its place among them. They are not negative: what counts from the end does not apply.
pub(super) fn index_of(
    reader: &Reader<'_>,
    value: ValueId,
    index: Vec<Dim>,
    fuel: usize,
) -> Option<(ValueId, Dim)> {
    let fuel = fuel.checked_sub(1)?;
    let (value, index) = origin(reader, value, index);
    let (_, node, op) = reader.context.producer(value)?;
    let operand = |at: usize| node.inputs.get(at).copied().flatten();
    let follow = |x: ValueId| index_of(reader, x, reader.operand_index(x, value, &index)?, fuel);
    match op {
        Op::Cast(cast) if !cast.to.is_float() => follow(operand(0)?),
        Op::Where(_) => {
            let (_, below, Op::Compare(Compare::Less)) = reader.context.producer(operand(0)?)? else {
                return None;
            };
            let (x, zero) = ((*below.inputs.first()?)?, (*below.inputs.get(1)?)?);
            let same = follow(x)?;
            (reader.context.scalar(zero) == Some(0.0) && follow(operand(2)?)? == same).then_some(same)
        }
        Op::TopK(_) if node.outputs.get(1) == Some(&value) => Some((value, place(reader, value, &index))),
        Op::ArgReduce(_) => Some((value, place(reader, value, &index))),
        _ => None,
    }
}

/// The `capacity` of `cum_sum(ones along the row) <= capacity`.
fn capacity(
    reader: &Reader<'_>,
    (value, index): (ValueId, Vec<Dim>),
    choice: &Choice,
    row: &Row,
    fuel: usize,
) -> Option<usize> {
    let (value, index) = origin(reader, value, index);
    let (_, node, op) = reader.context.producer(value)?;
    let operand = |at: usize| -> Option<(ValueId, Vec<Dim>)> {
        let x = node.inputs.get(at).copied().flatten()?;
        Some((x, reader.operand_index(x, value, &index)?))
    };
    let (sum, bound, strict) = match op {
        Op::Cast(_) => return capacity(reader, operand(0)?, choice, row, fuel.checked_sub(1)?),
        Op::Compare(Compare::LessOrEqual) => (operand(0)?, operand(1)?, false),
        Op::Compare(Compare::Less) => (operand(0)?, operand(1)?, true),
        Op::Compare(Compare::GreaterOrEqual) => (operand(1)?, operand(0)?, false),
        Op::Compare(Compare::Greater) => (operand(1)?, operand(0)?, true),
        _ => return None,
    };
    let bound = number(reader, bound)?;
    let (mut sum, mut at) = origin(reader, sum.0, sum.1);
    while let (_, node, Op::Cast(_)) = reader.context.producer(sum)? {
        (sum, at) = origin(reader, (*node.inputs.first()?)?, at);
    }
    let (_, node, Op::CumSum(running)) = reader.context.producer(sum)? else { return None };
    let axis = *integers(reader.context, (*node.inputs.get(1)?)?)?.first()?;
    let axis = usize::try_from(if axis < 0 { axis + at.len() as i64 } else { axis }).ok()?;
    let (coordinate, size) = row;
    let along = at.get(axis)? == coordinate && reader.dim(sum, axis) == *size;
    let alone = coordinate.as_symbol().is_none_or(|symbol| {
        at.iter().enumerate().all(|(other, at)| other == axis || !at.symbols().contains(symbol))
    });
    let same = chosen(reader, (*node.inputs.first()?)?, &at, None, fuel.checked_sub(1)?)? == *choice;
    (along && alone && same && !running.reverse).then_some(())?;
    // Places before the token's own, or with it.
    let most = bound.floor() + if strict && bound.fract() == 0.0 { -1.0 } else { 0.0 };
    let most = most + if running.exclusive { 1.0 } else { 0.0 };
    ((1.0..=1e9).contains(&most)).then_some(most as usize)
}
