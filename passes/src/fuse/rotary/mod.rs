//! `x * cos + rotate_half(x) * sin -> rotary_embedding(x, cos, sin)`
//!
//! With `rotate_half(x) = concat(-x2, x1)` of the halves of a head or of its even and odd elements; and the form of the halves
//! themselves, `concat(x1 * cos - x2 * sin, x2 * cos + x1 * sin)`. Where that form reads neighbours and writes halves (DeepSeek), the
//! op rotates neighbours and their order changes after it. `concat(rotary_embedding(x[..r]), x[r..])` becomes partial rotation.
//! The tables become `[batch or 1, seq, half]`, once for all heads and both elements of a pair: cosines and sines are computed of half as many
//! angles, and equal tables are shared by common subexpressions. Tables may be computed in the graph, sliced or gathered.
//! Both formulas multiply and add the same numbers, so this holds for all inputs.
//! Refuses where a table differs between the two elements of a pair or between heads, where it has not one row a position, where dtypes
//! differ, and where an inner value is used elsewhere.
//! Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021.

pub(crate) mod facts;
mod fit;
mod parts;
mod tables;

use lathe_ir::{Node, NodeId, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Binary;
use lathe_ops::position::RotaryEmbedding;
use lathe_ops::shape::{Concat, Slice, Squeeze, Transpose, Unsqueeze};
use lathe_tensor::Tensor;

use self::parts::{Pairing, Part, join, negated, pairs, part, value_of, width};
use self::tables::{Order, half_table, order};
use crate::rewrite::Term;
use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct RotaryFusion;

impl Rule for RotaryFusion {
    fn name(&self) -> &'static str {
        "fuse_rotary"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let (Operation::Op(op), [output]) = (&node.operation, &node.outputs[..]) else {
            return Proposal::NoMatch;
        };
        match op {
            Op::Binary(Binary::Add) => match whole(context, *output) {
                Some(rotation) => replace(context, &node.name, *output, &rotation),
                None => Proposal::NoMatch,
            },
            Op::Concat(_) | Op::Reshape(_) => partial(context, &node.name, *output)
                .or_else(|| {
                    let (joined, first, second) = join(context, *output)?;
                    let rotation = halves(context, joined, first, second)?;
                    Some(replace(context, &node.name, *output, &rotation))
                })
                .or_else(|| among_others(context, node, *output))
                .unwrap_or(Proposal::NoMatch),
            _ => Proposal::NoMatch,
        }
    }
}

fn replace(context: Context<'_>, name: &str, output: ValueId, rotation: &Rotation) -> Proposal {
    let mut rewrite = Rewrite::new(name);
    match rotation.rewrite(context, &mut rewrite) {
        Ok(new) => rewrite.replace(output, new),
        Err(reason) => Proposal::because(reason),
    }
}

/// `concat(.., x1 * cos - x2 * sin, x2 * cos + x1 * sin, ..)`: neighbours of the rotation stand in the same concatenation.
fn among_others(context: Context<'_>, node: &Node, output: ValueId) -> Option<Proposal> {
    let Operation::Op(op @ Op::Concat(concat)) = &node.operation else { return None };
    let rank = context.ty(output).rank();
    let inputs: Vec<ValueId> = node.inputs.iter().copied().collect::<Option<_>>()?;
    (inputs.len() > 2 && parts::axis(concat.axis, rank)? + 1 == rank).then_some(())?;
    let (place, rotation) = inputs.windows(2).enumerate().find_map(|(place, pair)| {
        let same = width(context, pair[0])? == width(context, pair[1])?;
        Some((place, halves(context, Pairing::Half, pair[0], pair[1]).filter(|_| same)?))
    })?;
    let mut rewrite = Rewrite::new(&node.name);
    let rotated = match rotation.rewrite(context, &mut rewrite) {
        Ok(rotated) => rotated,
        Err(reason) => return Some(Proposal::because(reason)),
    };
    let mut joined: Vec<Term> = inputs.iter().map(|input| Rewrite::value(*input)).collect();
    joined.splice(place..place + 2, [rotated]);
    let new = rewrite.node(op.clone(), &joined);
    Some(rewrite.replace(output, new))
}

/// A rotation of a part of a value's last axis.
struct Rotation {
    range: Part,
    /// A value that lies in the range: what is rotated, or a half of it.
    within: ValueId,
    /// The sizes of the result but for the last axis, and its dtype, are those of this value.
    like: ValueId,
    pairing: Pairing,
    /// Order of the elements in the result.
    joined: Pairing,
    cos: ValueId,
    sin: ValueId,
    /// Whether the tables hold each element for both of a pair.
    doubled: bool,
    /// Values that nothing else may use.
    interior: Vec<ValueId>,
}

