//! Movement of data, backwards: which element of the operand an element of the result is.

use lathe_ir::{Dim, Source, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Unary;

use super::{Cell, Reader};

/// Where an element comes from.
pub(crate) type Place = (ValueId, Vec<Dim>);

/// The element that this element is a copy of, where one op back it is a copy of one.
pub(crate) fn source(reader: &Reader<'_>, value: ValueId, index: &[Dim]) -> Option<Place> {
    let (_, node, op) = reader.context.producer(value)?;
    let input = |place: usize| node.inputs.get(place).copied().flatten();
    let x = input(0)?;
    let rank = index.len();
    let moved = match op {
        Op::Unary(Unary::Identity) => index.to_vec(),
        Op::Transpose(transpose) => {
            let mut moved = vec![Dim::constant(0); rank];
            for (axis, from) in transpose.perm.iter().enumerate() {
                *moved.get_mut(*from)? = index.get(axis)?.clone();
            }
            moved
        }
        Op::Reshape(_) | Op::Unsqueeze(_) | Op::Squeeze(_) => reshape(reader, x, value, index)?,
        Op::Expand(_) => reader.operand_index(x, value, index)?,
        Op::Tile(_) => tile(reader, x, index)?,
        Op::Slice(_) => slice(reader, &node.inputs, index)?,
        Op::Split(split) => {
            let axis = axis_of(split.axis, rank)?;
            let Source::Node(_, output) = reader.context.body().value(value).source else { return None };
            let before = node.outputs.get(..output)?.iter();
            let offset = before.fold(Dim::constant(0), |sum, piece| sum.add(&reader.dim(*piece, axis)));
            shifted(index, axis, &offset)
        }
        Op::Gather(gather) => {
            let axis = axis_of(gather.axis, reader.context.ty(x).rank())?;
            let indices = input(1)?;
            let width = reader.context.ty(indices).rank();
            let Cell::Int(at) = reader.cell(indices, index.get(axis..axis + width)?) else { return None };
            let at = wrapped(reader, &at, &reader.dim(x, axis))?;
            [index.get(..axis)?, &[at], index.get(axis + width..)?].concat()
        }
        Op::GatherNd(gather) if gather.batch_dims == 0 => {
            let indices = input(1)?;
            let lead = reader.context.ty(indices).rank().checked_sub(1)?;
            let depth = usize::try_from(reader.dim(indices, lead).as_constant()?).ok()?;
            let mut moved = Vec::new();
            for component in 0..depth {
                let place = [index.get(..lead)?, &[Dim::constant(component as i64)]].concat();
                let Cell::Int(at) = reader.cell(indices, &place) else { return None };
                moved.push(wrapped(reader, &at, &reader.dim(x, component))?);
            }
            moved.extend_from_slice(index.get(lead..)?);
            moved
        }
        Op::Concat(concat) => return piece(reader, &node.inputs, axis_of(concat.axis, rank)?, index),
        _ => return None,
    };
    (moved.len() == reader.context.ty(x).rank()).then_some((x, moved))
}

/// An axis counted from the front.
pub(super) fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(axis).ok().filter(|axis| *axis < rank)
}

fn shifted(index: &[Dim], axis: usize, offset: &Dim) -> Vec<Dim> {
    let mut moved = index.to_vec();
    moved[axis] = moved[axis].add(offset);
    moved
}

/// An index of `gather` along an axis of this size: negative ones count from the end.
fn wrapped(reader: &Reader<'_>, at: &Dim, size: &Dim) -> Option<Dim> {
    match reader.space.sign(at)? {
        true => Some(at.clone()),
        false => Some(at.add(size)),
    }
}

