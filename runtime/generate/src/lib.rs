//! Generation over a small language-model trait.
//!
//! [`Generator`] turns logits into tokens, one step at a time; what makes the logits is any [`LanguageModel`], so that
//! generation is tested without a model. [`GraphModel`] is one over exported graphs as they
//! are, the engine's `Decoder` one that keeps keys and values in pages.
#![forbid(unsafe_code)]

pub mod audio;
mod beam;
mod decoder;
mod diffusion;
mod generator;
mod graph;
mod masked;
mod model;
mod sampling;
mod speculate;
mod stream;
#[cfg(test)]
mod table;
pub mod text;
pub mod vision;

pub use beam::{Beam, BeamSearch, EarlyStopping};
pub use diffusion::{Diffusion, DiffusionError, MaskedModel, Remasking, probability};
pub use generator::{Continuation, Finish, GenerateError, Generator, PREFILL_ROWS, Prompt, Timing, Token};
pub use graph::{GraphError, GraphModel, GraphSequence, Graphs, PagedModel, Past, Source};
pub use masked::{GraphMasked, encoder_inputs};
pub use model::{Extend, LanguageModel, Logits};
pub use sampling::{History, Logprobs, Rules, Sampler, Sampling};
pub use speculate::{Draft, ModelDraft, PromptLookup, Speculated};
pub use stream::Stream;
