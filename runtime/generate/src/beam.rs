//! Beam search, as `generate` of transformers does it.
//!
//! Of each prompt the `beams` best unfinished sequences go on, by the sum of their tokens' log-probabilities. Those that end are
//! kept apart, the best `beams` of them, by that sum over `length ^ length_penalty`. Each step looks at the best
//! `beams * (1 + stop tokens)` continuations, at least twice as many as there are beams, so that enough are left where all of the
//! others end.

use std::time::Instant;

use crate::generator::{GenerateError, PREFILL_ROWS, Timing, announce};
use crate::sampling::History;
use crate::{Extend, Finish, LanguageModel, Prompt, Sampling};

/// When the search for better endings stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyStopping {
    /// When the best running sequence, at its length so far, is no better than the worst ending.
    Heuristic,
    /// As soon as there are as many endings as beams.
    Always,
    /// When no running sequence can become better, at any length.
    Never,
}

/// Beam search.
#[derive(Clone, Debug)]
pub struct BeamSearch {
    /// Sequences that go on, a prompt.
    pub beams: usize,
    /// Exponent of the length that a score is divided by: above 0 favours long sequences.
    pub length_penalty: f32,
    /// When to stop.
    pub early_stopping: EarlyStopping,
    /// Tokens that end a sequence.
    pub stop: Vec<u32>,
    /// New tokens at most.
    pub max_tokens: usize,
    /// Penalties and biases on tokens; nothing is drawn.
    pub sampling: Sampling,
}

/// The best sequence of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Beam {
    /// Its new tokens, with the one that ended it.
    pub tokens: Vec<u32>,
    /// Log-probability over `length ^ length_penalty`.
    pub score: f32,
    /// Why there are no more.
    pub finish: Finish,
}

/// A sequence that goes on.
struct Running<S> {
    sequence: S,
    tokens: Vec<u32>,
    score: f32,
}

/// A continuation: which running sequence, with which token, and the sum of log-probabilities.
#[derive(Clone, Copy)]
struct Candidate {
    parent: usize,
    token: u32,
    score: f32,
}

/// One prompt's search.
struct Search<S> {
    prompt: Vec<u32>,
    running: Vec<Running<S>>,
    /// Best first.
    finished: Vec<Beam>,
    done: bool,
}

/// The best sequences of each prompt, best first.
pub type Beams = Vec<Vec<Beam>>;

impl BeamSearch {
    /// Continues prompts; gives the `beams` best sequences of each, best first. The sequences that `prompts` name are ended.
    ///
    /// # Errors
    /// An empty prompt, a model that fails or gives no finite logit.
    pub fn generate<M: LanguageModel>(
        &self,
        model: &mut M,
        prompts: &[Prompt<'_, M::Sequence>],
    ) -> Result<(Beams, Timing), GenerateError<M::Error>> {
        let begin = Instant::now();
        let mut timing = Timing::default();
        let mut searches = Vec::with_capacity(prompts.len());
        let texts: Vec<_> = prompts.iter().map(|prompt| (prompt.sequence, prompt.tokens.len())).collect();
        announce(model, &texts)?;
        for (index, prompt) in prompts.iter().enumerate() {
            let search = self.prefill(model, prompt, index)?;
            timing.prompt_tokens += prompt.tokens.len();
            searches.push(search);
        }
        timing.prefill = begin.elapsed();
        timing.first = timing.prefill;
        let steps = Instant::now();
        while searches.iter().any(|search| !search.done) {
            timing.step_tokens += self.step(model, &mut searches)?;
        }
        timing.steps = steps.elapsed();
        Ok((searches.into_iter().map(|search| search.finished).collect(), timing))
    }

    /// Takes a prompt in and makes its first beams.
    fn prefill<M: LanguageModel>(
        &self,
        model: &mut M,
        prompt: &Prompt<'_, M::Sequence>,
        index: usize,
    ) -> Result<Search<M::Sequence>, GenerateError<M::Error>> {
        let Some(last) = prompt.tokens.len().checked_sub(1) else {
            return Err(GenerateError::EmptyPrompt { prompt: index });
        };
        let sequence = prompt.sequence;
        let running = vec![Running { sequence, tokens: Vec::new(), score: 0.0 }];
        let done = self.max_tokens == 0 || self.beams == 0;
        let mut search = Search { prompt: prompt.tokens.to_vec(), running, finished: Vec::new(), done };
        if done {
            model.end(sequence);
            search.running.clear();
            return Ok(search);
        }
        let mut candidates = Vec::new();
        for chunk in prompt.tokens.chunks(PREFILL_ROWS) {
            let whole = std::ptr::eq(&chunk[chunk.len() - 1], &prompt.tokens[last]);
            let step = Extend { sequence, tokens: chunk, logits: usize::from(whole) };
            let logits = model.extend(&[step])?;
            if whole {
                candidates = self.candidates(&search, &mut |_| logits.row(0));
            }
        }
        self.select(model, &mut search, index, candidates)?;
        Ok(search)
    }

    /// One token more for every running sequence; gives the number of sequences.
    fn step<M: LanguageModel>(
        &self,
        model: &mut M,
        searches: &mut [Search<M::Sequence>],
    ) -> Result<usize, GenerateError<M::Error>> {
        let going = searches.iter().filter(|search| !search.done).flat_map(|search| &search.running);
        let last = |running: &Running<M::Sequence>| running.tokens.last().copied().unwrap_or_default();
        let tokens: Vec<(M::Sequence, [u32; 1])> =
            going.map(|running| (running.sequence, [last(running)])).collect();
        let steps: Vec<_> = tokens
            .iter()
            .map(|(sequence, token)| Extend { sequence: *sequence, tokens: token, logits: 1 })
            .collect();
        let logits = model.extend(&steps)?;
        let mut row = 0;
        let mut all = Vec::new();
        for search in searches.iter().filter(|search| !search.done) {
            all.push(self.candidates(search, &mut |index| logits.row(row + index)));
            row += search.running.len();
        }
        let going = searches.iter_mut().enumerate().filter(|(_, search)| !search.done);
        for ((index, search), candidates) in going.zip(all) {
            self.select(model, search, index, candidates)?;
        }
        Ok(tokens.len())
    }

    /// The best continuations of a prompt's running sequences, best first.
    fn candidates<'a, S>(
        &self,
        search: &Search<S>,
        row: &mut dyn FnMut(usize) -> Option<&'a [f32]>,
    ) -> Vec<Candidate> {
        let keep = self.beams.saturating_mul(self.stop.len().max(1) + 1);
        let mut all: Vec<Candidate> = Vec::new();
        for (parent, running) in search.running.iter().enumerate() {
            let Some(logits) = row(parent) else { continue };
            let mut scores = log_softmax(logits);
            if self.sampling.adjusts() {
                let mut history = History::new(&search.prompt);
                running.tokens.iter().for_each(|token| history.take(*token));
                history.adjust(&self.sampling, &mut scores);
            }
            let own = (0u32..).zip(scores).map(|(token, score)| Candidate {
                parent,
                token,
                score: score + running.score,
            });
            all.extend(own.filter(|candidate| !candidate.score.is_nan()));
            keep_best(&mut all, keep);
        }
        all.sort_by(by_score);
        all
    }

