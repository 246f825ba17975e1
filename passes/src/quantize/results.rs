//! `quantize_linear(conv_integer {to=f32}(...)) -> conv_integer {to=u8}(...)`; `matmul_integer` likewise, with `relu` or `clip` between
//!
//! The result is what ONNX's `QLinearConv` and `QLinearMatMul` define: `saturate(round(sums * (sx * sw / sy)) + zero)`. Rounding by one factor
//! instead of two moves it by at most one step where the two sides of a tie are met. Quantising is monotone, so that a `relu` or `clip` between is
//! the same bounds quantised; where they are the bounds of the dtype nothing is left of it.
//!
//! Refuses where the float result is used elsewhere, and scales for each channel of the result.

use lathe_ir::{Node, NodeId, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Clip, Unary};
use lathe_ops::quant::{ConvInteger, MatMulInteger};
use lathe_tensor::{DType, Tensor};

use super::maps::Map;
use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct IntegerResults;

impl Rule for IntegerResults {
    fn name(&self) -> &'static str {
        "qdq_results"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let ([output], Some(Some(x))) = (&node.outputs[..], node.inputs.first()) else {
            return Proposal::NoMatch;
        };
        let Some(map) = Map::quantized(context, &node.operation, &node.inputs) else {
            return Proposal::NoMatch;
        };
        let (product, bounds) = bounded(context, *x);
        let Some((sums, scale)) = scaled(context, product) else { return Proposal::NoMatch };
        let map = match map {
            Ok(map) if map.is_bytes() => map,
            Ok(map) => return Proposal::because(format!("the result is {}", map.dtype)),
            Err(reason) => return Proposal::because(reason),
        };
        let Some(own) = map.one_scale() else {
            return Proposal::because("the result has a scale for each channel");
        };
        if !context.single_use(*x) || !context.single_use(product) {
            return Proposal::because("the float result is used elsewhere");
        }
        let mut rewrite = Rewrite::new(&sums.name);
        let mut inputs: Vec<_> = sums.inputs.iter().map(|input| input.and_then(Rewrite::value)).collect();
        let factors: Vec<f32> = scale.iter().map(|scale| scale / own).collect();
        inputs[5] = match factors[..] {
            [one] => rewrite.constant(Tensor::scalar(one)),
            _ => Tensor::from_slice(&factors, &[factors.len()])
                .ok()
                .and_then(|factors| rewrite.constant(factors)),
        };
        inputs.truncate(6);
        inputs.push(map.zero.and_then(Rewrite::value));
        let Some(op) = with_result(sums, map.dtype) else { return Proposal::NoMatch };
        let mut new = rewrite.node(op, &inputs);
        if let Some((least, most)) = bounds {
            let (low, high) = map.range();
            let (least, most) = (map.round(least), map.round(most));
            if (least, most) != (low, high) {
                let bounds =
                    [least, most].map(|bound| map.byte(bound).and_then(|bound| rewrite.constant(bound)));
                new = rewrite.node(Op::Clip(Clip {}), &[new, bounds[0], bounds[1]]);
            }
        }
        rewrite.replace(*output, new)
    }
}

/// What a `relu` or `clip` by constants bounds, with its bounds.
fn bounded(context: Context<'_>, value: ValueId) -> (ValueId, Option<(f32, f32)>) {
    let whole = (value, None);
    let Some((_, node, op)) = context.producer(value) else { return whole };
    let Some(Some(x)) = node.inputs.first() else { return whole };
    match op {
        Op::Unary(Unary::Relu) => (*x, Some((0.0, f32::INFINITY))),
        Op::Clip(_) => {
            let bound = |index: usize, absent: f32| match node.inputs.get(index).copied().flatten() {
                Some(bound) => context.scalar(bound).map(|bound| bound as f32),
                None => Some(absent),
            };
            match (bound(1, f32::NEG_INFINITY), bound(2, f32::INFINITY)) {
                (Some(least), Some(most)) if least <= most => (*x, Some((least, most))),
                _ => whole,
            }
        }
        _ => whole,
    }
}

/// A product of integers as floats, with its scales.
fn scaled<'a>(context: Context<'a>, value: ValueId) -> Option<(&'a Node, Vec<f32>)> {
    let (_, node, op) = context.producer(value)?;
    let to = match op {
        Op::MatMulInteger(op) => op.to,
        Op::ConvInteger(op) => op.to,
        _ => return None,
    };
    let scale = context.constant_f32(node.inputs.get(5).copied().flatten()?)?;
    (to == DType::F32).then_some((node, scale))
}

fn with_result(node: &Node, to: DType) -> Option<Op> {
    match &node.operation {
        lathe_ir::Operation::Op(Op::MatMulInteger(_)) => Some(Op::MatMulInteger(MatMulInteger { to })),
        lathe_ir::Operation::Op(Op::ConvInteger(op)) => {
            Some(Op::ConvInteger(ConvInteger { to, ..op.clone() }))
        }
        _ => None,
    }
}
