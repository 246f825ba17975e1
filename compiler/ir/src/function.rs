//! Functions: a graph of operations with ordered inputs and typed outputs.

use std::sync::Arc;

use lathe_tensor::value::Composites;
use rustc_hash::FxHashSet;

use crate::graph::Graph;
use crate::{ConstantId, Dim, NodeId, Operation, Symbol, ValueId, ValueType};

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Input of this index.
    Input(usize),
    /// A constant of the module.
    Constant(ConstantId),
    /// Output of this index of a node.
    Node(NodeId, usize),
}

/// A value of a function.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its type.
    pub ty: ValueType,
    /// Where it comes from.
    pub source: Source,
    /// Its name in the model file, or of the input.
    pub name: Option<String>,
    /// The elements of a small i64/i32 tensor that carries sizes, where they are known as [`Dim`]s.
    pub known: Option<Arc<[Dim]>>,
}

/// An application of an operation.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it does.
    pub operation: Operation,
    /// Operands; `None` where an optional one is missing.
    pub inputs: Vec<Option<ValueId>>,
    /// Results.
    pub outputs: Vec<ValueId>,
    /// Its name in the model file: for messages and printed comments.
    pub name: String,
    /// What must hold for the sizes, as inference derived it.
    pub guards: Vec<Guard>,
}

/// A condition on sizes that inference could not decide: checked at run time, once a shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Guard {
    /// What must hold.
    pub condition: GuardCondition,
    /// What the failure means: "inner dims of matmul".
    pub reason: String,
}

/// The condition of a guard.
#[derive(Clone, Debug, PartialEq)]
pub enum GuardCondition {
    /// `a == b`.
    Equal(Dim, Dim),
    /// `a == b`, or either is 1.
    Broadcastable(Dim, Dim),
    /// `a >= b`.
    AtLeast(Dim, Dim),
}

/// A graph of operations.
#[derive(Clone, Debug)]
pub struct Function {
    name: String,
    values: Vec<Value>,
    users: Vec<Vec<NodeId>>,
    inputs: Vec<ValueId>,
    outputs: Vec<(String, ValueId)>,
    /// Conditions on the inputs themselves: the same real name twice.
    guards: Vec<Guard>,
    /// Inputs and outputs that are parts of other values.
    composites: Composites,
    graph: Graph,
}

