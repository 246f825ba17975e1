//! The loop from prompt to tokens.

use crate::{Sampler, Sampling};

/// What predicts the next token.
pub trait LanguageModel {
    /// The model's own error.
    type Error;

    /// Takes in `tokens` after what it has seen and gives the logits `[vocabulary]` of the token that follows.
    fn advance(&mut self, tokens: &[u32]) -> Result<&[f32], Self::Error>;
}

/// Why generation stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token was chosen; it is not part of the result.
    Stop,
    /// The asked number of tokens is there.
    Length,
}

/// What can go wrong while generating.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError<E: std::error::Error + 'static> {
    /// There is nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The model gave no usable logits.
    #[error("the model gave no finite logit for token {position}")]
    NoLogits {
        /// Position of the token.
        position: usize,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] E),
}

/// Generates tokens from a model.
#[derive(Clone, Debug)]
pub struct Generator {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens that end the text.
    pub stop: Vec<u32>,
    /// New tokens at most.
    pub max_tokens: usize,
}

impl Generator {
    /// Continues a prompt; `on_token` sees each new token as it is chosen and may end generation by returning `false`.
    ///
    /// # Errors
    /// An empty prompt, a model that fails or gives no finite logit.
    pub fn generate<M: LanguageModel>(
        &self,
        model: &mut M,
        prompt: &[u32],
        on_token: &mut dyn FnMut(u32) -> bool,
    ) -> Result<(Vec<u32>, Finish), GenerateError<M::Error>>
    where
        M::Error: std::error::Error + 'static,
    {
        if prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        let mut sampler = Sampler::new(self.sampling.clone());
        let mut tokens = Vec::new();
        while tokens.len() < self.max_tokens {
            let logits = match tokens.last() {
                None => model.advance(prompt)?,
                Some(last) => model.advance(std::slice::from_ref(last))?,
            };
            let position = prompt.len() + tokens.len();
            let chosen = sampler.choose(logits).and_then(|token| u32::try_from(token).ok());
            let token = chosen.ok_or(GenerateError::NoLogits { position })?;
            if self.stop.contains(&token) {
                return Ok((tokens, Finish::Stop));
            }
            tokens.push(token);
            if !on_token(token) {
                return Ok((tokens, Finish::Stop));
            }
        }
        Ok((tokens, Finish::Length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Predicts the last token plus one, modulo the vocabulary.
    struct Counter {
        logits: Vec<f32>,
        seen: Vec<u32>,
    }

    impl LanguageModel for Counter {
        type Error = std::convert::Infallible;

        fn advance(&mut self, tokens: &[u32]) -> Result<&[f32], Self::Error> {
            self.seen.extend(tokens);
            let next = tokens.last().map_or(0, |last| (*last as usize + 1) % self.logits.len());
            self.logits.fill(0.0);
            self.logits[next] = 1.0;
            Ok(&self.logits)
        }
    }

    fn counter() -> Counter {
        Counter { logits: vec![0.0; 10], seen: Vec::new() }
    }

    fn generator(max_tokens: usize, stop: &[u32]) -> Generator {
        Generator { sampling: Sampling::default(), stop: stop.to_vec(), max_tokens }
    }

    #[test]
    fn every_token_is_taken_in_once() {
        let mut model = counter();
        let result = generator(4, &[]).generate(&mut model, &[1, 2], &mut |_| true);
        assert_eq!(result.ok(), Some((vec![3, 4, 5, 6], Finish::Length)));
        assert_eq!(model.seen, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn stop_tokens_and_callers_end_it() {
        let result = generator(8, &[5]).generate(&mut counter(), &[2], &mut |_| true);
        assert_eq!(result.ok(), Some((vec![3, 4], Finish::Stop)));
        let result = generator(8, &[]).generate(&mut counter(), &[2], &mut |token| token < 4);
        assert_eq!(result.ok(), Some((vec![3, 4], Finish::Stop)));
    }

    #[test]
    fn an_empty_prompt_is_an_error() {
        let result = generator(1, &[]).generate(&mut counter(), &[], &mut |_| true);
        assert!(matches!(result, Err(GenerateError::EmptyPrompt)));
    }
}
