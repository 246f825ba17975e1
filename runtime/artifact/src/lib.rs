//! The contract between compiler and runtime: plan data, packed layouts and their packers, the builtin table,
//! the ABI of generated code, the `.lathe` file and trust.
#![forbid(unsafe_code)]

pub mod abi;
pub mod arena;
mod artifact;
mod build_id;
pub mod builtin;
pub mod code;
mod codes;
mod error;
mod estimate;
mod file;
mod float;
mod header;
pub mod key;
pub mod layout;
pub mod plan;
pub mod region;
mod seal;
mod write;

pub use artifact::{Artifact, PlannedFunction};
pub use build_id::build_id;
pub use error::ArtifactError;
pub use estimate::{Estimate, StepWork};
pub use file::{LoadMode, Opened, open};
pub use seal::{SealStatus, Trust};
pub use write::{FORMAT_VERSION, SealKeys, write_atomically};
