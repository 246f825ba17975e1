//! The text form of a module: printed by `Display`, read by [`parse`].
//!
//! ```text
//! graph "main" (input_ids: i64[batch, seq], x: f32[batch, 384]) {
//!   require batch >= 1 "batch is not empty"
//!   c0 = const f32[30522, 384] #5f1c02d9a77e41b0             // "embedding.weight"
//!   c1 = const i64[2] [0, -1]
//!   c2 = const f32[384] splat 0.5
//!   %0: f32[batch, seq, 384] = gather c0, input_ids {axis=0}  // "/embeddings/word/Gather"
//!   %1: i64[2] = dims [batch, 2*seq]
//!   %2: f32[batch], %3: i64[batch] = top_k x, _, c1 {axis=-1,largest=true,sorted=true}
//!   %4: f32[batch] = if %9, %2 {else="no",then="yes"}
//!   return %0 as embedded, %4
//! }
//! ```
//!
//! One node a line, typed, in topological order, values numbered in that order. Constants stand before the nodes in order of
//! first use: small ones with their elements (floats as shortest decimals, NaN as bits), equal elements as `splat`, large
//! ones by [`constant_hash`], for which the reader is given tensors. `_` is a missing operand. A trailing comment in quotes
//! is the node's or constant's name in the model file. Types may be left out: they are inferred then. Known elements and
//! guards of nodes are inferred again; `require` lines are the guards of the function itself. Names of intermediate values
//! and constants that no function uses are not printed.

mod build;
mod constant;
mod cursor;
mod parse;
mod print;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use lathe_tensor::{DType, Tensor};

pub use constant::constant_hash;

use crate::{CustomOps, Module};

/// Text that is not a module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub reason: String,
}

/// Reads a module whose constants all stand in the text.
///
/// # Errors
/// Text that is not of the form above, names of nothing, types that do not agree with inference.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    parse_with(text, &|_, _, _| None)
}

/// Gives the tensor for a hash, of this dtype and shape where the constant is dense.
pub type Lookup<'a> = &'a dyn Fn(u64, DType, &[usize]) -> Option<Tensor>;

/// The same, where constants given by hash are looked up.
pub fn parse_with(text: &str, constants: Lookup<'_>) -> Result<Module, ParseError> {
    parse_custom(text, constants, Arc::default())
}

/// The same for a module with an app's operators.
pub fn parse_custom(text: &str, constants: Lookup<'_>, custom: Arc<CustomOps>) -> Result<Module, ParseError> {
    let graphs = parse::graphs(text)?;
    build::module(text, graphs, constants, Module::with_custom(custom))
}
