//! The rows of a call, and sequences that are computed again because windows have left behind what they need or their keys have lost
//! their meaning.

use lathe_artifact::plan::StateKind;

use super::inputs::Rows;
use super::{DecodeStep, Decoder, Sequence, SequenceId, group};
use crate::RuntimeError;

impl Decoder {
    /// The rows of a step: its tokens, or all tokens of a sequence that is computed again, unless it has caught up.
    pub(super) fn rows<'a>(&self, step: &DecodeStep<'a>, caught_up: bool) -> Result<Rows<'a>, RuntimeError> {
        let sequence = self.sequence(step.sequence)?;
        let old = sequence.tokens.len();
        let (start, again) = match !caught_up && self.is_stale(sequence, step) {
            true => (0, sequence.tokens.clone()),
            false => (old, Vec::new()),
        };
        let DecodeStep { sequence: SequenceId(place), tokens, logits } = *step;
        let texts = sequence.texts.clone();
        let whole = old + tokens.len();
        Ok(Rows { sequence: place, again, tokens, start, logits, whole, source: sequence.source, texts })
    }

    /// Whether a step needs keys and values of earlier tokens that are not there, or mean something else at its end.
    fn is_stale(&self, sequence: &Sequence, step: &DecodeStep<'_>) -> bool {
        let (old, new) = (sequence.tokens.len(), sequence.tokens.len() + step.tokens.len());
        (old > 0 && self.crosses(sequence, [old, new])) || sequence.cached < old
    }

    /// Computes a sequence again, up to a step, in pieces that windows have room for. `false` where that is not needed, or can be done
    /// with the step: all tokens have room where no window leaves any behind.
    ///
    /// # Errors
    /// What a run may fail with; the tokens of the sequence stay the same.
    pub(super) fn catch_up(&mut self, step: &DecodeStep<'_>) -> Result<bool, RuntimeError> {
        let windowed = self.groups.iter().any(|group| group.window.is_some());
        let sequence = self.sequence(step.sequence)?;
        let stale = self.is_stale(sequence, step);
        let whole = sequence.tokens.len() + step.tokens.len();
        if !windowed || !stale || whole <= self.chunk {
            return Ok(false);
        }
        let (tokens, texts, source) = (sequence.tokens.clone(), sequence.texts.clone(), sequence.source);
        let SequenceId(place) = step.sequence;
        let mut start = 0;
        for piece in tokens.chunks(self.chunk) {
            let texts = texts.clone();
            let row = Rows {
                sequence: place,
                again: Vec::new(),
                tokens: piece,
                start,
                logits: 0,
                whole,
                source,
                texts,
            };
            let result = self.reserve(std::slice::from_ref(&row)).and_then(|()| self.run(&[&row]));
            start += if result.is_ok() { piece.len() } else { 0 };
            self.keep(place, start);
            result?;
        }
        Ok(true)
    }

    /// After a call: what was taken in counts, and windows leave pages behind; or what was reserved for it goes back.
    pub(super) fn settle(&mut self, row: &Rows<'_>, done: bool) {
        let Some(Some(sequence)) = self.sequences.get_mut(row.sequence) else { return };
        if done {
            sequence.tokens.extend(row.tokens);
        }
        let cached = if done { sequence.tokens.len() } else { row.start };
        self.keep(row.sequence, cached);
    }

    /// The first `cached` tokens of a sequence have their keys and values; pages behind them go back, and those that windows have left.
    fn keep(&mut self, sequence: usize, cached: usize) {
        let Some(Some(sequence)) = self.sequences.get_mut(sequence) else { return };
        sequence.cached = cached;
        let own = sequence.pages.iter_mut().zip(&mut self.groups);
        for (pages, group) in own.filter(|(_, group)| group.kind == StateKind::Kv) {
            pages.truncate(&mut group.pool, cached);
            if let Some(window) = group.window {
                pages.leave_behind(&mut group.pool, cached.saturating_sub(group::REWOUND), window);
            }
        }
    }
}
