//! What a command says when it fails: one message, with every cause that adds something.

use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// Wrong usage: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A file that cannot be read or written.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// An input of the model that is missing or does not fit.
    #[error("{0}")]
    Input(String),
    /// Loading, compiling or running failed.
    #[error(transparent)]
    Lathe(#[from] crate::Error),
    /// Results differ from what they should be.
    #[error("{0}")]
    Different(String),
    /// Standard output is gone.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl CliError {
    /// The exit code: 2 for wrong usage, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Usage(_) => 2,
            _ => 1,
        }
    }

    /// An error about a file.
    pub fn file(path: impl Into<PathBuf>, reason: impl std::fmt::Display) -> Self {
        CliError::File { path: path.into(), reason: reason.to_string() }
    }
}

impl<E: std::error::Error + 'static> From<lathe_generate::GenerateError<E>> for CliError {
    fn from(error: lathe_generate::GenerateError<E>) -> Self {
        CliError::Lathe(crate::Error::Generate(error.to_string()))
    }
}

macro_rules! lathe_errors {
    ($($error:ty,)*) => { $(
        impl From<$error> for CliError {
            fn from(error: $error) -> Self {
                CliError::Lathe(crate::Error::from(error))
            }
        }
    )* };
}

lathe_errors! {
    lathe_compiler::CompileError, lathe_runtime::RuntimeError, lathe_artifact::ArtifactError, lathe_generate::GraphError,
    lathe_generate::text::TokenizerError, lathe_generate::text::TemplateError, lathe_generate::vision::PictureError, lathe_generate::audio::SoundError,
}
