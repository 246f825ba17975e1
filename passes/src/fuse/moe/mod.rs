//! `sum over the chosen experts e of weight_e * w_out[e] act(w_in[e] x) -> moe(x, logits, w_in, w_out)`
//!
//! The form that exporters write: the weights of the chosen experts are gathered for each token, the token is repeated for each of them, and the
//! weighted answers are summed. Sound because `moe` computes the same choice (top-k of the same scores, ties by lower index as
//! `top_k` has them) and the same sums. A softmax over the chosen logits alone is a softmax over all of them, renormalised.
//!
//! Refuses, with the reason, where the router is not understood, where experts are gathered by other indices than the router's,
//! where their weights are no constants, and where a value inside is used elsewhere.
//!
//! Sources: Jiang et al., "Mixtral of experts", 2024; the technical reports of Qwen2, DeepSeek-V3 and gpt-oss.

mod experts;
mod router;
mod walk;

use lathe_ir::NodeId;
use lathe_ops::Op;
use lathe_ops::moe::Moe;
use lathe_ops::reduce::ReduceKind;
use lathe_ops::shape::Squeeze;

use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct MoeFusion;

impl Rule for MoeFusion {
    fn name(&self) -> &'static str {
        "fuse_moe"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let Some((_, _, Op::Reduce(reduce))) = node.outputs.first().and_then(|y| context.producer(*y)) else {
            return Proposal::NoMatch;
        };
        let axes = matches!(reduce.axes.as_deref(), Some([1 | -2]));
        if reduce.kind != ReduceKind::Sum || reduce.keep_dims || !axes {
            return Proposal::NoMatch;
        }
        let (Some(Some(terms)), [output]) = (node.inputs.first().copied(), &node.outputs[..]) else {
            return Proposal::NoMatch;
        };
        let Some(experts) = experts::find(context, terms) else { return Proposal::NoMatch };
        let found = experts.and_then(|experts| {
            let router = router::find(context, &experts)?;
            walk::closed(context, *output, &experts, &router)?;
            Ok((experts, router))
        });
        let (experts, router) = match found {
            Ok(found) => found,
            Err(reason) => return Proposal::Because(reason),
        };
        let op = Moe {
            experts: experts.count,
            top_k: experts.top_k,
            router: router.kind,
            renormalise: router.renormalise,
            epsilon: router.epsilon,
            scale: router.scale,
            groups: router.groups,
            capacity: None,
            activation: experts.activation.clone(),
            gate: experts.gate,
            clamped: experts.clamped,
            transposed: experts.transposed,
            shared_experts: 0,
        };
        if let Err(reason) = op.check() {
            return Proposal::Because(reason);
        }
        let mut rewrite = Rewrite::new(&node.name);
        let x = match experts.repeated {
            true => rewrite.node(Op::Squeeze(Squeeze { axes: Some(vec![1]) }), &[Rewrite::value(experts.x)]),
            false => Rewrite::value(experts.x),
        };
        let optional = |value: Option<lathe_ir::ValueId>| value.and_then(Rewrite::value);
        let mut inputs = vec![
            x,
            Rewrite::value(router.logits),
            Rewrite::value(experts.w_in),
            Rewrite::value(experts.w_out),
            optional(router.bias),
            optional(experts.b_in),
            optional(experts.b_out),
        ];
        while inputs.last().is_some_and(Option::is_none) {
            inputs.pop();
        }
        let moe = rewrite.node(Op::Moe(op), &inputs);
        rewrite.replace(*output, moe)
    }
}
