//! Answers by beam search.

use lathe_generate::text::Tokenizer;
use lathe_generate::{BeamSearch, Continuation, Finish, LanguageModel, Prompt};

use super::{Generated, Task};
use crate::cli::error::CliError;

/// Continues prompts by beam search.
pub struct Beams<'a> {
    /// How.
    pub search: BeamSearch,
    /// Turns tokens into text.
    pub tokenizer: Option<&'a Tokenizer>,
}

impl Task for Beams<'_> {
    type Output = Generated;

    fn limit(&mut self, tokens: usize) {
        self.search.max_tokens = self.search.max_tokens.min(tokens);
    }

    fn run<M: LanguageModel>(
        self,
        model: &mut M,
        begun: &[(M::Sequence, Vec<u32>)],
    ) -> Result<Generated, CliError>
    where
        CliError: From<lathe_generate::GenerateError<M::Error>>,
    {
        let prompts: Vec<Prompt<'_, M::Sequence>> =
            begun.iter().map(|(sequence, tokens)| Prompt { sequence: *sequence, tokens }).collect();
        let (found, timing) = self.search.generate(model, &prompts)?;
        let mut generated = Generated { timing, ..Generated::default() };
        for beams in found {
            // Nothing was asked for where there is no beam.
            let (tokens, score, finish) = match beams.into_iter().next() {
                Some(beam) => (beam.tokens, beam.score, beam.finish),
                None => (Vec::new(), 0.0, Finish::Length),
            };
            if let Some(tokenizer) = self.tokenizer {
                let text = match (finish, tokens.split_last()) {
                    (Finish::Stop, Some((_, text))) => text,
                    _ => &tokens[..],
                };
                generated.texts.push(tokenizer.decode(text, false)?);
            }
            generated.results.push(Continuation { tokens, finish });
            generated.scores.push(score);
        }
        Ok(generated)
    }
}
