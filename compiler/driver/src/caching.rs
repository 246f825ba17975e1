//! What the report says about the cache of keys and values: who made it, or why there is none.

use std::collections::BTreeMap;

use lathe_artifact::plan::{Plan, StateKind};
use lathe_ir::{Module, Source};
use lathe_passes::Report;
use serde_json::{Map, Value, json};

/// Name of the pass that makes `decode`.
pub(crate) const PASS: &str = "cache";

/// `adopted` from past inputs, `synthesised`, or `none`.
fn kind(module: &Module) -> &'static str {
    let Some(main) = module.main().filter(|_| module.function_named("decode").is_some()) else {
        return "none";
    };
    let body = module.function(main);
    let mut names = body.inputs().iter().filter_map(|&input| body.value(input).name.as_deref());
    if names.any(lathe_passes::is_past) { "adopted" } else { "synthesised" }
}

/// `{kind, refused: [{node, reason}], bytes_per_token, states: [...]}`.
pub(crate) fn report(module: &Module, passes: &Report, decode: Option<&Plan>) -> Value {
    let refused = passes.passes.iter().filter(|pass| pass.name == PASS).flat_map(|pass| &pass.refused);
    let refused: Vec<_> = refused.map(|(node, reason)| json!({"node": node, "reason": reason})).collect();
    let states = decode.into_iter().flat_map(|plan| &plan.states).map(|state| {
        json!({
            "layer": state.layer,
            "kind": match state.kind { StateKind::Kv => "kv", StateKind::Cross => "cross" },
            "kv_heads": state.kv_heads,
            "qk_head_dim": state.qk_head_dim,
            "v_head_dim": state.v_head_dim,
            "window": state.window,
            "dtype": state.dtype.name(),
        })
    });
    json!({
        "kind": kind(module),
        "refused": refused,
        "bytes_per_token": decode.map_or(0, Plan::kv_bytes_per_token),
        "states": states.collect::<Vec<_>>(),
        "regimes": decode.map_or(Vec::new(), |plan| plan.regimes.iter().map(|regime| regime.boundary).collect()),
    })
}

/// Writes `cache` into the attributes of the attentions among the nodes of all functions. Those of `main` have the names of
/// those of `decode` that stand for them; the encoder's have none.
pub(crate) fn annotate(module: &Module, nodes: &mut Map<String, Value>) {
    let cached = attentions(module);
    for (function, list) in nodes.iter_mut() {
        let entry = function == "main" || function == "decode";
        for node in list.as_array_mut().into_iter().flatten() {
            let attends = matches!(node["op"].as_str(), Some("attention" | "paged_attention"));
            let kind = node["name"].as_str().and_then(|name| cached.get(name)).filter(|_| entry);
            let kind = kind.copied().unwrap_or("none");
            if let Some(attributes) = node["attrs"].as_object_mut().filter(|_| attends) {
                attributes.insert("cache".to_string(), json!(kind));
            }
        }
    }
}

/// The attentions of `decode` by name: over what they keep, or over the encoder's output.
fn attentions(module: &Module) -> BTreeMap<&str, &'static str> {
    let Some(decode) = module.function_named("decode") else { return BTreeMap::new() };
    let (body, kind) = (module.function(decode), kind(module));
    let nodes = body.node_ids().filter_map(|id| body.node(id));
    let paged = nodes.filter(|node| node.operation.name() == "paged_attention");
    let named = paged.filter_map(|node| {
        let state = node.inputs.get(1).copied().flatten()?;
        let input = matches!(body.value(state).source, Source::Input(_));
        Some((node.name.as_str(), if input { "cross" } else { kind }))
    });
    named.collect()
}
