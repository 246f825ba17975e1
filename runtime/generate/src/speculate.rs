//! Speculative decoding: tokens that something cheap guesses are checked by the model in one call (Leviathan et al., 2023).
//!
//! A guess is kept where it is the very token that the model's sampler takes there. As the random number of a token depends on the
//! seed and its position alone, the tokens are those that come without guesses, bit for bit, at any temperature: the model's
//! distribution is kept because the sampler is not touched. A draft model draws with the same random numbers, so that where the two
//! distributions are alike, so are the tokens.

use std::time::Duration;

use crate::generator::PREFILL_ROWS;
use crate::{Extend, LanguageModel, Sampler};

/// Calls with guesses after which it is seen whether they pay.
const WINDOW: usize = 8;
/// Calls without guesses after they did not pay; doubled each time.
const PAUSE: usize = 16;

/// Guesses what follows.
pub trait Draft {
    /// Up to `count` tokens that may follow `tokens`, which are those of prompt number `prompt` and its answer so far; `sampler`
    /// stands where the first of them is chosen.
    ///
    /// # Errors
    /// Why there are none, where something is wrong.
    fn propose(
        &mut self,
        prompt: usize,
        tokens: &[u32],
        sampler: &Sampler,
        count: usize,
    ) -> Result<Vec<u32>, String>;
}

/// Guesses that the text repeats itself: what followed the last tokens when they stood there before (prompt lookup, Saxena, 2023).
#[derive(Clone, Copy, Debug)]
pub struct PromptLookup {
    /// Longest run of tokens that is looked for; shorter ones are tried after it.
    pub longest: usize,
}

impl Default for PromptLookup {
    fn default() -> Self {
        Self { longest: 4 }
    }
}

impl Draft for PromptLookup {
    fn propose(&mut self, _: usize, tokens: &[u32], _: &Sampler, count: usize) -> Result<Vec<u32>, String> {
        for length in (1..=self.longest.min(tokens.len().saturating_sub(1))).rev() {
            let (before, run) = (&tokens[..tokens.len() - 1], &tokens[tokens.len() - length..]);
            // The latest occurrence: texts that repeat do so with small changes.
            if let Some(place) = before.windows(length).rposition(|window| window == run) {
                let follows = &tokens[place + length..];
                return Ok(follows[..follows.len().min(count)].to_vec());
            }
        }
        Ok(Vec::new())
    }
}

/// Guesses by a smaller model with the same vocabulary.
#[derive(Debug)]
pub struct ModelDraft<M: LanguageModel> {
    model: M,
    /// A sequence a prompt, with the tokens that it has seen.
    sequences: Vec<(M::Sequence, Vec<u32>)>,
}

impl<M: LanguageModel> ModelDraft<M> {
    /// A draft by `model`; `sequences` are fresh, one a prompt.
    pub fn new(model: M, sequences: Vec<M::Sequence>) -> Self {
        Self { model, sequences: sequences.into_iter().map(|sequence| (sequence, Vec::new())).collect() }
    }
}

impl<M: LanguageModel> Draft for ModelDraft<M> {
    fn propose(
        &mut self,
        prompt: usize,
        tokens: &[u32],
        sampler: &Sampler,
        count: usize,
    ) -> Result<Vec<u32>, String> {
        let Some((sequence, seen)) = self.sequences.get_mut(prompt) else { return Ok(Vec::new()) };
        let fail = |error: M::Error| format!("the draft model failed: {error}");
        // At least the last token is taken in again: its logits are needed.
        let last = tokens.len().saturating_sub(1);
        let common = seen.iter().zip(&tokens[..last]).take_while(|(a, b)| a == b).count();
        self.model.rewind(*sequence, seen.len() - common).map_err(fail)?;
        seen.truncate(common);
        let mut sampler = sampler.clone();
        let mut guesses = Vec::with_capacity(count);
        let mut rest = tokens[common..].to_vec();
        while guesses.len() < count && !rest.is_empty() {
            let chunk = &rest[..rest.len().min(PREFILL_ROWS)];
            let whole = chunk.len() == rest.len();
            let step = Extend { sequence: *sequence, tokens: chunk, logits: usize::from(whole) };
            let logits = self.model.extend(&[step]).map_err(fail)?;
            let guess = if whole { logits.row(0).and_then(|row| sampler.choose(row)) } else { None };
            seen.extend(chunk);
            rest.drain(..chunk.len());
            if let Some(guess) = guess {
                sampler.take(guess);
                guesses.push(guess);
                rest.push(guess);
            }
        }
        Ok(guesses)
    }
}

/// How guesses went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Speculated {
    /// Calls of the model that checked guesses.
    pub calls: usize,
    /// Guessed tokens.
    pub proposed: usize,
    /// Those that the model took too.
    pub accepted: usize,
    /// Time that the same tokens would have taken without guesses, over the time that they took.
    pub speedup: f64,
    /// Whether they were left off for a time because they did not pay.
    pub paused: bool,
}

