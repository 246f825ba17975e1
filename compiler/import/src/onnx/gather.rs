//! Reading and writing by index.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Compare, Unary, Where};
use lathe_ops::gather::{Gather, GatherElements, GatherNd, NonZero, Reduction, ScatterElements, ScatterNd};
use lathe_ops::reduce::CumSum;
use lathe_ops::shape::{ConstantOfShape, Expand, Range, Squeeze, Unsqueeze};
use lathe_ops::unique::Unique;
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs, axis};

/// Gather-1 to 13.
pub(crate) fn gather(node: &mut Node<'_, '_>) -> Outputs {
    let axis = node.attributes.int_or("axis", 0)?;
    node.direct(Op::Gather(Gather { axis }))
}

/// GatherElements-11 and 13.
pub(crate) fn gather_elements(node: &mut Node<'_, '_>) -> Outputs {
    let axis = node.attributes.int_or("axis", 0)?;
    node.direct(Op::GatherElements(GatherElements { axis }))
}

/// GatherND-11 to 13.
pub(crate) fn gather_nd(node: &mut Node<'_, '_>) -> Outputs {
    let batch_dims = node.attributes.int_or("batch_dims", 0)?;
    let batch_dims = usize::try_from(batch_dims)
        .map_err(|_| Fault::bad(format!("attribute `batch_dims` is {batch_dims}")))?;
    node.direct(Op::GatherNd(GatherNd { batch_dims }))
}

fn reduction(node: &Node<'_, '_>) -> Result<Reduction, Fault> {
    let words = [
        ("none", Reduction::Replace),
        ("add", Reduction::Add),
        ("mul", Reduction::Mul),
        ("max", Reduction::Max),
        ("min", Reduction::Min),
    ];
    node.attributes.choice("reduction", &words)
}

/// ScatterElements-11 to 18, and Scatter-9, its first name.
pub(crate) fn scatter_elements(node: &mut Node<'_, '_>) -> Outputs {
    let axis = node.attributes.int_or("axis", 0)?;
    node.direct(Op::ScatterElements(ScatterElements { axis, reduction: reduction(node)? }))
}

/// ScatterND-11 to 18.
pub(crate) fn scatter_nd(node: &mut Node<'_, '_>) -> Outputs {
    let reduction = reduction(node)?;
    node.direct(Op::ScatterNd(ScatterNd { reduction }))
}

/// NonZero-9 and 13.
pub(crate) fn non_zero(node: &mut Node<'_, '_>) -> Outputs {
    node.direct(Op::NonZero(NonZero {}))
}

/// OneHot-9 to 28: `on` where a new axis counts to the index, `off` elsewhere.
pub(crate) fn one_hot(node: &mut Node<'_, '_>) -> Outputs {
    let (indices, depth, values) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let rank = node.rank(indices);
    let place = axis(node.attributes.int_or("axis", -1)?, rank + 1)?;
    let depth = depth_of(node, depth)?;
    let (zero, one) = (node.number(DType::I64, 0.0)?, node.number(DType::I64, 1.0)?);
    // Counted by adding up ones: a negative depth is an error there, where a range would be empty.
    let ones = node.add(Op::ConstantOfShape(ConstantOfShape { dtype: DType::I64, bits: 1 }), &[depth])?;
    let count = node.add(Op::CumSum(CumSum { exclusive: true, reverse: false }), &[ones, zero])?;
    let trailing = (1..=(rank - place) as i64).collect();
    let count = node.add(Op::Unsqueeze(Unsqueeze { axes: Some(trailing) }), &[count])?;
    let indices = node.cast(indices, DType::I64)?;
    let indices = from_start(node, indices, zero, depth)?;
    let indices = node.add(Op::Unsqueeze(Unsqueeze { axes: Some(vec![place as i64]) }), &[indices])?;
    let hot = node.add(Op::Compare(Compare::Equal), &[indices, count])?;
    let off = node.add(Op::Gather(Gather { axis: 0 }), &[values, zero])?;
    let on = node.add(Op::Gather(Gather { axis: 0 }), &[values, one])?;
    Ok(vec![node.add(Op::Where(Where {}), &[hot, on, off])?])
}

/// The depth as an i64 list of one element; what is not a number becomes negative, which is an error where it is used.
fn depth_of(node: &mut Node<'_, '_>, depth: ValueId) -> Result<ValueId, Fault> {
    let mut size = node.as_i64(depth)?;
    if node.dtype(depth).is_float() {
        let undefined = node.unary(Unary::IsNan, depth)?;
        let refused = node.number(DType::I64, -1.0)?;
        size = node.add(Op::Where(Where {}), &[undefined, refused, size])?;
    }
    node.reshape(size, vec![1.into()])
}

/// Indices below zero count from the end.
fn from_start(
    node: &mut Node<'_, '_>,
    indices: ValueId,
    zero: ValueId,
    size: ValueId,
) -> Result<ValueId, Fault> {
    let size = node.reshape(size, vec![])?;
    let negative = node.add(Op::Compare(Compare::Less), &[indices, zero])?;
    let moved = node.binary(Binary::Add, indices, size)?;
    node.add(Op::Where(Where {}), &[negative, moved, indices])
}

