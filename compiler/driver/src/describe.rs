//! Attributes as reports show them: what an op is, under the names of its field, from its attributes and the types of its operands.

use lathe_ir::{Function, Node, Operation};
use lathe_ops::Op;
use lathe_ops::position::RotaryEmbedding;
use serde_json::{Map, Value, json};

/// The attributes of a node.
pub(crate) fn attributes(function: &Function, node: &Node) -> Map<String, Value> {
    match &node.operation {
        Operation::Op(Op::RotaryEmbedding(op)) => rotary_embedding(function, node, op),
        Operation::Op(op) => op.attributes(),
        _ => Map::new(),
    }
}

/// `kind`, `dims` (elements of a head that are rotated), `base` and `scaling`, the last two null where the tables were not understood.
fn rotary_embedding(function: &Function, node: &Node, op: &RotaryEmbedding) -> Map<String, Value> {
    let x = node.inputs.first().copied().flatten();
    let width = x.and_then(|x| function.ty(x).dims.last()?.as_constant());
    let head_dim = width.map(|width| match op.heads {
        Some(heads) if x.is_some_and(|x| function.ty(x).rank() == 3) => width / (heads as i64).max(1),
        _ => width,
    });
    let dims = op.rotary_dim.filter(|dims| *dims > 0).map(|dims| dims as i64).or(head_dim);
    let kind = if op.interleaved { "interleaved" } else { "half" };
    let attributes = [
        ("kind", json!(kind)),
        ("dims", json!(dims)),
        ("base", json!(op.base)),
        ("scaling", json!(op.scaling)),
    ];
    attributes.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}
