//! The compiler driver: the pipeline from a model file to an artifact, the compile cache and the comparison of stages.
//!
//! [`compile`] reads like the picture in `ARCHITECTURE.md`: import, optimise, plan, pack, generate.
#![forbid(unsafe_code)]

pub mod cache;
mod caching;
pub mod convert;
mod describe;
mod emit;
mod error;
mod heads;
mod inputs;
mod options;
mod pipeline;
pub mod planning;
mod snapshot;
pub mod verify;

pub use describe::describe;
pub use emit::{Stage, emit};
pub use error::CompileError;
pub use inputs::{TypedInputs, small_dims};
pub use lathe_codegen::{Level, Target};
pub use lathe_import::{
    ImportOptions, RopeScaling, TensorFacts, gguf, indexed_tensors, read_tensor, read_value, tensor_bytes,
    value_bytes, weight_files,
};
pub use lathe_ir::{CustomNode, CustomOp, CustomOps, CustomOutput, Dim, ValueType};
pub use lathe_passes::{Report, WeightBits};
pub use lathe_plan::Activations;
pub use options::CompileOptions;
pub use pipeline::{BUILD_ID, compile, compile_ir_text, compile_observed, import, optimise, typical_size};
pub use snapshot::snapshot;
pub use verify::as_f64;
