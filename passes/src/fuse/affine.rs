//! `conv(x, w, b) * c -> conv(x, w * c, b * c)` and `conv(x, w, b) + c -> conv(x, w, b + c)`; `linear` likewise
//!
//! `c` is a constant scalar or one value an output channel. Refuses where the layer's result is used elsewhere, has an activation
//! or residual, where `c` varies along other axes,
//! and factors of weights that are not stored as f32.

use lathe_ir::{NodeId, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Binary;

use super::layer::Layer;
use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct AffineFolding;

impl Rule for AffineFolding {
    fn name(&self) -> &'static str {
        "fold_affine"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let (Operation::Op(Op::Binary(kind)), [Some(left), Some(right)], [output]) =
            (&node.operation, &node.inputs[..], &node.outputs[..])
        else {
            return Proposal::NoMatch;
        };
        let Some((result, constant)) = operands(context, *kind, *left, *right) else {
            return Proposal::NoMatch;
        };
        let Some((_, layer)) = Layer::producing(context, result) else { return Proposal::NoMatch };
        if !context.single_use(result) {
            return Proposal::because("the layer's result is used elsewhere");
        }
        if !layer.is_affine() {
            return Proposal::because("an activation or residual stands between");
        }
        let Some(values) = layer.per_channel(context, constant, result) else {
            return Proposal::because("the constant varies along other axes than the channels");
        };
        if !context.same_dims(result, *output) {
            return Proposal::because("the constant broadcasts the result up");
        }
        if matches!(kind, Binary::Mul | Binary::Div) && layer.weight.is_none() {
            return Proposal::because("the weights are not stored as f32");
        }
        let sum = matches!(kind, Binary::Add | Binary::Sub) && layer.bias.is_none();
        if !sum && context.module.quantises_by_range() {
            return Proposal::because("its last bit decides about codes of quantised values");
        }
        let old = layer.bias_or_zeros();
        let combine =
            |f: fn(f32, f32) -> f32| old.iter().zip(&values).map(|(old, value)| f(*old, *value)).collect();
        let (weight, bias): (_, Vec<f32>) = match kind {
            Binary::Mul => (layer.scaled_weight(&values), combine(|old, value| old * value)),
            Binary::Div => {
                let factors: Vec<f32> = values.iter().map(|value| 1.0 / value).collect();
                (layer.scaled_weight(&factors), combine(|old, value| old / value))
            }
            Binary::Sub => (None, combine(|old, value| old - value)),
            _ => (None, combine(|old, value| old + value)),
        };
        let mut rewrite = Rewrite::new(&layer.node.name);
        let new = layer.rebuild(&mut rewrite, layer.x, weight, &bias);
        rewrite.replace(*output, new)
    }
}

/// The value and the constant of `value op constant`, in either order where the op commutes.
pub(super) fn operands(
    context: Context<'_>,
    kind: Binary,
    left: ValueId,
    right: ValueId,
) -> Option<(ValueId, ValueId)> {
    let commutes = matches!(kind, Binary::Add | Binary::Mul);
    if !commutes && !matches!(kind, Binary::Sub | Binary::Div) {
        return None;
    }
    match (context.constant(left), context.constant(right)) {
        (None, Some(_)) => Some((left, right)),
        (Some(_), None) if commutes => Some((right, left)),
        _ => None,
    }
}
