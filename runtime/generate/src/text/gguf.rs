//! The tokenizer in a GGUF file: what [`super::Tokenizer`] is made of.
//!
//! `tokenizer.ggml.model` is `gpt2` (byte-level BPE with the split of `tokenizer.ggml.pre`) or `llama` (SentencePiece BPE, whose
//! merges follow from the scores: a piece is merged from every pair of pieces that make it up, the best score first).

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};
use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

use super::guard::guarded;

/// `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// Part of text.
    Normal,
    /// What text becomes that no token stands for.
    Unknown,
    /// Not part of text, such as the end of a sequence.
    Control,
    /// Found in text before it is split.
    UserDefined,
    /// Never made.
    Unused,
    /// A byte.
    Byte,
}

impl TokenType {
    /// From the number in a file; `Normal` for those that are not known.
    pub fn of(number: i64) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// What a GGUF file says about its tokenizer, under `tokenizer.ggml.`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufTokenizer<'a> {
    /// `model`: `gpt2` or `llama`.
    pub model: &'a str,
    /// `pre`: how text is split, for `gpt2`.
    pub pre: Option<&'a str>,
    /// `tokens`.
    pub tokens: Vec<&'a str>,
    /// `scores`, one a token, for `llama`.
    pub scores: Vec<f32>,
    /// `token_type`, one a token; all normal where there is none.
    pub types: Vec<TokenType>,
    /// `merges`: pairs separated by a space, for `gpt2`.
    pub merges: Vec<&'a str>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `unknown_token_id`.
    pub unknown: Option<u32>,
    /// `add_bos_token`; `llama` adds it where the file does not say.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`; `llama` adds it where the file does not say.
    pub add_space_prefix: Option<bool>,
}

/// The contractions of English, whatever their case.
const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
/// What ends the patterns of most byte-level tokenizers.
const SPACES: &str = r"\s*[\r\n]+|\s+(?!\S)|\s+";

impl<'a> GgufTokenizer<'a> {
    /// The same as a `tokenizer.json`, but for the tokens and merges, which there are too many of to be written and read.
    ///
    /// # Errors
    /// A model or a split that is not known, or lists of different lengths.
    pub(super) fn frame(&self) -> Result<Value, String> {
        for (name, length) in [("scores", self.scores.len()), ("token_type", self.types.len())] {
            if length != 0 && length != self.tokens.len() {
                return Err(format!("`{name}` has {length} entries for {} tokens", self.tokens.len()));
            }
        }
        let mut tokenizer = match self.model {
            "gpt2" => self.byte_level()?,
            "llama" => self.sentence_piece()?,
            other => {
                return Err(format!("`tokenizer.ggml.model` is `{other}`: expected gpt2 or llama"));
            }
        };
        tokenizer["version"] = json!("1.0");
        tokenizer["model"] = json!({"type": "BPE", "vocab": {}, "merges": []});
        tokenizer["post_processor"] = self.post_processor()?;
        Ok(tokenizer)
    }

    /// The model: tokens and merges.
    ///
    /// # Errors
    /// What the library says.
    pub(super) fn model(&self) -> Result<BPE, String> {
        if self.model == "llama" {
            return self.build(self.merges_of_scores());
        }
        let pairs = || self.merges.iter().filter_map(|merge| merge.split_once(' ')).map(|(a, b)| [a, b]);
        // A merge whose tokens are not all there is an error: it is looked for only where there is one.
        let all = guarded(|| self.build(pairs()));
        all.and_then(|made| made).or_else(|_| self.build(self.known(pairs())))
    }

