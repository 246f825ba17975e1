//! Sequences of tensors of any sizes, as three tensors: the `elements [n]` of all of them one after the other, their `sizes i64[m]`
//! likewise, and `layout i64[length, 2]`, the number of axes and of elements of each. See `lathe_tensor::value`.

use lathe_tensor::{DType, Tensor, element_count};
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::Around;

/// Axes that an element may have.
const MAX_RANK: usize = 64;

/// Attributes of [`crate::Op::SequenceConstruct`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SequenceConstruct {
    /// Dtype of the elements, of which there may be none.
    pub dtype: DType,
}

/// Attributes of [`crate::Op::SequenceAt`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SequenceAt {
    /// The number of axes that the element has.
    pub rank: usize,
}

/// [`crate::Op::SequenceInsert`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SequenceInsert {}

/// [`crate::Op::SequenceErase`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SequenceErase {}

/// Attributes of [`crate::Op::SplitToSequence`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitToSequence {
    /// The axis that is cut.
    pub axis: i64,
    /// Whether pieces of size 1 keep the axis; only without sizes.
    pub keep_dims: bool,
}

/// Attributes of [`crate::Op::ConcatFromSequence`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConcatFromSequence {
    /// The axis of the result.
    pub axis: i64,
    /// Stacks along a new axis.
    pub new_axis: bool,
    /// The number of axes that the elements have.
    pub rank: usize,
}

/// Attributes of [`crate::Op::Require`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Require {
    /// What is wrong where the condition does not hold.
    pub reason: String,
}

/// One tensor of a sequence.
struct Item {
    /// Its first element among all.
    start: usize,
    count: usize,
    shape: Vec<usize>,
}

/// The tensors of a sequence, found in its parts, which are operands `0..3`.
fn items(cx: &Context<'_>) -> Result<Vec<Item>, EvalError> {
    let (elements, layout) = (cx.input(0)?, cx.input(2)?);
    let sizes = cx.integer_list("sizes", cx.input(1)?)?;
    let rows = cx.integers("layout", layout)?;
    let broken = || cx.shape("the parts of the sequence do not fit one another");
    if elements.rank() != 1 || layout.rank() != 2 || layout.shape()[1] != 2 {
        return Err(broken());
    }
    cx.spend(sizes.len().saturating_mul(8).saturating_add(rows.len().saturating_mul(size_of::<Item>())))?;
    let (mut start, mut size) = (0usize, 0usize);
    let mut items = Vec::with_capacity(rows.len() / 2);
    for row in rows.as_chunks::<2>().0 {
        cx.step()?;
        let rank = usize::try_from(row[0]).ok().filter(|rank| *rank <= MAX_RANK).ok_or_else(broken)?;
        let shape = sizes.get(size..).and_then(|left| left.get(..rank)).ok_or_else(broken)?;
        let shape: Option<Vec<usize>> = shape.iter().map(|&size| usize::try_from(size).ok()).collect();
        let shape = shape.ok_or_else(broken)?;
        let count =
            element_count(&shape).filter(|&count| i64::try_from(count) == Ok(row[1])).ok_or_else(broken)?;
        items.push(Item { start, count, shape });
        start = start.checked_add(count).filter(|end| *end <= elements.len()).ok_or_else(broken)?;
        size += rank;
    }
    if size != sizes.len() || start != elements.len() {
        return Err(broken());
    }
    Ok(items)
}

/// The place that operand `index` names among `count`, counted from the end where it is negative; `count` without operand.
fn position(cx: &Context<'_>, index: usize, count: usize) -> Result<Option<usize>, EvalError> {
    let Some(position) = cx.optional(index) else { return Ok(None) };
    let &[position] = &cx.integers("position", position)?[..] else {
        return Err(cx.shape("the position has one element"));
    };
    let resolved = if position < 0 { position.checked_add_unsigned(count as u64) } else { Some(position) };
    match resolved.and_then(|position| usize::try_from(position).ok()) {
        Some(resolved) => Ok(Some(resolved)),
        None => Err(cx.index(0, position, count)),
    }
}

/// `sizes` and `layout` of tensors of these shapes.
fn described<'s>(
    cx: &Context<'_>,
    shapes: impl Iterator<Item = &'s [usize]>,
) -> Result<(Tensor, Tensor), EvalError> {
    let (mut sizes, mut layout) = (Vec::new(), Vec::new());
    for shape in shapes {
        cx.step()?;
        sizes.extend(shape.iter().map(|&size| size as i64));
        layout.extend([shape.len() as i64, cx.count(shape)? as i64]);
    }
    Ok((cx.tensor_of(&sizes, &[sizes.len()])?, cx.tensor_of(&layout, &[layout.len() / 2, 2])?))
}

