//! Lathe compiles transformer models into native CPU programs and runs them.
//!
//! ```no_run
//! let model = lathe::load("model.onnx", &lathe::LoadOptions::default())?;
//! let mut session = lathe::Session::new(&model)?;
//! let ids = lathe::Tensor::from_slice(&[101i64, 7592, 102], &[1, 3])?;
//! let outputs = session.run(&[("input_ids", &ids)])?;
//! println!("{:?}", outputs.tensors()[0].shape());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`load`] takes an `.onnx` file or a folder with `config.json` and `*.safetensors`, compiles it once (see [`Cache`]) and gives a [`Model`]; an artifact made by `compile` loads
//! without the compiler. An app that ships artifacts only links `lathe-runtime` alone.
#![forbid(unsafe_code)]

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod defaults;
mod error;
pub mod generative;
mod load;

pub use defaults::add_default_inputs;
pub use error::Error;
pub use lathe_artifact::{Artifact, Trust};
pub use lathe_compiler::cache::Cache;
pub use lathe_compiler::{
    CompileOptions, CustomNode, CustomOp, CustomOps, CustomOutput, Dim, ValueType, compile,
};
pub use lathe_generate as generation;
pub use lathe_runtime::{
    CancelToken, CustomCall, CustomFunctions, Isa, Model, Outputs, RouterStatistics, RunOptions, RunStats,
    RuntimeError, Session, Team, TensorView, TensorViewMut,
};
pub use lathe_tensor::value::{Form, Value};
pub use lathe_tensor::{DType, Tensor, TensorError};
pub use load::{LoadOptions, Origin, load, load_with_origin};
