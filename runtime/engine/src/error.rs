//! What can go wrong at run time, by who must act.

use std::path::PathBuf;

/// An error of the runtime.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The caller gave an input that the model does not take.
    #[error("input `{input}`: {reason}")]
    BadInput {
        /// Name of the input.
        input: String,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// The caller gave an output buffer that does not fit.
    #[error("output `{output}`: {reason}")]
    BadOutput {
        /// Name of the output.
        output: String,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// Bytes that are not the tensor that they are said to be.
    #[error(transparent)]
    Tensor(#[from] lathe_tensor::TensorError),
    /// The sizes of the inputs do not fit together or do not fit the model.
    #[error("{origin}: {reason}")]
    BadShape {
        /// The node that needs it.
        origin: String,
        /// The condition that does not hold, with the sizes.
        reason: String,
    },
    /// The model file cannot be read.
    #[error(transparent)]
    Artifact(#[from] lathe_artifact::ArtifactError),
    /// The code of the model file is not trusted.
    #[error(
        "`{path}` is not trusted: {reason}; compile the model again on this machine, or pass the key that signed it"
    )]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The model file was made by another build, whose code does not fit this one.
    #[error("the model was compiled by build {found}, this is build {expected}; compile it again")]
    Stale {
        /// Build of the compiler.
        found: String,
        /// This build.
        expected: String,
    },
    /// The model needs something that this machine or this version does not have.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// A limit or the operating system does not allow it.
    #[error("{0}")]
    Resource(String),
    /// The cancel token or the deadline stopped the run.
    #[error("the run was stopped: {0}")]
    Cancelled(&'static str),
    /// A step failed on this data.
    #[error("node `{node}` ({op}), step {step}: {reason}")]
    StepFailed {
        /// The node that the step comes from.
        node: String,
        /// Its op.
        op: String,
        /// Number of the step in the plan.
        step: u32,
        /// What went wrong.
        reason: String,
    },
    /// A bug of this program.
    #[error("internal error: {0}; please report this")]
    Bug(String),
}
