//! Edits: what a rewrite proposes and [`Module::apply`] carries out.

use lathe_tensor::Tensor;
use rustc_hash::FxHashSet;

use crate::{Answer, ConstantId, FunctionId, IrError, Module, NodeId, Operation, ValueId};

/// A value that an edit refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EditValue {
    /// A value of the function.
    Existing(ValueId),
    /// A new constant: index into the edit's constants.
    Constant(usize),
    /// An output of a new node.
    Node {
        /// Index into the edit's nodes.
        node: usize,
        /// Index of the output.
        output: usize,
    },
}

impl From<ValueId> for EditValue {
    fn from(id: ValueId) -> Self {
        EditValue::Existing(id)
    }
}

#[derive(Clone, Debug)]
struct NewNode {
    operation: Operation,
    inputs: Vec<Option<EditValue>>,
    outputs: usize,
    name: String,
}

#[derive(Clone, Debug)]
enum NewConstant {
    Tensor(Tensor, Option<String>),
    Shared(ConstantId),
}

/// New nodes and constants, and the values that they replace. Nothing happens before [`Module::apply`].
#[derive(Clone, Debug, Default)]
pub struct Edit {
    nodes: Vec<NewNode>,
    constants: Vec<NewConstant>,
    replacements: Vec<(ValueId, EditValue)>,
}

impl Edit {
    /// An edit that does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// An edit that only replaces a value by another.
    pub fn replacing(old: ValueId, new: impl Into<EditValue>) -> Self {
        let mut edit = Self::new();
        edit.replace(old, new);
        edit
    }

    /// A new dense constant.
    pub fn constant(&mut self, tensor: Tensor, name: Option<String>) -> EditValue {
        self.constants.push(NewConstant::Tensor(tensor, name));
        EditValue::Constant(self.constants.len() - 1)
    }

    /// A constant that the module has already.
    pub fn shared_constant(&mut self, id: ConstantId) -> EditValue {
        self.constants.push(NewConstant::Shared(id));
        EditValue::Constant(self.constants.len() - 1)
    }

    /// A new node with any number of outputs and optional operands.
    pub fn node(
        &mut self,
        operation: impl Into<Operation>,
        inputs: &[Option<EditValue>],
        outputs: usize,
        name: &str,
    ) -> Vec<EditValue> {
        let node = self.nodes.len();
        self.nodes.push(NewNode {
            operation: operation.into(),
            inputs: inputs.to_vec(),
            outputs,
            name: name.to_string(),
        });
        (0..outputs).map(|output| EditValue::Node { node, output }).collect()
    }

    /// A new node with one output whose operands are all there.
    pub fn op(&mut self, operation: impl Into<Operation>, inputs: &[EditValue], name: &str) -> EditValue {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.node(operation, &inputs, 1, name);
        EditValue::Node { node: self.nodes.len() - 1, output: 0 }
    }

    /// All uses of `old`, but for those by the new nodes, become uses of `new`.
    pub fn replace(&mut self, old: ValueId, new: impl Into<EditValue>) {
        self.replacements.push((old, new.into()));
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.replacements.is_empty()
    }
}

/// What [`Module::apply`] did.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// The new nodes that are used.
    pub added: Vec<NodeId>,
    /// The values that were replaced, with what replaced them.
    pub replaced: Vec<(ValueId, ValueId)>,
    /// Number of nodes that became dead and were removed.
    pub removed: usize,
}

impl Module {
    /// Carries out an edit: adds its nodes with inferred types, replaces uses, removes what became dead.
    ///
    /// A value that replaces another has its dtype and rank, and no size that is provably different; sizes that are better
    /// known are welcome. That the graph stays acyclic is checked by [`crate::verify`], once a pass and not once an edit.
    ///
    /// # Errors
    /// Those of [`Module::add_node`], and types that do not agree. The module is unchanged then.
    pub fn apply(&mut self, function: FunctionId, edit: Edit) -> Result<Applied, IrError> {
        self.check_ids(function, &[])?;
        let mark = (self.constants_len(), self.function(function).value_count(), self.fresh_symbols);
        let mut added = Vec::new();
        let replaced = self.stage(function, edit, &mut added);
        let replaced = match replaced {
            Ok(replaced) => replaced,
            Err(error) => {
                self.function_mut(function).roll_back(&added, mark.1);
                self.truncate_constants(mark.0);
                self.fresh_symbols = mark.2;
                return Err(error);
            }
        };
        for &(old, new) in &replaced {
            self.unify(function, old, new);
        }
        let keep: FxHashSet<_> = added.iter().copied().collect();
        let target = self.function_mut(function);
        let mut candidates = Vec::new();
        for &(old, new) in &replaced {
            candidates.extend(target.producer(old).map(|(node, _)| node));
            if target.value(new).name.is_none() {
                target.value_mut(new).name = target.value(old).name.clone();
            }
            target.replace_uses_except(old, new, &keep);
        }
        candidates.extend(added.iter().rev());
        let removed = target.remove_dead(candidates);
        added.retain(|node| target.node(*node).is_some());
        Ok(Applied { added, replaced, removed })
    }

