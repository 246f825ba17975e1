//! Generation over a small language-model trait.
//!
//! [`Generator`] turns logits into tokens, one step at a time; what makes the logits is any [`LanguageModel`], so that
//! generation is tested without a model.
#![forbid(unsafe_code)]

mod generator;
mod model;
mod sampling;
mod stream;

pub use generator::{Continuation, Finish, GenerateError, Generator, PREFILL_ROWS, Prompt, Timing, Token};
pub use model::{Extend, LanguageModel, Logits};
pub use sampling::{Sampler, Sampling};
pub use stream::Stream;
