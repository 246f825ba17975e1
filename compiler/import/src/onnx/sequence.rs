//! Sequences. Where length and place are known now, tensors are moved about and nothing is computed.

use lathe_ir::{Dim, Guard, GuardCondition, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::sequence::{ConcatFromSequence, SequenceAt, SequenceErase, SequenceInsert, SplitToSequence};
use lathe_ops::shape::{Concat, ShapeOf, Slice, Split, Squeeze, Unsqueeze};
use lathe_tensor::DType;
use lathe_tensor::value::{Form, Rank};

use crate::error::{Fault, quote};
use crate::onnx::item::{Item, loose};
use crate::onnx::node::{Items, Node, axis};
use crate::onnx::types::dtype;

/// Most tensors of a sequence that stand in the program one by one.
const LISTED: usize = 1024;

/// A sequence operand.
enum Sequence {
    List { dtype: DType, tensors: Vec<ValueId> },
    Parts { rank: Rank, parts: Vec<ValueId> },
}

impl Node<'_, '_> {
    fn sequence(&self, index: usize) -> Result<Sequence, Fault> {
        let item = self.item(index)?;
        let parts = item.parts().to_vec();
        match self.form(&item) {
            Form::List { dtype, .. } => Ok(Sequence::List { dtype, tensors: parts }),
            Form::Sequence { rank, .. } => Ok(Sequence::Parts { rank, parts }),
            Form::Records { .. } => Err(Fault::unsupported("a sequence of maps as an operand")),
            other => Err(Fault::bad(format!("its input {index} is {}, not a sequence", other.kind()))),
        }
    }

    /// A sequence of these tensors; longer ones than a program should hold are made when it runs.
    pub(crate) fn listed(&mut self, dtype: DType, tensors: Vec<ValueId>) -> Result<Item, Fault> {
        if let Some(index) = tensors.iter().position(|&tensor| self.dtype(tensor) != dtype) {
            let other = self.dtype(tensors[index]);
            return Err(Fault::bad(format!("element {index} is {other} in a sequence of {dtype}")));
        }
        let ranks = tensors.iter().map(|&tensor| self.rank(tensor) as u32).collect();
        let long = tensors.len() > LISTED;
        let item = Item::new(Form::List { dtype, ranks }, tensors);
        if long { self.ragged(&item) } else { Ok(item) }
    }

    /// The sequence as one of any length.
    pub(crate) fn ragged(&mut self, item: &Item) -> Result<Item, Fault> {
        let form = loose(&self.form(item));
        self.convert(item, &form)
    }

    /// The place among `count` that operand `index` names, where it is known now.
    fn known_place(&self, index: usize, count: usize) -> Result<Option<usize>, Fault> {
        let Some(value) = self.optional(index) else { return Ok(None) };
        let Some(&[place]) = self.known_ints(value).as_deref() else { return Ok(None) };
        let resolved = if place < 0 { place.checked_add_unsigned(count as u64) } else { Some(place) };
        let resolved = resolved.and_then(|place| usize::try_from(place).ok());
        let outside = || Fault::bad(format!("place {place} is outside a sequence of {count}"));
        resolved.map(Some).ok_or_else(outside)
    }

    /// The tensor of rank `rank` at a place of a sequence in parts.
    pub(crate) fn at(&mut self, parts: &[ValueId], place: ValueId, rank: Rank) -> Result<ValueId, Fault> {
        let rank = match rank {
            Rank::Is(rank) => rank as usize,
            Rank::Any => return Err(Fault::bad("an element is taken from a sequence that never has one")),
            Rank::Mixed => {
                return Err(Fault::unsupported(
                    "an element of a sequence whose elements have any number of axes: declare their shape",
                ));
            }
        };
        self.add(Op::SequenceAt(SequenceAt { rank }), &[parts, &[place]].concat())
    }

    /// A sequence in parts with one more tensor.
    pub(crate) fn inserted(
        &mut self,
        parts: &[ValueId],
        x: ValueId,
        place: Option<ValueId>,
    ) -> Result<Vec<ValueId>, Fault> {
        let inputs = parts.iter().copied().chain([x]).map(Some).chain(place.map(Some));
        let inputs: Vec<_> = inputs.collect();
        self.add_all(Op::SequenceInsert(SequenceInsert {}), &inputs, 3)
    }
}

/// SequenceConstruct-11.
pub(crate) fn construct(node: &mut Node<'_, '_>) -> Items {
    let tensors = (0..node.items.len()).map(|index| node.tensor(index)).collect::<Result<Vec<_>, _>>()?;
    let Some(&first) = tensors.first() else { return Err(Fault::bad("it has no input")) };
    Ok(vec![node.listed(node.dtype(first), tensors)?])
}

impl Node<'_, '_> {
    /// A required operand that must be a tensor.
    pub(crate) fn tensor(&self, index: usize) -> Result<ValueId, Fault> {
        let item = self.item(index)?;
        let kind = || self.form(&item).kind();
        item.tensor().ok_or_else(|| Fault::bad(format!("its input {index} is {}, not a tensor", kind())))
    }
}

/// SequenceEmpty-11.
pub(crate) fn empty(node: &mut Node<'_, '_>) -> Items {
    let number = node.attributes.int_or("dtype", 1)?;
    let dtype = dtype(i32::try_from(number).unwrap_or(-1))?;
    Ok(vec![node.listed(dtype, Vec::new())?])
}

/// SequenceAt-11.
pub(crate) fn at(node: &mut Node<'_, '_>) -> Items {
    let place = node.tensor(1)?;
    match node.sequence(0)? {
        Sequence::List { tensors, .. } => {
            if let Some(known) = node.known_place(1, tensors.len())? {
                let outside =
                    || Fault::bad(format!("place {known} is outside a sequence of {}", tensors.len()));
                return Ok(vec![(*tensors.get(known).ok_or_else(outside)?).into()]);
            }
            let sequence = node.ragged(&node.item(0)?)?;
            let Form::Sequence { rank, .. } = node.form(&sequence) else {
                return Err(Fault::bad("its input 0 is not a sequence"));
            };
            Ok(vec![node.at(sequence.parts(), place, rank)?.into()])
        }
        Sequence::Parts { parts, rank } => match (cut_of(node, &parts), node.known_ints(place).as_deref()) {
            (Some(cut), Some(&[place])) => Ok(vec![piece(node, &cut, place)?.into()]),
            _ => Ok(vec![node.at(&parts, place, rank)?.into()]),
        },
    }
}

/// Pieces of one known size of an axis whose own size is not known.
struct Cut {
    x: ValueId,
    axis: usize,
    each: i64,
    keep_dims: bool,
}

/// The cut that made a sequence.
fn cut_of(node: &Node<'_, '_>, parts: &[ValueId]) -> Option<Cut> {
    let function = node.importer.module.function(node.frame.function);
    let (_, producer) = function.producer(*parts.first()?)?;
    let Operation::Op(Op::SplitToSequence(cut)) = &producer.operation else { return None };
    let operand = |index: usize| producer.inputs.get(index).copied().flatten();
    let (x, split) = (operand(0)?, operand(1));
    let each = match split {
        None => 1,
        Some(split) if node.rank(split) == 0 => *node.known_ints(split)?.first()?,
        Some(_) => return None,
    };
    let axis = usize::try_from(cut.axis).ok()?;
    Some(Cut { x, axis, each, keep_dims: cut.keep_dims || split.is_some() })
}

/// The piece at a place, as a slice: nothing of the sequence is left.
fn piece(node: &mut Node<'_, '_>, cut: &Cut, place: i64) -> Result<ValueId, Fault> {
    let number = Dim::constant;
    let size = node.dims(cut.x)[cut.axis].clone();
    let count = size.add(&number(cut.each.saturating_sub(1))).floor_div(&number(cut.each));
    let index = if place < 0 { count.add(&number(place)) } else { number(place) };
    let start = index.mul(&number(cut.each));
    let end = start.add(&number(cut.each));
    let bounds = [node.sizes(vec![start])?, node.sizes(vec![end])?];
    let inputs = [cut.x, bounds[0], bounds[1], node.ints(&[cut.axis as i64])?, node.ints(&[1])?];
    let slice = node.add(Op::Slice(Slice {}), &inputs)?;
    let reason = format!("place {place} is inside a sequence of pieces of {}", quote(&node.name));
    let function = node.importer.module.function_mut(node.frame.function);
    let producer = function.producer(slice).map(|(id, _)| id);
    if let Some(producer) = producer.and_then(|id| function.node_mut(id)) {
        for condition in [
            GuardCondition::AtLeast(index.clone(), number(0)),
            GuardCondition::AtLeast(count, index.add(&number(1))),
        ] {
            producer.guards.push(Guard { condition, reason: reason.clone() });
        }
    }
    if cut.keep_dims {
        return Ok(slice);
    }
    node.add(Op::Squeeze(Squeeze { axes: Some(vec![cut.axis as i64]) }), &[slice])
}

/// SequenceLength-11.
pub(crate) fn length(node: &mut Node<'_, '_>) -> Items {
    let length = match node.sequence(0)? {
        Sequence::List { tensors, .. } => node.number(DType::I64, tensors.len() as f64)?,
        Sequence::Parts { parts, .. } => {
            let layout = *parts.last().ok_or_else(|| Fault::bad("a sequence without parts"))?;
            let length = node.add(Op::Shape(ShapeOf { start: 0, end: Some(1) }), &[layout])?;
            node.reshape(length, vec![])?
        }
    };
    Ok(vec![length.into()])
}

/// SequenceInsert-11: at a place, or at the end.
pub(crate) fn insert(node: &mut Node<'_, '_>) -> Items {
    let x = node.tensor(1)?;
    let (known, x_rank) = (node.optional(2).is_none(), Rank::Is(node.rank(x) as u32));
    if let Sequence::List { dtype, mut tensors } = node.sequence(0)? {
        let place = if known { Some(tensors.len()) } else { node.known_place(2, tensors.len())? };
        if let Some(place) = place {
            if place > tensors.len() {
                return Err(Fault::bad(format!("place {place} is outside a sequence of {}", tensors.len())));
            }
            tensors.insert(place, x);
            return Ok(vec![node.listed(dtype, tensors)?]);
        }
    }
    let sequence = node.ragged(&node.item(0)?)?;
    let Form::Sequence { dtype, rank } = node.form(&sequence) else {
        return Err(Fault::bad("its input 0 is not a sequence"));
    };
    let parts = node.inserted(sequence.parts(), x, node.optional(2))?;
    Ok(vec![Item::new(Form::Sequence { dtype, rank: rank.join(x_rank) }, parts)])
}

/// SequenceErase-11: at a place, or at the end.
pub(crate) fn erase(node: &mut Node<'_, '_>) -> Items {
    if let Sequence::List { dtype, mut tensors } = node.sequence(0)? {
        let last = tensors.len().checked_sub(1);
        let place = if node.optional(1).is_none() { last } else { node.known_place(1, tensors.len())? };
        match place {
            Some(place) if place < tensors.len() => {
                tensors.remove(place);
                return Ok(vec![node.listed(dtype, tensors)?]);
            }
            None if last.is_some() => {}
            _ => {
                return Err(Fault::bad(format!(
                    "nothing to take from a sequence of {} there",
                    tensors.len()
                )));
            }
        }
    }
    let sequence = node.ragged(&node.item(0)?)?;
    let inputs = sequence.parts().iter().copied().chain(node.optional(1)).map(Some);
    let inputs: Vec<_> = inputs.collect();
    let parts = node.add_all(Op::SequenceErase(SequenceErase {}), &inputs, 3)?;
    Ok(vec![sequence.with(parts)])
}

/// SplitToSequence-11 and 24: pieces of the sizes in `split`, of one size, or slices of size 1.
pub(crate) fn split(node: &mut Node<'_, '_>) -> Items {
    let (along, keep_dims) = (node.attributes.int_or("axis", 0)?, node.attributes.flag("keepdims", true)?);
    let x = node.tensor(0)?;
    let (dtype, rank) = (node.dtype(x), node.rank(x));
    let axis = axis(along, rank)?;
    let keep = keep_dims || node.optional(1).is_some();
    if let Some(pieces) = pieces(node, x, axis)? {
        let mut inputs = vec![Some(x)];
        inputs.push(match pieces {
            Pieces::Known(ref sizes) => Some(node.ints(sizes)?),
            Pieces::Given(sizes, _) => Some(node.as_i64(sizes)?),
        });
        let outputs = match &pieces {
            Pieces::Known(sizes) => sizes.len(),
            Pieces::Given(_, count) => *count,
        };
        if outputs == 0 {
            return Ok(vec![node.listed(dtype, Vec::new())?]);
        }
        let mut tensors = node.add_all(Op::Split(Split { axis: axis as i64, outputs }), &inputs, outputs)?;
        if !keep {
            for tensor in &mut tensors {
                *tensor = node.add(Op::Squeeze(Squeeze { axes: Some(vec![axis as i64]) }), &[*tensor])?;
            }
        }
        return Ok(vec![node.listed(dtype, tensors)?]);
    }
    let inputs: Vec<_> = [Some(x)].into_iter().chain(node.optional(1).map(Some)).collect();
    let op = Op::SplitToSequence(SplitToSequence { axis: axis as i64, keep_dims });
    let parts = node.add_all(op, &inputs, 3)?;
    let rank = (rank - usize::from(!keep)) as u32;
    Ok(vec![Item::new(Form::Sequence { dtype, rank: Rank::Is(rank) }, parts)])
}

/// The pieces of an axis, where their number is known now and not too large.
enum Pieces {
    Known(Vec<i64>),
    Given(ValueId, usize),
}

fn pieces(node: &Node<'_, '_>, x: ValueId, axis: usize) -> Result<Option<Pieces>, Fault> {
    let size = node.dims(x)[axis].as_constant();
    let equal = |each: i64| {
        let size = size?;
        let count =
            usize::try_from(size.checked_add(each - 1)? / each).ok().filter(|count| *count <= LISTED)?;
        Some(Pieces::Known((0..count as i64).map(|index| each.min(size - index * each)).collect()))
    };
    let Some(split) = node.optional(1) else { return Ok(equal(1)) };
    match (node.rank(split), node.known_ints(split).as_deref()) {
        (0, Some(&[each])) if each > 0 => Ok(equal(each.min(1 << 32))),
        (0, Some(given)) => Err(Fault::bad(format!("pieces of {given:?}: a size must be positive"))),
        (0, None) => Ok(None),
        (1, Some(sizes)) if sizes.len() <= LISTED => {
            let sum = sizes.iter().try_fold(0i64, |sum, &size| sum.checked_add(size).filter(|_| size >= 0));
            if sum.is_none() || size.is_some_and(|size| sum != Some(size)) {
                return Err(Fault::bad(format!("pieces of sizes {sizes:?} of an axis of another size")));
            }
            Ok(Some(Pieces::Known(sizes.to_vec())))
        }
        (1, _) => {
            let count = node.dims(split)[0].as_constant().and_then(|count| usize::try_from(count).ok());
            Ok(count.filter(|count| *count <= LISTED).map(|count| Pieces::Given(split, count)))
        }
        (rank, _) => Err(Fault::bad(format!("`split` has {rank} axes, at most 1 fits"))),
    }
}

/// ConcatFromSequence-11.
pub(crate) fn concat(node: &mut Node<'_, '_>) -> Items {
    let (along, new_axis) = (node.attributes.required_int("axis")?, node.attributes.flag("new_axis", false)?);
    match node.sequence(0)? {
        Sequence::List { mut tensors, .. } => {
            let Some(&first) = tensors.first() else {
                return Err(Fault::bad("there is nothing to join in an empty sequence"));
            };
            let axis = axis(along, node.rank(first) + usize::from(new_axis))? as i64;
            if new_axis {
                for tensor in &mut tensors {
                    *tensor = node.add(Op::Unsqueeze(Unsqueeze { axes: Some(vec![axis]) }), &[*tensor])?;
                }
            }
            Ok(vec![node.add(Op::Concat(Concat { axis }), &tensors)?.into()])
        }
        Sequence::Parts { rank, parts } => {
            let Rank::Is(rank) = rank else {
                return Err(Fault::unsupported(
                    "joining a sequence whose elements have any number of axes: declare their shape",
                ));
            };
            let join = ConcatFromSequence { axis: along, new_axis, rank: rank as usize };
            Ok(vec![node.add(Op::ConcatFromSequence(join), &parts)?.into()])
        }
    }
}
