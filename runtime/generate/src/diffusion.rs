//! Masked diffusion: text that is written in any order (LLaDA, Nie et al., 2025), and the filling of gaps by encoders.
//!
//! The answer begins as masks. Each step predicts all of them at once and keeps some; the others stay masks. Blocks are written one
//! after the other, each in its share of the steps, so that the number of forward passes is the number of steps.

use lathe_tensor::SplitMix64;

use crate::Logits;
use crate::sampling::argmax;

/// What predicts the tokens at all places of sequences at once.
pub trait MaskedModel {
    /// The model's own error.
    type Error: std::error::Error + 'static;

    /// Logits of every place of a sequence: `[places, vocabulary]`.
    fn predict(&mut self, tokens: &[u32]) -> Result<Logits<'_>, Self::Error>;
}

/// Which predictions of a step are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remasking {
    /// Those that the model is most sure of.
    LowConfidence,
    /// Any.
    Random,
}

/// How an answer is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Diffusion {
    /// Forward passes.
    pub steps: usize,
    /// Tokens of a block; the whole answer where it is 0.
    pub block: usize,
    /// Which predictions are kept.
    pub remasking: Remasking,
    /// 0 takes the most likely token; above, logits get Gumbel noise times it, in double precision.
    pub temperature: f32,
    /// The same seed gives the same answer.
    pub seed: u64,
    /// The token that stands for what is not written yet.
    pub mask: u32,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffusionError<E: std::error::Error + 'static> {
    /// The numbers do not go together.
    #[error("{0}")]
    Plan(String),
    /// The model gave logits for other places than it was asked for, or none that are numbers.
    #[error("the model gave logits for {rows} places, {places} are needed, each with a finite one")]
    NoLogits {
        /// What it gave.
        rows: usize,
        /// What is needed.
        places: usize,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] E),
}

impl Diffusion {
    /// Writes `count` tokens after `prompt`. `on_step` sees the whole sequence after each step and ends it by returning `false`.
    ///
    /// # Errors
    /// Steps, blocks and length that do not go together; a model that fails.
    pub fn write<M: MaskedModel>(
        &self,
        model: &mut M,
        prompt: &[u32],
        count: usize,
        on_step: &mut dyn FnMut(&[u32]) -> bool,
    ) -> Result<Vec<u32>, DiffusionError<M::Error>> {
        let block = if self.block == 0 { count } else { self.block };
        if count == 0 {
            return Ok(prompt.to_vec());
        }
        if !count.is_multiple_of(block) {
            return Err(DiffusionError::Plan(format!(
                "{count} tokens are no whole number of blocks of {block}"
            )));
        }
        let blocks = count / block;
        if self.steps == 0 || !self.steps.is_multiple_of(blocks) {
            return Err(DiffusionError::Plan(format!(
                "{} steps are no whole number of steps for each of {blocks} blocks",
                self.steps
            )));
        }
        let mut tokens = prompt.to_vec();
        tokens.resize(prompt.len() + count, self.mask);
        let mut random = SplitMix64::new(self.seed);
        for index in 0..blocks {
            let places = prompt.len() + index * block..prompt.len() + (index + 1) * block;
            let places: Vec<usize> = places.collect();
            if !self.fill(model, &mut tokens, &places, self.steps / blocks, &mut random, on_step)? {
                break;
            }
        }
        Ok(tokens)
    }

    /// Fills the masks of a text, as many at a time as the steps ask for.
    ///
    /// # Errors
    /// A model that fails.
    pub fn infill<M: MaskedModel>(
        &self,
        model: &mut M,
        text: &[u32],
        on_step: &mut dyn FnMut(&[u32]) -> bool,
    ) -> Result<Vec<u32>, DiffusionError<M::Error>> {
        let mut tokens = text.to_vec();
        let masks = tokens.iter().enumerate().filter(|(_, token)| **token == self.mask);
        let masks: Vec<usize> = masks.map(|(place, _)| place).collect();
        let steps = if self.steps == 0 { masks.len() } else { self.steps };
        self.fill(model, &mut tokens, &masks, steps, &mut SplitMix64::new(self.seed), on_step)?;
        Ok(tokens)
    }

    /// Fills `places` in a number of steps; `false` where the caller wants no more.
    fn fill<M: MaskedModel>(
        &self,
        model: &mut M,
        tokens: &mut [u32],
        places: &[usize],
        steps: usize,
        random: &mut SplitMix64,
        on_step: &mut dyn FnMut(&[u32]) -> bool,
    ) -> Result<bool, DiffusionError<M::Error>> {
        for step in 0..steps {
            // The first steps write one more where the places do not divide.
            let keep = places.len() / steps + usize::from(step < places.len() % steps);
            let logits = model.predict(tokens)?;
            if logits.rows() < tokens.len() {
                return Err(DiffusionError::NoLogits { rows: logits.rows(), places: tokens.len() });
            }
            let masks: Vec<usize> =
                places.iter().copied().filter(|place| tokens[*place] == self.mask).collect();
            let mut guesses = Vec::with_capacity(masks.len());
            for place in masks {
                let row = logits.row(place).unwrap_or_default();
                let (token, confidence) = self
                    .guess(row, random)
                    .ok_or(DiffusionError::NoLogits { rows: logits.rows(), places: tokens.len() })?;
                guesses.push((place, token, confidence));
            }
            guesses.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
            for (place, token, _) in guesses.into_iter().take(keep) {
                tokens[place] = token;
            }
            if !on_step(tokens) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A token for a place, with how sure it is: its probability, or any number where order is random.
    fn guess(&self, logits: &[f32], random: &mut SplitMix64) -> Option<(u32, f64)> {
        let best = match self.temperature > 0.0 {
            false => argmax(logits)?,
            true => {
                // exp(logit) / (-ln u) ^ temperature, as LLaDA draws; its logarithm, which does not overflow.
                let noisy = |logit: f32, unit: f64| {
                    f64::from(logit) - f64::from(self.temperature) * (-unit.max(f64::MIN_POSITIVE).ln()).ln()
                };
                let scores = logits.iter().map(|logit| noisy(*logit, random.unit()));
                let scores = scores.enumerate().filter(|(_, score)| !score.is_nan());
                scores.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))?.0
            }
        };
        let confidence = match self.remasking {
            Remasking::Random => random.unit(),
            Remasking::LowConfidence => probability(logits, best),
        };
        Some((u32::try_from(best).ok()?, confidence))
    }
}

/// The probability of a token, in double precision.
pub fn probability(logits: &[f32], token: usize) -> f64 {
    let max = logits.iter().copied().filter(|logit| !logit.is_nan()).fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| if logit == max { 1.0 } else { f64::from(logit - max).exp() };
    let sum: f64 = logits.iter().filter(|logit| !logit.is_nan()).map(|logit| weight(*logit)).sum();
    logits.get(token).map_or(0.0, |logit| weight(*logit) / sum)
}

#[cfg(test)]
#[path = "diffusion_tests.rs"]
mod tests;
