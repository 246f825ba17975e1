//! Generation by a model's function `decode`.

use lathe_runtime::{DecodeStep, Decoder, RuntimeError, SequenceId};

use crate::{Extend, LanguageModel, Logits};

impl LanguageModel for Decoder {
    type Sequence = SequenceId;
    type Error = RuntimeError;

    fn extend(&mut self, steps: &[Extend<'_, SequenceId>]) -> Result<Logits<'_>, RuntimeError> {
        let steps = steps.iter().map(|step| {
            let Extend { sequence, tokens, logits } = *step;
            DecodeStep { sequence, tokens, logits }
        });
        let steps: Vec<_> = steps.collect();
        let logits = Decoder::extend(self, &steps)?;
        Ok(Logits::new(logits.values, logits.vocabulary))
    }

    fn expect(&mut self, sequence: SequenceId, count: usize, padding: usize) -> Result<(), RuntimeError> {
        Decoder::expect(self, sequence, count, padding)
    }

    fn together(&self, sequence: SequenceId, count: usize) -> usize {
        Decoder::together(self, sequence, count)
    }

    fn fork(&mut self, sequence: SequenceId) -> Result<SequenceId, RuntimeError> {
        Decoder::fork(self, sequence)
    }

    fn rewind(&mut self, sequence: SequenceId, count: usize) -> Result<(), RuntimeError> {
        Decoder::rewind(self, sequence, count)
    }

    fn end(&mut self, sequence: SequenceId) {
        Decoder::end(self, sequence);
    }
}
