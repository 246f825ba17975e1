//! `quantize_linear(transpose(dequantize_linear(x))) -> transpose(x)`: what moves elements or takes the larger moves integers as well
//!
//! Sound where both maps are one map by one scale: `round((q - z) * s / s) + z` is `q`, for the product and the quotient of a small integer are off by
//! less than a half, and the order of elements is that of their integers. A `concat` quantises its operands instead, which is the same element
//! by element, so that those with the map of the result need none.
//!
//! Refuses maps that differ.

use lathe_ir::{Node, NodeId, Operation};
use lathe_ops::Op;

use super::maps::Map;
use crate::rewrite::Term;
use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct IntegerMovement;

impl Rule for IntegerMovement {
    fn name(&self) -> &'static str {
        "qdq_movement"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let ([output], Some(Some(x))) = (&node.outputs[..], node.inputs.first()) else {
            return Proposal::NoMatch;
        };
        let Some(Ok(map)) = Map::quantized(context, &node.operation, &node.inputs) else {
            return Proposal::NoMatch;
        };
        if !map.is_bytes() || map.one_scale().is_none() {
            return Proposal::NoMatch;
        }
        let mut rewrite = Rewrite::new(&node.name);
        // Without anything between.
        if let Some(Ok(source)) = Map::dequantized(context, *x) {
            return match source.is_same(&map) {
                true => rewrite.replace(*output, Rewrite::value(source.x)),
                false => Proposal::NoMatch,
            };
        }
        let Some((_, mover, op)) = context.producer(*x) else { return Proposal::NoMatch };
        let mut inputs: Vec<Term> = mover.inputs.iter().map(|input| input.and_then(Rewrite::value)).collect();
        match op {
            Op::Concat(_) => {
                if !context.single_use(*x) {
                    return Proposal::NoMatch;
                }
                let parts: Vec<_> = mover
                    .inputs
                    .iter()
                    .flatten()
                    .filter_map(|part| Map::dequantized(context, *part)?.ok())
                    .collect();
                if parts.len() != mover.inputs.len() {
                    return Proposal::NoMatch;
                }
                for (input, part) in inputs.iter_mut().zip(&parts) {
                    *input = match part.is_same(&map) {
                        true => Rewrite::value(part.x),
                        false => requantised(&mut rewrite, node, *input),
                    };
                }
            }
            _ if moves(op) && mover.outputs.len() == 1 => {
                let Some(Some(moved)) = mover.inputs.first() else { return Proposal::NoMatch };
                let Some(Ok(source)) = Map::dequantized(context, *moved) else { return Proposal::NoMatch };
                if !source.is_same(&map) {
                    return Proposal::because("the integers before and after are others");
                }
                inputs[0] = Rewrite::value(source.x);
            }
            _ => return Proposal::NoMatch,
        }
        let new = rewrite.node(op.clone(), &inputs);
        rewrite.replace(*output, new)
    }
}

/// The quantising node for another operand.
fn requantised(rewrite: &mut Rewrite, node: &Node, x: Term) -> Term {
    let mut inputs: Vec<Term> = node.inputs.iter().map(|input| input.and_then(Rewrite::value)).collect();
    inputs[0] = x;
    let Operation::Op(op) = &node.operation else { return None };
    rewrite.node(op.clone(), &inputs)
}

/// Ops of which each element of the result is an element of operand 0, by places and order alone.
fn moves(op: &Op) -> bool {
    matches!(
        op,
        Op::Reshape(_)
            | Op::Squeeze(_)
            | Op::Unsqueeze(_)
            | Op::Transpose(_)
            | Op::Slice(_)
            | Op::Gather(_)
            | Op::GatherElements(_)
            | Op::GatherNd(_)
            | Op::Expand(_)
            | Op::Tile(_)
            | Op::MaxPool(_)
    )
}
