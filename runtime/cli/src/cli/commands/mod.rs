//! The commands, one a file.

pub mod bench;
pub mod caption;
pub mod chat;
pub mod classify;
pub mod compile;
pub mod doctor;
pub mod embed;
pub mod explain;
pub mod fill_mask;
pub mod generate;
pub mod inspect;
pub mod plan;
pub mod quantize;
pub mod run;
pub mod template;
pub mod test;
pub mod tokenize;
pub mod transcribe;
pub mod verify;
