//! Generation as an iterator over tokens.

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use crate::generator::{Finish, GenerateError, Generator, PREFILL_ROWS, Prompt, Timing, Token, announce};
use crate::sampling::Logprobs;
use crate::speculate::{Draft, Meter, Speculated};
use crate::{Extend, LanguageModel, Logits, Sampler};

/// A prompt on its way.
#[derive(Debug)]
struct Active<S> {
    sequence: S,
    /// The prompt and the answer so far.
    tokens: Vec<u32>,
    prompt: usize,
    /// Tokens of the prompt that the model has seen.
    taken: usize,
    sampler: Sampler,
    /// What the next step takes in: the newest token, which the model has not seen, and guesses at what follows.
    pending: Vec<u32>,
    finished: bool,
}

impl<S> Active<S> {
    fn chosen(&self) -> usize {
        self.tokens.len() - self.prompt
    }
}

/// Guesses, how many a step, and whether they pay.
struct Speculation<'m> {
    draft: Box<dyn Draft + 'm>,
    count: usize,
    meter: Meter,
}

/// The new tokens of a set of prompts. Ends after all sequences have ended, or after an error.
pub struct Stream<'m, M: LanguageModel> {
    model: &'m mut M,
    generator: Generator,
    active: Vec<Active<M::Sequence>>,
    ready: VecDeque<Token>,
    begin: Instant,
    timing: Timing,
    vocabulary: usize,
    speculation: Option<Speculation<'m>>,
    watch: Option<Box<dyn FnMut(usize) + 'm>>,
    /// Whether the model knows which prompts come.
    announced: bool,
    failed: bool,
}

impl<M: LanguageModel> fmt::Debug for Stream<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("active", &self.active).finish_non_exhaustive()
    }
}

