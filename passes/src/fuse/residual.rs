//! `conv(x, w, b) + r -> conv(x, w, b, r)`; `linear` likewise
//!
//! `r` has the sizes of the result, so that the kernel adds it while it stores. Refuses where the layer's result is used elsewhere,
//! has an activation or a residual already, and where `r` broadcasts.

use lathe_ir::{NodeId, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Binary;

use super::layer::Layer;
use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct ResidualFusion;

impl Rule for ResidualFusion {
    fn name(&self) -> &'static str {
        "fuse_residual"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let (Operation::Op(Op::Binary(Binary::Add)), [Some(left), Some(right)], [output]) =
            (&node.operation, &node.inputs[..], &node.outputs[..])
        else {
            return Proposal::NoMatch;
        };
        let mut refusal = Proposal::NoMatch;
        for (result, residual) in [(*left, *right), (*right, *left)] {
            match fuse(context, result, residual, *output) {
                Proposal::NoMatch => {}
                Proposal::Because(reason) => refusal = Proposal::Because(reason),
                edit => return edit,
            }
        }
        refusal
    }
}

fn fuse(context: Context<'_>, result: ValueId, residual: ValueId, output: ValueId) -> Proposal {
    let Some((_, layer)) = Layer::producing(context, result) else { return Proposal::NoMatch };
    if matches!(layer.op, Op::ConvTranspose(_)) {
        return Proposal::because("a transposed convolution takes no residual");
    }
    if !context.single_use(result) {
        return Proposal::because("the layer's result is used elsewhere");
    }
    if !layer.is_affine() {
        return Proposal::because("an activation or residual stands between");
    }
    if !context.same_dims(result, residual) || !context.same_dims(result, output) {
        return Proposal::because("the other operand broadcasts");
    }
    let mut rewrite = Rewrite::new(&layer.node.name);
    let weight = layer.node.inputs.get(1).copied().flatten().and_then(Rewrite::value);
    let bias = layer.node.inputs.get(2).copied().flatten().and_then(Rewrite::value);
    let new =
        rewrite.node(layer.op.clone(), &[Rewrite::value(layer.x), weight, bias, Rewrite::value(residual)]);
    rewrite.replace(output, new)
}
