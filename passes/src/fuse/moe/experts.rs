//! The experts: gathered weights, repeated tokens, activation, weighted sum.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::elementwise::{Activation, Binary, Unary};
use lathe_ops::moe::{Clamped, Gate};
use lathe_tensor::Tensor;

use super::walk::{binary, equal, flat, integers, is_last, operand, sizes, with_scalar};
use crate::Context;

/// A constant of all experts.
pub(super) enum Weight {
    /// One of the graph.
    Value(ValueId),
    /// Made of those of each expert.
    Stacked(Tensor),
}

/// What the experts compute.
pub(super) struct Experts {
    /// The tokens: `[..., in]`, or `[tokens, 1, in]` in the order of the indices.
    pub x: ValueId,
    pub w_in: Weight,
    pub w_out: Weight,
    pub b_in: Option<Weight>,
    pub b_out: Option<Weight>,
    pub activation: Activation,
    pub gate: Gate,
    pub clamped: Option<Clamped>,
    pub transposed: bool,
    pub count: usize,
    pub top_k: usize,
    /// Most tokens of an expert in a row of tokens.
    pub capacity: Option<usize>,
    /// The chosen experts `[tokens, top_k]`.
    pub indices: ValueId,
    /// Their weights, in the same order.
    pub weights: ValueId,
    /// Values inside that nobody else may need.
    pub inner: Vec<ValueId>,
}

/// A product with gathered matrices.
struct Product {
    x: ValueId,
    w: ValueId,
    bias: Option<ValueId>,
    indices: ValueId,
    transposed: bool,
    gathered: ValueId,
    result: ValueId,
}

/// `None` where the sum is no mixture of experts at all.
pub(super) fn find(context: Context<'_>, terms: ValueId) -> Option<Result<Experts, String>> {
    let dims = &context.ty(terms).dims;
    let (3, top_k) = (dims.len(), dims.get(1)?.as_constant()?) else { return None };
    let top_k = usize::try_from(top_k).ok()?;
    let weighted = flat(context, terms);
    let (a, b) = binary(context, weighted, Binary::Mul)?;
    let (second, answers, weights) = match (product(context, a), product(context, b)) {
        (Some(product), _) => (product, a, b),
        (None, Some(product)) => (product, b, a),
        (None, None) => return None,
    };
    Some(read(context, second, answers, weights, top_k))
}

fn read(
    context: Context<'_>,
    second: Product,
    answers: ValueId,
    weights: ValueId,
    top_k: usize,
) -> Result<Experts, String> {
    let (wide, narrow) = (&context.ty(answers).dims, &context.ty(weights).dims);
    let (last, leading) = narrow.split_last().ok_or("the weights are a scalar")?;
    let one_each = last.as_constant() == Some(1)
        && wide.len() == narrow.len()
        && leading.iter().zip(wide).all(|(a, b)| equal(a, b));
    if !one_each {
        return Err("the answers are not scaled by one weight each".into());
    }
    let (activated, activation, gate, clamped) = activation(context, second.x)?;
    let first = product(context, activated).ok_or("the experts' first product is not understood")?;
    let weights = flat(context, weights);
    let indices = second.indices;
    if first.indices != indices {
        return Err("the two products gather by different indices".into());
    }
    if first.transposed != second.transposed {
        return Err("the two products store their matrices differently".into());
    }
    let rows = |value: ValueId| -> Option<&[lathe_ir::Dim]> {
        let dims = &context.ty(value).dims;
        (dims.len() == 2 && dims[1].as_constant() == Some(top_k as i64)).then_some(&dims[..1])
    };
    let (Some([tokens]), Some([rows])) = (rows(indices), rows(weights)) else {
        return Err("indices and weights are not [tokens, top_k]".into());
    };
    if !equal(tokens, rows) {
        return Err("there are not as many weights as indices".into());
    }
    let x = tokens_of(context, first.x, tokens, top_k)?;
    let shape = sizes(context, second.w).ok_or("the experts have no constant sizes")?;
    Ok(Experts {
        x,
        w_in: Weight::Value(first.w),
        w_out: Weight::Value(second.w),
        b_in: first.bias.map(Weight::Value),
        b_out: second.bias.map(Weight::Value),
        activation,
        gate,
        clamped,
        transposed: first.transposed,
        count: shape[0],
        top_k,
        capacity: None,
        indices,
        weights,
        inner: vec![first.gathered, second.gathered, first.result, second.result],
    })
}

