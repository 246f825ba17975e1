//! Shapes and data movement: views where strides can say it, copies otherwise.

use lathe_artifact::builtin::Builtin;
use lathe_artifact::region::BinaryOp;
use lathe_ir::{Dim, Node, NodeId, ValueId};
use lathe_ops::Op;
use lathe_ops::shape::{Concat, ConstantOfShape, Split, Transpose, Trilu};
use lathe_tensor::DType;

use super::{axis_of, elementwise};
use crate::error::{Refusal, refuse};
use crate::location::Location;
use crate::planner::Operand;
use crate::region::{RegionDraft, supports};
use crate::scope::{Context, Fits};
use crate::size::Size;

impl Context<'_, '_> {
    /// Makes a value a view, without a step.
    pub fn view(&mut self, value: ValueId, location: Location) {
        self.planner.views.push(self.planner.node.clone());
        self.place(value, location);
    }

    /// Refuses dtypes whose elements have no address.
    fn require_addressable(&self, value: ValueId) -> Result<(), Refusal> {
        match self.dtype(value).element_bytes() {
            Some(_) => Ok(()),
            None => refuse(format!("{} elements have no address", self.dtype(value))),
        }
    }
}

pub(super) fn same(context: &mut Context<'_, '_>, node: &Node) -> Result<(), Refusal> {
    reshape(context, node)
}

pub(super) fn reshape(context: &mut Context<'_, '_>, node: &Node) -> Result<(), Refusal> {
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    if context.dtype(x) == DType::String {
        return refuse("strings are not views");
    }
    let dims = context.dims(output)?;
    let location = context.location(x)?;
    let view = match location.reshaped(&mut context.planner.sizes, &dims) {
        Some(view) => view,
        None => {
            let dense = context.dense(x)?;
            match dense.reshaped(&mut context.planner.sizes, &dims) {
                Some(view) => view,
                None => return Err(context.planner.bug("a dense value does not reshape").into()),
            }
        }
    };
    context.view(output, view);
    Ok(())
}

pub(super) fn transpose(
    context: &mut Context<'_, '_>,
    node: &Node,
    transpose: &Transpose,
) -> Result<(), Refusal> {
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    context.require_addressable(x)?;
    match context.location(x)?.transposed(&transpose.perm) {
        Some(view) => context.view(output, view),
        None => return refuse("the permutation does not fit"),
    }
    Ok(())
}

pub(super) fn expand(context: &mut Context<'_, '_>, node: &Node) -> Result<(), Refusal> {
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    context.require_addressable(x)?;
    let dims = context.dims(output)?;
    match context.location(x)?.broadcast(&mut context.planner.sizes, &dims) {
        Some(view) => context.view(output, view),
        None => return refuse("the result has fewer axes"),
    }
    Ok(())
}

pub(super) fn split(context: &mut Context<'_, '_>, node: &Node, split: &Split) -> Result<(), Refusal> {
    let x = context.required(node, 0)?;
    context.require_addressable(x)?;
    let location = context.location(x)?;
    let Some(axis) = axis_of(split.axis, location.rank()) else { return refuse("no such axis") };
    let mut start = Size::ZERO;
    for &output in &node.outputs {
        let size = context.dims(output)?[axis];
        let piece = location.sliced(&mut context.planner.sizes, axis, start, size, 1);
        start = context.planner.sizes.add(start, size);
        context.view(output, piece);
    }
    Ok(())
}

pub(super) fn slice(context: &mut Context<'_, '_>, node: &Node) -> Result<(), Refusal> {
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    context.require_addressable(x)?;
    let mut view = context.location(x)?;
    let (starts, axes, steps) =
        (context.required(node, 1)?, context.operand(node, 3), context.operand(node, 4));
    let Some(starts) = context.known(starts) else { return refuse("the starts depend on data") };
    let axes = match axes {
        Some(axes) => context.constants(axes),
        None => Some((0..starts.len() as i64).collect()),
    };
    let steps = match steps {
        Some(steps) => context.constants(steps),
        None => Some(vec![1; starts.len()]),
    };
    let (Some(axes), Some(steps)) = (axes, steps) else { return refuse("axes or steps depend on data") };
    if axes.len() != starts.len() || steps.len() != starts.len() {
        return refuse("starts, axes and steps differ in length");
    }
    let lengths = context.dims(output)?;
    for ((start, axis), step) in starts.into_iter().zip(axes).zip(steps) {
        let Some(axis) = axis_of(axis, view.rank()) else { return refuse("no such axis") };
        if step == 0 {
            return refuse("a step of 0");
        }
        let start = slice_start(context, start, view.dims[axis], step)?;
        view = view.sliced(&mut context.planner.sizes, axis, start, lengths[axis], step);
    }
    context.view(output, view);
    Ok(())
}

