//! `--kv-heads N`: fewer key and value heads by their means, and what that changes.

use std::path::Path;

use lathe_ir::{EvaluateOptions, Module, Operation};
use lathe_ops::Op;
use lathe_passes::{HeadMerging, Report};
use lathe_tensor::Tensor;
use serde_json::{Value, json};

use crate::CompileError;
use crate::verify::{Difference, Verification, compare};

/// The pass that makes means of heads.
pub(crate) const PASS: &str = "pool_kv_heads";

/// The module before and after heads were merged.
#[derive(Default)]
pub(crate) struct Pooling {
    before: Option<Module>,
    after: Option<Module>,
}

impl Pooling {
    /// Keeps the module as it was last before the pass, and as it was after it.
    pub(crate) fn see(&mut self, pass: &str, module: &Module) {
        if pass == PASS {
            self.after = Some(module.clone());
        } else if self.after.is_none() {
            self.before = Some(module.clone());
        }
    }

    /// The measured difference of the answers on typed random inputs and the cache's saving.
    ///
    /// # Errors
    /// [`CompileError::Heads`] where no attention could be changed, [`CompileError::Evaluate`] where the graph does not evaluate.
    pub(crate) fn report(self, path: &Path, kv_heads: usize, passes: &Report) -> Result<Value, CompileError> {
        let (Some(before), Some(after)) = (self.before, self.after) else {
            let refused =
                passes.passes.iter().filter(|pass| pass.name == PASS).flat_map(|pass| &pass.refused);
            let reasons: Vec<String> = refused.map(|(node, reason)| format!("`{node}`: {reason}")).collect();
            let reason = match reasons.is_empty() {
                true => "no attention has more".to_string(),
                false => reasons.join("; "),
            };
            return Err(CompileError::Heads { path: path.to_path_buf(), kv_heads, reason });
        };
        let difference = difference(path, &before, &after)?;
        let [bytes_before, bytes_after] = [&before, &after].map(cache_bytes_per_token);
        Ok(json!({
            "kv_heads": kv_heads,
            "layers": passes.passes.iter().filter(|pass| pass.name == PASS).map(|pass| pass.applied.len()).sum::<usize>(),
            "max_abs": difference.max_abs,
            "max_rel": difference.max_rel,
            "cache_bytes_per_token_before": bytes_before,
            "cache_bytes_per_token_after": bytes_after,
        }))
    }
}

/// The passes with that of the heads before those that make functions of its result.
pub(crate) fn passes(merging: &HeadMerging) -> Vec<lathe_passes::Pass<'_>> {
    let mut passes: Vec<lathe_passes::Pass<'_>> = lathe_passes::standard();
    let place = passes.iter().position(|pass| pass.name() == "gqa").map_or(passes.len(), |place| place + 1);
    passes.insert(place, lathe_passes::Pass::Rule(merging));
    passes
}

fn difference(path: &Path, before: &Module, after: &Module) -> Result<Difference, CompileError> {
    let fail = |reason: String| CompileError::Evaluate { path: path.to_path_buf(), reason };
    let verification = Verification::of_module(before.clone(), path, 0)?;
    let main = after.main().ok_or_else(|| fail("the module has no functions".to_string()))?;
    let mut worst = Difference::default();
    for round in &verification.rounds {
        let inputs: Vec<Tensor> = round.inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
        let actual = lathe_ir::evaluate(after, main, &inputs, &EvaluateOptions::default())
            .map_err(|error| fail(error.to_string()))?;
        worst = worst.worse(compare(&round.expected, &actual));
    }
    Ok(worst)
}

/// `heads * (key size + value size) * 4` over the attention of `main`.
fn cache_bytes_per_token(module: &Module) -> i64 {
    let Some(body) = module.main().map(|main| module.function(main)) else { return 0 };
    let nodes = body.node_ids().filter_map(|id| body.node(id));
    let attention = nodes.filter(|node| matches!(node.operation, Operation::Op(Op::Attention(_))));
    let row = |value| match &body.ty(value).dims[..] {
        [_, heads, _, size] => {
            heads.as_constant().zip(size.as_constant()).map_or(0, |(heads, size)| heads * size * 4)
        }
        _ => 0,
    };
    attention.flat_map(|node| node.inputs.iter().skip(1).take(2).flatten()).map(|value| row(*value)).sum()
}
