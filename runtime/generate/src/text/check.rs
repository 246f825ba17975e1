//! What a `tokenizer.json` must keep to before a tokenizer is made of it.
//!
//! The library that makes it trusts its input: sizes that underflow, patterns that explode and replacements that double the text
//! thirty times are stopped here.

use std::collections::HashSet;

use serde_json::Value;

/// Largest token id, so that tables by id stay small.
const MAX_ID: u64 = 1 << 24;
/// Depth of objects and lists: readers that try one kind after another take exponential time in it.
const MAX_DEPTH: usize = 16;
/// Characters of a regular expression.
const MAX_PATTERN: usize = 4096;
/// Product of the counts in a regular expression's repetitions.
const MAX_REPEATS: u64 = 1024;
/// Characters of a word that WordPiece looks at: its time grows with their cube.
const MAX_WORD: u64 = 1024;

/// By how much normalising and decoding may lengthen a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Growth {
    pub(super) encode: u64,
    pub(super) decode: u64,
}

/// Checks a tokenizer; the error says what is wrong with which part.
pub(super) fn check(value: &Value) -> Result<Growth, String> {
    let root = value.as_object().ok_or("expected an object at the top")?;
    if depth(value, 0) > MAX_DEPTH {
        return Err(format!("nested deeper than {MAX_DEPTH}"));
    }
    patterns(value)?;
    let part = |name: &str| root.get(name).unwrap_or(&Value::Null);
    let model = part("model");
    if !model.is_object() {
        return Err("`model` is missing: expected an object with `type` and `vocab`".into());
    }
    check_model(model)?;
    added_tokens(part("added_tokens"))?;
    padding(part("padding"))?;
    truncation(part("truncation"))?;
    Ok(Growth { encode: growth(part("normalizer")), decode: growth(part("decoder")) })
}

fn depth(value: &Value, above: usize) -> usize {
    let inner = |values: &mut dyn Iterator<Item = &Value>| {
        values.map(|value| depth(value, above + 1)).max().unwrap_or(above + 1)
    };
    match value {
        _ if above > MAX_DEPTH => above,
        Value::Array(values) => inner(&mut values.iter()),
        Value::Object(fields) => inner(&mut fields.values()),
        _ => above,
    }
}

fn check_model(model: &Value) -> Result<(), String> {
    let vocabulary = &model["vocab"];
    match model["type"].as_str() {
        Some("Unigram") => return unigram(model, vocabulary),
        Some("BPE" | "WordPiece" | "WordLevel") | None => {}
        Some(other) => {
            return Err(format!("model `{other}` is unknown: expected BPE, WordPiece, WordLevel or Unigram"));
        }
    }
    let vocabulary = vocabulary.as_object().ok_or("`model.vocab` is not an object of tokens and ids")?;
    let mut ids = HashSet::with_capacity(vocabulary.len());
    for (token, id) in vocabulary {
        let id = token_id(id).map_err(|reason| format!("`model.vocab`: token `{token:.40}`: {reason}"))?;
        if !ids.insert(id) {
            return Err(format!("`model.vocab`: two tokens have the id {id}"));
        }
    }
    if let Some(dropout) = model.get("dropout").filter(|value| !value.is_null())
        && !dropout.as_f64().is_some_and(|dropout| (0.0..=1.0).contains(&dropout))
    {
        return Err(format!("`model.dropout` is {dropout}: expected a share of 0 to 1"));
    }
    if let Some(limit) = model.get("max_input_chars_per_word").filter(|value| !value.is_null())
        && limit.as_u64().is_none_or(|limit| limit > MAX_WORD)
    {
        return Err(format!("`model.max_input_chars_per_word` is {limit}: expected 0 to {MAX_WORD}"));
    }
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
    merges(&model["merges"], prefix)
}

fn merges(merges: &Value, prefix: &str) -> Result<(), String> {
    let list = match merges {
        Value::Null => return Ok(()),
        Value::Array(list) => list,
        _ => return Err("`model.merges` is not a list".into()),
    };
    for (index, merge) in list.iter().enumerate() {
        let second = match merge {
            Value::String(text) => {
                let parts: Vec<&str> = text.split(' ').collect();
                if parts.len() == 2 { Some(parts[1]) } else { None }
            }
            Value::Array(parts) if parts.len() == 2 && parts[0].is_string() => parts[1].as_str(),
            _ => None,
        };
        let second = second.ok_or_else(|| format!("`model.merges`: entry {index} is not two tokens"))?;
        // The prefix is cut from the second token by its length.
        if !second.is_char_boundary(prefix.len()) {
            return Err(format!(
                "`model.merges`: entry {index}: the second token is shorter than `continuing_subword_prefix`"
            ));
        }
    }
    Ok(())
}

