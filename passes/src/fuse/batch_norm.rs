//! `batch_norm(conv(x, w, b), scale, bias, mean, var) -> conv(x, w * f, (b - mean) * f + bias)`, `f = scale / sqrt(var + epsilon)`
//!
//! Sound because inference-time batch normalisation is an affine map of each channel. Refuses where the convolution's result is used
//! elsewhere, where it has an activation or residual, and in training.

use lathe_ir::{NodeId, Operation};
use lathe_ops::Op;

use super::layer::Layer;
use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct BatchNormFolding;

impl Rule for BatchNormFolding {
    fn name(&self) -> &'static str {
        "fold_batch_norm"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let (Operation::Op(Op::BatchNorm(norm)), [output], Some(Some(x))) =
            (&node.operation, &node.outputs[..], node.inputs.first())
        else {
            return Proposal::NoMatch;
        };
        if norm.training {
            return Proposal::because("the statistics are the batch's own");
        }
        let Some((_, layer)) = Layer::producing(context, *x) else { return Proposal::NoMatch };
        if !context.single_use(*x) {
            return Proposal::because("the convolution's result is used elsewhere");
        }
        if !layer.is_affine() {
            return Proposal::because("an activation or residual stands between");
        }
        if context.module.quantises_by_range() {
            return Proposal::because("its last bit decides about codes of quantised values");
        }
        let constants: Option<Vec<Vec<f32>>> =
            (1..5).map(|input| context.constant_f32(node.inputs.get(input).copied().flatten()?)).collect();
        let Some([scale, bias, mean, var]) = constants.as_deref() else {
            return Proposal::because("the statistics are not constant f32");
        };
        let channels = layer.out_channels;
        if [scale, bias, mean, var].iter().any(|statistic| statistic.len() != channels) {
            return Proposal::NoMatch;
        }
        let factors: Vec<f32> =
            scale.iter().zip(var).map(|(scale, var)| scale / (var + norm.epsilon).sqrt()).collect();
        let shifted: Vec<f32> = layer
            .bias_or_zeros()
            .iter()
            .enumerate()
            .map(|(channel, old)| (old - mean[channel]) * factors[channel] + bias[channel])
            .collect();
        let Some(weight) = layer.scaled_weight(&factors) else { return Proposal::NoMatch };
        let mut rewrite = Rewrite::new(&layer.node.name);
        let new = layer.rebuild(&mut rewrite, layer.x, Some(weight), &shifted);
        rewrite.replace(*output, new)
    }
}