impl Function {
    /// An empty function. [`crate::Module::add_function`] changes a name that another function has.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            values: Vec::new(),
            users: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            guards: Vec::new(),
            composites: Composites::default(),
            graph: Graph::default(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn rename(&mut self, name: String) {
        self.name = name;
    }

    /// Its inputs in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Its outputs in order, with their names.
    pub fn outputs(&self) -> &[(String, ValueId)] {
        &self.outputs
    }

    /// Conditions on the inputs.
    pub fn guards(&self) -> &[Guard] {
        &self.guards
    }

    pub(crate) fn guards_mut(&mut self) -> &mut [Guard] {
        &mut self.guards
    }

    /// Inputs and outputs that together are sequences, optionals or maps.
    pub fn composites(&self) -> &Composites {
        &self.composites
    }

    /// The same, for builders.
    pub fn composites_mut(&mut self) -> &mut Composites {
        &mut self.composites
    }

    /// Adds a condition on the inputs.
    pub fn add_guard(&mut self, guard: Guard) {
        self.guards.push(guard);
    }

    /// The value with this id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The same, for editing its name or known elements.
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.index()]
    }

    /// The type of a value.
    pub fn ty(&self, id: ValueId) -> &ValueType {
        &self.value(id).ty
    }

    /// Number of value ids ever made; every id is below it.
    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    /// The node with this id; `None` once it was removed.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.graph.get(id)
    }

    /// Number of nodes.
    pub fn node_count(&self) -> usize {
        self.graph.len()
    }

    /// Ids of the nodes in no particular order.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.graph.ids()
    }

    /// Nodes in topological order, ties by id; `None` if there is a cycle.
    pub fn topological_order(&self) -> Option<Vec<NodeId>> {
        self.graph.topological_order()
    }

    /// The nodes that use a value, one entry a use, in no particular order.
    pub fn users(&self, id: ValueId) -> &[NodeId] {
        &self.users[id.index()]
    }

    /// Whether the function returns the value.
    pub fn is_output(&self, id: ValueId) -> bool {
        self.outputs.iter().any(|(_, output)| *output == id)
    }

    /// The node that makes the value, where one does.
    pub fn producer(&self, id: ValueId) -> Option<(NodeId, &Node)> {
        match self.value(id).source {
            Source::Node(node, _) => self.graph.get(node).map(|data| (node, data)),
            _ => None,
        }
    }

    /// A symbol of these sizes that neither the function's inputs have nor stands alone as a size of one of the operands.
    pub(crate) fn symbol_without_source<'a>(
        &self,
        dims: &'a [Dim],
        operands: &[Option<ValueId>],
    ) -> Option<&'a Symbol> {
        let bound = |symbol: &Symbol| {
            let mut inputs = self.inputs.iter().flat_map(|input| &self.ty(*input).dims);
            let mut sizes = operands.iter().flatten().flat_map(|operand| &self.ty(*operand).dims);
            inputs.any(|dim| dim.symbols().contains(symbol))
                || sizes.any(|dim| dim.as_symbol() == Some(symbol))
        };
        dims.iter().flat_map(|dim| dim.symbols()).find(|symbol| !bound(symbol))
    }

    /// Values whose sizes bind the symbols of these dims that the function's inputs do not: the operands of a `dims` node with these
    /// elements. `None` where nothing of this function has such a size.
    pub fn binders(&self, dims: &[Dim]) -> Option<Vec<ValueId>> {
        let mut found = Vec::new();
        while let Some(symbol) =
            self.symbol_without_source(dims, &found.iter().copied().map(Some).collect::<Vec<_>>())
        {
            let ids = (0..self.values.len() as u32).map(ValueId);
            let made = |id: &ValueId| {
                !matches!(self.value(*id).source, Source::Constant(_))
                    && self.ty(*id).dims.iter().any(|dim| dim.as_symbol() == Some(symbol))
                    && (self.producer(*id).is_some() || self.inputs.contains(id))
            };
            found.push({ ids }.find(made)?);
        }
        Some(found)
    }

    /// Adds an input.
    pub fn add_input(&mut self, name: impl Into<String>, ty: ValueType) -> ValueId {
        let id = self.add_value(ty, Source::Input(self.inputs.len()), Some(name.into()));
        self.inputs.push(id);
        id
    }

    /// A value for a constant of the module; `ty` is its type.
    pub fn add_constant(&mut self, constant: ConstantId, ty: ValueType, name: Option<String>) -> ValueId {
        self.add_value(ty, Source::Constant(constant), name)
    }

    /// Adds an output.
    pub fn add_output(&mut self, name: impl Into<String>, value: ValueId) {
        self.outputs.push((name.into(), value));
    }

    /// Adds a node whose output types are known already. [`crate::Module`]-level builders infer them.
    pub fn add_typed_node(
        &mut self,
        operation: Operation,
        inputs: Vec<Option<ValueId>>,
        types: Vec<ValueType>,
        name: impl Into<String>,
    ) -> NodeId {
        let node = Node {
            operation,
            inputs: inputs.clone(),
            outputs: Vec::new(),
            name: name.into(),
            guards: Vec::new(),
        };
        let id = self.graph.add(node);
        for value in inputs.into_iter().flatten() {
            self.connect(value, id);
        }
        let outputs: Vec<_> = types
            .into_iter()
            .enumerate()
            .map(|(index, ty)| self.add_value(ty, Source::Node(id, index), None))
            .collect();
        if let Some(node) = self.graph.get_mut(id) {
            node.outputs = outputs;
        }
        id
    }

    /// Makes every use of `old`, as operand and as output, a use of `new`.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        self.replace_uses_except(old, new, &FxHashSet::default());
    }

    /// The same, but for the uses by the nodes in `keep`.
    pub(crate) fn replace_uses_except(&mut self, old: ValueId, new: ValueId, keep: &FxHashSet<NodeId>) {
        if old == new {
            return;
        }
        let source = self.value(old).source;
        let (kept, moved): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.users[old.index()]).into_iter().partition(|user| keep.contains(user));
        self.users[old.index()] = kept;
        // The newest user first: its edge is the first that the graph finds.
        if let Source::Node(producer, _) = source {
            for user in moved.iter().rev() {
                self.graph.disconnect(producer, *user);
            }
        }
        for user in moved {
            if let Some(operand) = self
                .graph
                .get_mut(user)
                .and_then(|node| node.inputs.iter_mut().find(|operand| **operand == Some(old)))
            {
                *operand = Some(new);
                self.connect(new, user);
            }
        }
        for (_, output) in &mut self.outputs {
            if *output == old {
                *output = new;
            }
        }
    }

    /// Removes those of the nodes that are dead, and what dies with them; the number removed.
    pub(crate) fn remove_dead(&mut self, mut candidates: Vec<NodeId>) -> usize {
        let returned: FxHashSet<_> = self.outputs.iter().map(|(_, value)| *value).collect();
        let mut removed = 0;
        while let Some(id) = candidates.pop() {
            let Some(node) = self.graph.get(id) else { continue };
            let used = |value: &ValueId| !self.users[value.index()].is_empty() || returned.contains(value);
            if node.outputs.iter().any(used) {
                continue;
            }
            let inputs = node.inputs.clone();
            self.detach(id);
            removed += 1;
            for value in inputs.into_iter().flatten() {
                if let Source::Node(producer, _) = self.value(value).source {
                    candidates.push(producer);
                }
            }
        }
        removed
    }

    /// Takes back nodes that nobody but one another uses, and all values from `values` on.
    pub(crate) fn roll_back(&mut self, nodes: &[NodeId], values: usize) {
        for id in nodes.iter().rev() {
            self.detach(*id);
        }
        self.values.truncate(values);
        self.users.truncate(values);
    }

    /// Removes a node whose outputs nobody uses; `false` where they are used.
    pub fn remove_node(&mut self, id: NodeId) -> bool {
        let Some(node) = self.graph.get(id) else { return false };
        let used =
            node.outputs.iter().any(|output| !self.users(*output).is_empty() || self.is_output(*output));
        if used {
            return false;
        }
        self.detach(id);
        true
    }

    /// Removes a node and its uses of other values.
    fn detach(&mut self, id: NodeId) {
        let Some(node) = self.graph.remove(id) else { return };
        for value in node.inputs.into_iter().flatten() {
            let users = &mut self.users[value.index()];
            if let Some(position) = users.iter().rposition(|user| *user == id) {
                users.swap_remove(position);
            }
        }
    }

    /// The node with this id, for editing its guards or name. Operands are edited through [`Self::replace_uses`].
    pub fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.graph.get_mut(id)
    }

    fn connect(&mut self, value: ValueId, user: NodeId) {
        self.users[value.index()].push(user);
        if let Source::Node(producer, _) = self.value(value).source {
            self.graph.connect(producer, user);
        }
    }

    fn add_value(&mut self, ty: ValueType, source: Source, name: Option<String>) -> ValueId {
        self.values.push(Value { ty, source, name, known: None });
        self.users.push(Vec::new());
        ValueId(self.values.len() as u32 - 1)
    }
}
