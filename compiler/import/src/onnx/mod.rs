//! The ONNX importer.
//!
//! One file a concern: messages to tensors ([`tensor`], [`external`]), declared types ([`types`]), attributes ([`attributes`]),
//! what is checked before any work ([`functions`]), graphs and their order ([`graph`], [`order`]), one node at a time ([`node`]),
//! and the operators: a [`table`] of rows, their lowering in a file a family.

mod attention;
mod attributes;
mod constant;
mod contrib;
mod control;
mod conv;
mod custom;
mod einsum;
mod elementwise;
mod external;
mod file;
mod functions;
mod gather;
mod graph;
mod image;
mod item;
mod linalg;
mod loss;
mod matmul;
mod maybe_scalar;
mod ml;
mod moe;
mod node;
mod norm;
mod optimiser;
mod optional;
mod order;
mod pool;
mod position;
mod quant;
mod random;
mod recurrent;
mod reduce;
mod resize;
mod sequence;
mod shape;
mod signal;
mod table;
mod tensor;
#[cfg(test)]
mod tests;
mod text;
mod types;
mod value;

pub(crate) use external::ExternalFiles;
pub use file::{external_files, read_tensor, tensor_bytes};
pub use table::{Operator, operators};
pub(crate) use tensor::Budget;
pub use value::{read_value, value_bytes};

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lathe_ir::{CustomOps, Module};
use lathe_proto::onnx::ModelProto;
use lathe_proto::{DecodeError, decode_model};
use lathe_tensor::MappedFile;

use crate::error::Fault;
use crate::onnx::functions::{Library, opsets};
use crate::onnx::graph::Importer;
use crate::onnx::tensor::Tensors;
use crate::{ImportError, ImportOptions};

/// IR versions that are read; the newest published one is 14, and versions have only ever added fields.
const IR_VERSIONS: std::ops::RangeInclusive<i64> = 1..=20;

/// The bytes of a mapped file, for slices that keep it alive.
struct FileBytes(Arc<MappedFile>);

impl AsRef<[u8]> for FileBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

pub(crate) fn import(path: &Path, options: &ImportOptions) -> Result<Module, ImportError> {
    let file = Arc::new(MappedFile::open(path)?);
    let bytes = Bytes::from_owner(FileBytes(file.clone()));
    let decoded = lathe_proto::decoded_size(&bytes).unwrap_or(0);
    let model = decode_model(bytes, options.max_memory).map_err(|error| decode_fault(error).in_file(path))?;
    let mut budget = Budget::new(options.max_memory);
    budget.take(decoded).map_err(|fault| fault.in_file(path))?;
    let tensors = Tensors::new(file, ExternalFiles::beside(path), budget);
    let library = check(&model, path, &options.custom)?;
    Importer::new(&model, library, tensors).run(options).map_err(|fault| fault.in_file(path))
}

fn decode_fault(error: DecodeError) -> Fault {
    match &error {
        DecodeError::TooLarge { .. } => Fault::resource(error.to_string()),
        _ => Fault::bad(error.to_string()),
    }
}

/// What must hold of a model before any work is done.
fn check<'m>(
    model: &'m ModelProto,
    path: &Path,
    custom: &Arc<CustomOps>,
) -> Result<Library<'m>, ImportError> {
    let in_file = |fault: Fault| fault.in_file(path);
    check_header(model).map_err(in_file)?;
    let library = Library::new(&model.functions, custom.clone()).map_err(in_file)?;
    library.check_growth(model).map_err(in_file)?;
    let operators = library.unsupported(model).map_err(in_file)?;
    if !operators.is_empty() {
        return Err(ImportError::UnsupportedOperators { file: path.to_path_buf(), operators });
    }
    Ok(library)
}

fn check_header(model: &ModelProto) -> Result<(), Fault> {
    let Some(graph) = &model.graph else {
        return Err(Fault::bad("not an ONNX model: it has no graph"));
    };
    let version = model.ir_version();
    if !IR_VERSIONS.contains(&version) {
        let (first, last) = (IR_VERSIONS.start(), IR_VERSIONS.end());
        return Err(Fault::unsupported(format!("IR version {version}; {first} to {last} are read")));
    }
    if model.opset_import.is_empty() {
        return Err(Fault::bad("`opset_import` is missing: it says what the operators mean"));
    }
    opsets(&model.opset_import)?;
    if graph.output.is_empty() {
        return Err(Fault::bad("the graph has no outputs"));
    }
    Ok(())
}
