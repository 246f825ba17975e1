//! `d = x - mean(x); d / sqrt(mean(d ^ 2) + epsilon) * scale + bias -> layer_norm(x, scale, bias)`
//!
//! The means are over the last axis and keep it. Square and root are matched in every form that exporters write; a missing scale is ones.
//! Refuses where an inner value is used elsewhere, where the means are over another axis, and where scale or bias is
//! not one value an element of the last axis.

use lathe_ir::{NodeId, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Binary;
use lathe_ops::norm::LayerNorm;

use super::normalise::{
    averages_last_axis, forms, is_vector_of, mean, rounding, scale_or_ones, sole_partner,
};
use crate::pattern::{any, first_match};
use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct LayerNormFusion;

impl Rule for LayerNormFusion {
    fn name(&self) -> &'static str {
        "fuse_layer_norm"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let (Operation::Op(Op::Binary(_)), [output]) = (&node.operation, &node.outputs[..]) else {
            return Proposal::NoMatch;
        };
        let plain = forms(&|| any("x") - mean(any("x")));
        let scaled: Vec<_> = plain.iter().map(|form| form.clone() * any("scale")).collect();
        let biased: Vec<_> = scaled.iter().map(|form| form.clone() + any("bias")).collect();
        let found = [biased, scaled, plain].iter().find_map(|forms| first_match(context, forms, *output));
        let Some(found) = found else { return Proposal::NoMatch };
        if found.get("bias").is_none() && continues(context, found.get("x"), *output) {
            return Proposal::NoMatch;
        }
        if !found.is_closed(context) {
            return Proposal::because("a value inside is used elsewhere");
        }
        let (Some(x), Some(epsilon)) = (found.get("x"), found.get("epsilon")) else {
            return Proposal::NoMatch;
        };
        let rank = context.ty(x).rank();
        if !found.interior.iter().all(|value| averages_last_axis(context, *value, rank)) {
            return Proposal::because("the means are not over the last axis");
        }
        let bias = found.get("bias");
        if bias.is_some_and(|bias| !is_vector_of(context, x, bias)) {
            return Proposal::because("the bias is not one value an element of the last axis");
        }
        let mut rewrite = Rewrite::new(&node.name);
        let scale = match scale_or_ones(context, &mut rewrite, x, found.get("scale")) {
            Ok(scale) => scale,
            Err(reason) => return Proposal::because(reason),
        };
        let Some(epsilon) = context.scalar(epsilon) else { return Proposal::NoMatch };
        let norm = Op::LayerNorm(LayerNorm {
            axis: -1,
            epsilon: epsilon as f32,
            rounding: rounding(context, &found),
        });
        let inputs = [Rewrite::value(x), scale, bias.and_then(Rewrite::value)];
        let new = rewrite.node(norm, if bias.is_some() { &inputs } else { &inputs[..2] });
        rewrite.replace(*output, new)
    }
}

/// Whether the next node multiplies by a scale or adds a bias: it will match as a whole.
fn continues(context: Context<'_>, x: Option<ValueId>, output: ValueId) -> bool {
    let Some(x) = x else { return false };
    [Binary::Mul, Binary::Add]
        .into_iter()
        .any(|kind| sole_partner(context, output, kind).is_some_and(|value| is_vector_of(context, x, value)))
}
