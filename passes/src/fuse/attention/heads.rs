//! Queries, keys and values as `[batch, heads, length, head_dim]`, with as few heads as the graph has of them.
//!
//! An operand of a product is read backwards by elements, like a mask: where element `[b, h, t, d]` is element `[b, h / r, t, d]` of a value,
//! that value is the operand with its heads repeated `r` times (`repeat_kv` as Expand + Reshape, Concat, Tile or Gather).

use lathe_ir::{Dim, EditValue, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::shape::{Reshape, Transpose};

use super::score::{is_power_of_two, scaled};
use crate::mask::{Reader, source};
use crate::{Context, Rewrite, Term};

/// Ops between the product and the projection.
const LONGEST: usize = 24;

/// Which axis of a value is which.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// Batch, heads, length and head_dim.
    Apart([usize; 4]),
    /// Batch and heads in one, length and head_dim.
    Folded([usize; 3]),
}

const STRAIGHT: Layout = Layout::Apart([0, 1, 2, 3]);

/// An operand of attention.
pub(super) struct Operand {
    value: ValueId,
    layout: Layout,
    /// Nodes between `value` and what is to be used instead, the innermost first, on top of this value.
    replay: Option<(ValueId, Vec<ValueId>)>,
    /// Query heads for each head.
    pub repeats: i64,
    /// Factor that is to be applied still.
    pub scale: f64,
}

/// Reads the operand `value` of a product whose element at the reader's coordinates (`b, h, position, d`) stands at `index`.
pub(super) fn operand(reader: &Reader<'_>, value: ValueId, index: Vec<Dim>) -> Option<Operand> {
    let context = reader.context;
    let (mut value, mut index) = (value, index);
    let mut scale = 1.0;
    let mut best: Option<Operand> = None;
    for _ in 0..LONGEST {
        if let Some((layout, repeats)) = layout_of(reader, value, &index) {
            let plainer = |best: &Operand| match layout {
                STRAIGHT => true,
                Layout::Apart(_) => best.layout != STRAIGHT,
                Layout::Folded(_) => matches!(best.layout, Layout::Folded(_)),
            };
            let better = best.as_ref().is_none_or(|best| {
                repeats > best.repeats || (repeats == best.repeats && (scale != best.scale || plainer(best)))
            });
            if better {
                best = Some(Operand { value, layout, replay: None, repeats, scale });
            }
        }
        if let Some((x, factor)) = absorbed(context, value) {
            scale *= factor;
            value = x;
            continue;
        }
        let Some((x, moved)) = source(reader, value, &index) else { break };
        (value, index) = (x, moved);
    }
    if let Some(best) = &mut best {
        below(context, best);
    }
    best
}

/// A factor that the scores may have instead of an operand: any, or powers of two where the last bit decides about codes.
fn absorbed(context: Context<'_>, value: ValueId) -> Option<(ValueId, f64)> {
    let found = scaled(context, value)?;
    (is_power_of_two(found.1) || !context.module.quantises_by_range()).then_some(found)
}

/// A factor under the operand, below ops that only move: they are applied again to what it multiplies.
fn below(context: Context<'_>, operand: &mut Operand) {
    let mut value = operand.value;
    let mut moves = Vec::new();
    for _ in 0..6 {
        if let Some((x, factor)) = absorbed(context, value) {
            if !moves.is_empty() {
                moves.reverse();
                operand.replay = Some((x, moves));
                operand.scale *= factor;
            }
            return;
        }
        let Some((_, node, Op::Reshape(_) | Op::Transpose(_) | Op::Unsqueeze(_) | Op::Squeeze(_))) =
            context.producer(value)
        else {
            return;
        };
        let Some(x) = node.inputs.first().copied().flatten() else { return };
        moves.push(value);
        value = x;
    }
}

