//! `matmul(x, constant [k, n]) -> linear(x, w)`
//!
//! The product with constant weights becomes the op that the planner packs weights for and that takes bias, residual and
//! activation. Weights in quantised blocks or 16-bit floats stay so, and stay the transpose of what is stored. Refuses weights of other ranks than 2, dtypes other than f32 and vectors on the left.

use lathe_ir::{NodeId, Operation};
use lathe_ops::Op;
use lathe_ops::elementwise::Activation;
use lathe_ops::matmul::Linear;
use lathe_tensor::DType;

use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct LinearFusion;

impl Rule for LinearFusion {
    fn name(&self) -> &'static str {
        "fuse_linear"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let (Operation::Op(Op::MatMul(product)), [Some(x), Some(weight)], [output]) =
            (&node.operation, &node.inputs[..], &node.outputs[..])
        else {
            return Proposal::NoMatch;
        };
        if product.coarse {
            return Proposal::because("the left operand may be rounded, which `linear` does not say");
        }
        match context.constant(*weight) {
            Some(tensor) if tensor.dtype() != DType::F32 => {
                return Proposal::because(format!("the weights are {}", tensor.dtype()));
            }
            Some(tensor) if tensor.rank() != 2 => {
                return Proposal::because(format!("the weights have {} axes", tensor.rank()));
            }
            Some(_) => {}
            None if context.is_encoded_matrix(*weight) => {}
            None => return Proposal::NoMatch,
        }
        if context.ty(*x).rank() < 2 {
            return Proposal::because("the left operand is a vector");
        }
        let mut rewrite = Rewrite::new(&node.name);
        let linear = Op::Linear(Linear { activation: Activation::None });
        let new = rewrite.node(linear, &[Rewrite::value(*x), Rewrite::value(*weight)]);
        rewrite.replace(*output, new)
    }
}
