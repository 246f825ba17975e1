//! The runtime: models, sessions, code memory and the worker team.
//!
//! A [`Model`] is an artifact that is ready to run: immutable, shared by threads, cheap to clone. A [`Session`] owns the
//! memory of one run at a time. A [`Team`] of workers runs one program at a time, all workers at once.

mod code;
mod error;

pub use error::RuntimeError;
