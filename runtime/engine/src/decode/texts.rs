//! The lengths that tokens count with, for models whose rotary embeddings grow with the text.
//!
//! transformers gives the tokens of a prompt the base of the prompt's length, and each further token that of the length at its own step; in a
//! left-padded batch the longest row decides. So a sequence remembers which of its tokens came in as one text, and how much longer the
//! longest sequence of its batch was.

/// Which tokens of a sequence came in as one text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Texts {
    /// What the lengths of all tokens are raised by.
    padding: usize,
    /// Places `start..end` that count with a length of their own, in ascending order.
    texts: Vec<Text>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Text {
    start: usize,
    end: usize,
    /// The length at the end of the text, which tokens of it that are forgotten do not change.
    length: usize,
}

impl Texts {
    /// The tokens `start..start + count` come in as one text. Lengths count `padding` more from here on.
    pub(super) fn expect(&mut self, start: usize, count: usize, padding: usize) {
        self.forget(start);
        let length = start.saturating_add(count);
        self.texts.push(Text { start, end: length, length });
        self.padding = padding;
    }

    /// Only the first `length` tokens are left.
    pub(super) fn forget(&mut self, length: usize) {
        self.texts.retain(|text| text.start < length);
        if let Some(text) = self.texts.last_mut() {
            text.end = text.end.min(length);
        }
    }

    /// The length that the token at a place counts with.
    pub(super) fn length(&self, place: usize) -> usize {
        let after = self.texts.partition_point(|text| text.start <= place);
        let text = after.checked_sub(1).and_then(|index| self.texts.get(index));
        let length = match text {
            Some(text) if place < text.end => text.length,
            _ => place + 1,
        };
        length.saturating_add(self.padding)
    }

    /// The length that the last of the first `tokens` tokens counts with; 0 where there are none.
    pub(super) fn after(&self, tokens: usize) -> usize {
        tokens.checked_sub(1).map_or(0, |last| self.length(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(texts: &Texts, count: usize) -> Vec<usize> {
        (0..count).map(|place| texts.length(place)).collect()
    }

    #[test]
    fn texts_count_as_a_whole_and_steps_one_by_one() {
        let mut texts = Texts::default();
        assert_eq!(lengths(&texts, 3), [1, 2, 3]);
        texts.expect(0, 3, 0);
        assert_eq!(lengths(&texts, 5), [3, 3, 3, 4, 5]);
        texts.expect(5, 2, 0);
        assert_eq!(lengths(&texts, 8), [3, 3, 3, 4, 5, 7, 7, 8]);
        // What stays of a text keeps its rotation, and what follows counts anew.
        assert_eq!([0, 2, 4].map(|tokens| texts.after(tokens)), [0, 3, 4]);
        texts.forget(2);
        assert_eq!(lengths(&texts, 4), [3, 3, 3, 4]);
        texts.expect(2, 1, 10);
        assert_eq!(lengths(&texts, 4), [13, 13, 13, 14]);
    }

    #[test]
    fn an_unbounded_text_does_not_overflow() {
        let mut texts = Texts::default();
        texts.expect(1, usize::MAX, usize::MAX);
        assert_eq!(texts.length(1), usize::MAX);
    }
}
