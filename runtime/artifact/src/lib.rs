//! The contract between compiler and runtime: plan data, packed layouts and their packers, the builtin table,
//! the ABI of generated code, the `.lathe` file and trust.
#![forbid(unsafe_code)]

pub mod abi;
pub mod arena;
pub mod builtin;
pub mod code;
mod error;
pub mod layout;
pub mod plan;
pub mod region;

pub use error::ArtifactError;
