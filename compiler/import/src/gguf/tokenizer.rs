//! The tokenizer of a GGUF file as plain data.

use crate::ImportError;
use crate::error::{Fault, quote};

use super::{GgufFile, Texts};

/// What `tokenizer.*` of a GGUF file says, checked: lists have one element a token, and special ids are tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufTokenizer {
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE), `llama` (SentencePiece), `bert`, `t5`.
    pub model: String,
    /// `tokenizer.ggml.pre`: which way of splitting text comes first.
    pub pre: Option<String>,
    /// The tokens by id.
    pub tokens: Texts,
    /// A score a token; empty where there are none.
    pub scores: Vec<f64>,
    /// A type a token: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; empty where there are none.
    pub token_types: Vec<i64>,
    /// Merges in order, `left right`; empty where there are none.
    pub merges: Texts,
    /// Id of the token that begins a text.
    pub bos: Option<u32>,
    /// Id of the token that ends a text.
    pub eos: Option<u32>,
    /// Id of the token that ends a turn.
    pub eot: Option<u32>,
    /// Id of the token for what is not in the vocabulary.
    pub unknown: Option<u32>,
    /// Id of the token that fills batches.
    pub padding: Option<u32>,
    /// Whether texts begin with `bos`, where the file says so.
    pub add_bos: Option<bool>,
    /// Whether texts end with `eos`, where the file says so.
    pub add_eos: Option<bool>,
    /// Whether a space is put before a text, where the file says so.
    pub add_space_prefix: Option<bool>,
    /// The chat template.
    pub chat_template: Option<String>,
}

impl GgufTokenizer {
    /// The tokenizer of a file; `None` where it has none.
    ///
    /// # Errors
    /// Where a key has the wrong type or lists do not fit each other: the message names the key.
    pub fn read(file: &GgufFile) -> Result<Option<Self>, ImportError> {
        let bad = |reason: String| Fault::bad(reason).in_file(file.path());
        let Some(model) = file.text("tokenizer.ggml.model")? else { return Ok(None) };
        let tokens = file.texts("tokenizer.ggml.tokens")?.cloned().unwrap_or_default();
        if tokens.is_empty() {
            return Err(bad("`tokenizer.ggml.tokens` has no tokens".to_string()));
        }
        let id = |name: &str| -> Result<Option<u32>, ImportError> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let Some(id) = file.count(&key)? else { return Ok(None) };
            match u32::try_from(id) {
                Ok(number) if (number as usize) < tokens.len() => Ok(Some(number)),
                _ => Err(bad(format!("`{key}` is {id}, the vocabulary has {} tokens", tokens.len()))),
            }
        };
        let tokenizer = Self {
            model: model.to_string(),
            pre: file.text("tokenizer.ggml.pre")?.map(str::to_string),
            scores: file.floats("tokenizer.ggml.scores")?.unwrap_or_default().to_vec(),
            token_types: file.integers("tokenizer.ggml.token_type")?.unwrap_or_default().to_vec(),
            merges: file.texts("tokenizer.ggml.merges")?.cloned().unwrap_or_default(),
            bos: id("bos")?,
            eos: id("eos")?,
            eot: id("eot")?,
            unknown: id("unknown")?,
            padding: id("padding")?,
            add_bos: file.flag("tokenizer.ggml.add_bos_token")?,
            add_eos: file.flag("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: file.flag("tokenizer.ggml.add_space_prefix")?,
            chat_template: file.text("tokenizer.chat_template")?.map(str::to_string),
            tokens,
        };
        tokenizer.check().map_err(bad)?;
        Ok(Some(tokenizer))
    }

    fn check(&self) -> Result<(), String> {
        let lists = [("scores", self.scores.len()), ("token_type", self.token_types.len())];
        for (name, length) in lists {
            if length != 0 && length != self.tokens.len() {
                let tokens = self.tokens.len();
                return Err(format!("`tokenizer.ggml.{name}` has {length} elements for {tokens} tokens"));
            }
        }
        if self.scores.iter().any(|score| score.is_nan()) {
            return Err("`tokenizer.ggml.scores` holds NaN".to_string());
        }
        match self.merges.iter().find(|merge| !merge.trim_matches(' ').contains(' ')) {
            Some(merge) => Err(format!("the merge {} is not two tokens with a space between", quote(merge))),
            None => Ok(()),
        }
    }
}
