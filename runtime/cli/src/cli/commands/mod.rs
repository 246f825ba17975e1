//! The commands, one a file.

pub mod bench;
pub mod compile;
pub mod doctor;
pub mod explain;
pub mod generate;
pub mod inspect;
pub mod plan;
pub mod run;
pub mod test;
pub mod verify;