/// The operands of an operation of two.
fn operands(context: Context<'_>, value: ValueId, kind: Binary) -> Option<(ValueId, ValueId)> {
    let (_, node, op) = context.producer(value)?;
    match (op, &node.inputs[..]) {
        (Op::Binary(found), [Some(a), Some(b)]) if *found == kind => Some((*a, *b)),
        _ => None,
    }
}

fn both_orders<T: Copy>(pair: (T, T)) -> [(T, T); 2] {
    [pair, (pair.1, pair.0)]
}

/// `x * cos + rotate_half(x) * sin`.
fn whole(context: Context<'_>, output: ValueId) -> Option<Rotation> {
    let sum = operands(context, output, Binary::Add)?;
    both_orders(sum).into_iter().find_map(|(straight, turned)| {
        let products = operands(context, turned, Binary::Mul)?;
        let (rotated, sin, pairing, range) =
            both_orders(products).into_iter().find_map(|(rotated, sin)| {
                let (joined, a, b) = join(context, rotated)?;
                let (pairing, range) = pairs(part(context, b)?, part(context, negated(context, a)?)?)?;
                (joined == pairing).then_some((rotated, sin, pairing, range))
            })?;
        let factors = operands(context, straight, Binary::Mul)?;
        let (within, cos) =
            both_orders(factors).into_iter().find(|(x, _)| part(context, *x) == Some(range))?;
        let interior = vec![straight, turned, rotated];
        Some(Rotation {
            range,
            within,
            like: output,
            pairing,
            joined: pairing,
            cos,
            sin,
            doubled: true,
            interior,
        })
    })
}

/// `concat(x1 * cos - x2 * sin, x2 * cos + x1 * sin)`.
fn halves(context: Context<'_>, joined: Pairing, first: ValueId, second: ValueId) -> Option<Rotation> {
    let (minuend, subtrahend) = operands(context, first, Binary::Sub)?;
    let (x1_cos, x2_sin) =
        (operands(context, minuend, Binary::Mul)?, operands(context, subtrahend, Binary::Mul)?);
    for (x1, cos) in both_orders(x1_cos) {
        for (x2, sin) in both_orders(x2_sin) {
            let (Some(first_part), Some(second_part)) = (part(context, x1), part(context, x2)) else {
                continue;
            };
            let Some((pairing, range)) = pairs(first_part, second_part) else { continue };
            let is_product = |value: ValueId, part_of: Part, table: ValueId| {
                let factors = operands(context, value, Binary::Mul);
                factors.is_some_and(|factors| {
                    both_orders(factors)
                        .iter()
                        .any(|(x, other)| *other == table && part(context, *x) == Some(part_of))
                })
            };
            let sum = operands(context, second, Binary::Add)?;
            let found = both_orders(sum)
                .into_iter()
                .find(|(a, b)| is_product(*a, second_part, cos) && is_product(*b, first_part, sin));
            if let (Some((a, b)), true) = (found, (pairing, joined) != (Pairing::Half, Pairing::Interleaved))
            {
                let interior = vec![first, second, minuend, subtrahend, a, b];
                let (within, like) = (x1, first);
                return Some(Rotation {
                    range,
                    within,
                    like,
                    pairing,
                    joined,
                    cos,
                    sin,
                    doubled: false,
                    interior,
                });
            }
        }
    }
    None
}

