//! `relu(conv(x, w, b)) -> conv {activation=relu}(x, w, b)`; every activation of the table, `linear` and `conv_transpose` likewise
//!
//! Refuses where the layer's result is used elsewhere or already has an activation.

use lathe_ir::{Node, NodeId, Operation};
use lathe_ops::Op;
use lathe_ops::elementwise::{Activation, Unary};

use super::layer::Layer;
use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct ActivationFusion;

impl Rule for ActivationFusion {
    fn name(&self) -> &'static str {
        "fuse_activation"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let ([output], Some(Some(x))) = (&node.outputs[..], node.inputs.first()) else {
            return Proposal::NoMatch;
        };
        let Some(activation) = activation(context, node) else { return Proposal::NoMatch };
        let Some((_, layer)) = Layer::producing(context, *x) else { return Proposal::NoMatch };
        if !context.single_use(*x) {
            return Proposal::because("the layer's result is used elsewhere");
        }
        if *layer.activation() != Activation::None {
            return Proposal::because("the layer has an activation already");
        }
        let mut rewrite = Rewrite::new(&layer.node.name);
        let inputs: Vec<_> = layer.node.inputs.iter().map(|input| input.and_then(Rewrite::value)).collect();
        let new = rewrite.node(layer.with_activation(activation), &inputs);
        rewrite.replace(*output, new)
    }
}

/// The activation that a node applies to its first operand, if it is one.
fn activation(context: Context<'_>, node: &Node) -> Option<Activation> {
    let Operation::Op(op) = &node.operation else { return None };
    Some(match op {
        Op::Unary(Unary::Relu) => Activation::Relu,
        Op::Unary(Unary::Sigmoid) => Activation::Sigmoid,
        Op::Unary(Unary::Tanh) => Activation::Tanh,
        Op::Unary(Unary::Silu) => Activation::Silu,
        Op::Unary(Unary::HardSwish) => Activation::HardSwish,
        Op::Gelu(gelu) if gelu.tanh => Activation::GeluTanh,
        Op::Gelu(_) => Activation::Gelu,
        Op::LeakyRelu(leaky) => Activation::LeakyRelu { alpha: leaky.alpha },
        Op::HardSigmoid(gate) => Activation::HardSigmoid { alpha: gate.alpha, beta: gate.beta },
        Op::Clip(_) => {
            let bound = |input: usize, absent: f32| match node.inputs.get(input).copied().flatten() {
                Some(value) => context.scalar(value).map(|bound| bound as f32),
                None => Some(absent),
            };
            let (min, max) = (bound(1, f32::NEG_INFINITY)?, bound(2, f32::INFINITY)?);
            // Bounds that are out of order or NaN have a meaning of their own in ONNX.
            (min <= max).then_some(Activation::Clip { min, max })?
        }
        _ => return None,
    })
}