fn reshape(reader: &Reader<'_>, x: ValueId, value: ValueId, index: &[Dim]) -> Option<Vec<Dim>> {
    let (from, to) = (reader.dims(x), reader.dims(value));
    let one = Dim::constant(1);
    let solid = |dims: &[Dim]| -> Vec<Dim> { dims.iter().filter(|dim| **dim != one).cloned().collect() };
    if solid(&from) == solid(&to) {
        let mut rest = to.iter().zip(index).filter(|(dim, _)| **dim != one).map(|(_, at)| at.clone());
        return from
            .iter()
            .map(|dim| if *dim == one { Some(Dim::constant(0)) } else { rest.next() })
            .collect();
    }
    // Axes that agree at both ends stay; what lies between is counted through.
    let head = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let tail = from[head..].iter().rev().zip(to[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&from[head..from.len() - tail], &to[head..to.len() - tail]);
    let mut flat = Dim::constant(0);
    for (dim, at) in new.iter().zip(&index[head..]) {
        flat = flat.mul(dim).add(at);
    }
    let mut middle = vec![Dim::constant(0); old.len()];
    for place in (1..old.len()).rev() {
        let (quotient, rest, sure) = reader.space.divide(&flat, &old[place]);
        if !sure {
            reader.assume(&rest, &old[place])?;
        }
        middle[place] = rest;
        flat = quotient;
    }
    if let Some(first) = middle.first_mut() {
        *first = flat;
    }
    Some([&index[..head], &middle, index.get(to.len() - tail..)?].concat())
}

fn tile(reader: &Reader<'_>, x: ValueId, index: &[Dim]) -> Option<Vec<Dim>> {
    let dims = reader.dims(x);
    dims.iter()
        .zip(index)
        .map(|(dim, at)| {
            let below = dim.sub(at).sub(&Dim::constant(1));
            if reader.space.never_negative(&below) {
                return Some(at.clone());
            }
            if dim.as_constant() == Some(1) {
                return Some(Dim::constant(0));
            }
            let (_, rest, sure) = reader.space.divide(at, dim);
            sure.then_some(rest)
        })
        .collect()
}

/// Slices with positive steps; starts are clamped as the op does.
fn slice(reader: &Reader<'_>, inputs: &[Option<ValueId>], index: &[Dim]) -> Option<Vec<Dim>> {
    let operand = |place: usize| inputs.get(place).copied().flatten();
    let x = operand(0)?;
    let starts = reader.integers(operand(1)?)?;
    let axes = reader.integers(operand(3)?)?;
    let steps = reader.integers(operand(4)?)?;
    let mut moved = index.to_vec();
    for ((start, axis), step) in starts.iter().zip(&axes).zip(&steps) {
        let axis = axis_of(axis.as_constant()?, index.len())?;
        let step = step.as_constant().filter(|step| *step > 0)?;
        let size = reader.dim(x, axis);
        let start = match reader.space.sign(start)? {
            // A start past the end leaves no cells, and then there is nothing to prove.
            true => start.clone(),
            false => size.add(start).max(&Dim::constant(0)),
        };
        moved[axis] = start.add(&moved[axis].scale(step));
    }
    Some(moved)
}

/// The piece of a concatenation that the element lies in, where that is decided, or where all pieces are one and the same.
fn piece(reader: &Reader<'_>, inputs: &[Option<ValueId>], axis: usize, index: &[Dim]) -> Option<Place> {
    let pieces: Vec<ValueId> = inputs.iter().copied().flatten().collect();
    let first = *pieces.first()?;
    if pieces.len() > 1
        && pieces.iter().all(|piece| *piece == first)
        && reader.dim(first, axis).as_constant() == Some(1)
    {
        let mut moved = index.to_vec();
        moved[axis] = Dim::constant(0);
        return Some((first, moved));
    }
    let mut offset = Dim::constant(0);
    for piece in pieces {
        let end = offset.add(&reader.dim(piece, axis));
        let inside = reader.space.sign(&end.sub(&index[axis]).sub(&Dim::constant(1)))?;
        if inside {
            return Some((piece, shifted(index, axis, &offset.scale(-1))));
        }
        offset = end;
    }
    None
}
