//! What can go wrong with a module.

/// An error of this crate, by who must act.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IrError {
    /// The model is wrong: operands, sizes or attributes that do not fit.
    #[error("node `{node}` ({op}): {reason}")]
    BadModel {
        /// The node's name.
        node: String,
        /// Its operation.
        op: String,
        /// What does not fit, with dims.
        reason: String,
    },
    /// The model is right, but this is not supported.
    #[error("node `{node}` ({op}) is not supported: {reason}")]
    Unsupported {
        /// The node's name.
        node: String,
        /// Its operation.
        op: String,
        /// What is not supported and what may help.
        reason: String,
    },
    /// A limit was reached.
    #[error("node `{node}` ({op}) needs too much: {reason}")]
    Resource {
        /// The node's name.
        node: String,
        /// Its operation.
        op: String,
        /// Which limit, and how to raise it.
        reason: String,
    },
    /// A mistake of the caller, not of the model: an id of another module, an edit that changes a type.
    #[error("internal error in `{function}`: {reason}")]
    Bug {
        /// The function.
        function: String,
        /// What is wrong.
        reason: String,
    },
}
