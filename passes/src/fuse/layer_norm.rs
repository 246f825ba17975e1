//! `d = x - mean(x); d / sqrt(mean(d ^ 2) + epsilon) * scale + bias -> layer_norm(x, scale, bias)`
//!
//! The means are over the last axis and keep it. `d * d` for `d ^ 2` and a missing bias are matched too.
//! Refuses where an inner value is used elsewhere, where the means are over another axis, and where scale or bias is
//! not one value an element of the last axis.

use lathe_ir::{NodeId, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Unary};
use lathe_ops::norm::LayerNorm;
use lathe_ops::reduce::ReduceKind;

use crate::context::dims_equal;
use crate::pattern::{Pattern, any, any_scalar, binary, first_match, op, unary};
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
        let with_bias = forms().map(|normalised| normalised * any("scale") + any("bias"));
        let without_bias = forms().map(|normalised| normalised * any("scale"));
        let found = match first_match(context, &with_bias, *output) {
            Some(found) => found,
            None => match first_match(context, &without_bias, *output) {
                // The bias is added by the next node, which will match as a whole.
                Some(_) if is_added_to(context, *output) => return Proposal::NoMatch,
                Some(found) => found,
                None => return Proposal::NoMatch,
            },
        };
        if !found.is_closed(context) {
            return Proposal::because("a value inside is used elsewhere");
        }
        let (Some(x), Some(scale), Some(epsilon)) =
            (found.get("x"), found.get("scale"), found.get("epsilon"))
        else {
            return Proposal::NoMatch;
        };
        let rank = context.ty(x).rank();
        if !found.interior.iter().all(|value| averages_last_axis(context, *value, rank)) {
            return Proposal::because("the means are not over the last axis");
        }
        let bias = found.get("bias");
        let last = &context.ty(x).dims[rank - 1..];
        if ![Some(scale), bias].into_iter().flatten().all(|value| dims_equal(&context.ty(value).dims, last)) {
            return Proposal::because("scale or bias is not one value an element of the last axis");
        }
        let Some(epsilon) = context.scalar(epsilon) else { return Proposal::NoMatch };
        let mut rewrite = Rewrite::new(&node.name);
        let norm = Op::LayerNorm(LayerNorm { axis: -1, epsilon: epsilon as f32 });
        let inputs = [Rewrite::value(x), Rewrite::value(scale), bias.and_then(Rewrite::value)];
        let new = rewrite.node(norm, if bias.is_some() { &inputs } else { &inputs[..2] });
        rewrite.replace(*output, new)
    }
}

/// `d / sqrt(mean(d ^ 2) + epsilon)` in the forms that exporters write.
fn forms() -> [Pattern; 3] {
    let mean = |x: Pattern| op(is_mean, vec![x]);
    let d = || any("x") - mean(any("x"));
    let power = || binary(Binary::Pow, d(), crate::pattern::scalar(2.0));
    let deviation = |square: Pattern| unary(Unary::Sqrt, mean(square) + any_scalar("epsilon"));
    [d() / deviation(power()), d() / deviation(d() * d()), d() * unary(Unary::Reciprocal, deviation(power()))]
}

fn is_mean(op: &Op) -> bool {
    matches!(op, Op::Reduce(reduce) if reduce.kind == ReduceKind::Mean && reduce.keep_dims)
}

/// True for everything but a mean over other axes than the last.
fn averages_last_axis(context: Context<'_>, value: ValueId, rank: usize) -> bool {
    match context.producer(value) {
        Some((_, _, Op::Reduce(reduce))) => match reduce.axes.as_deref() {
            Some([axis]) => *axis == -1 || usize::try_from(*axis).is_ok_and(|axis| axis + 1 == rank),
            _ => false,
        },
        _ => true,
    }
}

fn is_added_to(context: Context<'_>, value: ValueId) -> bool {
    let users = context.body().users(value);
    context.single_use(value)
        && users.iter().all(|user| {
            let operation = context.body().node(*user).map(|node| &node.operation);
            matches!(operation, Some(Operation::Op(Op::Binary(Binary::Add))))
        })
}