impl Speculated {
    /// The share of guesses that the model took; 0 without guesses.
    pub fn acceptance(&self) -> f64 {
        if self.proposed == 0 { 0.0 } else { self.accepted as f64 / self.proposed as f64 }
    }
}

/// Decides when guessing pays, from what calls with and without guesses took.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    /// Seconds of a call without guesses.
    plain: Option<f64>,
    total: Speculated,
    /// Seconds, and calls without guesses that the same tokens would have needed: since the start, and in this window.
    all: (f64, f64),
    window: (f64, f64),
    window_calls: usize,
    pause: usize,
    next_pause: usize,
}

impl Meter {
    pub(crate) fn new() -> Self {
        // The first call without guesses warms up, the second is measured.
        let (all, window) = ((0.0, 0.0), (0.0, 0.0));
        Self {
            plain: None,
            total: Speculated::default(),
            all,
            window,
            window_calls: 0,
            pause: 2,
            next_pause: PAUSE,
        }
    }

    /// Whether the next call shall have guesses.
    pub(crate) fn wants(&self) -> bool {
        self.pause == 0
    }

    /// A call without guesses.
    pub(crate) fn plain(&mut self, time: Duration) {
        // Steps become slower as the text grows; one that takes long by chance counts little.
        let seconds = time.as_secs_f64();
        let slower = |plain: f64| plain + 0.1 * (seconds.min(2.0 * plain) - plain);
        let next = |plain: f64| if seconds < plain { seconds } else { slower(plain) };
        self.plain = Some(self.plain.map_or(seconds, next));
        self.pause = self.pause.saturating_sub(1);
    }

    /// A call with guesses, drafting included: `tokens` came out of it for each sequence on average.
    pub(crate) fn guessed(&mut self, time: Duration, tokens: f64, proposed: usize, accepted: usize) {
        self.total.calls += 1;
        self.total.proposed += proposed;
        self.total.accepted += accepted;
        for sums in [&mut self.all, &mut self.window] {
            sums.0 += time.as_secs_f64();
            sums.1 += tokens;
        }
        self.window_calls += 1;
        if self.window_calls == WINDOW {
            let (seconds, calls) = std::mem::take(&mut self.window);
            self.window_calls = 0;
            if seconds > calls * self.plain.unwrap_or(f64::INFINITY) {
                self.total.paused = true;
                self.pause = self.next_pause;
                self.next_pause = self.next_pause.saturating_mul(2);
            }
        }
    }

    pub(crate) fn report(&self) -> Speculated {
        let (seconds, calls) = self.all;
        let speedup = match self.plain {
            Some(plain) if seconds > 0.0 => calls * plain / seconds,
            _ => 1.0,
        };
        Speculated { speedup, ..self.total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sampling;

    #[test]
    fn repetitions_are_looked_up() {
        let sampler = Sampler::new(Sampling::default(), &[]);
        let propose =
            |tokens: &[u32], count| PromptLookup::default().propose(0, tokens, &sampler, count).unwrap();
        assert_eq!(propose(&[1, 2, 3, 4, 9, 1, 2], 3), [3, 4, 9]);
        assert_eq!(propose(&[1, 2, 3, 5, 2, 4, 1, 2], 1), [3], "a longer run comes first");
        assert_eq!(propose(&[7, 7], 4), [7]);
        assert!(propose(&[1, 2, 3], 4).is_empty());
        assert!(propose(&[1], 4).is_empty());
        assert!(propose(&[], 4).is_empty());
    }

    #[test]
    fn guesses_that_do_not_pay_are_left_off_for_longer_and_longer() {
        let millis = Duration::from_millis;
        let mut meter = Meter::new();
        assert!(!meter.wants());
        meter.plain(millis(20));
        meter.plain(millis(10));
        assert!(meter.wants());
        (0..8).for_each(|_| meter.guessed(millis(12), 2.0, 4, 1));
        assert!(meter.wants(), "twice the tokens in 1.2 times the time");
        assert!(meter.report().speedup > 1.5 && !meter.report().paused);
        (0..8).for_each(|_| meter.guessed(millis(12), 1.0, 4, 0));
        assert!(!meter.wants() && meter.report().paused);
        (0..PAUSE).for_each(|_| meter.plain(millis(10)));
        assert!(meter.wants());
        (0..8).for_each(|_| meter.guessed(millis(12), 1.0, 4, 0));
        (0..PAUSE).for_each(|_| meter.plain(millis(10)));
        assert!(!meter.wants());
        assert_eq!((meter.report().calls, meter.report().proposed, meter.report().accepted), (24, 96, 8));
    }
}
