//! Multi-head latent attention (DeepSeek-AI, "DeepSeek-V2", 2024): keys and values of all heads are products of one short row a token.
//!
//! `k = concat(h[..nope], expand(r))`, `v = h[nope..]`, `h = c w` told apart by heads: `c` is the short row, `r` the part of a key that has its
//! position, which all heads share. A score is `q_nope . (w_k c) + q_rope . r = (q_nope w_k) . c + q_rope . r`, and an answer `w_v (sum p c)`: a
//! cache need only hold `concat(c, r)`.

use lathe_ir::{Dim, Node, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Activation;

use crate::Context;

/// What an attention's keys and values are made of, in the values of its function.
#[derive(Clone, Copy, Debug)]
pub struct Latent {
    /// The short rows, `[batch, seq, rank]` or `[batch, 1, seq, rank]`.
    pub rows: ValueId,
    /// The weights `[rank, heads * (nope + value)]`.
    pub weight: ValueId,
    /// The part of the keys that has its position, `[batch, 1, seq, rope]`.
    pub rotated: ValueId,
    /// Heads.
    pub heads: usize,
    /// Elements of a short row.
    pub rank: usize,
    /// Elements of a key without position.
    pub nope: usize,
    /// Elements of a key with position.
    pub rope: usize,
    /// Elements of a value.
    pub value: usize,
}

impl Latent {
    /// What the keys and values of an attention are made of, where it is this.
    pub fn of(context: Context<'_>, attention: &Node) -> Option<Self> {
        let operand = |index: usize| attention.inputs.get(index).copied().flatten();
        let (k, v) = (operand(1)?, operand(2)?);
        let (_, concat, Op::Concat(axis)) = context.producer(k)? else { return None };
        let [Some(plain), Some(shared)] = concat.inputs[..] else { return None };
        let ([_, heads, _, nope], [_, _, _, rope], [_, _, _, value]) =
            (sizes(context, plain)?, sizes(context, shared)?, sizes(context, v)?);
        if !matches!(axis.axis, -1 | 3) {
            return None;
        }
        let (heads, nope, rope, value) = (heads?, nope?, rope?, value?);
        let (_, split, Op::Split(parts)) = context.producer(plain)? else { return None };
        let halves = split.outputs[..] == [plain, v] && matches!(parts.axis, -1 | 3);
        let (rows, weight) = product(context, split.inputs.first().copied().flatten()?)?;
        let rank = number(context.ty(rows).dims.last()?)?;
        let width = number(context.ty(weight).dims.get(1)?)?;
        let (_, expand, Op::Expand(_)) = context.producer(shared)? else { return None };
        let rotated = expand.inputs.first().copied().flatten()?;
        let one_head = sizes(context, rotated)?[1] == Some(1) && sizes(context, rotated)?[3] == Some(rope);
        let fits = width == heads.checked_mul(nope.checked_add(value)?)?;
        (halves && one_head && fits).then_some(Self { rows, weight, rotated, heads, rank, nope, rope, value })
    }

    /// Elements that a cache holds of a token.
    pub fn width(&self) -> usize {
        self.rank + self.rope
    }
}

/// Sizes of four axes, those that are numbers.
fn sizes(context: Context<'_>, value: ValueId) -> Option<[Option<usize>; 4]> {
    let dims: &[Dim; 4] = context.ty(value).dims[..].try_into().ok()?;
    Some(dims.each_ref().map(number))
}

fn number(dim: &Dim) -> Option<usize> {
    usize::try_from(dim.as_constant()?).ok()
}

/// The operands of the product whose columns are told apart as heads: `transpose(reshape(c w))`.
fn product(context: Context<'_>, heads: ValueId) -> Option<(ValueId, ValueId)> {
    let (_, node, Op::Transpose(transpose)) = context.producer(heads)? else { return None };
    let split = node.inputs.first().copied().flatten()?;
    let (_, node, Op::Reshape(_)) = context.producer(split)? else { return None };
    let flat = node.inputs.first().copied().flatten()?;
    let (from, to) = (&context.ty(flat).dims, &context.ty(split).dims);
    // `[batch, seq, heads * size]` or `[batch, 1, seq, heads * size]` as `[batch, seq, heads, size]`.
    let kept = match &from[..] {
        [batch, seq, _] => [batch.clone(), seq.clone()],
        [batch, one, seq, _] if one.as_constant() == Some(1) => [batch.clone(), seq.clone()],
        _ => return None,
    };
    let told_apart = to.len() == 4 && crate::context::dims_equal(&kept, &to[..2]);
    let (_, node, op) = context.producer(flat)?;
    let plain = match op {
        Op::MatMul(_) => node.inputs.len() == 2,
        Op::Linear(linear) => {
            linear.activation == Activation::None && node.inputs.iter().skip(2).all(Option::is_none)
        }
        _ => false,
    };
    let [Some(rows), Some(weight), ..] = node.inputs[..] else { return None };
    let matrix = context.ty(weight).rank() == 2 && context.ty(rows).rank() == from.len();
    (transpose.perm == [0, 2, 1, 3] && told_apart && plain && matrix).then_some((rows, weight))
}