    /// Adds the edit's constants and nodes and checks its replacements, without replacing anything yet.
    fn stage(
        &mut self,
        function: FunctionId,
        edit: Edit,
        added: &mut Vec<NodeId>,
    ) -> Result<Vec<(ValueId, ValueId)>, IrError> {
        let bug = |module: &Module, reason: String| IrError::Bug {
            function: module.function(function).name().to_string(),
            reason,
        };
        let mut constants = Vec::with_capacity(edit.constants.len());
        for constant in edit.constants {
            constants.push(match constant {
                NewConstant::Tensor(tensor, name) => self.add_constant_value(function, tensor, name),
                NewConstant::Shared(id) if id.index() < self.constants_len() => {
                    let name = self.constant(id).name.clone();
                    self.constant_value(function, id, name)
                }
                NewConstant::Shared(id) => {
                    return Err(bug(self, format!("no constant has id {}", id.index())));
                }
            });
        }
        let mut outputs: Vec<Vec<ValueId>> = Vec::with_capacity(edit.nodes.len());
        let resolve = |outputs: &[Vec<ValueId>], value: EditValue| match value {
            EditValue::Existing(id) => Some(id),
            EditValue::Constant(index) => constants.get(index).copied(),
            EditValue::Node { node, output } => outputs.get(node)?.get(output).copied(),
        };
        for node in edit.nodes {
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for input in node.inputs {
                let resolved = input.map(|value| resolve(&outputs, value));
                if resolved == Some(None) {
                    return Err(bug(
                        self,
                        format!("new node `{}` uses a value before it is made", node.name),
                    ));
                }
                inputs.push(resolved.flatten());
            }
            let values = self.add_node(function, node.operation, &inputs, node.outputs, &node.name)?;
            added.extend(
                values.first().and_then(|first| self.function(function).producer(*first)).map(|(id, _)| id),
            );
            outputs.push(values);
        }
        let mut replaced = Vec::with_capacity(edit.replacements.len());
        for (old, new) in edit.replacements {
            self.check_ids(function, &[Some(old)])?;
            let Some(new) = resolve(&outputs, new) else {
                return Err(bug(self, "a replacement is no value of the edit".to_string()));
            };
            self.check_ids(function, &[Some(new)])?;
            self.check_replacement(function, old, new)?;
            replaced.push((old, new));
        }
        Ok(replaced)
    }

    fn check_replacement(&self, function: FunctionId, old: ValueId, new: ValueId) -> Result<(), IrError> {
        let target = self.function(function);
        let (before, after) = (target.ty(old), target.ty(new));
        let agree = before.dtype == after.dtype
            && before.rank() == after.rank()
            && before.dims.iter().zip(&after.dims).all(|(a, b)| a.equals(b) != Answer::No);
        if agree {
            return Ok(());
        }
        let name = |id: ValueId| match target.producer(id) {
            Some((_, node)) => format!("node `{}` ({})", node.name, node.operation.name()),
            None => format!("value `{}`", target.value(id).name.as_deref().unwrap_or("?")),
        };
        Err(IrError::Bug {
            function: target.name().to_string(),
            reason: format!(
                "{} of type {before} cannot be replaced by {} of type {after}",
                name(old),
                name(new)
            ),
        })
    }

    /// Removes every node of a function whose results nobody uses; the number removed.
    pub fn remove_dead_nodes(&mut self, function: FunctionId) -> usize {
        let target = self.function_mut(function);
        let mut nodes: Vec<_> = target.node_ids().collect();
        // The worklist is a stack: later nodes, which tend to be the users, come first.
        nodes.sort_unstable();
        target.remove_dead(nodes)
    }
}
