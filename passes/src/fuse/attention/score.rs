//! The walk from the weights of the values back to the product of queries and keys.

use lathe_ir::{Answer, Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Unary};
use lathe_ops::reduce::ReduceKind;

use crate::Context;

/// Ops between the weights and the softmax, and between it and the product.
const LONGEST: usize = 24;

/// What is done to scores, the outermost first.
pub(super) enum Step {
    /// `result = scores + term`, times the factor outside of it.
    Added { result: ValueId, term: ValueId, factor: f64 },
    /// `result = where(condition, scores, hidden)`, or the other way round where `hidden_if`, times the factor.
    Chosen { result: ValueId, condition: ValueId, hidden: ValueId, hidden_if: bool, factor: f64 },
}

/// A score: `softcap(scale * q @ k) + ...`.
#[derive(Default)]
pub(super) struct Scores {
    /// Terms and masks.
    pub steps: Vec<Step>,
    /// The factor of the product.
    pub scale: f64,
    /// What the graph divides them by, where the op is to round as the graph does.
    pub divisor: Option<f64>,
    /// `softcap * tanh(score / softcap)`; 0 for none.
    pub softcap: f64,
    /// The column that the softmax sees besides the keys.
    pub sinks: Option<ValueId>,
    /// Every value of the walk, from the operand of the softmax's product with the values to the scores.
    pub values: Vec<ValueId>,
    /// Queries and transposed keys.
    pub operands: Option<[ValueId; 2]>,
}

/// The scores whose softmax the value is.
pub(super) fn of_weights(context: Context<'_>, weights: ValueId) -> Result<Option<Scores>, String> {
    let mut scores = Scores { scale: 1.0, ..Scores::default() };
    let mut value = weights;
    let mut dropped = None;
    for _ in 0..LONGEST {
        scores.values.push(value);
        let Some((_, node, op)) = context.producer(value) else { return Ok(None) };
        let input = |place: usize| node.inputs.get(place).copied().flatten();
        let Some(x) = input(0) else { return Ok(None) };
        value = match op {
            Op::Softmax(softmax) => {
                let last = context.ty(value).rank() as i64 - 1;
                if softmax.log || (softmax.axis != -1 && softmax.axis != last) {
                    return Ok(None);
                }
                return from_softmax(context, x, value, dropped, scores);
            }
            Op::Cast(cast) if cast.to.is_float() && context.ty(x).dtype.is_float() => x,
            Op::Reshape(_) if keeps_matrices(context, x, value) => x,
            // Rows that see no key are undefined in the source; the op gives zeros, as this guard does.
            Op::Where(_) => match (input(1), input(2)) {
                (Some(zero), Some(x))
                    if context.scalar(zero) == Some(0.0) && is_nan_of(context, input(0), x) =>
                {
                    x
                }
                _ => return Ok(None),
            },
            Op::Slice(_) if dropped.is_none() => {
                dropped = Some(value);
                x
            }
            _ => return Ok(None),
        };
    }
    Ok(None)
}

fn is_nan_of(context: Context<'_>, condition: Option<ValueId>, x: ValueId) -> bool {
    let Some((_, node, op)) = condition.and_then(|condition| context.producer(condition)) else {
        return false;
    };
    *op == Op::Unary(Unary::IsNan) && node.inputs.first() == Some(&Some(x))
}

/// Whether a reshape only folds or unfolds axes before the last two.
fn keeps_matrices(context: Context<'_>, x: ValueId, result: ValueId) -> bool {
    let (from, to) = (&context.ty(x).dims, &context.ty(result).dims);
    let tail = |dims: &[Dim]| dims.len().checked_sub(2).map(|start| dims[start..].to_vec());
    match (tail(from), tail(to)) {
        (Some(a), Some(b)) => a.iter().zip(&b).all(|(a, b)| a.equals(b) == Answer::Yes),
        _ => false,
    }
}

fn from_softmax(
    context: Context<'_>,
    x: ValueId,
    softmax: ValueId,
    dropped: Option<ValueId>,
    mut scores: Scores,
) -> Result<Option<Scores>, String> {
    let mut value = x;
    // The softmax of a shifted row is that of the row.
    if let Some((_, node, Op::Binary(Binary::Sub))) = context.producer(value)
        && let [Some(row), Some(largest)] = node.inputs[..]
        && is_row_maximum(context, largest, row)
    {
        value = row;
    }
    if let Some(slice) = dropped {
        let width = |value: ValueId| context.ty(value).dims.last().cloned().unwrap_or(Dim::constant(0));
        let Some((_, node, Op::Concat(concat))) = context.producer(value) else {
            return Err("a part of the weights is cut off".to_string());
        };
        let last = context.ty(value).rank() as i64 - 1;
        let [Some(keys), Some(sinks)] = node.inputs[..] else {
            return Err("more than one column beside the keys".to_string());
        };
        let cut = width(slice).equals(&width(keys)) == Answer::Yes && starts_at_zero(context, slice);
        if (concat.axis != -1 && concat.axis != last) || width(sinks).as_constant() != Some(1) || !cut {
            return Err("the column beside the keys is not the one that is cut off".to_string());
        }
        scores.values.retain(|value| *value != softmax);
        scores.sinks = Some(sinks);
        value = keys;
    }
    Ok(walk(context, value, scores, LONGEST))
}

