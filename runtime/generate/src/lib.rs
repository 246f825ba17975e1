//! Generation over a small language-model trait.
//!
//! [`Generator`] turns logits into tokens, one step at a time; what makes the logits is any [`LanguageModel`], so that
//! generation is tested without a model.
#![forbid(unsafe_code)]

mod generator;
mod sampling;

pub use generator::{Finish, GenerateError, Generator, LanguageModel};
pub use sampling::{Sampler, Sampling};
