//! `x / sqrt(mean(x ^ 2) + epsilon) * scale -> rms_norm(x, scale)`
//!
//! The mean is over the last axis and keeps it. Square and root are matched in every form that exporters write, with the scale
//! on either side; without a scale it is ones. Gemma's `1 + weight` is a constant by then and is the scale. Casts around the norm
//! are left where they are: they round as before.
//! Refuses where an inner value is used elsewhere, where the mean is over another axis, where the scale is not one value an element
//! of the last axis, and without a scale where the size of that axis is not known.
//! Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.

use lathe_ir::{NodeId, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Binary;
use lathe_ops::norm::RmsNorm;

use super::normalise::{
    averages_last_axis, factors, forms, is_vector_of, rounding, scale_or_ones, sole_partner,
};
use crate::pattern::{Match, Pattern, any, first_match};
use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct RmsNormFusion;

impl Rule for RmsNormFusion {
    fn name(&self) -> &'static str {
        "fuse_rms_norm"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let (Operation::Op(Op::Binary(Binary::Mul | Binary::Div)), [output]) =
            (&node.operation, &node.outputs[..])
        else {
            return Proposal::NoMatch;
        };
        let plain = forms(&|| any("x"));
        let scaled = scaled_forms(&plain);
        let found = match first_match(context, &scaled, *output) {
            Some(found) => found,
            None => match first_match(context, &plain, *output) {
                Some(found) if scale_follows(context, &found, *output) => return Proposal::NoMatch,
                Some(found) => found,
                None => return Proposal::NoMatch,
            },
        };
        if !found.is_closed(context) {
            return Proposal::because("a value inside is used elsewhere");
        }
        let (Some(x), Some(epsilon)) = (found.get("x"), found.get("epsilon")) else {
            return Proposal::NoMatch;
        };
        let rank = context.ty(x).rank();
        if !found.interior.iter().all(|value| averages_last_axis(context, *value, rank)) {
            return Proposal::because("the mean is not over the last axis");
        }
        let mut rewrite = Rewrite::new(&node.name);
        let scale = match scale_or_ones(context, &mut rewrite, x, found.get("scale")) {
            Ok(scale) => scale,
            Err(reason) => return Proposal::because(reason),
        };
        let Some(epsilon) = context.scalar(epsilon) else { return Proposal::NoMatch };
        let norm =
            Op::RmsNorm(RmsNorm { axis: -1, epsilon: epsilon as f32, rounding: rounding(context, &found) });
        let new = rewrite.node(norm, &[Rewrite::value(x), scale]);
        rewrite.replace(*output, new)
    }
}

/// The norm times a scale, which stands after the norm, within the factor or before it.
fn scaled_forms(plain: &[Pattern]) -> Vec<Pattern> {
    let after = plain.iter().map(|form| form.clone() * any("scale"));
    let within = factors(&|| any("x"))
        .into_iter()
        .flat_map(|factor| [(factor.clone() * any("scale")) * any("x"), factor * (any("x") * any("scale"))]);
    after.chain(within).collect()
}

/// Whether the next node multiplies by one value an element of the last axis: it will match as a whole.
fn scale_follows(context: Context<'_>, found: &Match, output: ValueId) -> bool {
    match (found.get("x"), sole_partner(context, output, Binary::Mul)) {
        (Some(x), Some(scale)) => is_vector_of(context, x, scale),
        _ => false,
    }
}
