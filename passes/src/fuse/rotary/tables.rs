//! Tables of cosines and sines of half a head's width, taken from those that an exporter wrote for every element.

use lathe_ir::{Answer, Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::shape::{Squeeze, Transpose, Unsqueeze};
use lathe_tensor::{DType, Tensor};

use super::parts::{Pairing, axis, join, part, width};
use crate::rewrite::Term;
use crate::{Context, Rewrite};

/// Which axis of `x` the rows of the tables run along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// `x` is `[batch, heads, seq, head_dim]`.
    HeadsFirst,
    /// `x` is `[batch, seq, heads, head_dim]`.
    SeqFirst,
}

/// Nodes deep that a table is followed.
const DEPTH: usize = 24;

/// How a table lies against the `x` that it is multiplied with: one row a position, the same for every head. An `x` of three axes has
/// no axis of heads.
pub(super) fn order(context: Context<'_>, table: ValueId, x: &[Dim]) -> Option<Order> {
    let given = &context.ty(table).dims;
    let is = |dim: &Dim, other: &Dim| dim.equals(other) == Answer::Yes;
    let one = Dim::constant(1);
    if let [x_batch, x_seq, _] = x {
        return match &given[..] {
            [seq, _] if is(seq, x_seq) => Some(Order::HeadsFirst),
            [batch, seq, _] if is(seq, x_seq) && (is(batch, &one) || is(batch, x_batch)) => {
                Some(Order::HeadsFirst)
            }
            _ => None,
        };
    }
    let mut dims = vec![Dim::constant(1); x.len().checked_sub(given.len())?];
    dims.extend(given.iter().cloned());
    let ([batch, second, third, _], [x_batch, x_second, x_third, _]) = (&dims[..], x) else { return None };
    if !is(batch, &one) && !is(batch, x_batch) {
        return None;
    }
    match () {
        () if is(second, &one) && is(third, x_third) => Some(Order::HeadsFirst),
        () if is(third, &one) && is(second, x_second) => Some(Order::SeqFirst),
        () => None,
    }
}

/// The table `[batch or 1, seq, half]` of one whose last axis holds each element for both of a pair (`pairing`), or once.
pub(super) fn half_table(
    context: Context<'_>,
    rewrite: &mut Rewrite,
    table: ValueId,
    order: Order,
    pairing: Option<Pairing>,
) -> Option<Term> {
    let rank = context.ty(table).rank();
    let mut halves = Halves { context, rewrite, pairing, half: width(context, table)? };
    if pairing.is_some() {
        halves.half /= 2;
    }
    let heads_axis = match (rank, order) {
        (4, Order::HeadsFirst) => 1,
        (4, Order::SeqFirst) => 2,
        (3, Order::SeqFirst) => {
            let half = halves.of(table, 0)?;
            return Some(halves.rewrite.node(Op::Transpose(Transpose { perm: vec![1, 0, 2] }), &[half]));
        }
        (3, Order::HeadsFirst) => return halves.of(table, 0),
        (2, Order::HeadsFirst) => {
            let half = halves.of(table, 0)?;
            return Some(halves.rewrite.node(Op::Unsqueeze(Unsqueeze { axes: Some(vec![0]) }), &[half]));
        }
        _ => return None,
    };
    if let Some(inner) = without_unit_axis(context, table, heads_axis) {
        return halves.of(inner, 0);
    }
    let half = halves.of(table, 0)?;
    Some(halves.rewrite.node(Op::Squeeze(Squeeze { axes: Some(vec![heads_axis as i64]) }), &[half]))
}

/// The value that an axis of size 1 was added to.
fn without_unit_axis(context: Context<'_>, value: ValueId, unit: usize) -> Option<ValueId> {
    let (_, node, op) = context.producer(value)?;
    let inner = (*node.inputs.first()?)?;
    let mut dims = context.ty(value).dims.clone();
    dims.remove(unit);
    let same = crate::context::dims_equal(&dims, &context.ty(inner).dims);
    (matches!(op, Op::Unsqueeze(_) | Op::Reshape(_)) && same).then_some(inner)
}

/// Makes values of half the width.
struct Halves<'c, 'r> {
    context: Context<'c>,
    rewrite: &'r mut Rewrite,
    /// Where the two copies of an element lie; values are narrow already where it is absent.
    pairing: Option<Pairing>,
    half: i64,
}

