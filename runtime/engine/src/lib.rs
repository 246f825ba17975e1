//! The runtime: models, sessions, code memory and the worker team.
//!
//! A [`Model`] is an artifact that is ready to run: immutable, shared by threads, cheap to clone. A [`Session`] owns the
//! memory of one run at a time. A [`Team`] of workers runs one program at a time, all workers at once.

mod append;
mod barrier;
mod cancel;
mod code;
mod decode;
mod error;
mod evaluate;
mod guards;
mod memory;
mod model;
mod outputs;
mod ports;
mod program;
mod routers;
mod services;
mod session;
mod shapes;
mod sigbus;
mod stages;
mod state;
mod team;
mod threads;
mod validate;
mod values;
mod view;

pub use cancel::CancelToken;
pub use decode::{DecodeLogits, DecodeStep, Decoder, DecoderOptions, SequenceId};
pub use error::RuntimeError;
pub use lathe_artifact::{LoadMode, Trust};
pub use lathe_kernels::isa::Isa;
pub use lathe_kernels::measure;
pub use lathe_ops::custom::{CustomCall, CustomFunctions};
pub use model::{LoadOptions, Model};
pub use outputs::{Outputs, RouterStatistics, RunStats, StepTime};
pub use ports::port_type;
pub use program::Exec;
pub use session::{RunOptions, Session};
pub use sigbus::install_sigbus_handler;
pub use team::Team;
pub use threads::{available_cores, available_memory, default_workers};
pub use view::{TensorView, TensorViewMut};