/// The first index of a slice: negative starts count from the end, others are clamped to the axis.
fn slice_start(context: &mut Context<'_, '_>, start: Size, size: Size, step: i64) -> Result<Size, Refusal> {
    let sizes = &mut context.planner.sizes;
    let from_end = match sizes.as_constant(start) {
        Some(value) => value < 0,
        None if sizes.non_negative(start) => false,
        None if step > 0 => {
            // 1 for a negative start, else 0: as inference words the size.
            let below = sizes.mul_constant(start, -1);
            let below = sizes.max(below, Size::ZERO);
            let negative = sizes.min(below, Size::ONE);
            let moved = sizes.mul(negative, size);
            let start = sizes.add(start, moved);
            let start = sizes.max(start, Size::ZERO);
            return Ok(sizes.min(start, size));
        }
        None => return refuse("the sign of a start depends on sizes"),
    };
    // A far negative start is below any axis; the sum must not wrap.
    let start = match sizes.as_constant(start) {
        Some(value) => sizes.constant(value.clamp(-(1 << 40), 1 << 40)),
        None => start,
    };
    let start = if from_end { sizes.add(start, size) } else { start };
    let start = if from_end { sizes.max(start, Size::ZERO) } else { start };
    if from_end {
        return Ok(start);
    }
    let limit = if step > 0 { size } else { sizes.add_constant(size, -1) };
    Ok(sizes.min(start, limit))
}

pub(super) fn concat(
    context: &mut Context<'_, '_>,
    id: NodeId,
    node: &Node,
    concat: &Concat,
) -> Result<(), Refusal> {
    let output = context.output(node, 0)?;
    context.require_addressable(output)?;
    let dims = context.dims(output)?;
    let Some(axis) = axis_of(concat.axis, dims.len()) else { return refuse("no such axis") };
    let whole = context.join_location(id, output, 0)?;
    let mut start = Size::ZERO;
    let mut copied = false;
    for (index, operand) in node.inputs.iter().enumerate() {
        let Some(operand) = *operand else { continue };
        let size = context.dims(operand)?[axis];
        let piece = context.piece(output, &whole, axis, start, size, index);
        start = context.planner.sizes.add(start, size);
        if context.scope.places[operand.index()].as_ref() == Some(&piece) {
            continue;
        }
        let from = context.location(operand)?;
        copied = true;
        // Sizes off the axis are equal, if perhaps in other words.
        let piece = Location { dims: from.dims.clone(), ..piece };
        context.copy(&from, &piece, "a piece of the joined tensor")?;
    }
    if copied {
        context.place(output, whole);
    } else {
        context.view(output, whole);
    }
    Ok(())
}

pub(super) fn tile(context: &mut Context<'_, '_>, node: &Node) -> Result<(), Refusal> {
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    context.require_addressable(x)?;
    let repeats = context.required(node, 1)?;
    let Some(repeats) = context.known(repeats) else { return refuse("the repeats depend on data") };
    let location = context.location(x)?;
    if repeats.len() != location.rank() {
        return refuse("one repeat an axis");
    }
    let dims = context.dims(output)?;
    let mut from = Location { dims: Vec::new(), strides: Vec::new(), ..location.clone() };
    for (axis, &repeat) in repeats.iter().enumerate() {
        from.dims.extend([repeat, location.dims[axis]]);
        from.strides.extend([Size::ZERO, location.strides[axis]]);
    }
    let target = context.destination(output, &dims, Fits::Dense)?;
    let Some(to) = target.reshaped(&mut context.planner.sizes, &from.dims) else {
        return refuse("the repeats do not fit");
    };
    context.copy(&from, &to, "repeats are axes of stride 0")?;
    context.place(output, target);
    Ok(())
}