/// The part of one prompt, or the pending tokens of a sequence, that a call takes in.
struct Part {
    index: usize,
    count: usize,
    /// Rows of logits: none inside a prompt.
    logits: usize,
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
                tokens: prompt.tokens.to_vec(),
                prompt: prompt.tokens.len(),
                taken: 0,
                sampler: Sampler::new(sampling, prompt.tokens),
                pending: Vec::new(),
                finished: generator.max_tokens == 0,
            }
        });
        Self {
            model,
            generator: generator.clone(),
            active: active.collect(),
            ready: VecDeque::new(),
            begin,
            timing: Timing::default(),
            vocabulary: 0,
            speculation: None,
            watch: None,
            announced: false,
            failed: false,
        }
    }

    /// Lets `draft` guess up to `count` tokens a step, which the model checks in one call. The tokens stay the same.
    pub fn speculate(&mut self, draft: impl Draft + 'm, count: usize) {
        self.speculation = Some(Speculation { draft: Box::new(draft), count, meter: Meter::new() });
    }

    /// How long it took so far.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// How guesses went so far; `None` where there are none.
    pub fn speculated(&self) -> Option<Speculated> {
        self.speculation.as_ref().map(|speculation| speculation.meter.report())
    }

    /// Calls `watch` with the number of tokens of prompts that the model has seen, after each chunk.
    pub fn watch_prompts(&mut self, watch: impl FnMut(usize) + 'm) {
        self.watch = Some(Box::new(watch));
    }

    /// Ends a sequence: no more tokens of it come.
    pub fn end(&mut self, prompt: usize) {
        if let Some(active) = self.active.get_mut(prompt) {
            active.finished = true;
            self.ready.retain(|token| token.prompt != prompt);
        }
    }

    /// Calls the model once: a chunk of prompts while there are any, then a step of all sequences that go on.
    fn advance(&mut self) -> Result<(), GenerateError<M::Error>> {
        if let Some(prompt) = self.active.iter().position(|active| active.prompt == 0) {
            return Err(GenerateError::EmptyPrompt { prompt });
        }
        let begin = Instant::now();
        if !std::mem::replace(&mut self.announced, true) {
            let prompts: Vec<_> = self.active.iter().map(|active| (active.sequence, active.prompt)).collect();
            announce(&mut *self.model, &prompts)?;
        }
        let chunk = self.chunk();
        if !chunk.is_empty() {
            self.call(&chunk, true)?;
            self.timing.prompt_tokens += chunk.iter().map(|part| part.count).sum::<usize>();
            self.timing.prefill += begin.elapsed();
            if let Some(watch) = &mut self.watch {
                watch(self.timing.prompt_tokens);
            }
            if self.timing.first.is_zero() && !self.ready.is_empty() {
                self.timing.first = self.begin.elapsed();
            }
            return Ok(());
        }
        let guesses = self.guess()?;
        let steps = self.steps();
        if steps.is_empty() {
            return Ok(());
        }
        let before = self.ready.len();
        self.call(&steps, false)?;
        let (new, time) = (self.ready.len() - before, begin.elapsed());
        self.timing.step_tokens += new;
        self.timing.steps += time;
        if let Some(speculation) = &mut self.speculation {
            match guesses {
                0 => speculation.meter.plain(time),
                _ => {
                    let accepted = new.saturating_sub(steps.len());
                    speculation.meter.guessed(time, new as f64 / steps.len() as f64, guesses, accepted);
                }
            }
        }
        Ok(())
    }

    /// The next rows of prompts that are not taken in yet.
    fn chunk(&self) -> Vec<Part> {
        let mut left = PREFILL_ROWS;
        let mut parts = Vec::new();
        for (index, active) in self.active.iter().enumerate().filter(|(_, active)| !active.finished) {
            let rest = active.prompt - active.taken;
            let count = rest.min(left);
            if count > 0 {
                parts.push(Part { index, count, logits: usize::from(count == rest) });
                left -= count;
            }
        }
        parts
    }

    fn steps(&self) -> Vec<Part> {
        let going = self.active.iter().enumerate().filter(|(_, active)| !active.finished);
        let part = |(index, active): (usize, &Active<M::Sequence>)| {
            let count = active.pending.len();
            Part { index, count, logits: count }
        };
        going.map(part).collect()
    }

    /// Adds guesses to what the next step takes in; gives their number.
    fn guess(&mut self) -> Result<usize, GenerateError<M::Error>> {
        let Some(speculation) = self.speculation.as_mut().filter(|speculation| speculation.meter.wants())
        else {
            return Ok(0);
        };
        let mut guesses = 0;
        for (prompt, active) in self.active.iter_mut().enumerate().filter(|(_, active)| !active.finished) {
            // The token that the model adds to the guesses is the last that may come.
            let room = (self.generator.max_tokens - active.chosen()).saturating_sub(1);
            let together = self.model.together(active.sequence, room.min(speculation.count) + 1);
            let count = room.min(speculation.count).min(together.saturating_sub(1));
            if count == 0 {
                continue;
            }
            let proposed = speculation.draft.propose(prompt, &active.tokens, &active.sampler, count);
            let proposed = proposed.map_err(|reason| GenerateError::Draft { reason })?;
            let known =
                proposed.into_iter().take(count).take_while(|token| (*token as usize) < self.vocabulary);
            let before = active.pending.len();
            active.pending.extend(known);
            guesses += active.pending.len() - before;
        }
        Ok(guesses)
    }

    fn call(&mut self, parts: &[Part], prefill: bool) -> Result<(), GenerateError<M::Error>> {
        let steps = parts.iter().map(|part| {
            let active = &self.active[part.index];
            let tokens = match prefill {
                true => &active.tokens[active.taken..active.taken + part.count],
                false => &active.pending[..],
            };
            Extend { sequence: active.sequence, tokens, logits: part.logits }
        });
        let steps: Vec<_> = steps.collect();
        let logits = self.model.extend(&steps)?;
        drop(steps);
        if let Some(row) = logits.row(0) {
            self.vocabulary = row.len();
        }
        let mut row = 0;
        let mut rewinds = Vec::new();
        for part in parts {
            let active = &mut self.active[part.index];
            if prefill {
                active.taken += part.count;
            }
            if part.logits > 0 {
                let kept = choose(active, part, &logits, row, &self.generator, &mut self.ready)?;
                row += part.logits;
                if kept < part.logits {
                    rewinds.push((active.sequence, part.logits - kept));
                }
            }
        }
        for (sequence, count) in rewinds {
            self.model.rewind(sequence, count)?;
        }
        Ok(())
    }
}

/// Chooses a token for each row of a part until one differs from the guess for it; gives the number of rows that count.
fn choose<S, E: std::error::Error + 'static>(
    active: &mut Active<S>,
    part: &Part,
    logits: &Logits<'_>,
    first_row: usize,
    generator: &Generator,
    ready: &mut VecDeque<Token>,
) -> Result<usize, GenerateError<E>> {
    let guesses = match active.pending.is_empty() {
        true => Vec::new(),
        false => active.pending.split_off(1),
    };
    for index in 0..part.logits {
        let row = logits.row(first_row + index);
        let id = row.and_then(|row| active.sampler.choose(row));
        let position = active.tokens.len();
        let (Some(id), Some(row)) = (id, row) else {
            return Err(GenerateError::NoLogits { prompt: part.index, position });
        };
        active.sampler.take(id);
        active.tokens.push(id);
        active.pending = vec![id];
        let finish = match generator.stop.contains(&id) {
            true => Some(Finish::Stop),
            false => (active.chosen() >= generator.max_tokens).then_some(Finish::Length),
        };
        active.finished = finish.is_some();
        let logprobs = generator.logprobs.map(|count| Logprobs::of(row, id, count));
        ready.push_back(Token { prompt: part.index, id, finish, logprobs });
        if active.finished || guesses.get(index) != Some(&id) {
            return Ok(index + 1);
        }
    }
    Ok(part.logits)
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
