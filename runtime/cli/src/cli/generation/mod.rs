//! From prompts to answers: what the commands that generate share.

mod beams;
mod model;
mod prompt;
mod seen;
mod speculate;
mod write;

pub use beams::Beams;
pub use model::{CacheReport, Open, Task, with_loaded, with_model};
pub use prompt::{PromptInputs, Prompts, chat_tokens, message, prompts};
pub use seen::preprocessor;
pub use speculate::Guesses;
pub use write::{Answer, Writer, write};

use lathe_generate::{Continuation, Speculated, Timing};

/// What came of prompts.
#[derive(Debug, Default)]
pub struct Generated {
    /// The tokens of each prompt's answer.
    pub results: Vec<Continuation>,
    /// The text of each, where there is a tokenizer.
    pub texts: Vec<String>,
    /// The score of each, from beam search.
    pub scores: Vec<f32>,
    /// Log-probabilities of each token, where they were asked for.
    pub logprobs: Vec<Vec<lathe_generate::Logprobs>>,
    /// How long it took.
    pub timing: Timing,
    /// How guesses went, where there were any.
    pub speculated: Option<Speculated>,
}
