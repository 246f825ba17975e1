//! The op table: every op's attributes, their encoding, and its plain, obviously right evaluation.
//!
//! An op here is what remains when the importer has normalised opsets: one meaning, no versions. [`Op`] is the table;
//! the attribute structs stand in the file of their family. Attributes are encoded by serde: the text form of the IR
//! and the artifact both use that encoding.
#![forbid(unsafe_code)]

pub mod attention;
mod cells;
pub mod control;
pub mod conv;
pub mod custom;
pub mod deform_conv;
pub mod elementwise;
mod error;
mod evaluate;
mod float;
mod fourier;
pub mod gather;
mod heads;
pub mod image;
pub mod linalg;
pub mod linear_attention;
pub mod matmul;
mod minifloat;
pub mod ml;
pub mod moe;
pub mod norm;
mod pick;
pub mod pool;
pub mod position;
pub mod quant;
pub mod recurrent;
pub mod reduce;
pub mod resize;
pub mod sequence;
pub mod shape;
pub mod signal;
mod table;
pub mod text;
pub mod unique;
mod walk;
mod window;

pub use error::EvalError;
pub use evaluate::{Arity, Limits};
pub use table::{AttributeError, Op};