    fn build<'b>(&self, merges: impl IntoIterator<Item = [&'b str; 2]>) -> Result<BPE, String> {
        // The first of equal tokens counts.
        let mut vocabulary = Vocab::default();
        vocabulary.reserve(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            vocabulary.entry(token.to_string()).or_insert(id as u32);
        }
        let merges: Merges = merges.into_iter().map(|[a, b]| (a.to_string(), b.to_string())).collect();
        let pieces = self.model == "llama";
        let whole_words = !pieces && splits(self.split_name())?.whole_words;
        let mut builder = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .ignore_merges(whole_words)
            .fuse_unk(pieces)
            .byte_fallback(pieces);
        if let Some(unknown) = self.unknown_piece().filter(|_| pieces) {
            builder = builder.unk_token(unknown.to_string());
        }
        builder.build().map_err(|error| error.to_string())
    }

    fn split_name(&self) -> &'a str {
        self.pre.unwrap_or("gpt-2")
    }

    fn byte_level(&self) -> Result<Value, String> {
        let level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": regex});
        let splits = splits(self.split_name())?;
        let mut steps: Vec<Value> = splits
            .patterns
            .iter()
            .map(|pattern| {
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
            })
            .collect();
        steps.push(level(splits.then_gpt2));
        Ok(json!({
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "decoder": level(true),
        }))
    }

    /// The merges whose tokens are all there.
    fn known<'b>(&self, merges: impl Iterator<Item = [&'b str; 2]>) -> Vec<[&'b str; 2]> {
        let known: HashSet<&str> = self.tokens.iter().copied().collect();
        let whole = |[first, second]: &[&str; 2]| {
            let joined = format!("{first}{second}");
            [*first, *second, joined.as_str()].iter().all(|token| known.contains(token))
        };
        merges.filter(whole).collect()
    }

    fn sentence_piece(&self) -> Result<Value, String> {
        if self.scores.is_empty() {
            return Err("`tokenizer.ggml.scores` is missing".into());
        }
        let space = self.add_space_prefix.unwrap_or(true);
        let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
        let back = json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "});
        let mut normalizers = vec![spaces];
        let mut decoders = vec![back, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        if space {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "\u{2581}"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        Ok(json!({
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "decoder": {"type": "Sequence", "decoders": decoders},
        }))
    }

    /// The piece for what no piece stands for.
    fn unknown_piece(&self) -> Option<&'a str> {
        let first = || self.types.iter().position(|kind| *kind == TokenType::Unknown);
        let id = self.unknown.map(|id| id as usize).or_else(first);
        id.and_then(|id| self.tokens.get(id).copied())
    }

    /// Every pair of pieces that makes up a piece; those of the best piece first, then longer parts first.
    fn merges_of_scores(&self) -> Vec<[&'a str; 2]> {
        let ids: HashMap<&str, usize> =
            self.tokens.iter().enumerate().rev().map(|(id, token)| (*token, id)).collect();
        let mut merges = Vec::new();
        for (id, &token) in self.tokens.iter().enumerate() {
            if !matches!(self.kind(id), TokenType::Normal | TokenType::UserDefined) {
                continue;
            }
            let mut pairs: Vec<(usize, usize, [&'a str; 2])> = token
                .char_indices()
                .skip(1)
                .filter_map(|(place, _)| {
                    let (first, second) = token.split_at(place);
                    Some((*ids.get(first)?, *ids.get(second)?, [first, second]))
                })
                .collect();
            pairs.sort();
            merges.extend(pairs.into_iter().map(|(_, _, pair)| (self.scores[id], pair)));
        }
        let lengths = |pair: &[&str; 2]| pair.map(|part| part.chars().count());
        merges.sort_by(|(a, one), (b, other)| b.total_cmp(a).then(lengths(other).cmp(&lengths(one))));
        merges.into_iter().map(|(_, pair)| pair).collect()
    }

    fn kind(&self, id: usize) -> TokenType {
        self.types.get(id).copied().unwrap_or(TokenType::Normal)
    }

    /// Tokens that are found in a text before it is split: control tokens, and those the model's maker added.
    pub(super) fn added_tokens(&self) -> Vec<AddedToken> {
        let spaced = self.model == "llama" && self.add_space_prefix == Some(false);
        let tokens = self.tokens.iter().enumerate().filter(|(_, token)| !token.is_empty());
        let added = tokens.filter_map(|(id, token)| {
            let special = match self.kind(id) {
                TokenType::Control | TokenType::Unknown => true,
                TokenType::UserDefined => false,
                _ => return None,
            };
            // Runs of spaces are found after spaces have become their sign.
            let normalized = spaced && !special && token.contains('\u{2581}');
            Some(AddedToken::from(token.to_string(), special).normalized(normalized))
        });
        added.collect()
    }

    /// The tokens at the beginning and the end of a text.
    fn post_processor(&self) -> Result<Value, String> {
        let token = |id: Option<u32>, wanted: bool, name: &str| match id.filter(|_| wanted) {
            None => Ok(None),
            Some(id) => match self.tokens.get(id as usize) {
                Some(&token) => Ok(Some((id, token))),
                None => Err(format!("`{name}` is {id}, of {} tokens", self.tokens.len())),
            },
        };
        let bos = token(self.bos, self.add_bos.unwrap_or(self.model == "llama"), "bos_token_id")?;
        let eos = token(self.eos, self.add_eos.unwrap_or(false), "eos_token_id")?;
        let special = |token: &str, kind: u32| json!({"SpecialToken": {"id": token, "type_id": kind}});
        let around = |name: &str, kind: u32| {
            let begin = bos.map(|(_, token)| special(token, kind));
            let text = json!({"Sequence": {"id": name, "type_id": kind}});
            begin
                .into_iter()
                .chain([text])
                .chain(eos.map(|(_, token)| special(token, kind)))
                .collect::<Vec<_>>()
        };
        let known: serde_json::Map<String, Value> = bos
            .into_iter()
            .chain(eos)
            .map(|(id, token)| (token.to_string(), json!({"id": token, "ids": [id], "tokens": [token]})))
            .collect();
        let pair: Vec<Value> = around("A", 0).into_iter().chain(around("B", 1)).collect();
        let single = around("A", 0);
        Ok(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known}))
    }
}

