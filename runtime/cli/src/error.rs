//! The error of the facade.

/// Why a model could not be loaded, compiled or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model file is broken, unsupported or too large to compile.
    #[error(transparent)]
    Compile(#[from] lathe_compiler::CompileError),
    /// An artifact is broken or not trusted.
    #[error(transparent)]
    Artifact(#[from] lathe_artifact::ArtifactError),
    /// Loading or running the program failed.
    #[error(transparent)]
    Runtime(#[from] lathe_runtime::RuntimeError),
    /// A tensor file is broken.
    #[error(transparent)]
    Import(#[from] lathe_import::ImportError),
    /// A tensor does not fit.
    #[error(transparent)]
    Tensor(#[from] lathe_tensor::TensorError),
    /// Generation failed.
    #[error(transparent)]
    Generation(#[from] lathe_generate::GraphError),
    /// Text could not become tokens, or tokens text.
    #[error(transparent)]
    Tokenizer(#[from] lathe_generate::text::TokenizerError),
    /// A conversation could not become a prompt.
    #[error(transparent)]
    Template(#[from] lathe_generate::text::TemplateError),
    /// Sound could not be read or prepared.
    #[error(transparent)]
    Sound(#[from] lathe_generate::audio::SoundError),
    /// A picture could not be read or prepared.
    #[error(transparent)]
    Picture(#[from] lathe_generate::vision::PictureError),
    /// Generation could not go on.
    #[error("{0}")]
    Generate(String),
    /// An artifact is compiled already.
    #[error("{path}: an artifact is compiled already: {reason}")]
    Compiled {
        /// The file.
        path: std::path::PathBuf,
        /// What it cannot take any more.
        reason: String,
    },
    /// A file of a kind that Lathe does not read.
    #[error(
        "{path}: not a model: expected an .onnx file, a folder with config.json and *.safetensors, or a .lathe artifact"
    )]
    NotAModel {
        /// The file.
        path: std::path::PathBuf,
    },
}

impl Error {
    /// Whether the model is fine but asks for something that this version does not have.
    pub fn is_unsupported(&self) -> bool {
        match self {
            Error::Compile(error) => error.is_unsupported(),
            _ => false,
        }
    }
}
