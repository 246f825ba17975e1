//! `sum over the chosen experts e of weight_e * w_out[e] act(w_in[e] x) -> moe(x, logits, w_in, w_out)`
//!
//! The forms that exporters write. **Gathered**: the weights of the chosen experts are gathered for each token, the token is repeated for
//! each of them, and the weighted answers are summed. **Rows**: each expert in turn computes the tokens that a mask names, and its answers
//! are scattered to where they stand; a running count of the mask along the tokens, with a bound, is a capacity. **Dense**: every expert
//! computes every token, one after another or as products of stacks, and its answers are weighed by zero where it was not chosen, in a sum or a
//! product with the weights, as einsums have it; ones may have left only the tokens that chose it: what an
//! answer that is not finite would make of that is not kept. Sound because `moe`
//! computes the same choice (top-k of the same scores, ties by lower index as `top_k` has them) and the same sums. A softmax over the
//! chosen logits alone is a softmax over all of them, renormalised.
//!
//! Refuses, with the reason, where the router is not understood, where experts are taken by other indices than the router's,
//! where their weights are no constants, where an expert is missing, and where a value inside is used elsewhere.
//!
//! Sources: Fedus et al., "Switch transformers", 2021; Jiang et al., "Mixtral of experts", 2024; the technical reports of Qwen2,
//! DeepSeek-V3 and gpt-oss.

mod choice;
mod dense;
mod expert;
mod experts;
mod router;
mod rows;
mod stacked;
mod walk;
mod weights;

use lathe_ir::{Answer, Dim, NodeId, ValueId};
use lathe_ops::Op;
use lathe_ops::moe::Moe;
use lathe_ops::reduce::ReduceKind;
use lathe_ops::shape::{Reshape, Squeeze};

use crate::context::dims_equal;
use crate::{Context, Proposal, Rewrite, Rule, Term};
use experts::{Experts, Weight};
use router::Router;

pub(crate) struct MoeFusion;

impl Rule for MoeFusion {
    fn name(&self) -> &'static str {
        "fuse_moe"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let [output] = node.outputs[..] else { return Proposal::NoMatch };
        let forms = [gathered, rows::find, dense::find_sum, dense::find_stack, dense::find_product];
        let Some(experts) = forms.iter().find_map(|form| form(context, output)) else {
            return Proposal::NoMatch;
        };
        let found = experts.and_then(|experts| {
            let router = router::find(context, &experts)?;
            walk::closed(context, output, &experts, &router)?;
            emit(context, &node.name, output, &experts, &router)
        });
        found.unwrap_or_else(Proposal::Because)
    }
}

/// A sum over the choices of each token.
fn gathered(context: Context<'_>, output: ValueId) -> Option<Result<Experts, String>> {
    let (_, node, Op::Reduce(reduce)) = context.producer(output)? else { return None };
    let axes = matches!(reduce.axes.as_deref(), Some([1 | -2]));
    let sums = reduce.kind == ReduceKind::Sum && !reduce.keep_dims && axes;
    let terms = node.inputs.first().copied().flatten().filter(|_| sums)?;
    experts::find(context, terms)
}

fn emit(
    context: Context<'_>,
    name: &str,
    output: ValueId,
    experts: &Experts,
    router: &Router,
) -> Result<Proposal, String> {
    let op = Moe {
        experts: experts.count,
        top_k: experts.top_k,
        router: router.kind,
        renormalise: router.renormalise,
        epsilon: router.epsilon,
        scale: router.scale,
        groups: router.groups,
        capacity: experts.capacity,
        activation: experts.activation.clone(),
        gate: experts.gate,
        clamped: experts.clamped,
        transposed: experts.transposed,
        shared_experts: 0,
    };
    op.check()?;
    let mut rewrite = Rewrite::new(name);
    let (dims, logits) = (&context.ty(output).dims, &context.ty(router.logits).dims);
    let tokens = &logits[..logits.len() - 1];
    let x = shaped_as_tokens(context, &mut rewrite, experts.x, tokens)?;
    let weight = |rewrite: &mut Rewrite, weight: &Weight| match weight {
        Weight::Value(value) => Rewrite::value(*value),
        Weight::Stacked(tensor) => rewrite.constant(tensor.clone()),
    };
    let optional =
        |rewrite: &mut Rewrite, of: &Option<Weight>| of.as_ref().and_then(|of| weight(rewrite, of));
    let mut inputs = vec![
        x,
        Rewrite::value(router.logits),
        weight(&mut rewrite, &experts.w_in),
        weight(&mut rewrite, &experts.w_out),
        router.bias.and_then(Rewrite::value),
        optional(&mut rewrite, &experts.b_in),
        optional(&mut rewrite, &experts.b_out),
    ];
    while inputs.last().is_some_and(Option::is_none) {
        inputs.pop();
    }
    let mut moe = rewrite.node(Op::Moe(op), &inputs);
    let Some((_, answers)) = dims.split_last() else { return Err("the answer is a scalar".into()) };
    if !dims_equal(answers, tokens) {
        if Dim::product(answers).equals(&Dim::product(tokens)) != Answer::Yes {
            return Err("there are not as many answers as tokens".into());
        }
        moe = reshaped(context, &mut rewrite, moe, dims)?;
    }
    Ok(rewrite.replace(output, moe).assuming(router.assumption.clone()))
}

/// The tokens under the sizes of the logits.
fn shaped_as_tokens(
    context: Context<'_>,
    rewrite: &mut Rewrite,
    x: ValueId,
    tokens: &[Dim],
) -> Result<Term, String> {
    let dims = &context.ty(x).dims;
    let Some((width, lead)) = dims.split_last() else { return Err("the tokens are a scalar".into()) };
    if dims_equal(lead, tokens) {
        return Ok(Rewrite::value(x));
    }
    let Some((one, rest)) = lead.split_last() else { return Err("there is no token".into()) };
    if one.as_constant() == Some(1) && dims_equal(rest, tokens) {
        let squeeze = Squeeze { axes: Some(vec![rest.len() as i64]) };
        return Ok(rewrite.node(Op::Squeeze(squeeze), &[Rewrite::value(x)]));
    }
    if Dim::product(lead).equals(&Dim::product(tokens)) != Answer::Yes {
        return Err("there are not as many tokens as rows of logits".into());
    }
    let wanted: Vec<Dim> = tokens.iter().chain([width]).cloned().collect();
    reshaped(context, rewrite, Rewrite::value(x), &wanted)
}

fn reshaped(context: Context<'_>, rewrite: &mut Rewrite, x: Term, dims: &[Dim]) -> Result<Term, String> {
    if !context.from_inputs(dims) {
        return Err("the number of tokens depends on data".into());
    }
    let shape = rewrite.dims(dims);
    Ok(rewrite.node(Op::Reshape(Reshape { allow_zero: true }), &[x, shape]))
}