/// How a byte-level tokenizer splits text before it merges.
struct Splits {
    patterns: Vec<String>,
    /// Whether GPT-2's pattern splits what these leave.
    then_gpt2: bool,
    /// Whether a part that is a token is taken whole.
    whole_words: bool,
}

/// The splits that `tokenizer.ggml.pre` names.
fn splits(pre: &str) -> Result<Splits, String> {
    let one = |pattern: String, whole_words: bool| Splits {
        patterns: vec![pattern],
        then_gpt2: false,
        whole_words,
    };
    let words = |numbers: &str| {
        format!(
            r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"
        )
    };
    Ok(match pre {
        "gpt-2" | "phi-2" | "mpt" | "olmo" | "jina-es" | "jina-de" | "gigachat" => {
            Splits { patterns: Vec::new(), then_gpt2: true, whole_words: false }
        }
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
            Splits { patterns: vec![r"\p{N}".into()], then_gpt2: true, whole_words: false }
        }
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "dbrx" | "smaug-bpe" => {
            one(words(r"\p{N}{1,3}"), true)
        }
        "qwen2" | "stablelm2" | "deepseek-r1-qwen" | "megrez" => one(words(r"\p{N}"), false),
        "gpt-4o" | "llama4" => {
            let (upper, lower) = (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]");
            let before = r"[^\r\n\p{L}\p{N}]?";
            one(
                format!(
                    r"{before}{upper}*{lower}+{CONTRACTIONS}?|{before}{upper}+{lower}*{CONTRACTIONS}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"
                ),
                false,
            )
        }
        other => {
            return Err(format!(
                "`tokenizer.ggml.pre` is `{other}`: known are gpt-2, smollm, starcoder, llama-bpe, qwen2, gpt-4o and the \
                 names that mean the same"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Tokenizer;

    #[test]
    fn byte_level_tokens_split_as_the_file_says() {
        let mut description = GgufTokenizer {
            model: "gpt2",
            pre: Some("smollm"),
            tokens: vec!["1", "2", "a", "Ġ", "Ġa", "12", "<|end|>", "b", "ab"],
            types: (0..9).map(|id| if id == 6 { TokenType::Control } else { TokenType::Normal }).collect(),
            merges: vec!["1 2", "Ġ a", "a b", "x y"],
            ..GgufTokenizer::default()
        };
        let make = |description: &GgufTokenizer<'_>| Tokenizer::from_gguf(description, "m.gguf".into());
        let tokenizer = make(&description).unwrap();
        let tokens = tokenizer.encode("ab a12<|end|>", true).unwrap();
        assert_eq!(tokens, [8, 4, 0, 1, 6], "digits stand alone");
        assert_eq!(tokenizer.decode(&tokens, false).unwrap(), "ab a12");
        description.pre = Some("gpt-2");
        assert_eq!(make(&description).unwrap().encode("12", true).unwrap(), [5]);
        (description.add_bos, description.bos) = (Some(true), Some(6));
        assert_eq!(make(&description).unwrap().encode("12", true).unwrap(), [6, 5]);
        description.bos = Some(60);
        assert!(make(&description).unwrap_err().to_string().contains("bos_token_id"));
        description.pre = Some("new");
        assert!(make(&description).unwrap_err().to_string().contains("`new`"));
    }

    #[test]
    fn every_known_split_is_a_pattern() {
        for pre in ["gpt-2", "smollm", "llama-bpe", "qwen2", "gpt-4o"] {
            let description = GgufTokenizer {
                model: "gpt2",
                pre: Some(pre),
                tokens: vec!["a"],
                ..GgufTokenizer::default()
            };
            let tokenizer = Tokenizer::from_gguf(&description, pre.into()).unwrap();
            assert_eq!(tokenizer.encode("a", false).unwrap(), [0], "{pre}");
        }
    }

    #[test]
    fn pieces_merge_by_their_scores() {
        let tokens = ["<unk>", "<s>", "<0xC3>", "<0xA9>", "\u{2581}", "a", "b", "ab", "\u{2581}a", "ba"];
        let types = [TokenType::Unknown, TokenType::Control, TokenType::Byte, TokenType::Byte];
        let types = types.into_iter().chain(std::iter::repeat_n(TokenType::Normal, 6)).collect();
        let description = GgufTokenizer {
            model: "llama",
            tokens: tokens.to_vec(),
            scores: vec![0.0, 0.0, 0.0, 0.0, -9.0, -8.0, -7.0, -1.0, -2.0, -3.0],
            types,
            bos: Some(1),
            ..GgufTokenizer::default()
        };
        let tokenizer = Tokenizer::from_gguf(&description, "m.gguf".into()).unwrap();
        let tokens = tokenizer.encode("ab ba\u{e9}", true).unwrap();
        // The space, `ab`, a space, `ba`, and the bytes of a letter that is no piece.
        assert_eq!(tokens, [1, 4, 7, 4, 9, 2, 3]);
        assert_eq!(tokenizer.decode(&tokens, false).unwrap(), "ab ba\u{e9}");
    }
}
