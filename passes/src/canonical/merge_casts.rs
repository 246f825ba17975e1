//! `cast<C>(cast<B>(x: A)) -> cast<C>(x)`
//!
//! Sound where the inner cast loses nothing: every value of A is a value of B. Refuses otherwise.

use lathe_ir::NodeId;
use lathe_ops::Op;
use lathe_tensor::DType;

use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct MergeCasts;

impl Rule for MergeCasts {
    fn name(&self) -> &'static str {
        "merge_casts"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let (Some(output), Some(Some(middle))) = (node.outputs.first(), node.inputs.first()) else {
            return Proposal::NoMatch;
        };
        let Some((_, _, Op::Cast(outer))) = context.producer(*output) else { return Proposal::NoMatch };
        let Some((_, inner_node, Op::Cast(inner))) = context.producer(*middle) else {
            return Proposal::NoMatch;
        };
        let Some(Some(x)) = inner_node.inputs.first() else { return Proposal::NoMatch };
        let from = context.ty(*x).dtype;
        if !is_lossless(from, inner.to) {
            return Proposal::because(format!("{from} to {} loses values", inner.to));
        }
        let mut rewrite = Rewrite::new(&node.name);
        let cast = rewrite.node(Op::Cast(outer.clone()), &[Rewrite::value(*x)]);
        rewrite.replace(*output, cast)
    }
}

/// Whether every value of `from` is a value of `to`.
fn is_lossless(from: DType, to: DType) -> bool {
    use DType::*;
    match (from, to) {
        (a, b) if a == b => true,
        (Bool, b) => b.is_integer() || b.is_float(),
        (F16 | BF16, F32 | F64) | (F32, F64) => true,
        (a, b) if a.is_integer() && b.is_integer() => {
            let wider = b.bits() > a.bits();
            wider && (b.is_signed_integer() || !a.is_signed_integer())
        }
        (I8 | U8 | I16 | U16, F32 | F64) | (I32 | U32, F64) => true,
        _ => false,
    }
}
