//! `reshape(squeeze(reshape(x)))` becomes one `reshape(x, dims [...])`
//!
//! Reshape, squeeze and unsqueeze keep the order of the elements, so that a chain of them is one reshape to the last sizes.
//! Refuses where those sizes are only known once the inner node has run.

use lathe_ir::{NodeId, ValueId};
use lathe_ops::Op;
use lathe_ops::shape::Reshape;

use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct MergeReshapes;

impl Rule for MergeReshapes {
    fn name(&self) -> &'static str {
        "merge_reshapes"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let Some(output) = node.outputs.first() else { return Proposal::NoMatch };
        let Some(middle) = reshaped(context, *output) else { return Proposal::NoMatch };
        let Some(x) = reshaped(context, middle) else { return Proposal::NoMatch };
        let dims = &context.ty(*output).dims;
        if !context.from_inputs(dims) {
            return Proposal::because("the sizes depend on data");
        }
        let mut rewrite = Rewrite::new(&node.name);
        let shape = rewrite.dims(dims);
        let reshape = rewrite.node(Op::Reshape(Reshape { allow_zero: true }), &[Rewrite::value(x), shape]);
        rewrite.replace(*output, reshape)
    }
}

/// The operand of a node that changes the shape and nothing else.
fn reshaped(context: Context<'_>, value: ValueId) -> Option<ValueId> {
    let (_, node, op) = context.producer(value)?;
    let shape_only = matches!(op, Op::Reshape(_) | Op::Squeeze(_) | Op::Unsqueeze(_));
    if shape_only { *node.inputs.first()? } else { None }
}
