//! What depends on how long a text is: keys that lose their meaning at a length, rotary embeddings that grow with it.

use super::{Decoder, Sequence, SequenceId};
use crate::RuntimeError;

impl Decoder {
    /// How many of the next `count` tokens a sequence may take in with one call so that every row of logits is what it is when they
    /// come one by one: up to the length at which its cached keys lose their meaning.
    pub fn together(&self, id: SequenceId, count: usize) -> usize {
        let length = self.sequence(id).map_or(0, |sequence| sequence.texts.after(sequence.tokens.len()));
        let ahead = self.boundaries.iter().filter(|&&boundary| boundary > length);
        ahead.map(|boundary| boundary - length).fold(count, usize::min)
    }

    /// Whether cached keys of one number of tokens mean something else among another number.
    pub(super) fn crosses(&self, sequence: &Sequence, counts: [usize; 2]) -> bool {
        let [a, b] = counts.map(|tokens| self.regime(sequence.texts.after(tokens)));
        a != b
    }

    /// How many boundaries a length is above.
    pub(super) fn regime(&self, length: usize) -> usize {
        self.boundaries.iter().filter(|&&boundary| length > boundary).count()
    }

    /// The next `count` tokens of a sequence are one text, in however many calls they come, in a batch whose longest text is `padding`
    /// tokens longer. Models whose rotary embeddings grow with the text rotate all of a text as its end; without this each token counts
    /// as a step of its own.
    ///
    /// # Errors
    /// Where the sequence has ended.
    pub fn expect(&mut self, id: SequenceId, count: usize, padding: usize) -> Result<(), RuntimeError> {
        self.sequence(id)?;
        if let Some(Some(sequence)) = self.sequences.get_mut(id.0) {
            sequence.texts.expect(sequence.tokens.len(), count, padding);
        }
        Ok(())
    }
}
