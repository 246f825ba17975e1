//! `transpose<q>(transpose<p>(x)) -> transpose<p . q>(x)`
//!
//! Axis `i` of the result is axis `p[q[i]]` of `x`.

use lathe_ir::NodeId;
use lathe_ops::Op;
use lathe_ops::shape::Transpose;

use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct MergeTransposes;

impl Rule for MergeTransposes {
    fn name(&self) -> &'static str {
        "merge_transposes"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let (Some(output), Some(Some(middle))) = (node.outputs.first(), node.inputs.first()) else {
            return Proposal::NoMatch;
        };
        let Some((_, _, Op::Transpose(outer))) = context.producer(*output) else { return Proposal::NoMatch };
        let Some((_, inner_node, Op::Transpose(inner))) = context.producer(*middle) else {
            return Proposal::NoMatch;
        };
        let Some(Some(x)) = inner_node.inputs.first() else { return Proposal::NoMatch };
        let perm: Option<Vec<usize>> = outer.perm.iter().map(|axis| inner.perm.get(*axis).copied()).collect();
        let Some(perm) = perm else { return Proposal::NoMatch };
        let mut rewrite = Rewrite::new(&node.name);
        let transpose = rewrite.node(Op::Transpose(Transpose { perm }), &[Rewrite::value(*x)]);
        rewrite.replace(*output, transpose)
    }
}
