//! Tokenizers: from `tokenizer.json`, or from the metadata of a GGUF file.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::check::{Growth, check};
use super::gguf::GgufTokenizer;
use super::guard::guarded;

/// Largest `tokenizer.json` that is read.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Bytes that a text may become while it is normalised or decoded.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// What can go wrong between text and tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The description makes no tokenizer.
    #[error("{place}: not a tokenizer: {reason}")]
    Bad {
        /// The file, or what stands for it.
        place: String,
        /// What is wrong with which part.
        reason: String,
    },
    /// A text or tokens that it does not take.
    #[error("{place}: {reason}")]
    Text {
        /// The file, or what stands for it.
        place: String,
        /// Why.
        reason: String,
    },
}

/// A token with the text that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The token.
    pub id: u32,
    /// Its name in the vocabulary.
    pub piece: String,
}

/// Text to tokens and back.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    growth: Growth,
    /// Bytes of the longest token.
    longest: u64,
    place: String,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// A file that cannot be read, is too large, or makes no tokenizer.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        let fail = |reason: String| TokenizerError::File { path: path.to_path_buf(), reason };
        let metadata = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?;
        if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
            return Err(fail(format!("not a regular file of at most {} MiB", MAX_FILE_BYTES >> 20)));
        }
        let bytes = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
        Self::from_json(&bytes, path.display().to_string())
    }

    /// A tokenizer from the text of a `tokenizer.json`; `place` names it in errors.
    ///
    /// # Errors
    /// [`TokenizerError::Bad`].
    pub fn from_json(bytes: &[u8], place: String) -> Result<Self, TokenizerError> {
        let bad = |reason: String| TokenizerError::Bad { place: place.clone(), reason: plain(&reason) };
        let value: Value = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        let growth = check(&value).map_err(bad)?;
        drop(value);
        let made = guarded(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(bad)?;
        let mut inner = made.map_err(|error| bad(error.to_string()))?;
        let longest = inner.get_vocab(true).keys().map(String::len).max().unwrap_or(0);
        // Neither belongs to the text: callers pad and cut as they need.
        inner.with_truncation(None).map_err(|error| bad(error.to_string()))?;
        inner.with_padding(None);
        Ok(Self { inner, growth, longest: longest as u64, place })
    }

    /// A tokenizer from what a GGUF file says.
    ///
    /// # Errors
    /// [`TokenizerError::Bad`] where it is of an unknown kind or makes no tokenizer.
    pub fn from_gguf(description: &GgufTokenizer<'_>, place: String) -> Result<Self, TokenizerError> {
        let bad = |reason: String| TokenizerError::Bad { place: place.clone(), reason: plain(&reason) };
        let frame = description.frame().map_err(bad)?;
        let growth = check(&frame).map_err(bad)?;
        let made = guarded(|| {
            let failed = |error: tokenizers::Error| error.to_string();
            let mut inner = tokenizers::Tokenizer::from_bytes(frame.to_string()).map_err(failed)?;
            inner.with_model(description.model()?);
            inner.add_tokens(description.added_tokens()).map_err(failed)?;
            Ok(inner)
        });
        let inner = made.and_then(|made: Result<_, String>| made).map_err(bad)?;
        let longest = description.tokens.iter().map(|token| token.len()).max().unwrap_or(0) as u64;
        Ok(Self { inner, growth, longest, place })
    }

    fn text_error(&self, reason: &str) -> TokenizerError {
        TokenizerError::Text { place: self.place.clone(), reason: plain(reason) }
    }

    /// The tokens of a text; `special` adds those that the tokenizer puts around it, such as `[CLS]` and `[SEP]`.
    ///
    /// # Errors
    /// A text too long for what the tokenizer does to it.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TokenizerError> {
        self.limit(text.len() as u64, self.growth.encode)?;
        let encoding = guarded(|| self.inner.encode_fast(text, special));
        let encoding = encoding.map_err(|reason| self.text_error(&reason))?;
        Ok(encoding.map_err(|error| self.text_error(&error.to_string()))?.get_ids().to_vec())
    }

    /// The tokens of two texts that belong together, and which of the two each is of: 0 or 1.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_pair(&self, first: &str, second: &str) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
        self.limit((first.len() + second.len()) as u64, self.growth.encode)?;
        let encoding = guarded(|| self.inner.encode((first, second), true));
        let encoding = encoding.map_err(|reason| self.text_error(&reason))?;
        let encoding = encoding.map_err(|error| self.text_error(&error.to_string()))?;
        Ok((encoding.get_ids().to_vec(), encoding.get_type_ids().to_vec()))
    }

    /// The text of tokens; `special` keeps special tokens as their names.
    ///
    /// # Errors
    /// Tokens whose text would be too long.
    pub fn decode(&self, tokens: &[u32], special: bool) -> Result<String, TokenizerError> {
        self.limit((tokens.len() as u64).saturating_mul(self.longest), self.growth.decode)?;
        let text = guarded(|| self.inner.decode(tokens, !special));
        let text = text.map_err(|reason| self.text_error(&reason))?;
        text.map_err(|error| self.text_error(&error.to_string()))
    }

    fn limit(&self, bytes: u64, growth: u64) -> Result<(), TokenizerError> {
        if bytes.saturating_mul(growth) <= MAX_TEXT_BYTES {
            return Ok(());
        }
        Err(self.text_error(&format!(
            "{bytes} bytes of text may become {growth} times as many here, over {} MiB",
            MAX_TEXT_BYTES >> 20
        )))
    }

    /// Tokens with their names in the vocabulary; empty for those it does not have.
    pub fn pieces(&self, tokens: &[u32]) -> Vec<Piece> {
        let piece = |&id: &u32| Piece { id, piece: self.inner.id_to_token(id).unwrap_or_default() };
        tokens.iter().map(piece).collect()
    }

    /// The token of this name.
    pub fn token(&self, piece: &str) -> Option<u32> {
        self.inner.token_to_id(piece)
    }

    /// Number of tokens.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether a token is special: not part of a text.
    pub fn is_special(&self, token: u32) -> bool {
        let piece = self.inner.id_to_token(token);
        piece.is_some_and(|piece| self.inner.get_added_vocabulary().is_special_token(&piece))
    }
}

