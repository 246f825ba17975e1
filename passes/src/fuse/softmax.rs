//! `e = exp(x - max(x)); e / sum(e) -> softmax(x)`
//!
//! Maximum and sum are over one and the same axis and keep it. Refuses where they differ and where an inner value is used elsewhere.
//! `exp(x) / sum(exp(x))` is left alone: it overflows where softmax does not.

use lathe_ir::NodeId;
use lathe_ops::Op;
use lathe_ops::elementwise::Unary;
use lathe_ops::norm::Softmax;
use lathe_ops::reduce::ReduceKind;

use crate::pattern::{any, op, unary};
use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct SoftmaxFusion;

impl Rule for SoftmaxFusion {
    fn name(&self) -> &'static str {
        "fuse_softmax"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let [output] = &node.outputs[..] else { return Proposal::NoMatch };
        let e = || unary(Unary::Exp, any("x") - op(is_max, vec![any("x")]));
        let Some(found) = (e() / op(is_sum, vec![e()])).matches(context, *output) else {
            return Proposal::NoMatch;
        };
        let Some(x) = found.get("x") else { return Proposal::NoMatch };
        if !found.is_closed(context) {
            return Proposal::because("a value inside is used elsewhere");
        }
        let rank = context.ty(x).rank() as i64;
        let axes: Option<Vec<i64>> = found
            .interior
            .iter()
            .filter_map(|value| match context.producer(*value) {
                Some((_, _, Op::Reduce(reduce))) => Some(reduce.axes.as_deref()),
                _ => None,
            })
            .map(|axes| match axes {
                Some([axis]) => Some(if *axis < 0 { *axis + rank } else { *axis }),
                _ => None,
            })
            .collect();
        match axes.as_deref() {
            Some([first, rest @ ..]) if rest.iter().all(|axis| axis == first) => {
                let mut rewrite = Rewrite::new(&node.name);
                let softmax = Op::Softmax(Softmax { axis: *first, log: false });
                let new = rewrite.node(softmax, &[Rewrite::value(x)]);
                rewrite.replace(*output, new)
            }
            _ => Proposal::because("maximum and sum are not over one and the same axis"),
        }
    }
}

fn is_max(op: &Op) -> bool {
    matches!(op, Op::Reduce(reduce) if reduce.kind == ReduceKind::Max && reduce.keep_dims)
}

fn is_sum(op: &Op) -> bool {
    matches!(op, Op::Reduce(reduce) if reduce.kind == ReduceKind::Sum && reduce.keep_dims)
}
