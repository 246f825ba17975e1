//! What can go wrong with an artifact, by who must act.

use std::path::PathBuf;

/// An error of the artifact file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// The operating system refused.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was tried: `read`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no artifact, or not a whole one.
    #[error("`{path}` is not a Lathe model: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was expected.
        reason: String,
    },
    /// The file was written by another version.
    #[error("`{path}` has artifact format {found}, this version reads {supported}; compile the model again")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format version.
        found: String,
        /// The version that can be read.
        supported: u32,
    },
    /// The bytes changed after the file was sealed.
    #[error("`{path}` was damaged or changed after it was written: {reason}; compile the model again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not match.
        reason: String,
    },
    /// The key that seals artifacts cannot be used.
    #[error("seal key `{path}`: {reason}")]
    Key {
        /// The key file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The artifact in memory cannot be written: a bug of the compiler.
    #[error("internal error: cannot encode the artifact: {0}; please report this")]
    Encode(String),
}
