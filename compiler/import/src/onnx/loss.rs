//! Losses, as sums of picked log-probabilities.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Compare, Unary, Where};
use lathe_ops::gather::{Gather, GatherElements};
use lathe_ops::norm::Softmax;
use lathe_ops::reduce::{Reduce, ReduceKind};
use lathe_ops::shape::{Expand, Squeeze, Unsqueeze};
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs};

/// How the losses of all targets become one.
#[derive(Clone, Copy, PartialEq)]
enum Reduction {
    Mean,
    Sum,
    None,
}

/// NegativeLogLikelihoodLoss-12 to 22: `-weight[target] * x[target]`, `x` log-probabilities `[batch, classes, ...]`.
pub(crate) fn negative_log_likelihood(node: &mut Node<'_, '_>) -> Outputs {
    let x = node.input(0)?;
    Ok(vec![loss(node, x)?])
}

/// SoftmaxCrossEntropyLoss-12 and 13: the same of the log-softmax over the classes; output 1 is that log-softmax.
pub(crate) fn softmax_cross_entropy(node: &mut Node<'_, '_>) -> Outputs {
    let x = node.input(0)?;
    let probabilities = node.add(Op::Softmax(Softmax { axis: 1, log: true }), &[x])?;
    Ok(vec![loss(node, probabilities)?, probabilities])
}

fn loss(node: &mut Node<'_, '_>, x: ValueId) -> Result<ValueId, Fault> {
    let words = [("mean", Reduction::Mean), ("sum", Reduction::Sum), ("none", Reduction::None)];
    let reduction = node.attributes.choice("reduction", &words)?;
    let ignored = node.attributes.int("ignore_index")?;
    let target = node.input(1)?;
    if node.rank(x) != node.rank(target) + 1 {
        let (scores, targets) = (node.rank(x), node.rank(target));
        return Err(Fault::bad(format!(
            "scores of {scores} axes for targets of {targets}: one more is needed"
        )));
    }
    let target = node.as_i64(target)?;
    let zero = node.number(DType::I64, 0.0)?;
    // Ignored targets may name no class: they pick class 0 and weigh nothing.
    let (counted, target) = match ignored {
        None => (None, target),
        Some(ignored) => {
            let ignored = node.ints(&[ignored])?;
            let ignored = node.reshape(ignored, vec![])?;
            let skipped = node.add(Op::Compare(Compare::Equal), &[target, ignored])?;
            let target = node.add(Op::Where(Where {}), &[skipped, zero, target])?;
            (Some(node.unary(Unary::Not, skipped)?), target)
        }
    };
    let classes = node.add(Op::Unsqueeze(Unsqueeze { axes: Some(vec![1]) }), &[target])?;
    let picked = node.add(Op::GatherElements(GatherElements { axis: 1 }), &[x, classes])?;
    let picked = node.add(Op::Squeeze(Squeeze { axes: Some(vec![1]) }), &[picked])?;
    let losses = node.unary(Unary::Neg, picked)?;
    let weights = weights(node, losses, target, counted)?;
    let losses = match weights {
        Some(weights) => node.binary(Binary::Mul, losses, weights)?,
        None => losses,
    };
    let sum = |node: &mut Node<'_, '_>, kind, x| {
        let reduce = Reduce { kind, axes: None, keep_dims: false, noop_with_empty_axes: false };
        node.add(Op::Reduce(reduce), &[x])
    };
    match (reduction, weights) {
        (Reduction::None, _) => Ok(losses),
        (Reduction::Sum, _) => sum(node, ReduceKind::Sum, losses),
        (Reduction::Mean, None) => sum(node, ReduceKind::Mean, losses),
        (Reduction::Mean, Some(weights)) => {
            let (total, weight) = (sum(node, ReduceKind::Sum, losses)?, sum(node, ReduceKind::Sum, weights)?);
            node.binary(Binary::Div, total, weight)
        }
    }
}

/// The weight of each target, where any differs from one.
fn weights(
    node: &mut Node<'_, '_>,
    losses: ValueId,
    target: ValueId,
    counted: Option<ValueId>,
) -> Result<Option<ValueId>, Fault> {
    let zero = node.number_like(losses, 0.0)?;
    let weights = match (node.optional(2), counted) {
        (None, None) => return Ok(None),
        (Some(weights), _) => node.add(Op::Gather(Gather { axis: 0 }), &[weights, target])?,
        (None, Some(_)) => {
            let dims: Vec<Dim> = node.dims(target).to_vec();
            let (one, shape) = (node.number_like(losses, 1.0)?, node.sizes(dims)?);
            node.add(Op::Expand(Expand {}), &[one, shape])?
        }
    };
    match counted {
        None => Ok(Some(weights)),
        Some(counted) => Ok(Some(node.add(Op::Where(Where {}), &[counted, weights, zero])?)),
    }
}