    /// Sorts continuations into endings and running sequences, and sees whether the search is over.
    fn select<M: LanguageModel>(
        &self,
        model: &mut M,
        search: &mut Search<M::Sequence>,
        index: usize,
        candidates: Vec<Candidate>,
    ) -> Result<(), GenerateError<M::Error>> {
        let length = search.running.first().map_or(0, |running| running.tokens.len()) + 1;
        if candidates.is_empty() {
            let position = search.prompt.len() + length - 1;
            return Err(GenerateError::NoLogits { prompt: index, position });
        }
        let last = length >= self.max_tokens;
        let ends = |candidate: &Candidate| last || self.stop.contains(&candidate.token);
        self.finish(search, candidates.iter().take(self.beams).filter(|candidate| ends(candidate)), length);
        let go_on: Vec<Candidate> =
            candidates.iter().filter(|candidate| !ends(candidate)).take(self.beams).copied().collect();
        search.done = go_on.is_empty() || self.is_over(search, &go_on, length);
        self.replace(model, search, if search.done { &[] } else { &go_on })
    }

    /// Keeps the best endings.
    fn finish<'a, S>(
        &self,
        search: &mut Search<S>,
        endings: impl Iterator<Item = &'a Candidate>,
        length: usize,
    ) {
        if self.early_stopping == EarlyStopping::Always && search.finished.len() >= self.beams {
            return;
        }
        for ending in endings {
            let mut tokens =
                search.running.get(ending.parent).map(|running| running.tokens.clone()).unwrap_or_default();
            tokens.push(ending.token);
            let finish = if self.stop.contains(&ending.token) { Finish::Stop } else { Finish::Length };
            search.finished.push(Beam { tokens, score: self.score(ending.score, length), finish });
        }
        search.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        search.finished.truncate(self.beams);
    }

    fn score(&self, sum: f32, length: usize) -> f32 {
        sum / (length as f32).powf(self.length_penalty)
    }

    /// Whether no better ending is to be expected.
    fn is_over<S>(&self, search: &Search<S>, go_on: &[Candidate], length: usize) -> bool {
        if search.finished.len() < self.beams {
            return false;
        }
        let length = match self.early_stopping {
            EarlyStopping::Always => return true,
            EarlyStopping::Never if self.length_penalty > 0.0 => self.max_tokens,
            _ => length,
        };
        let best = go_on.first().map_or(f32::NEG_INFINITY, |candidate| self.score(candidate.score, length));
        let worst = search.finished.last().map_or(f32::NEG_INFINITY, |beam| beam.score);
        best <= worst
    }

    /// Makes the running sequences those that `go_on` names: the first child of a sequence continues it, others fork it.
    fn replace<M: LanguageModel>(
        &self,
        model: &mut M,
        search: &mut Search<M::Sequence>,
        go_on: &[Candidate],
    ) -> Result<(), GenerateError<M::Error>> {
        let mut next = Vec::with_capacity(go_on.len());
        let mut used = vec![false; search.running.len()];
        for candidate in go_on {
            let Some(parent) = search.running.get(candidate.parent) else { continue };
            let first = !std::mem::replace(&mut used[candidate.parent], true);
            let sequence = if first { parent.sequence } else { model.fork(parent.sequence)? };
            let tokens = parent.tokens.iter().copied().chain([candidate.token]).collect();
            next.push(Running { sequence, tokens, score: candidate.score });
        }
        let left = search.running.iter().zip(&used).filter(|(_, used)| !**used);
        left.for_each(|(running, _)| model.end(running.sequence));
        search.running = next;
        Ok(())
    }
}

fn by_score(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.score.total_cmp(&a.score).then(a.parent.cmp(&b.parent)).then(a.token.cmp(&b.token))
}

fn keep_best(all: &mut Vec<Candidate>, count: usize) {
    if count > 0 && count < all.len() {
        all.select_nth_unstable_by(count - 1, by_score);
        all.truncate(count);
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().filter(|logit| !logit.is_nan()).fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().filter(|l| !l.is_nan()).map(|l| f64::from(l - max).exp()).sum();
    let sum = sum.ln() as f32;
    logits.iter().map(|logit| logit - max - sum).collect()
}

#[cfg(test)]
#[path = "beam_tests.rs"]
mod tests;
