//! Safetensors: a folder with `config.json` and the weights as hubs publish them.
//!
//! The weights are `model.safetensors`, or the shards that `model.safetensors.index.json` names, or the only `*.safetensors` there is.
//! Files are mapped; a weight is a range of its file.

mod shards;

use std::path::Path;

use lathe_ir::Module;

use crate::error::Fault;
use crate::model::{self, Config};
use crate::{ImportError, ImportOptions};
use shards::Shards;

/// Imports the model in a folder.
pub(crate) fn import(folder: &Path, options: &ImportOptions) -> Result<Module, ImportError> {
    let path = model::path_in(folder);
    if !path.is_file() {
        return Err(Fault::unsupported("a folder without `config.json`").in_file(folder));
    }
    import_config(&path, options)
}

/// Imports the model whose configuration this is: its weights lie beside it.
pub(crate) fn import_config(path: &Path, options: &ImportOptions) -> Result<Module, ImportError> {
    let config = Config::read(path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let formats = model::quantised::formats(&config).map_err(|fault| fault.in_file(path))?;
    let shards = Shards::open(folder, options.max_memory)?.with_blocks(formats);
    model::build(&config, &shards, options).map_err(|fault| fault.in_file(path))
}

pub use shards::{StoredTensor, TensorFacts, indexed_tensors, stored_tensors, weight_files};
