//! The runtime: models, sessions, code memory and the worker team.
//!
//! A [`Model`] is an artifact that is ready to run: immutable, shared by threads, cheap to clone. A [`Session`] owns the
//! memory of one run at a time. A [`Team`] of workers runs one program at a time, all workers at once.

mod barrier;
mod code;
mod error;
mod memory;
mod team;
mod threads;

pub use error::RuntimeError;
pub use team::Team;
pub use threads::{available_cores, available_memory, default_workers};
