//! Experts as products of stacks of matrices: `act(x w_in) w_out` with `w_in [experts, in, hidden]`.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Activation, Binary};
use lathe_ops::moe::{Clamped, Gate};
use lathe_tensor::{DType, Tensor};

use super::experts::{Weight, activation, plain};
use super::walk::{binary, flat, sizes};
use crate::Context;

/// All experts at once.
pub(super) struct Stacked {
    /// The tokens, `[..., in]`.
    pub x: ValueId,
    /// The operand of the first product: the tokens for each expert.
    pub operand: ValueId,
    /// `[experts, tokens, out]`.
    pub answers: ValueId,
    pub w_in: Weight,
    pub w_out: ValueId,
    pub b_in: Option<Weight>,
    pub b_out: Option<Weight>,
    pub activation: Activation,
    pub gate: Gate,
    pub clamped: Option<Clamped>,
    pub count: usize,
    /// Values that nobody else may need.
    pub products: Vec<ValueId>,
}

/// `x w + b` for each expert.
struct Batched {
    x: ValueId,
    w: ValueId,
    b: Option<ValueId>,
    result: ValueId,
    /// `[experts, in, out]`.
    shape: [usize; 3],
    /// The experts' columns stand beside one another, in one matrix; the result is `[tokens, experts, out]`.
    spread: bool,
}

impl Batched {
    /// The matrices one after another.
    fn data(&self, context: Context<'_>) -> Result<Vec<f32>, String> {
        let data = context.constant_f32(self.w).ok_or("the experts' matrices are no f32 constants")?;
        if !self.spread {
            return Ok(data);
        }
        let [experts, rows, columns] = self.shape;
        let row = |expert: usize, row: usize| &data[(row * experts + expert) * columns..][..columns];
        let rows = (0..experts).flat_map(|expert| (0..rows).map(move |at| (expert, at)));
        Ok(rows.flat_map(|(expert, at)| row(expert, at).to_vec()).collect())
    }
}

/// `None` where nothing is a product of a stack of constant matrices.
pub(super) fn find(context: Context<'_>, terms: ValueId) -> Option<Result<Stacked, String>> {
    let terms = flat(context, terms);
    if let Some(second) = batched(context, terms) {
        let weighed = activation(context, second.x).ok().and_then(|found| batched(context, found.0));
        weighed?;
        return Some(Err(
            "the answers of the experts are not weighed: `moe` does not weigh tokens instead".into()
        ));
    }
    let (a, b) = binary(context, terms, Binary::Mul)?;
    let second = [a, b].into_iter().find_map(|side| batched(context, turned(context, side).0))?;
    Some(read(context, second))
}

/// The stack whose answers a value holds, in any order of tokens and experts. `None` where it holds none.
pub(super) fn of_answers(context: Context<'_>, answers: ValueId) -> Option<Result<Stacked, String>> {
    let second = batched(context, turned(context, answers).0)?;
    Some(read(context, second))
}

/// What is behind shapes and exchanges of tokens and experts, and whether there was an exchange.
fn turned(context: Context<'_>, value: ValueId) -> (ValueId, bool) {
    let value = flat(context, value);
    match context.producer(value) {
        Some((_, node, Op::Transpose(transpose))) if transpose.perm == [1, 0, 2] => {
            (node.inputs.first().copied().flatten().unwrap_or(value), true)
        }
        _ => (value, false),
    }
}

fn read(context: Context<'_>, second: Batched) -> Result<Stacked, String> {
    let (hidden, exchanged) = turned(context, second.x);
    let separate = binary(context, hidden, Binary::Mul)
        .and_then(|(a, b)| gated(context, a, b).or_else(|| gated(context, b, a)));
    let (first, up, (activation, gate, clamped)) = match separate {
        Some((gate, up, activation)) => (gate, Some(up), (activation, Gate::Halves, None)),
        None => {
            let (inner, activation, gate, clamped) = activation(context, hidden)?;
            let first = batched(context, inner).ok_or("the experts' first product is not understood")?;
            (first, None, (activation, gate, clamped))
        }
    };
    let rows = |value: ValueId| context.ty(value).dims.get(..2).map(<[Dim]>::to_vec);
    let mut expected = rows(second.x);
    if exchanged && let Some(rows) = &mut expected {
        rows.swap(0, 1);
    }
    if first.shape[0] != second.shape[0] || rows(first.result) != expected {
        return Err("the experts' products have different rows".into());
    }
    if exchanged != first.spread || second.spread {
        return Err("tokens and experts are exchanged between the products".into());
    }
    let x = unweighed(context, first.x);
    if context.ty(x).rank() < 2 {
        return Err("the experts take one token".into());
    }
    let mut products = vec![first.result, second.result];
    products.extend(up.as_ref().map(|up| up.result));
    Ok(Stacked {
        x,
        operand: first.x,
        answers: second.result,
        w_in: inward(context, &first, up.as_ref())?,
        w_out: second.w,
        b_in: bias(context, &first)?,
        b_out: bias(context, &second)?,
        activation,
        gate,
        clamped,
        count: second.shape[0],
        products,
    })
}

