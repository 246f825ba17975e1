//! Two nodes that apply the same operation to the same values become one.
//!
//! Sound because operations have no effects. Constants with equal bytes count as the same value.

use lathe_ir::{FunctionId, Module, Operation, Source, ValueId};
use rustc_hash::FxHashMap;

use crate::PassError;
use crate::driver::{FunctionPass, PassReport};

/// Constants above this size are compared by identity only, in bytes.
const COMPARED_CONSTANT: usize = 4096;

pub(crate) struct CommonSubexpressions;

impl FunctionPass for CommonSubexpressions {
    fn name(&self) -> &'static str {
        "common_subexpressions"
    }

    fn run(
        &self,
        module: &mut Module,
        function: FunctionId,
        report: &mut PassReport,
    ) -> Result<(), PassError> {
        merge_constants(module, function);
        let order = module.function(function).topological_order().unwrap_or_default();
        let mut seen: FxHashMap<String, Vec<ValueId>> = FxHashMap::default();
        for id in order {
            let Some(node) = module.function(function).node(id) else { continue };
            let Some(key) = key(&node.operation, &node.inputs, node.outputs.len()) else { continue };
            let outputs = node.outputs.clone();
            match seen.get(&key) {
                None => drop(seen.insert(key, outputs)),
                Some(first) => {
                    let name = node.name.clone();
                    for (old, new) in outputs.into_iter().zip(first.clone()) {
                        module.unify(function, old, new);
                        module.function_mut(function).replace_uses(old, new);
                    }
                    module.function_mut(function).remove_node(id);
                    report.applied.push(name);
                }
            }
        }
        Ok(())
    }
}

/// Operation, attributes and operands as text; `None` where functions would have to be compared.
fn key(operation: &Operation, inputs: &[Option<ValueId>], outputs: usize) -> Option<String> {
    match operation {
        Operation::Op(op) => Some(format!("{op:?} {inputs:?} {outputs}")),
        // Operands only bind symbols: equal elements are equal whatever binds them.
        Operation::Dims { elements, scalar } => Some(format!("dims {elements:?} {scalar}")),
        Operation::If { .. } | Operation::Loop { .. } | Operation::Region { .. } => None,
    }
}

fn merge_constants(module: &mut Module, function: FunctionId) {
    let mut seen: FxHashMap<(String, Vec<u8>), ValueId> = FxHashMap::default();
    let mut replacements = Vec::new();
    let body = module.function(function);
    let mut used: Vec<ValueId> = body
        .node_ids()
        .filter_map(|id| body.node(id))
        .flat_map(|node| node.inputs.iter().flatten().copied())
        .collect();
    used.sort();
    used.dedup();
    for id in used {
        let Source::Constant(constant) = body.value(id).source else { continue };
        let constant = module.constant(constant);
        if constant.tensor.bytes().len() > COMPARED_CONSTANT || constant.tensor.strings().is_ok() {
            continue;
        }
        // The value's type too: equal blocks may stand for tensors of different shapes.
        let ty = format!("{} {} {:?}", body.ty(id), constant.tensor.dtype(), constant.encoding);
        match seen.entry((ty, constant.tensor.bytes().to_vec())) {
            std::collections::hash_map::Entry::Vacant(entry) => drop(entry.insert(id)),
            std::collections::hash_map::Entry::Occupied(entry) => replacements.push((id, *entry.get())),
        }
    }
    for (old, new) in replacements {
        module.function_mut(function).replace_uses(old, new);
    }
}
