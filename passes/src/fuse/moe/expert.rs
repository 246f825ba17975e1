//! One expert with matrices of its own, and all of them in one constant.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::elementwise::{Activation, Binary};
use lathe_ops::moe::{Clamped, Gate};
use lathe_tensor::Tensor;

use super::choice::Choice;
use super::experts::{Experts, Weight, activation, plain};
use super::walk::{binary, flat, sizes};
use crate::Context;

/// `w_out act(w_in x)`, perhaps gated, perhaps with biases.
pub(super) struct Expert {
    /// The operand of its products.
    pub x: ValueId,
    /// One matrix `[in, hidden]`, or those of the gate and of what it gates.
    first: Vec<Affine>,
    second: Affine,
    activation: Activation,
    gate: Gate,
    clamped: Option<Clamped>,
}

/// `x w + b`.
struct Affine {
    x: ValueId,
    w: ValueId,
    b: Option<ValueId>,
    result: ValueId,
}

/// The experts' matrices, one after another.
pub(super) struct Stack {
    pub w_in: Weight,
    pub w_out: Weight,
    pub b_in: Option<Weight>,
    pub b_out: Option<Weight>,
    pub activation: Activation,
    pub gate: Gate,
    pub clamped: Option<Clamped>,
}

/// The expert whose answer a value is; `None` where it is no product with a constant matrix.
pub(super) fn find(context: Context<'_>, answer: ValueId) -> Option<Result<Expert, String>> {
    affine(context, answer).map(|second| read(context, second))
}

fn read(context: Context<'_>, second: Affine) -> Result<Expert, String> {
    let hidden = flat(context, second.x);
    if let Some((a, b)) = binary(context, hidden, Binary::Mul)
        && let Some((first, activation)) = gated(context, a, b).or_else(|| gated(context, b, a))
    {
        let x = first[0].x;
        return Ok(Expert { x, first, second, activation, gate: Gate::Halves, clamped: None });
    }
    let (inner, activation, gate, clamped) = activation(context, hidden)?;
    let first = affine(context, inner).ok_or("an expert's first product is not understood")?;
    Ok(Expert { x: first.x, first: vec![first], second, activation, gate, clamped })
}

/// `act(x w) * (x v)`.
fn gated(context: Context<'_>, gate: ValueId, up: ValueId) -> Option<(Vec<Affine>, Activation)> {
    let (inner, activation) = plain(context, gate)?;
    let (gate, up) = (affine(context, inner)?, affine(context, up)?);
    let fits = gate.x == up.x && gate.b.is_some() == up.b.is_some();
    fits.then(|| (vec![gate, up], activation))
}

fn affine(context: Context<'_>, value: ValueId) -> Option<Affine> {
    let value = flat(context, value);
    if let Some((a, b)) = binary(context, value, Binary::Add) {
        return [(a, b), (b, a)].into_iter().find_map(|(sum, bias)| {
            let found = product(context, flat(context, sum))?;
            let width = sizes(context, found.w)?.pop()?;
            let fits =
                context.constant_f32(bias)?.len() == width && sizes(context, bias)?.last() == Some(&width);
            fits.then_some(Affine { b: Some(bias), ..found })
        });
    }
    product(context, value)
}

fn product(context: Context<'_>, value: ValueId) -> Option<Affine> {
    let (_, node, Op::MatMul(_)) = context.producer(value)? else { return None };
    let (x, w) = ((*node.inputs.first()?)?, (*node.inputs.get(1)?)?);
    let matrix = context.ty(w).rank() == 2 && context.ty(x).rank() >= 2;
    (matrix && context.constant(w)?.dtype() == lathe_tensor::DType::F32).then_some(())?;
    Some(Affine { x, w, b: None, result: value })
}

impl Expert {
    /// Its products, which nobody else may need.
    pub fn products(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.first.iter().chain([&self.second]).map(|affine| affine.result)
    }
}

