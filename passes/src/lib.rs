//! Rewrites of the IR: `Module -> Module`, one pass a file.
//!
//! A [`Rule`] looks at one node and proposes an edit or refuses with a reason; the [`driver`] applies it, which
//! infers types, verifies and counts. What needs the whole function at once is a [`FunctionPass`]. The phases are literal lists in
//! [`pipeline`]. Rewrites hold for every value of the symbols, 0 and 1 included, and for every input of the matched types.
#![forbid(unsafe_code)]

mod canonical;
mod context;
pub mod driver;
mod error;
mod fuse;
pub mod latent;
mod mask;
pub mod pattern;
pub mod pipeline;
mod quantize;
mod rewrite;
mod specialize;
#[cfg(test)]
mod tests;

pub use context::Context;
pub use driver::{FunctionPass, Options, Pass, PassReport, Report, Rule, optimise};
pub use error::PassError;
pub use pipeline::standard;
pub use quantize::weights::{Choice, QuantizeWeights, WeightBits, encoded};
pub use rewrite::{Proposal, Rewrite, Term};
pub use specialize::cache::{Cache, is_past};
pub use specialize::gqa::HeadMerging;