fn unigram(model: &Value, vocabulary: &Value) -> Result<(), String> {
    let entries = vocabulary.as_array().ok_or("`model.vocab` is not a list of tokens and scores")?;
    if entries.is_empty() || entries.len() as u64 > MAX_ID {
        return Err(format!("`model.vocab` has {} entries: expected 1 to {MAX_ID}", entries.len()));
    }
    let finite = |entry: &Value| entry[0].is_string() && entry[1].as_f64().is_some_and(f64::is_finite);
    if let Some(index) = entries.iter().position(|entry| !finite(entry)) {
        return Err(format!("`model.vocab`: entry {index} is not a token and its score"));
    }
    match &model["unk_id"] {
        Value::Null => Ok(()),
        id if id.as_u64().is_some_and(|id| id < entries.len() as u64) => Ok(()),
        id => Err(format!("`model.unk_id` is {id}, of {} entries", entries.len())),
    }
}

fn token_id(id: &Value) -> Result<u64, String> {
    let known = id.as_u64().filter(|id| *id <= MAX_ID);
    known.ok_or_else(|| format!("the id {id} is not a whole number of 0 to {MAX_ID}"))
}

fn added_tokens(tokens: &Value) -> Result<(), String> {
    let list = match tokens {
        Value::Null => return Ok(()),
        Value::Array(list) => list,
        _ => return Err("`added_tokens` is not a list".into()),
    };
    let mut ids = HashSet::new();
    for (index, token) in list.iter().enumerate() {
        let id =
            token_id(&token["id"]).map_err(|reason| format!("`added_tokens`: entry {index}: {reason}"))?;
        if !ids.insert(id) {
            return Err(format!("`added_tokens`: two entries have the id {id}"));
        }
        if token["content"].as_str().is_none_or(str::is_empty) {
            return Err(format!("`added_tokens`: entry {index} has no `content`"));
        }
    }
    Ok(())
}

fn padding(padding: &Value) -> Result<(), String> {
    match padding.get("pad_to_multiple_of") {
        None | Some(Value::Null) => Ok(()),
        Some(count) if count.as_u64().is_some_and(|count| count > 0) => Ok(()),
        Some(count) => Err(format!("`padding.pad_to_multiple_of` is {count}: expected at least 1")),
    }
}

fn truncation(truncation: &Value) -> Result<(), String> {
    if truncation.is_null() {
        return Ok(());
    }
    let (length, stride) = (truncation["max_length"].as_u64(), truncation["stride"].as_u64().unwrap_or(0));
    match length {
        Some(length) if stride < length || stride == 0 => Ok(()),
        _ => Err(format!(
            "`truncation`: a stride of {stride} is no step forward with max_length {}",
            truncation["max_length"]
        )),
    }
}

/// Every regular expression in the file: `{"Regex": ...}`.
fn patterns(value: &Value) -> Result<(), String> {
    match value {
        Value::Array(values) => values.iter().try_for_each(patterns),
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| match (name.as_str(), value) {
            ("Regex", Value::String(pattern)) => check_pattern(pattern),
            // Tokens, not descriptions.
            ("vocab" | "merges", _) => Ok(()),
            _ => patterns(value),
        }),
        _ => Ok(()),
    }
}

fn check_pattern(pattern: &str) -> Result<(), String> {
    if pattern.len() > MAX_PATTERN {
        return Err(format!("a regular expression has {} bytes, over {MAX_PATTERN}", pattern.len()));
    }
    let mut repeats = 1u64;
    for counts in pattern.split('{').skip(1) {
        let counts = counts.split('}').next().unwrap_or_default();
        let largest = counts.split(',').filter_map(|count| count.trim().parse::<u64>().ok()).max();
        repeats = repeats.saturating_mul(largest.unwrap_or(1).max(1));
    }
    if repeats > MAX_REPEATS {
        return Err(format!("the regular expression `{pattern:.60}` repeats its parts {repeats} times"));
    }
    Ok(())
}