impl Experts {
    /// Experts `placed` by their numbers as one mixture over the tokens `x`. All have the choice, the weights and the experts of a token
    /// in common.
    pub(super) fn in_order(
        context: Context<'_>,
        x: ValueId,
        mut placed: Vec<(i64, &Expert)>,
        common: Option<(Choice, ValueId, usize)>,
    ) -> Result<Self, String> {
        placed.sort_by_key(|(number, _)| *number);
        if placed.iter().enumerate().any(|(at, (number, _))| *number != at as i64) {
            return Err("some experts are missing, or there twice".into());
        }
        let (choice, weights, top_k) = common.ok_or("there are no experts")?;
        let experts: Vec<&Expert> = placed.iter().map(|(_, expert)| *expert).collect();
        let stack = stack(context, &experts)?;
        Ok(Self {
            x,
            w_in: stack.w_in,
            w_out: stack.w_out,
            b_in: stack.b_in,
            b_out: stack.b_out,
            activation: stack.activation,
            gate: stack.gate,
            clamped: stack.clamped,
            transposed: false,
            count: experts.len(),
            top_k,
            capacity: choice.capacity,
            indices: choice.indices,
            weights,
            inner: experts.iter().flat_map(|expert| expert.products()).collect(),
        })
    }
}

/// Puts the matrices of all experts behind one another.
fn stack(context: Context<'_>, experts: &[&Expert]) -> Result<Stack, String> {
    let first = experts.first().ok_or("there are no experts")?;
    let alike = |other: &&Expert| {
        other.activation == first.activation
            && other.gate == first.gate
            && other.clamped == first.clamped
            && other.first.len() == first.first.len()
    };
    if !experts.iter().all(alike) {
        return Err("the experts have different activations".into());
    }
    let inward: Vec<Vec<&Affine>> = experts.iter().map(|expert| expert.first.iter().collect()).collect();
    let outward: Vec<Vec<&Affine>> = experts.iter().map(|expert| vec![&expert.second]).collect();
    Ok(Stack {
        w_in: matrices(context, &inward)?,
        w_out: matrices(context, &outward)?,
        b_in: biases(context, &inward)?,
        b_out: biases(context, &outward)?,
        activation: first.activation.clone(),
        gate: first.gate,
        clamped: first.clamped,
    })
}

/// `[experts, rows, columns]`, the matrices of one expert side by side.
fn matrices(context: Context<'_>, of: &[Vec<&Affine>]) -> Result<Weight, String> {
    let shape = |affine: &Affine| match sizes(context, affine.w).as_deref() {
        Some(&[rows, columns]) => Ok([rows, columns]),
        _ => Err("an expert's matrix has no constant sizes".to_string()),
    };
    let first = of.first().and_then(|parts| parts.first()).ok_or("there are no experts")?;
    let [rows, columns] = shape(first)?;
    let parts = of[0].len();
    let mut all = Vec::new();
    for matrices in of {
        let mut data = Vec::new();
        for affine in matrices {
            if shape(affine)? != [rows, columns] {
                return Err("the experts' matrices have different sizes".into());
            }
            data.push(context.constant_f32(affine.w).ok_or("an expert's matrix is no f32 constant")?);
        }
        for row in 0..rows {
            data.iter().for_each(|data| all.extend_from_slice(&data[row * columns..][..columns]));
        }
    }
    stacked(&all, &[of.len(), rows, parts * columns])
}

/// `[experts, columns]`.
fn biases(context: Context<'_>, of: &[Vec<&Affine>]) -> Result<Option<Weight>, String> {
    let all: Vec<&Affine> = of.iter().flatten().copied().collect();
    if all.iter().all(|affine| affine.b.is_none()) {
        return Ok(None);
    }
    let bias = |affine: &&Affine| affine.b.and_then(|bias| context.constant_f32(bias));
    let data: Vec<Vec<f32>> =
        all.iter().map(bias).collect::<Option<_>>().ok_or("some experts have a bias")?;
    let width = data.iter().map(Vec::len).sum::<usize>() / of.len().max(1);
    stacked(&data.concat(), &[of.len(), width]).map(Some)
}

fn stacked(elements: &[f32], shape: &[usize]) -> Result<Weight, String> {
    Tensor::from_slice(elements, shape).map(Weight::Stacked).map_err(|error| error.to_string())
}