/// `w[indices] x` or `x w[indices]`, perhaps plus a gathered bias, under any shape.
fn product(context: Context<'_>, value: ValueId) -> Option<Product> {
    let value = flat(context, value);
    if let Some((a, b)) = binary(context, value, Binary::Add) {
        return [(a, b), (b, a)].into_iter().find_map(|(sum, bias)| {
            let found = multiplied(context, flat(context, sum))?;
            let (bias, indices) = gathered(context, flat(context, bias), 2)?;
            (indices == found.indices).then_some(Product { bias: Some(bias), ..found })
        });
    }
    multiplied(context, value)
}

fn multiplied(context: Context<'_>, value: ValueId) -> Option<Product> {
    let (_, node, op) = context.producer(value)?;
    let (Op::MatMul(_), [Some(a), Some(b)]) = (op, &node.inputs[..]) else { return None };
    let one = |value: ValueId, axis: usize| {
        let dims = &context.ty(value).dims;
        dims.len() == 3 && dims[axis].as_constant() == Some(1)
    };
    // `w x` has the matrices as [out, in], `x w` as [in, out]; a transpose between swaps them.
    let (x, matrices, transposed) = match () {
        () if one(*b, 2) => (*b, *a, true),
        () if one(*a, 1) => (*a, *b, false),
        () => return None,
    };
    let (matrices, swapped) = match context.producer(matrices)? {
        (_, node, Op::Transpose(transpose)) if transpose.perm == [0, 2, 1] => {
            ((*node.inputs.first()?)?, true)
        }
        _ => (matrices, false),
    };
    let (w, indices) = gathered(context, matrices, 3)?;
    let transposed = transposed != swapped;
    Some(Product { x, w, bias: None, indices, transposed, gathered: matrices, result: value })
}

/// A constant of some rank whose first axis is gathered, and the indices.
fn gathered(context: Context<'_>, value: ValueId, rank: usize) -> Option<(ValueId, ValueId)> {
    let (_, node, op) = context.producer(value)?;
    let ([Some(data), Some(indices)], true) = (&node.inputs[..], context.ty(value).rank() == rank) else {
        return None;
    };
    let by_expert = match op {
        Op::Gather(gather) => gather.axis == 0 && context.ty(*indices).rank() == 1,
        Op::GatherNd(gather) => {
            let dims = &context.ty(*indices).dims;
            gather.batch_dims == 0 && dims.len() == 2 && dims[1].as_constant() == Some(1)
        }
        _ => false,
    };
    let known = by_expert && context.ty(*data).rank() == rank && context.constant(*data).is_some();
    known.then(|| (*data, flat(context, *indices)))
}

/// The tokens before each was repeated for its experts.
fn tokens_of(
    context: Context<'_>,
    value: ValueId,
    tokens: &lathe_ir::Dim,
    top_k: usize,
) -> Result<ValueId, String> {
    let value = flat(context, value);
    if let Some((_, node, Op::Expand(_) | Op::Tile(_))) = context.producer(value)
        && let Some(Some(inner)) = node.inputs.first()
    {
        let (from, to) = (&context.ty(*inner).dims, &context.ty(value).dims);
        let repeated = from.len() == 3
            && to.len() == 3
            && equal(&from[0], tokens)
            && equal(&to[0], tokens)
            && from[1].as_constant() == Some(1)
            && to[1].as_constant() == Some(top_k as i64)
            && equal(&from[2], &to[2]);
        return if repeated { Ok(*inner) } else { Err("the tokens are repeated otherwise".into()) };
    }
    let dims = &context.ty(value).dims;
    if top_k == 1 && dims.len() == 2 && equal(&dims[0], tokens) {
        return Ok(value);
    }
    Err("the tokens are not repeated for their experts".into())
}

pub(super) type Activated = (ValueId, Activation, Gate, Option<Clamped>);

/// The operand of the activation, which may gate.
pub(super) fn activation(context: Context<'_>, value: ValueId) -> Result<Activated, String> {
    let value = flat(context, value);
    if let Some(found) = clamped(context, value) {
        return Ok(found);
    }
    if let Some((a, b)) = binary(context, value, Binary::Mul) {
        for (gate, up) in [(a, b), (b, a)] {
            let Some((inner, activation)) = plain(context, gate) else { continue };
            let (gate, up) = (flat(context, inner), flat(context, up));
            return match (half(context, gate), half(context, up)) {
                (Some((x, Part::First)), Some((y, Part::Second))) if x == y => {
                    Ok((x, activation, Gate::Halves, None))
                }
                (Some((x, Part::Even)), Some((y, Part::Odd))) if x == y => {
                    Ok((x, activation, Gate::Interleaved, None))
                }
                _ => Err("the gate is not one half of the first product".into()),
            };
        }
        return Err("the gate's activation is not understood".into());
    }
    let (inner, activation) = plain(context, value).ok_or("the experts' activation is not understood")?;
    Ok((inner, activation, Gate::None, None))
}

