//! Text from tokens as they come.

use super::tokenizer::{Tokenizer, TokenizerError};

/// Tokens that may wait for the rest of a character: no character has more bytes.
const MAX_WAITING: usize = 8;

/// Turns a stream of tokens into a stream of text. Pieces of a character are held back until it is whole; the texts together
/// are the text of all tokens.
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    tokens: Vec<u32>,
    /// What stands before it is only context: how the first token after it is written depends on it.
    context: usize,
    /// What stands before it has been given out.
    given: usize,
}

impl Detokenizer {
    /// A stream that continues `tokens`, whose text the reader has.
    pub fn after(tokens: &[u32]) -> Self {
        let context = tokens.len().min(MAX_WAITING);
        Self { tokens: tokens[tokens.len() - context..].to_vec(), context: 0, given: context }
    }

    /// The text that one more token adds; empty where it must wait.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Result<String, TokenizerError> {
        self.tokens.push(token);
        let waiting = self.tokens.len() - self.given;
        self.take(tokenizer, waiting < MAX_WAITING)
    }

    /// What has waited in vain.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        self.take(tokenizer, false)
    }

    fn take(&mut self, tokenizer: &Tokenizer, wait: bool) -> Result<String, TokenizerError> {
        let before = tokenizer.decode(&self.tokens[self.context..self.given], false)?;
        let all = tokenizer.decode(&self.tokens[self.context..], false)?;
        let Some(new) = all.strip_prefix(&before).filter(|new| !new.is_empty()) else {
            return Ok(String::new());
        };
        if wait && new.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        let new = new.to_string();
        self.tokens.drain(..self.given);
        (self.context, self.given) = (0, self.tokens.len());
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json};

    /// A tokenizer of bytes, as GPT-2's: one token a byte.
    fn bytes() -> Tokenizer {
        let plain = (b'!'..=b'~').chain(0xa1..=0xac).chain(0xae..=0xff);
        let plain: Vec<u8> = plain.collect();
        let mut shifted = 256u32;
        let vocabulary = (0..=255u8).map(|byte| {
            let character = match plain.contains(&byte) {
                true => char::from(byte),
                false => {
                    shifted += 1;
                    char::from_u32(shifted - 1).unwrap()
                }
            };
            (character.to_string(), Value::from(byte))
        });
        let vocabulary: Map<String, Value> = vocabulary.collect();
        let level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let tokenizer = json!({
            "version": "1.0", "pre_tokenizer": level, "decoder": level,
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        });
        Tokenizer::from_json(tokenizer.to_string().as_bytes(), "bytes".into()).unwrap()
    }

    fn stream(tokens: impl IntoIterator<Item = u32>) -> Vec<String> {
        let (tokenizer, mut stream) = (bytes(), Detokenizer::default());
        let mut texts: Vec<String> =
            tokens.into_iter().map(|token| stream.push(&tokenizer, token).unwrap()).collect();
        texts.push(stream.finish(&tokenizer).unwrap());
        texts
    }

    #[test]
    fn characters_come_whole() {
        let text = "a é 日 🙂!";
        let tokens = bytes().encode(text, false).unwrap();
        assert_eq!(tokens.len(), text.len());
        let texts = stream(tokens);
        assert_eq!(texts.concat(), text);
        assert!(texts.contains(&"🙂".to_string()) && texts.iter().all(|text| text.chars().count() <= 1));
    }

    #[test]
    fn broken_characters_do_not_wait_for_ever() {
        let texts = stream([0xf0u32; 20]);
        assert_eq!(texts.concat(), "\u{fffd}".repeat(20));
        assert!(texts[..20].iter().any(|text| !text.is_empty()));
        assert_eq!(stream([97, 0xc3])[2], "\u{fffd}");
    }

    #[test]
    fn a_stream_may_continue_a_prompt() {
        let tokenizer = bytes();
        let mut stream = Detokenizer::after(&tokenizer.encode("hello", false).unwrap());
        assert_eq!(stream.push(&tokenizer, 33).unwrap(), "!");
    }
}