/// A tensor of runs of elements of sources: `(source, first, count)`. All have the dtype of the first source.
fn runs(
    cx: &Context<'_>,
    sources: &[&Tensor],
    shape: &[usize],
    runs: impl Iterator<Item = (usize, usize, usize)>,
) -> Result<Tensor, EvalError> {
    let bits = sources.first().map_or(0, |source| source.dtype().bits());
    if bits < 8 {
        let cells =
            runs.flat_map(|(source, first, count)| (first..first + count).map(move |at| Some((source, at))));
        return cx.pick(sources, None, shape, cells);
    }
    let mut out = cx.zeros(sources[0].dtype(), shape)?;
    let (mut rest, each) = (out.bytes_mut(), bits / 8);
    for (source, first, count) in runs {
        cx.work(count)?;
        let (now, later) = rest.split_at_mut(count * each);
        now.copy_from_slice(&sources[source].bytes()[first * each..][..count * each]);
        rest = later;
    }
    Ok(out)
}

impl Evaluate for SequenceConstruct {
    fn arity(&self) -> Arity {
        Arity::of(0, usize::MAX).outputs(3, 3)
    }

    /// Inputs: the tensors.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let tensors = (0..cx.input_count()).map(|index| cx.input(index)).collect::<Result<Vec<_>, _>>()?;
        for (index, tensor) in tensors.iter().enumerate() {
            if tensor.dtype() != self.dtype {
                return Err(cx.dtype(&format!("element {index}"), tensor.dtype(), self.dtype.name()));
            }
        }
        let count = tensors.iter().try_fold(0usize, |count, tensor| count.checked_add(tensor.len()));
        let count = count.ok_or_else(|| cx.too_large(None))?;
        let (sizes, layout) = described(cx, tensors.iter().map(|tensor| tensor.shape()))?;
        let whole = tensors.iter().enumerate().map(|(source, tensor)| (source, 0, tensor.len()));
        let elements = match tensors.is_empty() {
            true => cx.zeros(self.dtype, &[0])?,
            false => runs(cx, &tensors, &[count], whole)?,
        };
        Ok(vec![elements, sizes, layout])
    }
}

impl Evaluate for SequenceAt {
    fn arity(&self) -> Arity {
        Arity::of(4, 4)
    }

    /// Inputs `elements, sizes, layout, position`: the tensor at the position, from the end where it is negative.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let items = items(cx)?;
        let place = position(cx, 3, items.len())?.unwrap_or(items.len());
        let item = items.get(place).ok_or_else(|| cx.index(0, place as i64, items.len()))?;
        if item.shape.len() != self.rank {
            let axes = item.shape.len();
            return Err(cx.bad(format!("element {place} has {axes} axes, not {} as declared", self.rank)));
        }
        Ok(vec![runs(cx, &[cx.input(0)?], &item.shape, [(0, item.start, item.count)].into_iter())?])
    }
}

impl Evaluate for SequenceInsert {
    fn arity(&self) -> Arity {
        Arity::of(4, 5).outputs(3, 3)
    }

    /// Inputs `elements, sizes, layout, x, position?`: `x` before the position, at the end without one.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (all, x) = (cx.input(0)?, cx.input(3)?);
        cx.same_dtype("the new element", all, x)?;
        let items = items(cx)?;
        let place = position(cx, 4, items.len())?.unwrap_or(items.len());
        if place > items.len() {
            return Err(cx.index(0, place as i64, items.len()));
        }
        let (before, after) = items.split_at(place);
        let shapes = before.iter().map(|item| &item.shape[..]).chain([x.shape()]);
        let (sizes, layout) = described(cx, shapes.chain(after.iter().map(|item| &item.shape[..])))?;
        let start = after.first().map_or(all.len(), |item| item.start);
        let count = all.len().checked_add(x.len()).ok_or_else(|| cx.too_large(None))?;
        let pieces = [(0, 0, start), (1, 0, x.len()), (0, start, all.len() - start)];
        Ok(vec![runs(cx, &[all, x], &[count], pieces.into_iter())?, sizes, layout])
    }
}

impl Evaluate for SequenceErase {
    fn arity(&self) -> Arity {
        Arity::of(3, 4).outputs(3, 3)
    }

    /// Inputs `elements, sizes, layout, position?`: without the tensor at the position, the last one without one.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let items = items(cx)?;
        let last = || {
            items.len().checked_sub(1).ok_or_else(|| cx.bad("nothing can be taken from an empty sequence"))
        };
        let place = position(cx, 3, items.len())?.map_or_else(last, Ok)?;
        let erased = items.get(place).ok_or_else(|| cx.index(0, place as i64, items.len()))?;
        let kept = items.iter().enumerate().filter(|(index, _)| *index != place);
        let (sizes, layout) = described(cx, kept.map(|(_, item)| &item.shape[..]))?;
        let all = cx.input(0)?;
        let end = erased.start + erased.count;
        let pieces = [(0, 0, erased.start), (0, end, all.len() - end)];
        Ok(vec![runs(cx, &[all], &[all.len() - erased.count], pieces.into_iter())?, sizes, layout])
    }
}

