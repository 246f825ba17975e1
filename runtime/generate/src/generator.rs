//! The loop from prompts to tokens.

use std::time::{Duration, Instant};

use crate::stream::Stream;
use crate::{LanguageModel, Logprobs, Sampling};

/// Tokens of prompts that are taken in with one call: enough for matrix products at full speed, few enough to stay in the
/// cache.
pub const PREFILL_ROWS: usize = 512;

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token was chosen; it is the last of the result, as `generate` of transformers gives it.
    Stop,
    /// A stop string came.
    StopString,
    /// The asked number of tokens is there.
    Length,
    /// The caller wanted no more.
    Cancelled,
}

impl Finish {
    /// The name in reports: `eos`, `stop`, `length`, `cancelled`.
    pub const fn name(self) -> &'static str {
        match self {
            Finish::Stop => "eos",
            Finish::StopString => "stop",
            Finish::Length => "length",
            Finish::Cancelled => "cancelled",
        }
    }
}

/// What can go wrong while generating.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError<E: std::error::Error + 'static> {
    /// There is nothing to continue.
    #[error("prompt {prompt} is empty")]
    EmptyPrompt {
        /// Index of the prompt.
        prompt: usize,
    },
    /// The model gave no usable logits.
    #[error("prompt {prompt}: the model gave no finite logit for token {position}")]
    NoLogits {
        /// Index of the prompt.
        prompt: usize,
        /// Position of the token.
        position: usize,
    },
    /// Guesses failed.
    #[error("{reason}")]
    Draft {
        /// Why.
        reason: String,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] E),
}

/// A sequence to continue.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a, S> {
    /// The sequence.
    pub sequence: S,
    /// Tokens that it takes in before the first new one: at least one.
    pub tokens: &'a [u32],
}

/// A new token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Index of the prompt that it continues.
    pub prompt: usize,
    /// The token.
    pub id: u32,
    /// Whether its sequence ends here.
    pub finish: Option<Finish>,
    /// What the model thought of it and of others, where that was asked for.
    pub logprobs: Option<Logprobs>,
}

/// What a prompt became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub finish: Finish,
}

/// How long generation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Tokens of the prompts that were taken in.
    pub prompt_tokens: usize,
    /// How long that took.
    pub prefill: Duration,
    /// From the beginning to the first new token.
    pub first: Duration,
    /// Tokens that steps took in after the prompts.
    pub step_tokens: usize,
    /// How long the steps took.
    pub steps: Duration,
}

impl Timing {
    /// Tokens of prompts a second; 0 where there were none.
    pub fn prefill_rate(&self) -> f64 {
        rate(self.prompt_tokens, self.prefill)
    }

    /// New tokens a second, the first of each sequence aside; 0 where there were none.
    pub fn step_rate(&self) -> f64 {
        rate(self.step_tokens, self.steps)
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if tokens == 0 { 0.0 } else { tokens as f64 / time.as_secs_f64().max(1e-9) }
}

/// Generates tokens from a model.
#[derive(Clone, Debug, Default)]
pub struct Generator {
    /// How tokens are chosen. Each prompt has a random sequence of its own.
    pub sampling: Sampling,
    /// Tokens that end a sequence.
    pub stop: Vec<u32>,
    /// New tokens of each sequence at most.
    pub max_tokens: usize,
    /// Asks for the log-probabilities of each token and of this many of the most likely ones.
    pub logprobs: Option<usize>,
}

/// Tells a model which texts come, and how much longer the longest of them is.
pub(crate) fn announce<M: LanguageModel>(
    model: &mut M,
    prompts: &[(M::Sequence, usize)],
) -> Result<(), M::Error> {
    let longest = prompts.iter().map(|(_, count)| *count).max().unwrap_or(0);
    prompts.iter().try_for_each(|&(sequence, count)| model.expect(sequence, count, longest - count))
}

impl Generator {
    /// The new tokens of all prompts as they come: those of one step in the order of the prompts.
    pub fn stream<'m, M: LanguageModel>(
        &self,
        model: &'m mut M,
        prompts: &[Prompt<'_, M::Sequence>],
    ) -> Stream<'m, M> {
        Stream::new(self, model, prompts, Instant::now())
    }

    /// Continues prompts; `on_token` sees each new token as it is chosen and ends generation by returning `false`. The
    /// sequences stay with the model, each having seen all of its tokens but the last.
    ///
    /// # Errors
    /// An empty prompt, a model that fails or gives no finite logit.
    pub fn generate<M: LanguageModel>(
        &self,
        model: &mut M,
        prompts: &[Prompt<'_, M::Sequence>],
        on_token: &mut dyn FnMut(Token) -> bool,
    ) -> Result<(Vec<Continuation>, Timing), GenerateError<M::Error>> {
        let begun = Continuation { tokens: Vec::new(), finish: Finish::Cancelled };
        let mut results = vec![begun; prompts.len()];
        if self.max_tokens == 0 {
            results.iter_mut().for_each(|result| result.finish = Finish::Length);
        }
        let mut stream = self.stream(model, prompts);
        for token in stream.by_ref() {
            let token = token?;
            if let Some(result) = results.get_mut(token.prompt) {
                result.tokens.push(token.id);
                result.finish = token.finish.unwrap_or(result.finish);
            }
            if !on_token(token) {
                break;
            }
        }
        Ok((results, stream.timing()))
    }
}

#[cfg(test)]
#[path = "generator_tests.rs"]
mod tests;
