//! Layers with constant weights: convolutions and linear maps, seen alike.

use lathe_ir::{Node, NodeId, ValueId};
use lathe_ops::Op;
use lathe_ops::conv::Padding;
use lathe_ops::elementwise::Activation;
use lathe_tensor::Tensor;

use crate::{Context, Rewrite, rewrite::Term};

/// A convolution or linear map whose weights, and bias if any, are constant f32 (of a linear map the weights may be stored otherwise).
pub(super) struct Layer<'a> {
    pub(super) node: &'a Node,
    pub(super) op: &'a Op,
    pub(super) x: ValueId,
    /// `None` where they are not stored as f32: they cannot change then.
    pub(super) weight: Option<&'a Tensor>,
    pub(super) bias: Option<Vec<f32>>,
    /// Axis of `weight` that runs over output channels.
    pub(super) out_axis: usize,
    /// Number of output channels.
    pub(super) out_channels: usize,
}

impl<'a> Layer<'a> {
    /// The layer that makes a value, if one does.
    pub(super) fn producing(context: Context<'a>, value: ValueId) -> Option<(NodeId, Self)> {
        let (id, _, _) = context.producer(value)?;
        Some((id, Self::of_node(context, id)?))
    }

    /// The layer of a node, if it is one.
    pub(super) fn of_node(context: Context<'a>, id: NodeId) -> Option<Self> {
        let node = context.body().node(id)?;
        let (_, _, op) = context.producer(*node.outputs.first()?)?;
        let out_axis = match op {
            Op::Conv(_) => 0,
            Op::ConvTranspose(conv) if conv.groups == 1 => 1,
            Op::Linear(_) => 1,
            _ => return None,
        };
        let operand = (*node.inputs.get(1)?)?;
        let weight = context.constant(operand);
        match weight {
            Some(weight) => drop(weight.to_slice::<f32>().ok()?),
            None if matches!(op, Op::Linear(_)) && context.is_encoded_matrix(operand) => {}
            None => return None,
        }
        let bias = match node.inputs.get(2).copied().flatten() {
            Some(bias) => Some(context.constant_f32(bias)?),
            None => None,
        };
        let out_channels = context.ty(operand).dims.get(out_axis)?.as_constant()?;
        let out_channels = usize::try_from(out_channels).ok()?;
        let x = (*node.inputs.first()?)?;
        Some(Self { node, op, x, weight, bias, out_axis, out_channels })
    }

    /// The residual operand.
    pub(super) fn residual(&self) -> Option<ValueId> {
        self.node.inputs.get(3).copied().flatten()
    }

    /// The activation.
    pub(super) fn activation(&self) -> &'a Activation {
        match self.op {
            Op::Conv(conv) => &conv.activation,
            Op::ConvTranspose(conv) => &conv.activation,
            Op::Linear(linear) => &linear.activation,
            _ => &Activation::None,
        }
    }

    /// Whether the result is the plain affine map: no activation, no residual.
    pub(super) fn is_affine(&self) -> bool {
        *self.activation() == Activation::None && self.residual().is_none()
    }

    /// Whether cells outside the input take part as zeros.
    pub(super) fn is_padded(&self) -> bool {
        match self.op {
            Op::Conv(conv) => match &conv.padding {
                Padding::Explicit { begins, ends } => begins.iter().chain(ends).any(|pad| *pad != 0),
                Padding::SameUpper | Padding::SameLower => true,
            },
            Op::ConvTranspose(_) => true,
            _ => false,
        }
    }

    /// The op with another activation.
    pub(super) fn with_activation(&self, activation: Activation) -> Op {
        let mut op = self.op.clone();
        match &mut op {
            Op::Conv(conv) => conv.activation = activation,
            Op::ConvTranspose(conv) => conv.activation = activation,
            Op::Linear(linear) => linear.activation = activation,
            _ => {}
        }
        op
    }

    /// The weights times one factor an output channel; `None` where there are none, or they cannot change.
    pub(super) fn scaled_weight(&self, factors: &[f32]) -> Option<Tensor> {
        let mut weight = self.weight?.clone();
        let inner: usize = weight.shape().get(self.out_axis + 1..)?.iter().product();
        let channels = self.out_channels;
        if inner == 0 || channels == 0 || factors.len() != channels {
            return None;
        }
        for (index, element) in weight.as_mut_slice::<f32>().ok()?.iter_mut().enumerate() {
            *element *= factors[index / inner % channels];
        }
        Some(weight)
    }

    /// The layer again with other weights and bias, over `x`.
    pub(super) fn rebuild(
        &self,
        rewrite: &mut Rewrite,
        x: ValueId,
        weight: Option<Tensor>,
        bias: &[f32],
    ) -> Term {
        let weight = match weight {
            Some(weight) => rewrite.constant(weight),
            None => self.node.inputs.get(1).copied().flatten().and_then(Rewrite::value),
        };
        let bias = Tensor::from_slice(bias, &[bias.len()]).ok().and_then(|bias| rewrite.constant(bias));
        let mut inputs = vec![Rewrite::value(x), weight, bias];
        inputs.extend(self.residual().map(Rewrite::value));
        rewrite.node(self.op.clone(), &inputs)
    }

    /// The bias, zeros where there is none.
    pub(super) fn bias_or_zeros(&self) -> Vec<f32> {
        self.bias.clone().unwrap_or_else(|| vec![0.0; self.out_channels])
    }

    /// One value an output channel of a constant that is a scalar or varies along the layer's channel axis only.
    pub(super) fn per_channel(
        &self,
        context: Context<'_>,
        value: ValueId,
        result: ValueId,
    ) -> Option<Vec<f32>> {
        let elements = context.constant_f32(value)?;
        let shape = context.constant(value)?.shape();
        if elements.len() == 1 && shape.len() <= context.ty(result).rank() {
            return Some(vec![elements[0]; self.out_channels]);
        }
        let rank = context.ty(result).rank();
        let channel_axis = if matches!(self.op, Op::Linear(_)) { rank.checked_sub(1)? } else { 1 };
        let lead = rank.checked_sub(shape.len())?;
        let along_channels =
            shape.iter().enumerate().all(|(axis, size)| axis + lead == channel_axis || *size == 1);
        (along_channels && elements.len() == self.out_channels).then_some(elements)
    }
}