/// A message without control characters, not too long.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(json: &str) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::from_json(json.as_bytes(), "tokenizer.json".into())
    }

    const BPE: &str = r#"{"version": "1.0", "added_tokens": [{"id": 3, "content": "<s>", "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}}"#;

    #[test]
    fn text_becomes_tokens_and_text_again() {
        let tokenizer = tokenizer(BPE).unwrap();
        let tokens = tokenizer.encode("abb<s>a", false).unwrap();
        assert_eq!(tokens, [2, 1, 3, 0]);
        assert_eq!(tokenizer.decode(&tokens, true).unwrap(), "ab b <s> a");
        assert_eq!(tokenizer.decode(&tokens, false).unwrap(), "ab b a");
        assert_eq!(tokenizer.pieces(&[2, 9])[0].piece, "ab");
        assert_eq!((tokenizer.token("<s>"), tokenizer.vocabulary()), (Some(3), 4));
        assert!(tokenizer.is_special(3) && !tokenizer.is_special(0));
    }

    #[test]
    fn what_it_cannot_be_made_of_is_said() {
        for json in ["{", "[]", r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}"#] {
            let error = tokenizer(json).unwrap_err().to_string();
            assert!(error.starts_with("tokenizer.json: not a tokenizer: "), "{error}");
        }
        let precompiled = BPE.replace(
            r#""model""#,
            r#""normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "model""#,
        );
        // The library panics or fails: both are errors.
        assert!(tokenizer(&precompiled).is_err());
    }

    #[test]
    fn texts_that_explode_are_refused() {
        let double = r#"{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}"#;
        let normalizer = format!(
            r#""normalizer": {{"type": "Sequence", "normalizers": [{}]}}, "model""#,
            [double; 30].join(",")
        );
        let tokenizer = tokenizer(&BPE.replace(r#""model""#, &normalizer)).unwrap();
        let error = tokenizer.encode("aaaa", false).unwrap_err().to_string();
        assert!(error.contains("1073741824 times"), "{error}");
    }
}
