//! Attributes of nodes as `inspect --json` shows them: facts by the names of the field, one function a family.

use lathe_ir::{Function, Node, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::attention::Attention;
use lathe_ops::position::RotaryEmbedding;
use serde_json::{Map, Value, json};

/// The operations of a function in order, as `inspect --json` shows them: `{op, name, attrs}`.
pub fn describe(function: &Function) -> Vec<Value> {
    let order = function.topological_order().unwrap_or_default();
    let nodes = order.into_iter().filter_map(|id| function.node(id));
    let shown = |node: &Node| json!({"op": node.operation.name(), "name": node.name, "attrs": attributes(function, node)});
    nodes.map(shown).collect()
}

/// The attributes of a node. Ops that `docs/JSON.md` does not name show those of the IR.
fn attributes(function: &Function, node: &Node) -> Map<String, Value> {
    match &node.operation {
        Operation::Op(Op::Attention(op)) => attention(function, node, op),
        Operation::Op(Op::RotaryEmbedding(op)) => rotary_embedding(function, node, op),
        Operation::Op(op) => op.attributes(),
        _ => Map::new(),
    }
}

/// `attention {causal, window, kv_heads, scale, softcap, sinks, alibi, bias, key_padding, cache}`.
fn attention(function: &Function, node: &Node, op: &Attention) -> Map<String, Value> {
    let input = |index: usize| node.inputs.get(index).copied().flatten();
    let given = |index: usize| input(index).is_some();
    let softcap = (op.softcap > 0.0).then_some(decimal(op.softcap));
    let scale =
        op.scale.map(decimal).or_else(|| Some(1.0 / (head_dim(function, input(0)?, op)? as f64).sqrt()));
    let facts = json!({
        "causal": op.causal,
        "window": window(op),
        "kv_heads": input(1).and_then(|keys| heads(function, keys, op.kv_heads)),
        "scale": scale,
        "softcap": softcap,
        "sinks": given(Attention::SINKS),
        "alibi": given(Attention::ALIBI_SLOPES),
        "bias": given(3),
        "key_padding": given(Attention::KEY_PADDING),
        "cache": "none",
    });
    match facts {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Keys that a causal query sees at most, itself included; for a window to both sides, as models count it, the two sides together.
fn window(op: &Attention) -> Option<usize> {
    match (op.left_window, op.right_window) {
        (Some(left), None) => Some(left.saturating_add(1)),
        (Some(left), Some(right)) => Some(left.saturating_add(right)),
        _ => None,
    }
}

fn heads(function: &Function, keys: ValueId, packed: Option<usize>) -> Option<i64> {
    match &function.ty(keys).dims[..] {
        [_, heads, _, _] => heads.as_constant(),
        _ => packed.and_then(|heads| i64::try_from(heads).ok()),
    }
}

fn head_dim(function: &Function, queries: ValueId, op: &Attention) -> Option<i64> {
    match (&function.ty(queries).dims[..], op.q_heads) {
        ([_, _, _, size], _) => size.as_constant(),
        ([_, _, hidden], Some(heads)) if heads > 0 => {
            Some(hidden.as_constant()? / i64::try_from(heads).ok()?)
        }
        _ => None,
    }
}

/// The shortest decimal of an f32.
fn decimal(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
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
