//! Sizes that only the run knows, once it turns out what they are: their symbols are replaced everywhere.

use rustc_hash::FxHashMap;

use crate::{Dim, Function, FunctionId, Guard, GuardCondition, Module, NodeId, Operation, Symbol, ValueId};

impl Module {
    /// Makes the types of a module agree that `new` stands for `old`, two values of one function with equal elements: a symbol that was
    /// a size of `old` and of no input is replaced by the size that `new` has there. Without it types would name a symbol
    /// that no node binds any more once `old` is gone.
    pub fn unify(&mut self, function: FunctionId, old: ValueId, new: ValueId) {
        let body = self.function(function);
        let mut with: FxHashMap<Symbol, Dim> = FxHashMap::default();
        for (before, after) in body.ty(old).dims.iter().zip(&body.ty(new).dims) {
            let Some(symbol) = before.as_symbol().filter(|_| before != after) else { continue };
            let circular = after.symbols().contains(symbol);
            if !circular && !self.is_input_symbol(symbol) {
                with.entry(symbol.clone()).or_insert_with(|| after.clone());
            }
        }
        // `u1` for `u2` and `u2` for `u1` would only swap them.
        let chained = with.values().any(|dim| dim.symbols().iter().any(|symbol| with.contains_key(*symbol)));
        if !with.is_empty() && !chained {
            let ids: Vec<_> = self.functions().map(|(id, _)| id).collect();
            for id in ids {
                self.function_mut(id).substitute(&with);
            }
        }
    }
}

impl Function {
    fn substitute(&mut self, with: &FxHashMap<Symbol, Dim>) {
        let replaced = |dim: &Dim| dim.substitute(&|symbol| with.get(symbol).cloned());
        let guard = |guard: &mut Guard| {
            let (GuardCondition::Equal(a, b)
            | GuardCondition::AtLeast(a, b)
            | GuardCondition::Broadcastable(a, b)) = &mut guard.condition;
            (*a, *b) = (replaced(a), replaced(b));
        };
        for index in 0..self.value_count() as u32 {
            let value = self.value_mut(ValueId(index));
            value.ty.dims = value.ty.dims.iter().map(replaced).collect();
            if let Some(known) = value.known.take() {
                value.known = Some(known.iter().map(replaced).collect());
            }
        }
        self.guards_mut().iter_mut().for_each(guard);
        let ids: Vec<NodeId> = self.node_ids().collect();
        for id in ids {
            let Some(node) = self.node_mut(id) else { continue };
            node.guards.iter_mut().for_each(guard);
            if let Operation::Dims { elements, .. } = &mut node.operation {
                *elements = elements.iter().map(replaced).collect();
            }
        }
    }
}