impl Rotation {
    /// The rotated value, or why it is not the same.
    fn rewrite(&self, context: Context<'_>, rewrite: &mut Rewrite) -> Result<Term, &'static str> {
        let ty = context.ty(self.like);
        if ![3, 4].contains(&ty.rank()) {
            return Err("x has neither three nor four axes");
        }
        if !self.interior.iter().all(|value| context.single_use(*value)) {
            return Err("a value inside is used elsewhere");
        }
        let x = self.range.of;
        if [x, self.cos, self.sin].iter().any(|value| context.ty(*value).dtype != ty.dtype) {
            return Err("x and the tables differ in dtype");
        }
        let (lead, x_lead) = (&ty.dims[..ty.rank() - 1], context.ty(x).dims.split_last());
        if !x_lead.is_some_and(|(_, x_lead)| crate::context::dims_equal(lead, x_lead)) {
            return Err("x is broadcast over the tables");
        }
        let orders = [self.cos, self.sin].map(|table| order(context, table, &ty.dims));
        let [Some(order), Some(sin_order)] = orders else {
            return Err("the tables have not one row a position for all heads");
        };
        if order != sin_order {
            return Err("the tables differ in layout");
        }
        let pairing = self.doubled.then_some(self.pairing);
        let cos = half_table(context, rewrite, self.cos, order, pairing);
        let sin = half_table(context, rewrite, self.sin, order, pairing);
        let (Some(cos), Some(sin)) = (cos, sin) else {
            return Err("the tables are not known to be equal for both elements of a pair");
        };
        self.build(context, rewrite, ty.rank(), order, (cos, sin)).ok_or("there is no memory for bounds")
    }

    fn build(
        &self,
        context: Context<'_>,
        rewrite: &mut Rewrite,
        rank: usize,
        order: Order,
        (cos, sin): (Term, Term),
    ) -> Option<Term> {
        let mut x = match value_of(context, self.within, self.range) {
            Some(whole) => Rewrite::value(whole),
            None => {
                let end = self.range.start + self.range.count;
                slice(rewrite, Rewrite::value(self.range.of), rank, self.range.start, end, 1)?
            }
        };
        let swap = Op::Transpose(Transpose { perm: vec![0, 2, 1, 3] });
        if rank == 3 {
            x = rewrite.node(Op::Unsqueeze(Unsqueeze { axes: Some(vec![1]) }), &[x]);
        } else if order == Order::SeqFirst {
            x = rewrite.node(swap.clone(), &[x]);
        }
        let op = RotaryEmbedding {
            interleaved: self.pairing == Pairing::Interleaved,
            heads: None,
            rotary_dim: None,
            base: None,
            scaling: None,
        };
        let mut y = rewrite.node(Op::RotaryEmbedding(op), &[x, cos, sin]);
        if rank == 3 {
            y = rewrite.node(Op::Squeeze(Squeeze { axes: Some(vec![1]) }), &[y]);
        } else if order == Order::SeqFirst {
            y = rewrite.node(swap, &[y]);
        }
        if self.joined != self.pairing {
            let even = slice(rewrite, y, rank, 0, self.range.count, 2)?;
            let odd = slice(rewrite, y, rank, 1, self.range.count, 2)?;
            y = rewrite.node(Op::Concat(Concat { axis: -1 }), &[even, odd]);
        }
        Some(y)
    }
}

/// `x[.., start..end]` in steps.
fn slice(rewrite: &mut Rewrite, x: Term, rank: usize, start: i64, end: i64, step: i64) -> Option<Term> {
    let mut inputs = vec![x];
    for bound in [start, end, i64::try_from(rank).ok()? - 1, step] {
        inputs.push(rewrite.constant(Tensor::from_slice(&[bound], &[1]).ok()?));
    }
    Some(rewrite.node(Op::Slice(Slice {}), &inputs))
}

/// `concat(rotary_embedding(x[..r]), x[r..])`.
fn partial(context: Context<'_>, name: &str, output: ValueId) -> Option<Proposal> {
    let (_, node, Op::Concat(concat)) = context.producer(output)? else { return None };
    let [Some(rotated), Some(rest)] = node.inputs[..] else { return None };
    let rank = context.ty(output).rank();
    (rank == 4 && parts::axis(concat.axis, rank)? == 3 && context.single_use(rotated)).then_some(())?;
    let (_, node, Op::RotaryEmbedding(op)) = context.producer(rotated)? else { return None };
    let (head_value, tables) = node.inputs.split_first()?;
    let head_value = (*head_value)?;
    let (head, tail) = (part(context, head_value)?, part(context, rest)?);
    let adjacent =
        head.of == tail.of && tail.start == head.start + head.count && (head.step, tail.step) == (1, 1);
    (adjacent && op.rotary_dim.is_none() && op.heads.is_none()).then_some(())?;
    let x = value_of(context, head_value, Part { count: head.count + tail.count, ..head })?;
    context.same_dims(x, output).then_some(())?;
    let rotary_dim = if tail.count == 0 { None } else { Some(usize::try_from(head.count).ok()?) };
    let mut rewrite = Rewrite::new(name);
    let mut inputs = vec![Rewrite::value(x)];
    inputs.extend(tables.iter().map(|input| input.and_then(Rewrite::value)));
    let new = rewrite.node(Op::RotaryEmbedding(RotaryEmbedding { rotary_dim, ..op.clone() }), &inputs);
    Some(rewrite.replace(output, new))
}
