//! What can go wrong between a plan and its code.

use lathe_artifact::code::CodeError;

/// Why no code was generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodegenError {
    /// The target is not known or cannot be generated for.
    #[error("no code can be generated for target `{target}`: {reason}")]
    Target {
        /// The target as asked for.
        target: String,
        /// Why not, and what is possible.
        reason: String,
    },
    /// The plan breaks its own contract: a bug in the planner.
    #[error("the plan of `{function}` is not valid at {place}: {reason} (this is a bug in the planner)")]
    BadPlan {
        /// The plan's function.
        function: String,
        /// Step, node or entry of the dims table.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// The code generator made something that it should not: a bug.
    #[error("code generation of `{function}` failed: {reason} (this is a bug in the code generator)")]
    Internal {
        /// The generated function.
        function: String,
        /// What happened.
        reason: String,
    },
    /// The program does not fit the format's 32-bit offsets.
    #[error("the program takes {bytes} bytes of code; at most {limit} can be addressed")]
    TooLarge {
        /// Size of the code.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The finished blob does not describe itself rightly: a bug.
    #[error(transparent)]
    Code(#[from] CodeError),
}

impl CodegenError {
    pub(crate) fn internal(function: &str, reason: impl std::fmt::Display) -> Self {
        Self::Internal { function: function.to_string(), reason: reason.to_string() }
    }
}