pub(super) fn plain(context: Context<'_>, value: ValueId) -> Option<(ValueId, Activation)> {
    let (_, node, op) = context.producer(flat(context, value))?;
    let activation = match op {
        Op::Unary(Unary::Silu) => Activation::Silu,
        Op::Unary(Unary::Relu) => Activation::Relu,
        Op::Gelu(gelu) if gelu.tanh => Activation::GeluTanh,
        Op::Gelu(_) => Activation::Gelu,
        _ => return None,
    };
    Some(((*node.inputs.first()?)?, activation))
}

/// `g * sigmoid(alpha * g) * (u + 1)` with `g = min(gate, limit)` and `u = clamp(up, -limit, limit)`.
fn clamped(context: Context<'_>, value: ValueId) -> Option<Activated> {
    let (a, b) = binary(context, value, Binary::Mul)?;
    [(a, b), (b, a)].into_iter().find_map(|(swish, shifted)| {
        let (up, 1.0) = with_scalar(context, shifted, Binary::Add)? else { return None };
        let (a, b) = binary(context, swish, Binary::Mul)?;
        let (gate, alpha) = [(a, b), (b, a)].into_iter().find_map(|(gate, sigmoid)| {
            let (_, node, Op::Unary(Unary::Sigmoid)) = context.producer(sigmoid)? else { return None };
            let (inner, alpha) = with_scalar(context, (*node.inputs.first()?)?, Binary::Mul)?;
            (inner == gate).then_some((gate, alpha))
        })?;
        let (gate, low, limit) = bounds(context, gate)?;
        let (up, below, above) = bounds(context, up)?;
        let symmetric = low.is_none() && below == Some(-limit) && above == limit;
        let (x, Part::Even) = half(context, flat(context, gate))? else { return None };
        let (y, Part::Odd) = half(context, flat(context, up))? else { return None };
        let clamped = Clamped { alpha: alpha as f32, limit: limit as f32 };
        (symmetric && x == y).then_some((x, Activation::Silu, Gate::Interleaved, Some(clamped)))
    })
}

/// The operand of a clip with its bounds.
fn bounds(context: Context<'_>, value: ValueId) -> Option<(ValueId, Option<f64>, f64)> {
    let (_, node, Op::Clip(_)) = context.producer(value)? else { return None };
    let low = node.inputs.get(1).copied().flatten();
    let low = match low {
        Some(low) => Some(context.scalar(low)?),
        None => None,
    };
    Some(((*node.inputs.first()?)?, low, context.scalar(operand(context, value, 2)?)?))
}

#[derive(PartialEq)]
enum Part {
    First,
    Second,
    Even,
    Odd,
}

/// Which half of the last axis of which value a value is.
fn half(context: Context<'_>, value: ValueId) -> Option<(ValueId, Part)> {
    let (_, node, op) = context.producer(value)?;
    let whole = (*node.inputs.first()?)?;
    let width = context.ty(whole).dims.last()?.as_constant()?;
    let own = context.ty(value).dims.last()?.as_constant()?;
    if width != own.checked_mul(2)? {
        return None;
    }
    let part = match op {
        Op::Split(split) if is_last(context, whole, split.axis) => match &node.outputs[..] {
            [first, _] if *first == value => Part::First,
            [_, second] if *second == value => Part::Second,
            _ => return None,
        },
        Op::Slice(_) => {
            let list = |index: usize| integers(context, (*node.inputs.get(index)?)?);
            let ([start], [axis], [step]) = (&list(1)?[..], &list(3)?[..], &list(4)?[..]) else {
                return None;
            };
            if !is_last(context, whole, *axis) {
                return None;
            }
            match (*start, *step) {
                (0, 1) => Part::First,
                (start, 1) if start == own => Part::Second,
                (0, 2) => Part::Even,
                (1, 2) => Part::Odd,
                _ => return None,
            }
        }
        _ => return None,
    };
    Some((flat(context, whole), part))
}