fn is_row_maximum(context: Context<'_>, value: ValueId, row: ValueId) -> bool {
    let Some((_, node, Op::Reduce(reduce))) = context.producer(value) else { return false };
    let last = context.ty(row).rank() as i64 - 1;
    reduce.kind == ReduceKind::Max
        && reduce.keep_dims
        && node.inputs.first() == Some(&Some(row))
        && matches!(reduce.axes.as_deref(), Some([axis]) if *axis == -1 || *axis == last)
}

/// Whether a slice with step 1 begins with the first element of every axis.
fn starts_at_zero(context: Context<'_>, slice: ValueId) -> bool {
    let Some((_, node, _)) = context.producer(slice) else { return false };
    let integers = |place: usize| -> Option<Vec<i64>> {
        let tensor = context.constant(node.inputs.get(place).copied().flatten()?)?;
        Some(tensor.to_slice::<i64>().ok()?.to_vec())
    };
    let rank = context.ty(slice).rank() as i64;
    integers(1).is_some_and(|starts| starts.iter().all(|start| *start == 0))
        && integers(3).is_some_and(|axes| axes.iter().all(|axis| *axis == -1 || *axis == rank - 1))
        && integers(4).is_some_and(|steps| steps.iter().all(|step| *step == 1))
}

/// Follows the side of each op that leads to a product of matrices.
fn walk(context: Context<'_>, value: ValueId, mut scores: Scores, fuel: usize) -> Option<Scores> {
    let (_, node, op) = context.producer(value)?;
    if fuel == 0 {
        return None;
    }
    let input = |place: usize| node.inputs.get(place).copied().flatten();
    scores.values.push(value);
    let go = |x: ValueId, scores: Scores| walk(context, x, scores, fuel - 1);
    match op {
        Op::MatMul(_) => {
            scores.operands = Some([input(0)?, input(1)?]);
            Some(scores)
        }
        Op::Cast(cast) if cast.to.is_float() && context.ty(input(0)?).dtype.is_float() => {
            go(input(0)?, scores)
        }
        Op::Reshape(_) if keeps_matrices(context, input(0)?, value) => go(input(0)?, scores),
        Op::Binary(Binary::Mul | Binary::Div) => {
            let (x, factor) = scaled(context, value)?;
            if let Some(inner) = uncapped(context, x, factor).filter(|_| scores.softcap == 0.0) {
                (scores.scale == 1.0).then_some(())?;
                scores.softcap = factor;
                return go(inner, scores);
            }
            if context.module.quantises_by_range() && !is_power_of_two(factor) {
                // One factor can round where the graph rounds.
                (scores.scale == 1.0 && scores.divisor.is_none()).then_some(())?;
                if *op == Op::Binary(Binary::Div) {
                    scores.divisor = context.scalar(input(1)?);
                }
            }
            scores.scale *= factor;
            go(x, scores)
        }
        Op::Binary(Binary::Add) if scores.softcap == 0.0 => {
            let (a, b) = (input(0)?, input(1)?);
            let (x, term) = match (leads_to_product(context, a, fuel), leads_to_product(context, b, fuel)) {
                (true, _) => (a, b),
                (false, true) => (b, a),
                (false, false) => return None,
            };
            scores.steps.push(Step::Added { result: value, term, factor: scores.scale });
            go(x, scores)
        }
        Op::Where(_) if scores.softcap == 0.0 => {
            let (condition, a, b) = (input(0)?, input(1)?, input(2)?);
            let hidden_if = !leads_to_product(context, a, fuel);
            let (x, hidden) = if hidden_if { (b, a) } else { (a, b) };
            let factor = scores.scale;
            scores.steps.push(Step::Chosen { result: value, condition, hidden, hidden_if, factor });
            go(x, scores)
        }
        _ => None,
    }
}

/// `x * c` or `x / c` as `x` and the factor.
pub(super) fn scaled(context: Context<'_>, value: ValueId) -> Option<(ValueId, f64)> {
    let (_, node, op) = context.producer(value)?;
    let [Some(a), Some(b)] = node.inputs[..] else { return None };
    let keeps_rank = |x: ValueId| context.ty(x).rank() == context.ty(value).rank();
    let found = match op {
        Op::Binary(Binary::Mul) => match (context.scalar(a), context.scalar(b)) {
            (_, Some(factor)) => (a, factor),
            (Some(factor), _) => (b, factor),
            _ => return None,
        },
        Op::Binary(Binary::Div) => (a, 1.0 / context.scalar(b)?),
        _ => return None,
    };
    (found.1.is_finite() && found.1 > 0.0 && keeps_rank(found.0)).then_some(found)
}

/// Whether products with a number are exact.
pub(super) fn is_power_of_two(factor: f64) -> bool {
    factor.to_bits() << 12 == 0
}

/// The `y` of `x == tanh(y / cap)`.
fn uncapped(context: Context<'_>, x: ValueId, cap: f64) -> Option<ValueId> {
    let (_, node, op) = context.producer(x)?;
    (*op == Op::Unary(Unary::Tanh)).then_some(())?;
    let (inner, factor) = scaled(context, (*node.inputs.first()?)?)?;
    ((factor * cap - 1.0).abs() < 1e-6).then_some(inner)
}

fn leads_to_product(context: Context<'_>, value: ValueId, fuel: usize) -> bool {
    let probe = Scores { scale: 1.0, ..Scores::default() };
    fuel > 0 && walk(context, value, probe, fuel - 1).is_some()
}
