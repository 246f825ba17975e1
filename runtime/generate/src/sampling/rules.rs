//! Which tokens may come where, whatever the model thinks of them: what `generation_config.json` of transformers says.

/// Rules on the tokens of an answer. The default allows all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Runs of this many tokens come once in prompt and answer together; 0 allows repetitions.
    pub no_repeat_ngram: usize,
    /// Runs of tokens that do not come.
    pub bad_words: Vec<Vec<u32>>,
    /// Tokens of prompt and answer before one of `endings` may come.
    pub min_length: usize,
    /// Tokens of the answer before one of `endings` may come.
    pub min_new_tokens: usize,
    /// Tokens that end a sequence.
    pub endings: Vec<u32>,
    /// The token that follows a first one, such as the language behind a decoder's start token.
    pub forced_first: Option<u32>,
    /// The last token of an answer that becomes this long.
    pub forced_last: Option<(usize, u32)>,
    /// Tokens that never come.
    pub suppressed: Vec<u32>,
    /// Tokens that an answer does not begin with.
    pub suppressed_first: Vec<u32>,
}

impl Rules {
    /// Whether there are any.
    pub(crate) fn restrict(&self) -> bool {
        let Self { endings: _, min_length, min_new_tokens, .. } = self;
        *min_length > 0
            || *min_new_tokens > 0
            || self.no_repeat_ngram > 0
            || !self.bad_words.is_empty()
            || self.forced_first.is_some()
            || self.forced_last.is_some()
            || !self.suppressed.is_empty()
            || !self.suppressed_first.is_empty()
    }

    /// Takes tokens out of `logits[vocabulary]` for the place behind `tokens`, of which the first `prompt` are the prompt; in the order of
    /// transformers, in which a forced token wins over what is out before it, and not over what is out after it.
    pub(crate) fn apply(&self, tokens: &[u32], prompt: usize, logits: &mut [f32]) {
        let new = tokens.len().saturating_sub(prompt);
        for token in self.repeating(tokens) {
            forbid(logits, token);
        }
        for word in &self.bad_words {
            if let Some((&last, before)) = word.split_last()
                && tokens.ends_with(before)
            {
                forbid(logits, last);
            }
        }
        if tokens.len() < self.min_length || new < self.min_new_tokens {
            self.endings.iter().for_each(|ending| forbid(logits, *ending));
        }
        if let Some(first) = self.forced_first.filter(|_| tokens.len() == 1) {
            force(logits, first);
        }
        if let Some((_, last)) = self.forced_last.filter(|(length, _)| new + 1 == *length) {
            force(logits, last);
        }
        self.suppressed.iter().for_each(|token| forbid(logits, *token));
        let begin = match self.forced_first {
            Some(_) if prompt <= 1 => 1,
            _ => 0,
        };
        if new == begin {
            self.suppressed_first.iter().for_each(|token| forbid(logits, *token));
        }
    }

    /// The tokens that would complete a run of `no_repeat_ngram` tokens that is there already.
    fn repeating<'a>(&self, tokens: &'a [u32]) -> impl Iterator<Item = u32> + use<'a> {
        let before = self.no_repeat_ngram.checked_sub(1).filter(|before| *before < tokens.len());
        let runs = before.map(|before| {
            let last = &tokens[tokens.len() - before..];
            tokens.windows(before + 1).filter_map(move |run| match run.split_last() {
                Some((next, run)) if run == last => Some(*next),
                _ => None,
            })
        });
        runs.into_iter().flatten()
    }
}

fn forbid(logits: &mut [f32], token: u32) {
    if let Some(logit) = logits.get_mut(token as usize) {
        *logit = f32::NEG_INFINITY;
    }
}

/// Leaves one token; nothing happens where the vocabulary has it not.
fn force(logits: &mut [f32], token: u32) {
    if (token as usize) < logits.len() {
        logits.fill(f32::NEG_INFINITY);
        logits[token as usize] = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tokens below 8 that rules leave behind `tokens`.
    fn left(rules: &Rules, tokens: &[u32], prompt: usize) -> Vec<usize> {
        let mut logits = [1.0; 8];
        rules.apply(tokens, prompt, &mut logits);
        (0..8).filter(|token| logits[*token] > f32::NEG_INFINITY).collect()
    }

    #[test]
    fn runs_come_once() {
        let rules = Rules { no_repeat_ngram: 2, ..Rules::default() };
        assert_eq!(left(&rules, &[1, 2, 3, 1, 4, 1], 3), [0, 1, 3, 5, 6, 7]);
        assert_eq!(left(&rules, &[1], 1).len(), 8);
        assert_eq!(left(&Rules { no_repeat_ngram: 1, ..Rules::default() }, &[1, 2], 2), [0, 3, 4, 5, 6, 7]);
        assert_eq!(
            left(&Rules { no_repeat_ngram: 3, ..Rules::default() }, &[5, 5, 5], 0),
            [0, 1, 2, 3, 4, 6, 7]
        );
    }

    #[test]
    fn bad_words_are_cut_short() {
        let rules = Rules { bad_words: vec![vec![6], vec![1, 2], vec![]], ..Rules::default() };
        assert_eq!(left(&rules, &[0, 1], 1), [0, 1, 3, 4, 5, 7]);
        assert_eq!(left(&rules, &[0], 1), [0, 1, 2, 3, 4, 5, 7]);
    }

    #[test]
    fn answers_do_not_end_too_soon() {
        let rules = Rules { min_new_tokens: 2, endings: vec![7], ..Rules::default() };
        assert_eq!(left(&rules, &[1, 2, 3], 2).len(), 7);
        assert_eq!(left(&rules, &[1, 2, 3], 1).len(), 8);
        let rules = Rules { min_length: 4, endings: vec![7, 6, 99], ..Rules::default() };
        assert_eq!(left(&rules, &[1, 2, 3], 0).len(), 6);
        assert!(!Rules { endings: vec![1], ..Rules::default() }.restrict() && rules.restrict());
    }

    #[test]
    fn first_and_last_tokens_are_forced() {
        let rules = Rules {
            forced_first: Some(3),
            forced_last: Some((4, 2)),
            suppressed_first: vec![5],
            suppressed: vec![0],
            ..Rules::default()
        };
        assert_eq!(left(&rules, &[9], 1), [3]);
        assert_eq!(left(&rules, &[9, 3], 1), [1, 2, 3, 4, 6, 7], "what is forced is no beginning");
        assert_eq!(left(&rules, &[9, 3, 4, 4], 1), [2]);
        let plain = Rules { suppressed_first: vec![5], ..Rules::default() };
        assert_eq!((left(&plain, &[1], 1).len(), left(&plain, &[1, 2], 1).len()), (7, 8));
    }
}
