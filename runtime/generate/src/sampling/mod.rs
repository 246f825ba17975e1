//! Choosing a token from logits.
//!
//! The random number of a token depends on the seed and its position alone, so that the same seed gives the same tokens however the
//! logits were computed: alone or in a batch, with or without drafts.

mod filter;
mod penalty;
mod rules;

use lathe_tensor::SplitMix64;

use filter::Candidate;
pub use penalty::History;
pub use rules::Rules;

/// How tokens are chosen. Penalties come first, then rules, then the temperature, `top_k`, `top_p`, `min_p` and `typical_p` one after the
/// other, as in transformers.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the most likely token.
    pub temperature: f32,
    /// Only this many of the most likely tokens; 0 for all.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability (nucleus sampling, Holtzman et al., 2019); 1 for all.
    pub top_p: f32,
    /// Only tokens with at least this share of the most likely token's probability (Nguyen et al., 2024); 0 for all.
    pub min_p: f32,
    /// Only the tokens whose surprise is nearest the expected one, that together reach this probability (locally typical sampling,
    /// Meister et al., 2022); 1 for all.
    pub typical_p: f32,
    /// Logits of tokens in the prompt or the answer are divided by it where positive, else multiplied (Keskar et al., 2019); 1 for
    /// no penalty.
    pub repetition_penalty: f32,
    /// Taken off the logits of tokens in the answer.
    pub presence_penalty: f32,
    /// Taken off the logits of tokens in the answer, times how often they are there.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Which tokens may come where.
    pub rules: Rules,
    /// The same seed and logits give the same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            rules: Rules::default(),
            seed: 0,
        }
    }
}

/// What the model thought of a token.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// The natural logarithm of its probability, before penalties and temperature.
    pub token: f32,
    /// The most likely tokens with theirs, best first.
    pub top: Vec<(u32, f32)>,
}

impl Logprobs {
    /// Those of `token`, and of the `count` most likely tokens, in `logits[vocabulary]`.
    pub fn of(logits: &[f32], token: u32, count: usize) -> Self {
        let max = logits.iter().copied().filter(|logit| !logit.is_nan()).fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().filter(|l| !l.is_nan()).map(|l| f64::from(l - max).exp()).sum();
        let log = |logit: f32| (f64::from(logit - max) - sum.ln()) as f32;
        let mut all = filter::candidates(logits, 1.0);
        filter::keep_largest(&mut all, count);
        let top = all.iter().take(count).map(|(token, _)| (*token, log(logits[*token as usize])));
        let own = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        Self { token: log(own), top: top.collect() }
    }
}

/// Chooses the tokens of one sequence.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    history: History,
    /// Tokens taken so far.
    position: u64,
    adjusted: Vec<f32>,
}

impl Sampler {
    /// A sampler for what follows `prompt`.
    pub fn new(sampling: Sampling, prompt: &[u32]) -> Self {
        Self { history: History::new(prompt), sampling, position: 0, adjusted: Vec::new() }
    }

    /// A token of `logits[vocabulary]`; `None` where there is none or all are NaN. Ties go to the lower token.
    pub fn choose(&mut self, logits: &[f32]) -> Option<u32> {
        let mut adjusted = std::mem::take(&mut self.adjusted);
        let logits = match self.sampling.adjusts() {
            false => logits,
            true => {
                adjusted.clear();
                adjusted.extend_from_slice(logits);
                self.history.adjust(&self.sampling, &mut adjusted);
                &adjusted[..]
            }
        };
        let chosen = self.choose_adjusted(logits);
        self.adjusted = adjusted;
        chosen
    }

    fn choose_adjusted(&self, logits: &[f32]) -> Option<u32> {
        // NaN and negative temperatures are greedy too.
        if self.sampling.temperature > 0.0 {
            let candidates = filter::filtered(logits, &self.sampling);
            if let Some(token) = draw(&candidates, self.unit()) {
                return Some(token);
            }
        }
        argmax(logits).and_then(|token| u32::try_from(token).ok())
    }

    /// The random number of the next token, in `0..1`.
    fn unit(&self) -> f64 {
        // The sequence that starts at the seed, at this position.
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let state = self.sampling.seed.wrapping_add(self.position.wrapping_mul(STEP));
        SplitMix64::new(state).unit()
    }

    /// The sequence goes on with `token`.
    pub fn take(&mut self, token: u32) {
        self.position += 1;
        if self.sampling.adjusts() {
            self.history.take(token);
        }
    }
}

fn draw(candidates: &[Candidate], unit: f64) -> Option<u32> {
    let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    let mut point = unit * total;
    for (token, weight) in candidates {
        point -= weight;
        if point < 0.0 {
            return Some(*token);
        }
    }
    candidates.last().map(|(token, _)| *token)
}

/// The first of the largest logits that are numbers.
pub(crate) fn argmax(logits: &[f32]) -> Option<usize> {
    let mut best: Option<usize> = None;
    for (index, logit) in logits.iter().enumerate() {
        if !logit.is_nan() && best.is_none_or(|best| *logit > logits[best]) {
            best = Some(index);
        }
    }
    best
}

#[cfg(test)]
mod tests;
