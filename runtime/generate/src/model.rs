//! What a language model must offer, so that generation can be written and tested without one.

/// Logits of some rows, one row of the vocabulary each.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a> {
    values: &'a [f32],
    vocabulary: usize,
}

impl<'a> Logits<'a> {
    /// Logits as `[rows, vocabulary]`. Values behind the last whole row do not count.
    pub fn new(values: &'a [f32], vocabulary: usize) -> Self {
        Self { values, vocabulary }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.vocabulary).unwrap_or(0)
    }

    /// The logits of a row: `[vocabulary]`.
    pub fn row(&self, index: usize) -> Option<&'a [f32]> {
        let start = index.checked_mul(self.vocabulary)?;
        self.values.get(start..start.checked_add(self.vocabulary)?)
    }

    /// All rows, one after the other.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }
}

/// Tokens that one sequence takes in.
#[derive(Clone, Copy, Debug)]
pub struct Extend<'a, S> {
    /// The sequence.
    pub sequence: S,
    /// The tokens that follow what it has seen; at least one.
    pub tokens: &'a [u32],
    /// For how many of the last tokens the logits of what follows are wanted: 0 for a part of a prompt, 1 for a step, all for
    /// the verification of a draft.
    pub logits: usize,
}

/// What predicts the tokens that follow: a set of sequences that grow, fork and end.
pub trait LanguageModel {
    /// Names a sequence.
    type Sequence: Copy + std::fmt::Debug;
    /// The model's own error.
    type Error: std::error::Error + 'static;

    /// Lets sequences take in tokens, all in one call, and gives the logits that were asked for, in the order of `steps`. A
    /// sequence may stand in `steps` once. After an error no sequence has grown.
    fn extend(&mut self, steps: &[Extend<'_, Self::Sequence>]) -> Result<Logits<'_>, Self::Error>;

    /// The next `count` tokens of a sequence are one text, in however many calls they come, in a batch whose longest text is `padding`
    /// tokens longer: models whose positions depend on the length take it from the text's end, as when it comes in one call.
    fn expect(&mut self, sequence: Self::Sequence, count: usize, padding: usize) -> Result<(), Self::Error> {
        let _ = (sequence, count, padding);
        Ok(())
    }

    /// How many of the next `count` tokens a sequence may take in with one call so that every row of logits is what it is when
    /// they come one by one; at least 1. Fewer than `count` where what earlier tokens mean depends on how many there are.
    fn together(&self, sequence: Self::Sequence, count: usize) -> usize;

    /// A second sequence that has seen the same tokens.
    fn fork(&mut self, sequence: Self::Sequence) -> Result<Self::Sequence, Self::Error>;

    /// Lets a sequence forget the last `count` tokens that it has taken in.
    fn rewind(&mut self, sequence: Self::Sequence, count: usize) -> Result<(), Self::Error>;

    /// Gives up what a sequence holds. Its name may be given to another one.
    fn end(&mut self, sequence: Self::Sequence);
}
