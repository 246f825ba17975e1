//! Penalties on tokens that have come before.

use std::collections::HashMap;

use super::Sampling;

/// The tokens of a sequence, in order and counted.
#[derive(Clone, Debug, Default)]
pub struct History {
    tokens: Vec<u32>,
    /// How many of them are the prompt's.
    prompt: usize,
    /// How often a token stands in the answer; 0 for those of the prompt alone.
    counts: HashMap<u32, u32>,
}

impl Sampling {
    /// Whether logits are changed before the temperature.
    pub(crate) fn adjusts(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
            || !self.logit_bias.is_empty()
            || self.rules.restrict()
    }
}

impl History {
    /// The history of a sequence that has seen `prompt`.
    pub fn new(prompt: &[u32]) -> Self {
        let counts = prompt.iter().map(|&token| (token, 0)).collect();
        Self { tokens: prompt.to_vec(), prompt: prompt.len(), counts }
    }

    /// The answer goes on with `token`.
    pub fn take(&mut self, token: u32) {
        self.tokens.push(token);
        *self.counts.entry(token).or_insert(0) += 1;
    }

    /// Changes `logits[vocabulary]` as `sampling` says.
    pub(crate) fn adjust(&self, sampling: &Sampling, logits: &mut [f32]) {
        for (&token, &count) in &self.counts {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            let penalty = sampling.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            if count > 0 {
                *logit -= sampling.presence_penalty + sampling.frequency_penalty * count as f32;
            }
        }
        for (token, bias) in &sampling.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        sampling.rules.apply(&self.tokens, self.prompt, logits);
    }
}