/// The tokens before they were repeated for the experts, or sent to some of them: whether they are is proven later.
fn unweighed(context: Context<'_>, mut x: ValueId) -> ValueId {
    let width = context.ty(x).dims.last();
    let kept = |value: ValueId| context.ty(value).dims.last() == width;
    while let Some((_, node, op)) = context.producer(x) {
        let input = |at: usize| node.inputs.get(at).copied().flatten().filter(|value| kept(*value));
        let next = match op {
            Op::Reshape(_) | Op::Unsqueeze(_) | Op::Squeeze(_) | Op::Expand(_) | Op::Tile(_) => input(0),
            Op::Transpose(transpose) if transpose.perm == [1, 0, 2] => input(0),
            // Of what repeats tokens for each expert; other factors are the tokens' own.
            Op::Binary(Binary::Mul) => match (input(0), input(1)) {
                (Some(one), None) | (None, Some(one)) => Some(one).filter(|one| !context.same_dims(*one, x)),
                _ => None,
            },
            _ => None,
        };
        match next {
            Some(next) => x = next,
            None => break,
        }
    }
    x
}

/// `act(x w) * (x v)` of two stacks.
fn gated(context: Context<'_>, gate: ValueId, up: ValueId) -> Option<(Batched, Batched, Activation)> {
    let (inner, activation) = plain(context, gate)?;
    let (gate, up) = (batched(context, inner)?, batched(context, up)?);
    let fits = gate.x == up.x
        && gate.spread == up.spread
        && gate.shape == up.shape
        && gate.b.is_none()
        && up.b.is_none();
    fits.then_some((gate, up, activation))
}

fn batched(context: Context<'_>, value: ValueId) -> Option<Batched> {
    if let Some(found) = spread(context, value) {
        return Some(found);
    }
    let value = flat(context, value);
    if let Some((a, b)) = binary(context, value, Binary::Add) {
        return [(a, b), (b, a)].into_iter().find_map(|(sum, bias)| {
            let found = product(context, flat(context, sum))?;
            let [experts, _, columns] = found.shape;
            let fits = sizes(context, bias)? == [experts, 1, columns] && context.constant_f32(bias).is_some();
            fits.then_some(Batched { b: Some(bias), result: value, ..found })
        });
    }
    product(context, value)
}

/// `x [tokens, in] @ w [in, experts * out]` as `[tokens, experts, out]`: an einsum of tokens without experts.
fn spread(context: Context<'_>, value: ValueId) -> Option<Batched> {
    let [_, experts, out] = &context.ty(value).dims[..] else { return None };
    let size = |dim: &Dim| dim.as_constant().and_then(|size| usize::try_from(size).ok());
    let (experts, out) = (size(experts)?, size(out)?);
    let (_, reshape, Op::Reshape(_)) = context.producer(value)? else { return None };
    let (_, node, Op::MatMul(_)) = context.producer((*reshape.inputs.first()?)?)? else { return None };
    let (x, w) = ((*node.inputs.first()?)?, (*node.inputs.get(1)?)?);
    let &[inputs, columns] = &sizes(context, w)?[..] else { return None };
    let fits = context.ty(x).rank() == 2 && experts.checked_mul(out) == Some(columns);
    (fits && context.constant(w)?.dtype() == DType::F32).then_some(())?;
    Some(Batched { x, w, b: None, result: value, shape: [experts, inputs, out], spread: true })
}

fn product(context: Context<'_>, value: ValueId) -> Option<Batched> {
    let (_, node, Op::MatMul(_)) = context.producer(value)? else { return None };
    let (x, w) = ((*node.inputs.first()?)?, (*node.inputs.get(1)?)?);
    let shape: [usize; 3] = sizes(context, w)?.try_into().ok()?;
    let constant = context.constant(w)?.dtype() == DType::F32;
    (constant && matches!(context.ty(x).rank(), 2 | 3)).then_some(())?;
    Some(Batched { x, w, b: None, result: value, shape, spread: false })
}

/// The matrices of the gate beside those of what it gates.
fn inward(context: Context<'_>, first: &Batched, up: Option<&Batched>) -> Result<Weight, String> {
    let [experts, rows, columns] = first.shape;
    let Some(up) = up else {
        if !first.spread {
            return Ok(Weight::Value(first.w));
        }
        let tensor = Tensor::from_slice(&first.data(context)?, &[experts, rows, columns]);
        return tensor.map(Weight::Stacked).map_err(|error| error.to_string());
    };
    let (gate, up) = (first.data(context)?, up.data(context)?);
    let mut all = Vec::with_capacity(gate.len() + up.len());
    for (gate, up) in gate.chunks(columns.max(1)).zip(up.chunks(columns.max(1))) {
        all.extend_from_slice(gate);
        all.extend_from_slice(up);
    }
    let tensor = Tensor::from_slice(&all, &[experts, rows, 2 * columns]);
    tensor.map(Weight::Stacked).map_err(|error| error.to_string())
}

fn bias(context: Context<'_>, of: &Batched) -> Result<Option<Weight>, String> {
    let Some(bias) = of.b else { return Ok(None) };
    let data = context.constant_f32(bias).ok_or("a bias is no f32 constant")?;
    let tensor = Tensor::from_slice(&data, &[of.shape[0], of.shape[2]]);
    tensor.map(|tensor| Some(Weight::Stacked(tensor))).map_err(|error| error.to_string())
}
