//! What can go wrong in a pass.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassError {
    /// A rewrite that the IR refuses: a bug of the pass.
    #[error("pass `{pass}` at node `{node}`: {source}")]
    Rejected {
        /// The pass.
        pass: &'static str,
        /// The node it was applied to.
        node: String,
        /// Why.
        source: lathe_ir::IrError,
    },
    /// The module does not verify after a pass: a bug of the pass.
    #[error("the module is broken after pass `{pass}`: {source}")]
    Broken {
        /// The pass.
        pass: &'static str,
        /// What is broken.
        source: lathe_ir::VerifyError,
    },
    /// A pass name that does not exist.
    #[error("there is no pass `{name}`; passes are: {known}")]
    UnknownPass {
        /// The name given.
        name: String,
        /// The names that exist.
        known: String,
    },
}
