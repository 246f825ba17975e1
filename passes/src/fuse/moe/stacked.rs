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
    let second = [a, b].into_iter().find_map(|side| batched(context, flat(context, side)))?;
    Some(read(context, second))
}

fn read(context: Context<'_>, second: Batched) -> Result<Stacked, String> {
    let hidden = flat(context, second.x);
    let separate = binary(context, hidden, Binary::Mul)
        .and_then(|(a, b)| gated(context, a, b).or_else(|| gated(context, b, a)));
    let (first, up, (activation, gate, clamped)) = match separate {
        Some((gate, up, activation)) => (gate, Some(up), (activation, Gate::Halves, None)),
        None => {
            let (inner, activation, gate, clamped) = activation(context, hidden)?;
            let first = batched(context, flat(context, inner))
                .ok_or("the experts' first product is not understood")?;
            (first, None, (activation, gate, clamped))
        }
    };
    let rows = |value: ValueId| context.ty(value).dims.get(..2).map(<[Dim]>::to_vec);
    if first.shape[0] != second.shape[0] || rows(first.result) != rows(second.x) {
        return Err("the experts' products have different rows".into());
    }
    let mut x = first.x;
    while let Some((
        _,
        node,
        Op::Reshape(_) | Op::Unsqueeze(_) | Op::Squeeze(_) | Op::Expand(_) | Op::Tile(_),
    )) = context.producer(x)
    {
        match node.inputs.first() {
            Some(Some(inner)) if context.ty(*inner).dims.last() == context.ty(x).dims.last() => x = *inner,
            _ => break,
        }
    }
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

/// `act(x w) * (x v)` of two stacks.
fn gated(context: Context<'_>, gate: ValueId, up: ValueId) -> Option<(Batched, Batched, Activation)> {
    let (inner, activation) = plain(context, gate)?;
    let (gate, up) = (batched(context, flat(context, inner))?, batched(context, flat(context, up))?);
    let fits = gate.x == up.x && gate.shape == up.shape && gate.b.is_none() && up.b.is_none();
    fits.then_some((gate, up, activation))
}

fn batched(context: Context<'_>, value: ValueId) -> Option<Batched> {
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

fn product(context: Context<'_>, value: ValueId) -> Option<Batched> {
    let (_, node, Op::MatMul(_)) = context.producer(value)? else { return None };
    let (x, w) = ((*node.inputs.first()?)?, (*node.inputs.get(1)?)?);
    let shape: [usize; 3] = sizes(context, w)?.try_into().ok()?;
    let constant = context.constant(w)?.dtype() == DType::F32;
    (constant && matches!(context.ty(x).rank(), 2 | 3)).then_some(())?;
    Some(Batched { x, w, b: None, result: value, shape })
}

/// The matrices of the gate beside those of what it gates.
fn inward(context: Context<'_>, first: &Batched, up: Option<&Batched>) -> Result<Weight, String> {
    let Some(up) = up else { return Ok(Weight::Value(first.w)) };
    let data = |of: &Batched| context.constant_f32(of.w).ok_or("the experts' matrices are no f32 constants");
    let (gate, up) = (data(first)?, data(up)?);
    let [experts, rows, columns] = first.shape;
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
