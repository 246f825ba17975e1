//! `x * sigmoid(x) -> silu(x)`
//!
//! Refuses where the sigmoid is used elsewhere too.
//! Source: Elfwing et al., "Sigmoid-weighted linear units", 2017.

use lathe_ir::NodeId;
use lathe_ops::Op;
use lathe_ops::elementwise::Unary;

use crate::pattern::{any, unary};
use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct SiluFusion;

impl Rule for SiluFusion {
    fn name(&self) -> &'static str {
        "fuse_silu"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let [output] = &node.outputs[..] else { return Proposal::NoMatch };
        let pattern = any("x") * unary(Unary::Sigmoid, any("x"));
        let Some(found) = pattern.matches(context, *output) else { return Proposal::NoMatch };
        if !found.is_closed(context) {
            return Proposal::because("the sigmoid is used elsewhere");
        }
        let Some(x) = found.get("x") else { return Proposal::NoMatch };
        let mut rewrite = Rewrite::new(&node.name);
        let new = rewrite.node(Op::Unary(Unary::Silu), &[Rewrite::value(x)]);
        rewrite.replace(*output, new)
    }
}
