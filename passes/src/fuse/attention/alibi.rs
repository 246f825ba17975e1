//! ALiBi: a bias that grows with the position of the key, by a slope of each head.

use lathe_ir::Dim;
use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::elementwise::Binary;
use lathe_tensor::DType;

use crate::mask::{Cell, Reader, never_negative_up_to, source};

/// `slope_h * position_j`.
pub(super) struct Alibi {
    /// One slope a head.
    pub slopes: Vec<f32>,
    /// Positions `[batch, keys]`; the key's own place where there are none.
    pub positions: Option<ValueId>,
    /// With more keys than this there is no bias.
    pub limit: Option<i64>,
}

impl Alibi {
    /// With a factor outside.
    pub fn times(mut self, factor: f64) -> Self {
        self.slopes.iter_mut().for_each(|slope| *slope = (f64::from(*slope) * factor) as f32);
        self
    }
}

/// The linear bias that `value` is at `index`, if it is one. A constant is one under a causal mask alone: it may differ from
/// `-slope * |i - j|` by a number for each row, which the softmax does not see, and only keys before the query count.
///
/// `limit`: the index is right up to so many keys. With more the value has one place for all of them, and no effect.
pub(super) fn of(
    reader: &Reader<'_>,
    value: ValueId,
    index: &[Dim],
    causal: bool,
    limit: Option<i64>,
) -> Option<Alibi> {
    let heads = usize::try_from(reader.space.size(1).as_constant()?).ok()?;
    let (mut value, mut index) = (value, index.to_vec());
    let before = |value: ValueId, index: &[Dim]| {
        source(reader, value, index).or_else(|| cut_from_the_end(reader, value, index, limit?))
    };
    while let Some((x, moved)) = before(value, &index) {
        (value, index) = (x, moved);
    }
    if reader.context.constant(value).is_some() {
        return if causal { of_table(reader, value, &index, heads, limit) } else { None };
    }
    if limit.is_some() {
        return None;
    }
    let (_, node, op) = reader.context.producer(value)?;
    let [Some(a), Some(b)] = node.inputs[..] else { return None };
    (*op == Op::Binary(Binary::Mul)).then_some(())?;
    [(a, b), (b, a)].into_iter().find_map(|(slopes, positions)| {
        let at = reader.operand_index(slopes, value, &index)?;
        let slopes = per_head(reader, slopes, &at, heads)?;
        let at = reader.operand_index(positions, value, &index)?;
        let Cell::Element(positions, at) = reader.cell(positions, &at) else { return None };
        let dtype = reader.context.ty(positions).dtype;
        let wanted = [reader.space.coordinate(0), reader.space.coordinate(3)];
        let sizes = [reader.space.size(0), reader.space.size(3)];
        let fits =
            at == wanted && reader.dims(positions) == sizes && matches!(dtype, DType::F32 | DType::I64);
        fits.then_some(Alibi { slopes, positions: Some(positions), limit: None })
    })
}

/// A slice whose start depends on the number of keys, and is no place from the end up to that limit.
fn cut_from_the_end(
    reader: &Reader<'_>,
    value: ValueId,
    index: &[Dim],
    limit: i64,
) -> Option<(ValueId, Vec<Dim>)> {
    let (_, node, Op::Slice(_)) = reader.context.producer(value)? else { return None };
    let operand = |place: usize| node.inputs.get(place).copied().flatten();
    let (x, starts) = (operand(0)?, reader.integers(operand(1)?)?);
    let (axes, steps) = (reader.integers(operand(3)?)?, reader.integers(operand(4)?)?);
    let mut moved = index.to_vec();
    for ((start, axis), step) in starts.iter().zip(&axes).zip(&steps) {
        let axis = axis.as_constant()?;
        let axis = if axis < 0 { axis.checked_add(index.len() as i64)? } else { axis };
        let place = moved.get_mut(usize::try_from(axis).ok()?)?;
        let stays = never_negative_up_to(start, &reader.space.size(3), limit);
        (stays && step.as_constant() == Some(1)).then_some(())?;
        *place = start.add(place);
    }
    Some((x, moved))
}

/// The elements of a constant that varies with the head alone.
pub(super) fn per_head(reader: &Reader<'_>, value: ValueId, index: &[Dim], heads: usize) -> Option<Vec<f32>> {
    let (mut value, mut index) = (value, index.to_vec());
    while let Some((x, moved)) = source(reader, value, &index) {
        (value, index) = (x, moved);
    }
    let elements = reader.context.constant_f32(value)?;
    let head = reader.space.coordinate(1);
    let varying = index.iter().filter(|at| at.as_constant() != Some(0)).collect::<Vec<_>>();
    let fits = elements.len() == heads && (varying == [&head] || (heads == 1 && varying.is_empty()));
    fits.then_some(elements)
}

/// A constant over heads and keys that grows evenly with the key.
fn of_table(
    reader: &Reader<'_>,
    value: ValueId,
    index: &[Dim],
    heads: usize,
    limit: Option<i64>,
) -> Option<Alibi> {
    let tensor = reader.context.constant(value)?;
    let elements = reader.context.constant_f32(value)?;
    let (head, key) = (reader.space.coordinate(1), reader.space.coordinate(3));
    let mut head_axis = None;
    let mut key_axis = None;
    for (axis, at) in index.iter().enumerate() {
        if *at == head && tensor.shape()[axis] == heads {
            head_axis = Some(axis);
        } else if !reader.space.varies(&at.sub(&key)) {
            key_axis = Some(axis);
        } else if at.as_constant() != Some(0) || tensor.shape()[axis] != 1 {
            return None;
        }
    }
    let (head_axis, key_axis) = (head_axis?, key_axis?);
    let stride = |axis: usize| tensor.shape()[axis + 1..].iter().product::<usize>();
    let count = tensor.shape()[key_axis];
    let at = |head: usize, key: usize| elements[head * stride(head_axis) + key * stride(key_axis)];
    if count < 2 {
        return None;
    }
    let slopes: Vec<f32> =
        (0..heads).map(|head| (at(head, count - 1) - at(head, 0)) / (count - 1) as f32).collect();
    let even = slopes.iter().enumerate().all(|(head, slope)| {
        let largest = at(head, 0).abs().max(at(head, count - 1).abs());
        (0..count).all(|key| (at(head, 0) + slope * key as f32 - at(head, key)).abs() <= 1e-6 * largest)
    });
    even.then_some(Alibi { slopes, positions: None, limit })
}
