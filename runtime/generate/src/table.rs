//! A language model that is a table, for tests.

use crate::{Extend, LanguageModel, Logits};

pub(crate) const VOCABULARY: usize = 10;

#[derive(Debug, thiserror::Error)]
#[error("the model failed")]
pub(crate) struct Failed;

/// Logits that depend on the last two tokens, alike for the model and its draft but not the same.
pub(crate) struct Table {
    /// The tokens of each sequence.
    pub(crate) seen: Vec<Vec<u32>>,
    shift: f32,
    logits: Vec<f32>,
    /// Calls so far.
    pub(crate) calls: usize,
}

impl Table {
    pub(crate) fn new(shift: f32, sequences: usize) -> Self {
        Self { seen: vec![Vec::new(); sequences], shift, logits: Vec::new(), calls: 0 }
    }
}

impl LanguageModel for Table {
    type Sequence = usize;
    type Error = Failed;

    fn extend(&mut self, steps: &[Extend<'_, usize>]) -> Result<Logits<'_>, Failed> {
        self.calls += 1;
        self.logits.clear();
        for step in steps {
            let first = step.tokens.len() - step.logits;
            for (index, token) in step.tokens.iter().enumerate() {
                let seen = &mut self.seen[step.sequence];
                seen.push(*token);
                if index >= first {
                    let before = seen.len().checked_sub(2).map_or(0, |place| seen[place]);
                    let logit = |i: u32| {
                        let wave = (i * 7 + token * 3 + before * 5) % 11;
                        wave as f32 * 0.4 + self.shift * (i % 3) as f32
                    };
                    self.logits.extend((0..VOCABULARY as u32).map(logit));
                }
            }
        }
        Ok(Logits::new(&self.logits, VOCABULARY))
    }

    fn together(&self, _: usize, count: usize) -> usize {
        count
    }

    fn fork(&mut self, sequence: usize) -> Result<usize, Failed> {
        self.seen.push(self.seen[sequence].clone());
        Ok(self.seen.len() - 1)
    }

    fn rewind(&mut self, sequence: usize, count: usize) -> Result<(), Failed> {
        let left = self.seen[sequence].len() - count;
        self.seen[sequence].truncate(left);
        Ok(())
    }

    fn end(&mut self, _: usize) {}
}