impl SplitToSequence {
    /// The sizes of the pieces of an axis of this size.
    fn pieces(&self, cx: &Context<'_>, size: usize) -> Result<Vec<usize>, EvalError> {
        let equal = |each: usize| {
            let count = size.div_ceil(each);
            cx.spend(count.saturating_mul(2 * size_of::<usize>()))?;
            Ok((0..count).map(|index| each.min(size - index * each)).collect())
        };
        let Some(split) = cx.optional(1) else { return equal(1) };
        let given = cx.integer_list("split", split)?;
        if split.rank() == 0 {
            return match given[..] {
                [each] if each > 0 => equal(usize::try_from(each).unwrap_or(usize::MAX)),
                _ => Err(cx.bad(format!("pieces of {given:?}: a size must be positive"))),
            };
        }
        let pieces: Option<Vec<usize>> = given.iter().map(|&piece| usize::try_from(piece).ok()).collect();
        let sum = |pieces: &[usize]| pieces.iter().try_fold(0usize, |sum, &piece| sum.checked_add(piece));
        match pieces {
            Some(pieces) if sum(&pieces) == Some(size) => Ok(pieces),
            _ => Err(cx.bad(format!("the sizes of the pieces must not be negative and add up to {size}"))),
        }
    }
}

impl Evaluate for SplitToSequence {
    fn arity(&self) -> Arity {
        Arity::of(1, 2).outputs(3, 3)
    }

    /// Inputs `x, split?`: pieces of the given sizes (a list), of a given size (a scalar; the last one may be smaller), or of size 1.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let axis = cx.axis(self.axis, x.rank())?;
        let around = Around::of(x.shape(), axis);
        let pieces = self.pieces(cx, around.size)?;
        let keep = self.keep_dims || cx.optional(1).is_some();
        cx.spend(
            pieces.len().saturating_mul(x.rank().saturating_mul(8).saturating_add(size_of::<Vec<usize>>())),
        )?;
        let shapes: Vec<Vec<usize>> = pieces
            .iter()
            .map(|&piece| {
                let kept = if keep { Some(piece) } else { None };
                let (before, after) = (&x.shape()[..axis], &x.shape()[axis + 1..]);
                before.iter().copied().chain(kept).chain(after.iter().copied()).collect()
            })
            .collect();
        let (sizes, layout) = described(cx, shapes.iter().map(|shape| &shape[..]))?;
        let starts = pieces.iter().scan(0, |end, &piece| {
            let start = *end;
            *end += piece;
            Some((start, piece))
        });
        // Nothing is not walked, however many axes it has.
        let outer = if x.is_empty() { 0 } else { around.outer };
        let boxes = starts.flat_map(|(start, piece)| {
            (0..outer)
                .map(move |outer| (0, (outer * around.size + start) * around.inner, piece * around.inner))
        });
        Ok(vec![runs(cx, &[x], &[x.len()], boxes)?, sizes, layout])
    }
}

impl Evaluate for ConcatFromSequence {
    fn arity(&self) -> Arity {
        Arity::of(3, 3)
    }

    /// Inputs `elements, sizes, layout`: the tensors along an axis that they have, or stacked along a new one.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let items = items(cx)?;
        let Some(first) = items.first() else {
            return Err(cx.bad("there is nothing to join in an empty sequence"));
        };
        let axis = cx.axis(self.axis, self.rank.saturating_add(usize::from(self.new_axis)))?;
        let size = |item: &Item| if self.new_axis { Some(1) } else { item.shape.get(axis).copied() };
        let mut along = 0usize;
        for (index, item) in items.iter().enumerate() {
            let pairs = item.shape.iter().zip(&first.shape).enumerate();
            let mut others = pairs.filter(|(at, _)| self.new_axis || *at != axis);
            if item.shape.len() != self.rank || !others.all(|(_, (a, b))| a == b) {
                let (shape, other) = (&item.shape, &first.shape);
                return Err(
                    cx.bad(format!("element {index} of shape {shape:?} does not fit the first of {other:?}"))
                );
            }
            let added = along.checked_add(size(item).unwrap_or(0));
            along = added.ok_or_else(|| cx.too_large(None))?;
        }
        let mut shape = first.shape.clone();
        if self.new_axis {
            shape.insert(axis, along)
        } else {
            shape[axis] = along
        }
        let count = cx.count(&shape)?;
        let around = Around::of(&shape, axis);
        // Nothing is not walked, however many axes it has.
        let outer = if count == 0 { 0 } else { around.outer };
        let boxes = (0..outer).flat_map(|outer| {
            items.iter().map(move |item| {
                let run = size(item).unwrap_or(0) * around.inner;
                (0, item.start + outer * run, run)
            })
        });
        Ok(vec![runs(cx, &[cx.input(0)?], &shape, boxes)?])
    }
}

impl Evaluate for Require {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    /// Inputs `x, condition` (one bool): `x`; an error where the condition does not hold.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, condition) = (cx.input(0)?, cx.input(1)?);
        match (condition.dtype(), condition.bytes()) {
            (DType::Bool, [0]) => Err(cx.bad(self.reason.clone())),
            (DType::Bool, [_]) => Ok(vec![x.clone()]),
            _ => Err(cx.shape("the condition is one bool")),
        }
    }
}
