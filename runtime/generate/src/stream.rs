//! Generation as an iterator over tokens.

use std::collections::VecDeque;
use std::time::Instant;

use crate::generator::{Finish, GenerateError, Generator, PREFILL_ROWS, Prompt, Timing, Token};
use crate::{Extend, LanguageModel, Sampler};

/// A prompt on its way.
#[derive(Debug)]
struct Active<S> {
    sequence: S,
    prompt: Vec<u32>,
    /// Tokens of the prompt that the model has seen.
    taken: usize,
    sampler: Sampler,
    /// New tokens.
    chosen: usize,
    /// The newest token, which the model has not seen.
    last: [u32; 1],
    finished: bool,
}

/// The new tokens of a set of prompts. Ends after all sequences have ended, or after an error.
#[derive(Debug)]
pub struct Stream<'m, M: LanguageModel> {
    model: &'m mut M,
    stop: Vec<u32>,
    max_tokens: usize,
    active: Vec<Active<M::Sequence>>,
    ready: VecDeque<Token>,
    begin: Instant,
    timing: Timing,
    failed: bool,
}

/// The part of one prompt that a call takes in.
struct Part {
    index: usize,
    count: usize,
}

impl<'m, M: LanguageModel> Stream<'m, M> {
    pub(crate) fn new(
        generator: &Generator,
        model: &'m mut M,
        prompts: &[Prompt<'_, M::Sequence>],
        begin: Instant,
    ) -> Self {
        let active = prompts.iter().enumerate().map(|(index, prompt)| {
            let mut sampling = generator.sampling.clone();
            sampling.seed = sampling.seed.wrapping_add(index as u64);
            Active {
                sequence: prompt.sequence,
                prompt: prompt.tokens.to_vec(),
                taken: 0,
                sampler: Sampler::new(sampling),
                chosen: 0,
                last: [0],
                finished: generator.max_tokens == 0,
            }
        });
        Self {
            model,
            stop: generator.stop.clone(),
            max_tokens: generator.max_tokens,
            active: active.collect(),
            ready: VecDeque::new(),
            begin,
            timing: Timing::default(),
            failed: false,
        }
    }

    /// How long it took so far.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Calls the model once: a chunk of prompts while there are any, then a step of all sequences that go on.
    fn advance(&mut self) -> Result<(), GenerateError<M::Error>> {
        if let Some(prompt) = self.active.iter().position(|active| active.prompt.is_empty()) {
            return Err(GenerateError::EmptyPrompt { prompt });
        }
        let chunk = self.chunk();
        let prefill = !chunk.is_empty();
        let parts = if prefill { chunk } else { self.steps() };
        if parts.is_empty() {
            return Ok(());
        }
        let begin = Instant::now();
        self.call(&parts, prefill)?;
        let rows = parts.iter().map(|part| part.count).sum::<usize>();
        let (tokens, time) = match prefill {
            true => (&mut self.timing.prompt_tokens, &mut self.timing.prefill),
            false => (&mut self.timing.step_tokens, &mut self.timing.steps),
        };
        *tokens += rows;
        *time += begin.elapsed();
        if self.timing.first.is_zero() && !self.ready.is_empty() {
            self.timing.first = self.begin.elapsed();
        }
        Ok(())
    }

    /// The next rows of prompts that are not taken in yet.
    fn chunk(&self) -> Vec<Part> {
        let mut left = PREFILL_ROWS;
        let mut parts = Vec::new();
        for (index, active) in self.active.iter().enumerate().filter(|(_, active)| !active.finished) {
            let count = (active.prompt.len() - active.taken).min(left);
            if count > 0 {
                parts.push(Part { index, count });
                left -= count;
            }
        }
        parts
    }

    fn steps(&self) -> Vec<Part> {
        let going = self.active.iter().enumerate().filter(|(_, active)| !active.finished);
        going.map(|(index, _)| Part { index, count: 1 }).collect()
    }

    fn call(&mut self, parts: &[Part], prefill: bool) -> Result<(), GenerateError<M::Error>> {
        let ends = |active: &Active<M::Sequence>, part: &Part| {
            !prefill || active.taken + part.count == active.prompt.len()
        };
        let steps = parts.iter().map(|part| {
            let active = &self.active[part.index];
            let tokens = match prefill {
                true => &active.prompt[active.taken..active.taken + part.count],
                false => &active.last[..],
            };
            Extend { sequence: active.sequence, tokens, logits: usize::from(ends(active, part)) }
        });
        let steps: Vec<_> = steps.collect();
        let logits = self.model.extend(&steps)?;
        drop(steps);
        let mut row = 0;
        for part in parts {
            let active = &mut self.active[part.index];
            let ends = ends(active, part);
            if prefill {
                active.taken += part.count;
            }
            if !ends {
                continue;
            }
            let chosen = logits.row(row).and_then(|logits| active.sampler.choose(logits));
            let position = active.prompt.len() + active.chosen;
            let id = chosen.and_then(|token| u32::try_from(token).ok());
            let id = id.ok_or(GenerateError::NoLogits { prompt: part.index, position })?;
            row += 1;
            active.chosen += 1;
            active.last = [id];
            let finish = match self.stop.contains(&id) {
                true => Some(Finish::Stop),
                false => (active.chosen >= self.max_tokens).then_some(Finish::Length),
            };
            active.finished = finish.is_some();
            self.ready.push_back(Token { prompt: part.index, id, finish });
        }
        Ok(())
    }
}

impl<M: LanguageModel> Iterator for Stream<'_, M> {
    type Item = Result<Token, GenerateError<M::Error>>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            if self.failed || self.active.iter().all(|active| active.finished) {
                return None;
            }
            if let Err(error) = self.advance() {
                self.failed = true;
                return Some(Err(error));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}
