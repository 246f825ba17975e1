//! `x * clip(x + 3, 0, 6) / 6 -> hard_swish(x)`
//!
//! Also with the division inside the product and as `x * hard_sigmoid {alpha=1/6, beta=1/2}(x)`. Refuses where an inner value is used
//! elsewhere. Source: Howard et al., "Searching for MobileNetV3", 2019.

use lathe_ir::NodeId;
use lathe_ops::Op;
use lathe_ops::elementwise::Unary;

use crate::pattern::{Pattern, any, first_match, op, scalar};
use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct HardSwishFusion;

impl Rule for HardSwishFusion {
    fn name(&self) -> &'static str {
        "fuse_hard_swish"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let [output] = &node.outputs[..] else { return Proposal::NoMatch };
        let Some(found) = first_match(context, &forms(), *output) else { return Proposal::NoMatch };
        if !found.is_closed(context) {
            return Proposal::because("a value inside is used elsewhere");
        }
        let Some(x) = found.get("x") else { return Proposal::NoMatch };
        let mut rewrite = Rewrite::new(&node.name);
        let new = rewrite.node(Op::Unary(Unary::HardSwish), &[Rewrite::value(x)]);
        rewrite.replace(*output, new)
    }
}

fn forms() -> [Pattern; 5] {
    let x = || any("x");
    let clip = || op(|op| matches!(op, Op::Clip(_)), vec![x() + 3.0, scalar(0.0), scalar(6.0)]);
    let gate = || op(is_hard_sigmoid, vec![x()]);
    [
        (x() * clip()) / 6.0,
        x() * (clip() / 6.0),
        (x() * clip()) * (1.0 / 6.0),
        x() * (clip() * (1.0 / 6.0)),
        x() * gate(),
    ]
}

fn is_hard_sigmoid(op: &Op) -> bool {
    matches!(op, Op::HardSigmoid(gate) if (gate.alpha - 1.0 / 6.0).abs() < 1e-6 && gate.beta == 0.5)
}
