//! `conv(x * c, w, b) -> conv(x, w * c, b)` and `conv(x + c, w, b) -> conv(x, w, b + c * sum(w))`; `linear` likewise
//!
//! `c` is a constant scalar. A sum goes through only where the layer does not pad: padding is zero after the sum, not before.
//! Refuses where the input is used elsewhere, and weights that are not stored as f32.

use lathe_ir::{NodeId, Operation};
use lathe_ops::Op;
use lathe_ops::elementwise::Binary;
use lathe_tensor::Tensor;

use super::affine::operands;
use super::layer::Layer;
use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct AffineForwarding;

impl Rule for AffineForwarding {
    fn name(&self) -> &'static str {
        "forward_affine"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(layer) = Layer::of_node(context, id) else { return Proposal::NoMatch };
        let Some(output) = layer.node.outputs.first() else { return Proposal::NoMatch };
        let Some((_, input)) = context.body().producer(layer.x) else { return Proposal::NoMatch };
        let (Operation::Op(Op::Binary(kind)), [Some(left), Some(right)]) =
            (&input.operation, &input.inputs[..])
        else {
            return Proposal::NoMatch;
        };
        let Some((x, constant)) = operands(context, *kind, *left, *right) else { return Proposal::NoMatch };
        let (Some(scalar), true) = (context.scalar(constant), context.same_dims(x, layer.x)) else {
            return Proposal::because("the constant is not a scalar");
        };
        if !context.single_use(layer.x) {
            return Proposal::because("the input is used elsewhere");
        }
        if context.module.quantises_by_range() {
            return Proposal::because("its last bit decides about codes of quantised values");
        }
        let Some(own) = layer.weight else { return Proposal::because("the weights are not stored as f32") };
        let scalar = scalar as f32;
        let scaled = |factor: f32| layer.scaled_weight(&vec![factor; layer.out_channels]);
        let (weight, bias) = match kind {
            Binary::Mul => (scaled(scalar), layer.bias_or_zeros()),
            Binary::Div => (scaled(1.0 / scalar), layer.bias_or_zeros()),
            _ if layer.is_padded() => return Proposal::because("the layer pads with zeros after the sum"),
            Binary::Sub => (None, layer.bias_of_shifted_input(own, -scalar)),
            _ => (None, layer.bias_of_shifted_input(own, scalar)),
        };
        let mut rewrite = Rewrite::new(&layer.node.name);
        let new = layer.rebuild(&mut rewrite, x, weight, &bias);
        rewrite.replace(*output, new)
    }
}

impl Layer<'_> {
    /// The bias that takes over adding `shift` to every input cell: `b[o] + shift * sum(w[o])`.
    fn bias_of_shifted_input(&self, weight: &Tensor, shift: f32) -> Vec<f32> {
        let mut sums = vec![0f64; self.out_channels];
        let inner: usize = weight.shape()[self.out_axis + 1..].iter().product();
        for (index, element) in
            weight.to_slice::<f32>().iter().flat_map(|elements| elements.iter()).enumerate()
        {
            sums[index / inner % self.out_channels] += f64::from(*element);
        }
        self.bias_or_zeros()
            .iter()
            .zip(sums)
            .map(|(bias, sum)| (f64::from(*bias) + f64::from(shift) * sum) as f32)
            .collect()
    }
}
