//! Importers: a model file becomes a [`lathe_ir::Module`].
//!
//! [`import`] chooses by the file; [`import_onnx`] reads ONNX (opsets 1 to 28 of `ai.onnx`); a folder with `config.json` and safetensors, and
//! a GGUF file, are built by their family. Whatever wrote the model, the result has one meaning: opset differences are gone, constants share the mapped
//! file, sizes are symbolic.
#![forbid(unsafe_code)]

mod error;
pub mod gguf;
mod model;
mod onnx;
mod outline;
mod safetensors;

pub use error::{ImportError, UnsupportedOperator};
pub use model::quantised::METHOD as QUANTISED_BY;
pub use model::{RopeScaling, WEIGHT};
pub use onnx::{Operator, external_files, operators, read_tensor, read_value, tensor_bytes, value_bytes};
pub use outline::{Outline, is_exported, outline};
pub use safetensors::{StoredTensor, TensorFacts, indexed_tensors, stored_tensors, weight_files};

use std::path::Path;
use std::sync::Arc;

use lathe_ir::{CustomOps, Module};
use lathe_tensor::DType;

use crate::error::Fault;

/// What the caller may choose.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Bytes that messages, constants that are not mapped and folded sizes may take together.
    pub max_memory: u64,
    /// Sizes of named dims; all others stay symbolic. Names as in the file, or `input.axis`.
    pub dims: Vec<(String, i64)>,
    /// Inputs that are bools, what they are: constants in place of inputs. Names that the file does not have count for nothing.
    pub known: Vec<(String, bool)>,
    /// Other rotary embeddings than those of the configuration.
    pub rope: Option<RopeScaling>,
    /// What rotary frequencies are rounded to. Models keep them in f32, whatever the dtype of their weights; a PyTorch module that was
    /// converted as a whole has them in that dtype.
    pub frequencies: DType,
    /// Operators that the app brings.
    pub custom: Arc<CustomOps>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            max_memory: 6 << 30,
            dims: Vec::new(),
            known: Vec::new(),
            rope: None,
            frequencies: DType::F32,
            custom: Arc::default(),
        }
    }
}

/// Imports a model: a folder with `config.json` and its weights, a configuration beside weights, or a file by its extension.
///
/// # Errors
/// As [`import_onnx`]; [`ImportError::Unsupported`] for formats that this version does not read.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Module, ImportError> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let kind = match extension.to_ascii_lowercase().as_str() {
        _ if path.is_dir() => return safetensors::import(path, options),
        "json" => return safetensors::import_config(path, options),
        "gguf" => return gguf::import(path, options),
        "safetensors" => "a safetensors file",
        _ => return import_onnx(path, options),
    };
    let reason = format!(
        "{kind} is not read in this version; give an `.onnx` or `.gguf` file, or a folder with `config.json` and `*.safetensors`"
    );
    Err(Fault::unsupported(reason).in_file(path))
}

/// Imports an ONNX model. `main` is its graph; the bodies of `If` are functions.
///
/// Initialisers become constants over the mapped file, or over external data beside it: regular files beneath
/// the model's directory, or beneath the directory that the model file really lies in.
///
/// # Errors
/// [`ImportError::UnsupportedOperators`] lists every unsupported operator before any other work is done;
/// the other errors name the file, the node or tensor, and the reason.
pub fn import_onnx(path: &Path, options: &ImportOptions) -> Result<Module, ImportError> {
    if options.rope.is_some() || options.frequencies != DType::F32 {
        let reason = "other rotary embeddings for an ONNX graph, which holds its frequencies: give the model as safetensors or GGUF";
        return Err(Fault::unsupported(reason).in_file(path));
    }
    onnx::import(path, options)
}