/// The product of what all replacements in a normaliser or decoder may do to the length of a text.
fn growth(value: &Value) -> u64 {
    match value {
        Value::Array(values) => values.iter().fold(1, |product, value| product.saturating_mul(growth(value))),
        Value::Object(fields) => {
            let of_parts = fields.values().fold(1u64, |product, value| product.saturating_mul(growth(value)));
            of_parts.saturating_mul(own_growth(value))
        }
        _ => 1,
    }
}

fn own_growth(value: &Value) -> u64 {
    let content = value["content"].as_str().unwrap_or_default().len() as u64;
    match value["type"].as_str() {
        Some("Replace") => {
            // A pattern may match between any two bytes.
            let replaced = value["pattern"]["String"].as_str().map_or(0, str::len) as u64;
            if replaced == 0 { content.saturating_add(1) } else { content.div_ceil(replaced).max(1) }
        }
        Some("Prepend") => (value["prepend"].as_str().unwrap_or_default().len() as u64).saturating_add(1),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bpe(change: impl FnOnce(&mut Value)) -> Result<Growth, String> {
        let mut value =
            json!({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}});
        change(&mut value);
        check(&value)
    }

    #[test]
    fn what_would_break_is_named() {
        assert_eq!(bpe(|_| {}), Ok(Growth { encode: 1, decode: 1 }));
        let cases: [(&str, Value, &str); 11] = [
            ("/model/vocab/ab", json!(4_294_967_296u64), "token `ab`: the id 4294967296"),
            ("/model/vocab/ab", json!(1), "two tokens have the id 1"),
            ("/model/vocab", json!(["a"]), "`model.vocab` is not an object"),
            ("/model/merges", json!(["a b c"]), "entry 0 is not two tokens"),
            ("/model/merges", json!({}), "`model.merges` is not a list"),
            ("/model/continuing_subword_prefix", json!("###"), "shorter than `continuing_subword_prefix`"),
            ("/model/dropout", json!(7.0), "`model.dropout` is 7"),
            ("/model/max_input_chars_per_word", json!(-1), "is -1"),
            ("/padding", json!({"pad_to_multiple_of": 0}), "expected at least 1"),
            ("/truncation", json!({"max_length": 4, "stride": 9}), "no step forward"),
            ("/pre_tokenizer", json!({"pattern": {"Regex": "((a{99}){99}){99}"}}), "repeats its parts"),
        ];
        for (path, new, reason) in cases {
            let error = bpe(|value| {
                let (parent, name) = path.rsplit_once('/').unwrap();
                value.pointer_mut(parent).unwrap()[name] = new;
            });
            let error = error.unwrap_err();
            assert!(error.contains(reason), "{path}: {error}");
        }
    }

    #[test]
    fn added_tokens_have_text_and_an_id_of_their_own() {
        let added = |tokens: Value| bpe(|value| value["added_tokens"] = tokens).map(|_| ());
        assert_eq!(added(json!([{"id": 3, "content": "x"}, {"id": 4, "content": "y"}])), Ok(()));
        for tokens in [
            json!([{"id": 3, "content": ""}]),
            json!([{"id": 3, "content": "x"}, {"id": 3, "content": "y"}]),
            json!([{"id": 2_147_483_648u64, "content": "x"}]),
            json!({}),
        ] {
            assert!(added(tokens.clone()).is_err(), "{tokens}");
        }
    }

    #[test]
    fn replacements_multiply() {
        let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        let normalizer = json!({"type": "Sequence", "normalizers": vec![double; 30]});
        assert_eq!(bpe(|value| value["normalizer"] = normalizer).unwrap().encode, 1 << 30);
        let space = json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u{2581}"});
        assert_eq!(bpe(|value| value["decoder"] = space).unwrap(), Growth { encode: 1, decode: 4 });
    }

    #[test]
    fn deep_and_empty_files_are_refused() {
        let mut deep = json!(1);
        for _ in 0..40 {
            deep = json!([deep]);
        }
        assert!(bpe(|value| value["decoder"] = deep).unwrap_err().contains("nested"));
        assert!(check(&json!([])).is_err() && check(&json!({})).is_err());
        assert!(check(&json!({"model": {"type": "Unigram", "vocab": []}})).is_err());
        let unknown = json!({"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 1}});
        assert!(check(&unknown).unwrap_err().contains("unk_id"));
    }
}
