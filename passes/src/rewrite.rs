//! What a rule proposes.

use lathe_ir::{Dim, Edit, EditValue, Operation, ValueId};
use lathe_tensor::Tensor;

/// An operand of a proposed node.
pub type Term = Option<EditValue>;

/// What a rule says of a node.
pub enum Proposal {
    /// The pattern is not here.
    NoMatch,
    /// The pattern is here, but the rewrite is not right or not worth it.
    Because(String),
    /// The rewrite.
    Edit(Edit),
    /// The rewrite, right for all inputs of which this holds, which the report states.
    Assuming(Edit, String),
}

impl Proposal {
    /// A refusal with its reason.
    pub fn because(reason: impl Into<String>) -> Self {
        Proposal::Because(reason.into())
    }

    /// The same, where it rests on something.
    pub fn assuming(self, assumption: Option<String>) -> Self {
        match (self, assumption) {
            (Proposal::Edit(edit), Some(assumption)) => Proposal::Assuming(edit, assumption),
            (proposal, _) => proposal,
        }
    }
}

/// Builds an edit.
pub struct Rewrite {
    edit: Edit,
    name: String,
}

impl Rewrite {
    /// An empty edit; new nodes are called `name`, after the node that they replace.
    pub fn new(name: &str) -> Self {
        Self { edit: Edit::new(), name: name.to_string() }
    }

    /// An existing value as an operand.
    pub fn value(value: ValueId) -> Term {
        Some(EditValue::from(value))
    }

    /// A new node with one output.
    pub fn node(&mut self, operation: impl Into<Operation>, inputs: &[Term]) -> Term {
        self.edit.node(operation, inputs, 1, &self.name).first().copied()
    }

    /// A new node with `outputs` outputs.
    pub fn node_of(&mut self, operation: impl Into<Operation>, inputs: &[Term], outputs: usize) -> Vec<Term> {
        self.edit.node(operation, inputs, outputs, &self.name).into_iter().map(Some).collect()
    }

    /// A new constant.
    pub fn constant(&mut self, tensor: Tensor) -> Term {
        Some(self.edit.constant(tensor, None))
    }

    /// A new rank-1 tensor of sizes.
    pub fn dims(&mut self, elements: &[Dim]) -> Term {
        self.node(Operation::Dims { elements: elements.to_vec(), scalar: false }, &[])
    }

    /// The proposal to use `new` instead of `old`.
    pub fn replace(self, old: ValueId, new: Term) -> Proposal {
        self.replace_all(&[old], &[new])
    }

    /// The proposal to use each of `new` instead of that of `old`.
    pub fn replace_all(mut self, old: &[ValueId], new: &[Term]) -> Proposal {
        for (old, new) in old.iter().zip(new) {
            if let Some(new) = new {
                self.edit.replace(*old, *new);
            }
        }
        Proposal::Edit(self.edit)
    }
}
