//! What can go wrong while planning, by who must act.

/// An error of the planner.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The model uses something that no step can do.
    #[error("`{node}` ({op}): {reason}")]
    Unsupported {
        /// The node.
        node: String,
        /// Its op.
        op: String,
        /// What is not supported, and a hint.
        reason: String,
    },
    /// A constant does not have the form that its use needs.
    #[error("constant `{name}`: {reason}")]
    BadConstant {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The module breaks an invariant that the verifier checks: a bug.
    #[error("bug: `{node}` ({op}): {reason}")]
    Bug {
        /// The node.
        node: String,
        /// Its op.
        op: String,
        /// What is broken.
        reason: String,
    },
}

/// Why a builtin or region was not chosen.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The op is evaluated instead, for this reason.
    Evaluate(String),
    /// No plan can be made.
    Failed(PlanError),
}

impl From<PlanError> for Refusal {
    fn from(error: PlanError) -> Self {
        Refusal::Failed(error)
    }
}

/// Shorthand for [`Refusal::Evaluate`].
pub(crate) fn refuse<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Evaluate(reason.into()))
}
