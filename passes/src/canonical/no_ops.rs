//! `x + 0`, `x * 1`, `reshape(x, its own shape)`, `transpose(x, identity)`, ... become `x`
//!
//! Arithmetic no-ops are dropped only where they cannot change the shape by broadcasting and hold for every
//! element: `x + (-0.0)` and `x - 0` always, `x + 0.0` too (it turns -0 into +0, which compares equal), `x * 1`, `x / 1`, `x ^ 1`.
//! Refuses an operand that broadcasts `x` up.

use lathe_ir::{Answer, Node, NodeId, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Unary};

use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct NoOps;

impl Rule for NoOps {
    fn name(&self) -> &'static str {
        "no_ops"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let (Operation::Op(op), Some(Some(first))) = (&node.operation, node.inputs.first()) else {
            return Proposal::NoMatch;
        };
        let Some(output) = node.outputs.first() else { return Proposal::NoMatch };
        let Some(kept) = kept_operand(context, node, op, *first) else { return Proposal::NoMatch };
        let (old, new) = (context.ty(*output), context.ty(kept));
        if old.dtype != new.dtype {
            return Proposal::NoMatch;
        }
        if !context.same_dims(*output, kept) {
            let arithmetic = matches!(op, Op::Binary(_));
            let reason = "the other operand broadcasts the value up";
            return if arithmetic { Proposal::because(reason) } else { Proposal::NoMatch };
        }
        Rewrite::new(&node.name).replace(*output, Rewrite::value(kept))
    }
}

/// The operand that the node may just pass on, if the sizes agree.
fn kept_operand(context: Context<'_>, node: &Node, op: &Op, first: ValueId) -> Option<ValueId> {
    let second = node.inputs.get(1).copied().flatten();
    match op {
        Op::Unary(Unary::Identity)
        | Op::Cast(_)
        | Op::Expand(_)
        | Op::Tile(_)
        | Op::Squeeze(_)
        | Op::Unsqueeze(_) => Some(first),
        // Equal sizes mean equal elements only because a reshape keeps their order.
        Op::Reshape(_) => Some(first),
        Op::Transpose(transpose) => {
            let identity = transpose.perm.iter().enumerate().all(|(axis, from)| axis == *from);
            identity.then_some(first)
        }
        Op::Concat(_) => (node.inputs.len() == 1).then_some(first),
        Op::Split(split) => (split.outputs == 1).then_some(first),
        Op::Slice(_) => is_whole_slice(context, node).then_some(first),
        Op::Pad(_) => {
            let pads = context.body().value(second?).known.as_ref()?;
            pads.iter().all(|pad| pad.as_constant() == Some(0)).then_some(first)
        }
        Op::Binary(kind) => neutral(context, *kind, first, second?),
        _ => None,
    }
}

/// A slice that starts at 0 with step 1; equal sizes then mean that it keeps everything.
fn is_whole_slice(context: Context<'_>, node: &Node) -> bool {
    let all = |input: usize, value: i64| {
        let known = node
            .inputs
            .get(input)
            .copied()
            .flatten()
            .and_then(|value| context.body().value(value).known.clone());
        known.is_some_and(|known| known.iter().all(|dim| dim.equals(&value.into()) == Answer::Yes))
    };
    all(1, 0) && all(4, 1)
}

fn neutral(context: Context<'_>, kind: Binary, first: ValueId, second: ValueId) -> Option<ValueId> {
    let is = |value: ValueId, scalar: f64| context.scalar(value) == Some(scalar);
    match kind {
        Binary::Add if is(second, 0.0) => Some(first),
        Binary::Add if is(first, 0.0) => Some(second),
        Binary::Mul if is(second, 1.0) => Some(first),
        Binary::Mul if is(first, 1.0) => Some(second),
        Binary::Sub if is(second, 0.0) => Some(first),
        Binary::Div | Binary::Pow if is(second, 1.0) => Some(first),
        _ => None,
    }
}