/// Compress-9 to 28: the slices whose condition holds; of the flat input where there is no axis.
pub(crate) fn compress(node: &mut Node<'_, '_>) -> Outputs {
    let (mut x, condition) = (node.input(0)?, node.input(1)?);
    let axis = node.attributes.int("axis")?;
    if axis.is_none() {
        let count = Dim::product(node.dims(x));
        x = node.reshape(x, vec![count])?;
    }
    if node.rank(condition) != 1 {
        return Err(Fault::bad(format!("its condition has {} axes, not 1", node.rank(condition))));
    }
    let places = node.add(Op::NonZero(NonZero {}), &[condition])?;
    let places = node.add(Op::Squeeze(Squeeze { axes: Some(vec![0]) }), &[places])?;
    Ok(vec![node.add(Op::Gather(Gather { axis: axis.unwrap_or(0) }), &[x, places])?])
}

/// `0, 1, 2, ...` below a size.
fn count(node: &mut Node<'_, '_>, size: Dim) -> Result<ValueId, Fault> {
    let size = node.sizes(vec![size])?;
    let size = node.reshape(size, vec![])?;
    let (zero, one) = (node.number(DType::I64, 0.0)?, node.number(DType::I64, 1.0)?);
    node.add(Op::Range(Range {}), &[zero, size, one])
}

/// A vector laid along one of `rank` axes.
fn along(node: &mut Node<'_, '_>, vector: ValueId, place: usize, rank: usize) -> Result<ValueId, Fault> {
    let axes = (0..rank as i64).filter(|&axis| axis != place as i64).collect();
    node.add(Op::Unsqueeze(Unsqueeze { axes: Some(axes) }), &[vector])
}

/// ReverseSequence-10 and 28: step `t` of a row is step `length - 1 - t` where that is one, else `t`.
pub(crate) fn reverse_sequence(node: &mut Node<'_, '_>) -> Outputs {
    let (x, lengths) = (node.input(0)?, node.input(1)?);
    let rank = node.rank(x);
    let time = axis(node.attributes.int_or("time_axis", 0)?, rank)?;
    let batch = axis(node.attributes.int_or("batch_axis", 1)?, rank)?;
    if time == batch || node.rank(lengths) != 1 {
        return Err(Fault::bad("it needs two axes and one length a row"));
    }
    let dims = node.dims(x).to_vec();
    let steps = count(node, dims[time].clone())?;
    let steps = along(node, steps, time, rank)?;
    let lengths = node.as_i64(lengths)?;
    let lengths = node.not_negative(lengths, "a sequence")?;
    let lengths = along(node, lengths, batch, rank)?;
    let one = node.number(DType::I64, 1.0)?;
    let last = node.binary(Binary::Sub, lengths, one)?;
    let mirrored = node.binary(Binary::Sub, last, steps)?;
    let inside = node.add(Op::Compare(Compare::Less), &[steps, lengths])?;
    let places = node.add(Op::Where(Where {}), &[inside, mirrored, steps])?;
    let shape = node.sizes(dims)?;
    let places = node.add(Op::Expand(Expand {}), &[places, shape])?;
    Ok(vec![node.add(Op::GatherElements(GatherElements { axis: time as i64 }), &[x, places])?])
}

/// TensorScatter-24: row `b` of the update is written from `write_indices[b]` on along an axis of the cache.
pub(crate) fn tensor_scatter(node: &mut Node<'_, '_>) -> Outputs {
    let (cache, update) = (node.input(0)?, node.input(1)?);
    let rank = node.rank(cache);
    let place = axis(node.attributes.int_or("axis", -2)?, rank)?;
    let circular = node.attributes.choice("mode", &[("linear", false), ("circular", true)])?;
    if place == 0 || node.rank(update) != rank {
        return Err(Fault::bad("cache and update need one rank, and an axis that is not the batch"));
    }
    let dims = node.dims(update).to_vec();
    let steps = count(node, dims[place].clone())?;
    let mut places = along(node, steps, place, rank)?;
    if let Some(starts) = node.optional(2) {
        let starts = node.as_i64(starts)?;
        let starts = along(node, starts, 0, rank)?;
        places = node.binary(Binary::Add, places, starts)?;
    }
    if circular {
        let size = node.sizes(vec![node.dims(cache)[place].clone()])?;
        let size = node.reshape(size, vec![])?;
        places = node.binary(Binary::Mod, places, size)?;
    }
    let shape = node.sizes(dims)?;
    let places = node.add(Op::Expand(Expand {}), &[places, shape])?;
    let op = ScatterElements { axis: place as i64, reduction: Reduction::Replace };
    Ok(vec![node.add(Op::ScatterElements(op), &[cache, places, update])?])
}

/// Unique-11 and 28.
pub(crate) fn unique(node: &mut Node<'_, '_>) -> Outputs {
    let op = Unique { axis: node.attributes.int("axis")?, sorted: node.attributes.flag("sorted", true)? };
    node.direct(Op::Unique(op))
}
