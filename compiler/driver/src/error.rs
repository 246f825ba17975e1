//! Why a model does not compile.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The model file is broken or has what Lathe does not support.
    #[error(transparent)]
    Import(#[from] lathe_import::ImportError),
    /// A pass failed: a bug, or a pass name that does not exist.
    #[error(transparent)]
    Pass(#[from] lathe_passes::PassError),
    /// The graph cannot be planned.
    #[error("{path}: {source}")]
    Plan {
        /// The model file.
        path: PathBuf,
        /// Why.
        source: lathe_plan::PlanError,
    },
    /// Code generation failed: a bug, or a target that does not exist.
    #[error("{path}: {source}")]
    Codegen {
        /// The model file.
        path: PathBuf,
        /// Why.
        source: lathe_codegen::CodegenError,
    },
    /// The artifact cannot be read or written.
    #[error(transparent)]
    Artifact(#[from] lathe_artifact::ArtifactError),
    /// The IR in an artifact cannot be read.
    #[error("{path}: the IR in the artifact cannot be read: {reason}")]
    Ir {
        /// The artifact.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A weight of an artifact is packed in a layout that this version does not read.
    #[error(
        "{path}: the weight `{weight}` is packed in {found} bytes where this version reads {expected}: compile the model again"
    )]
    Packed {
        /// The artifact.
        path: PathBuf,
        /// The weight.
        weight: String,
        /// Its bytes.
        found: usize,
        /// The bytes of the layout.
        expected: usize,
    },
    /// Evaluating the graph failed.
    #[error("{path}: evaluation failed: {reason}")]
    Evaluate {
        /// The model file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Heads cannot be merged as asked.
    #[error("{path}: it cannot have {kv_heads} key and value heads: {reason}")]
    Heads {
        /// The model file.
        path: PathBuf,
        /// The number asked for.
        kv_heads: usize,
        /// Why.
        reason: String,
    },
    /// A checkpoint cannot be changed or written.
    #[error("{path}: {reason}")]
    Convert {
        /// The checkpoint.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Two stages give different answers: a bug.
    #[error("{path}: {what}")]
    Different {
        /// The model file.
        path: PathBuf,
        /// Which stages, and by how much.
        what: String,
    },
}

impl CompileError {
    /// Whether the model is fine but asks for something that this version does not have.
    pub fn is_unsupported(&self) -> bool {
        match self {
            CompileError::Import(error) => matches!(
                error,
                lathe_import::ImportError::Unsupported { .. }
                    | lathe_import::ImportError::UnsupportedOperators { .. }
            ),
            CompileError::Plan { source, .. } => matches!(source, lathe_plan::PlanError::Unsupported { .. }),
            _ => false,
        }
    }
}
