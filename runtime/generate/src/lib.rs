//! Generation over a small language-model trait.
//!
//! [`Generator`] turns logits into tokens, one step at a time; what makes the logits is any [`LanguageModel`], so that
//! generation is tested without a model. [`GraphModel`] is one over exported graphs as they
//! are, the engine's `Decoder` one that keeps keys and values in pages.
#![forbid(unsafe_code)]

mod decoder;
mod generator;
mod graph;
mod model;
mod sampling;
mod stream;

pub use generator::{Continuation, Finish, GenerateError, Generator, PREFILL_ROWS, Prompt, Timing, Token};
pub use graph::{GraphError, GraphModel, GraphSequence, Graphs, PagedModel, Past, Source};
pub use model::{Extend, LanguageModel, Logits};
pub use sampling::{Sampler, Sampling};
pub use stream::Stream;