impl Halves<'_, '_> {
    /// The half of a value; `None` where it is not proven that the two halves are equal.
    fn of(&mut self, value: ValueId, depth: usize) -> Option<Term> {
        let context = self.context;
        let (Some(pairing), true) = (self.pairing, depth < DEPTH) else {
            return self.pairing.is_none().then(|| self.narrow(value));
        };
        if width(context, value)? != 2 * self.half {
            return None;
        }
        if let Some((joined, a, b)) = join(context, value)
            && joined == pairing
            && a == b
        {
            return Some(Rewrite::value(a));
        }
        if context.constant(value).is_some() {
            return self.constant(value, pairing);
        }
        let (_, node, op) = context.producer(value)?;
        let rank = context.ty(value).rank();
        let (first, others) = node.inputs.split_first()?;
        let first = (*first)?;
        let keeps_last = match op {
            Op::Unary(_) | Op::Cast(_) => true,
            Op::Binary(_) | Op::Where(_) => return self.elementwise(value, depth),
            Op::Unsqueeze(unsqueeze) => {
                let axes = unsqueeze.axes.as_ref()?;
                axes.iter().all(|added| axis(*added, rank).is_some_and(|added| added + 1 < rank))
            }
            Op::Squeeze(squeeze) => {
                let axes = squeeze.axes.as_ref()?;
                axes.iter()
                    .all(|removed| axis(*removed, rank + axes.len()).is_some_and(|removed| removed < rank))
            }
            Op::Transpose(transpose) => transpose.perm.last() == Some(&(rank - 1)),
            Op::Gather(gather) => axis(gather.axis, context.ty(first).rank())? + 1 < context.ty(first).rank(),
            Op::Reshape(_) | Op::Expand(_) => return self.reshaped(value, first, op, depth),
            _ => false,
        };
        if !keeps_last {
            return None;
        }
        let mut inputs = vec![self.of(first, depth + 1)?];
        inputs.extend(others.iter().map(|other| other.and_then(Rewrite::value)));
        Some(self.rewrite.node(op.clone(), &inputs))
    }

    /// A narrow value: where it is the first half of a wide one with equal halves, that one's half.
    fn narrow(&mut self, value: ValueId) -> Term {
        let whole =
            part(self.context, value).filter(|part| part.of != value && part.start == 0 && part.step == 1);
        let wide = whole.filter(|part| width(self.context, part.of) == Some(2 * self.half));
        if let Some(wide) = wide {
            let mut halves = Halves {
                context: self.context,
                rewrite: &mut *self.rewrite,
                pairing: Some(Pairing::Half),
                half: self.half,
            };
            if let Some(half) = halves.of(wide.of, 0) {
                return half;
            }
        }
        Rewrite::value(value)
    }

    /// An elementwise node: operands that are wide are halved, those of one element along the last axis stay.
    fn elementwise(&mut self, value: ValueId, depth: usize) -> Option<Term> {
        let context = self.context;
        let (_, node, op) = context.producer(value)?;
        let mut inputs = Vec::new();
        for operand in node.inputs.iter().flatten() {
            let last = context.ty(*operand).dims.last().map_or(Some(1), |last| last.as_constant());
            inputs.push(match last? {
                1 => Rewrite::value(*operand),
                _ => self.of(*operand, depth + 1)?,
            });
        }
        Some(self.rewrite.node(op.clone(), &inputs))
    }

    /// A reshape or expansion that leaves the last axis as it is.
    fn reshaped(&mut self, value: ValueId, inner: ValueId, op: &Op, depth: usize) -> Option<Term> {
        let context = self.context;
        if width(context, inner)? != 2 * self.half {
            return None;
        }
        let mut dims = context.ty(value).dims.clone();
        *dims.last_mut()? = Dim::constant(self.half);
        if !context.from_inputs(&dims) {
            return None;
        }
        let half = self.of(inner, depth + 1)?;
        let dims = self.rewrite.dims(&dims);
        let op = match op {
            Op::Reshape(_) => Op::Reshape(lathe_ops::shape::Reshape { allow_zero: true }),
            other => other.clone(),
        };
        Some(self.rewrite.node(op, &[half, dims]))
    }

    /// A constant whose halves are equal bit by bit.
    fn constant(&mut self, value: ValueId, pairing: Pairing) -> Option<Term> {
        let tensor = self.context.constant(value)?;
        if tensor.dtype() != DType::F32 {
            return None;
        }
        let half = usize::try_from(self.half).ok().filter(|half| *half > 0)?;
        let elements = tensor.to_slice::<f32>().ok()?;
        let mut halves = Vec::with_capacity(elements.len() / 2);
        for row in elements.chunks_exact(2 * half) {
            for pair in 0..half {
                let (a, b) = match pairing {
                    Pairing::Half => (row[pair], row[pair + half]),
                    Pairing::Interleaved => (row[2 * pair], row[2 * pair + 1]),
                };
                (a.to_bits() == b.to_bits()).then(|| halves.push(a))?;
            }
        }
        let mut shape = tensor.shape().to_vec();
        *shape.last_mut()? = half;
        Some(self.rewrite.constant(Tensor::from_slice(&halves, &shape).ok()?))
    }
}