/// The axes of a value whose element at `index` is that of the operand, and how many query heads each head serves.
fn layout_of(reader: &Reader<'_>, value: ValueId, index: &[Dim]) -> Option<(Layout, i64)> {
    let space = &reader.space;
    let (batch, head, position, element) =
        (space.coordinate(0), space.coordinate(1), space.coordinate(2), space.coordinate(3));
    let dims = reader.dims(value);
    if index.len() == 3 {
        let lead = batch.mul(&space.size(1)).add(&head);
        let sizes = [space.size(0).mul(&space.size(1)), space.size(2), space.size(3)];
        let orders: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]];
        let fits = |axes: &[usize; 3]| {
            let wanted = [&lead, &position, &element];
            axes.iter()
                .zip(wanted)
                .zip(&sizes)
                .all(|((axis, at), size)| index[*axis] == *at && dims[*axis] == *size)
        };
        return orders.into_iter().find(fits).map(|axes| (Layout::Folded(axes), 1));
    }
    if index.len() != 4 {
        return None;
    }
    // Axes of one place have no coordinate: the order of the others and the sizes tell them apart.
    let heads = space.size(1);
    let is_head = |axis: usize| -> Option<i64> {
        let count = dims.get(axis)?;
        if *count == heads && index[axis] == head {
            return Some(1);
        }
        let (count, all) = (count.as_constant()?, heads.as_constant()?);
        let repeats = all.checked_div(count).filter(|repeats| repeats * count == all)?;
        let expected = if count == 1 { Dim::constant(0) } else { head.floor_div(&Dim::constant(repeats)) };
        (index[axis] == expected).then_some(repeats)
    };
    let orders: [[usize; 4]; 6] =
        [[0, 1, 2, 3], [0, 2, 1, 3], [0, 1, 3, 2], [0, 3, 1, 2], [0, 2, 3, 1], [0, 3, 2, 1]];
    orders.into_iter().find_map(|axes| {
        let [b, h, t, d] = axes;
        let sizes = dims[b] == space.size(0) && dims[t] == space.size(2) && dims[d] == space.size(3);
        let places = index[b] == batch && index[t] == position && index[d] == element;
        (sizes && places).then(|| is_head(h)).flatten().map(|repeats| (Layout::Apart(axes), repeats))
    })
}

impl Operand {
    /// Adds what makes the operand to an edit. `dims` are its sizes, which a value with batch and heads in one axis is given.
    pub fn emit(&self, context: Context<'_>, rewrite: &mut Rewrite, dims: &[Dim]) -> Term {
        let mut term = Rewrite::value(self.value);
        if let Some((base, moves)) = &self.replay {
            term = Rewrite::value(*base);
            for value in moves {
                let (_, node, op) = context.producer(*value)?;
                let rest = node.inputs.iter().skip(1).map(|input| input.map(EditValue::from));
                let inputs: Vec<Term> = std::iter::once(term).chain(rest).collect();
                term = rewrite.node(Operation::Op(op.clone()), &inputs);
            }
        }
        match self.layout {
            STRAIGHT => term,
            Layout::Apart(axes) => self.transposed(context, rewrite, term, &axes),
            Layout::Folded(axes) => {
                if axes != [0, 1, 2] {
                    term = self.transposed(context, rewrite, term, &axes);
                }
                let shape = rewrite.dims(dims);
                rewrite.node(Op::Reshape(Reshape { allow_zero: true }), &[term, shape])
            }
        }
    }

    /// One transpose for two, where the operand is transposed already.
    fn transposed(&self, context: Context<'_>, rewrite: &mut Rewrite, term: Term, axes: &[usize]) -> Term {
        if self.replay.is_none()
            && let Some((_, node, Op::Transpose(inner))) = context.producer(self.value)
            && inner.perm.len() == axes.len()
        {
            let perm: Vec<usize> = axes.iter().filter_map(|axis| inner.perm.get(*axis).copied()).collect();
            let x = node.inputs.first().copied().flatten()?;
            if perm.iter().enumerate().all(|(axis, from)| axis == *from) {
                return Rewrite::value(x);
            }
            return rewrite.node(Op::Transpose(Transpose { perm }), &[Rewrite::value(x)]);
        }
        rewrite.node(Op::Transpose(Transpose { perm: axes.to_vec() }), &[term])
    }
}