/// A tensor of sizes that inference does not track, stored from the dims table.
pub(super) fn sizes(context: &mut Context<'_, '_>, node: &Node, op: &Op) -> Result<(), Refusal> {
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    let dims = context.dims(x)?;
    let elements = match op {
        Op::Shape(shape) => {
            let rank = dims.len() as i64;
            let clamp =
                |axis: i64| (if axis < 0 { axis.saturating_add(rank) } else { axis }).clamp(0, rank) as usize;
            let (start, end) = (clamp(shape.start), clamp(shape.end.unwrap_or(rank)));
            dims.get(start..end.max(start)).unwrap_or(&[]).to_vec()
        }
        _ => vec![context.planner.sizes.product(&dims)],
    };
    context.store_sizes(output, &elements)?;
    Ok(())
}

pub(super) fn dims(context: &mut Context<'_, '_>, node: &Node, elements: &[Dim]) -> Result<(), Refusal> {
    let output = context.output(node, 0)?;
    let mut sizes = Vec::with_capacity(elements.len());
    for dim in elements {
        match context.planner.sizes.translate(dim) {
            Ok(size) => sizes.push(size),
            Err(symbol) => {
                let reason = format!("symbol `{}` has no meaning here", symbol.name());
                return Err(context.planner.bug(reason).into());
            }
        }
    }
    context.store_sizes(output, &sizes)?;
    Ok(())
}

pub(super) fn range(context: &mut Context<'_, '_>, node: &Node) -> Result<(), Refusal> {
    let output = context.output(node, 0)?;
    let (dtype, dims) = (context.dtype(output), context.dims(output)?);
    if !supports(dtype) || dtype == DType::Bool {
        return refuse(format!("loops do not count in {dtype}"));
    }
    let mut draft = RegionDraft::new(dims);
    let (start, delta) = (context.required(node, 0)?, context.required(node, 2)?);
    let start = elementwise::load(context, &mut draft, start)?;
    let delta = elementwise::load(context, &mut draft, delta)?;
    let index = draft.index(0);
    let index = draft.cast(index, dtype);
    let walked = draft.binary(BinaryOp::Mul, index, delta);
    let value = draft.binary(BinaryOp::Add, start, walked);
    elementwise::store(context, node, draft, &[(output, value)], "counted by the loop index")
}

pub(super) fn constant_of_shape(
    context: &mut Context<'_, '_>,
    node: &Node,
    constant: &ConstantOfShape,
) -> Result<(), Refusal> {
    let output = context.output(node, 0)?;
    let Some(bytes) = constant.dtype.element_bytes() else { return refuse("elements have no address") };
    let dims = context.dims(output)?;
    let count = context.planner.sizes.product(&dims);
    let target = context.destination(output, &dims, Fits::Dense)?;
    fill(context, &target, bytes, count, constant.bits, "one value everywhere");
    context.place(output, target);
    Ok(())
}

pub(super) fn fill(
    context: &mut Context<'_, '_>,
    target: &Location,
    bytes: usize,
    count: Size,
    bits: u64,
    reason: &str,
) {
    let operands =
        [Operand::Write(target), Operand::Int(bytes as i64), Operand::Size(count), Operand::Int(bits as i64)];
    context.planner.call(Builtin::Fill, &operands, reason);
}

pub(super) fn trilu(context: &mut Context<'_, '_>, node: &Node, trilu: &Trilu) -> Result<(), Refusal> {
    let (x, output) = (context.required(node, 0)?, context.output(node, 0)?);
    let dims = context.dims(output)?;
    let dtype = context.dtype(x);
    if dims.len() < 2 || !supports(dtype) {
        return refuse(format!("no loop for triangles of {dtype}"));
    }
    let mut draft = RegionDraft::new(dims.clone());
    let diagonal = match context.operand(node, 1) {
        None => draft.number(DType::I64, 0.0),
        Some(k) => elementwise::load(context, &mut draft, k)?,
    };
    let value = elementwise::load(context, &mut draft, x)?;
    let (row, column) = (draft.index(dims.len() - 2), draft.index(dims.len() - 1));
    let distance = draft.binary(BinaryOp::Sub, column, row);
    // Upper keeps distance >= k, lower distance <= k.
    let keep = if trilu.upper {
        draft.binary(BinaryOp::LessOrEqual, diagonal, distance)
    } else {
        draft.binary(BinaryOp::LessOrEqual, distance, diagonal)
    };
    let result = if dtype == DType::Bool {
        draft.binary(BinaryOp::And, keep, value)
    } else {
        let zero = draft.number(dtype, 0.0);
        draft.select(keep, value, zero)
    };
    elementwise::store(context, node, draft, &[(output, result)], "triangle by the loop indices")
}
