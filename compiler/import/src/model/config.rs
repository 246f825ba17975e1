//! `config.json`: the facts of a transformer, read by name and checked before anybody uses them.
//!
//! Published checkpoints spell one fact in several ways (`hidden_size`, `n_embd`, `d_model`), and transformers 5 moved the facts of
//! rotary embeddings; every reader takes the list of names that a fact has had.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::json::Json;
use crate::ImportError;
use crate::error::{Fault, quote};

/// The largest configuration file that is read, in bytes.
const MAX_BYTES: u64 = 64 << 20;
/// The largest size that is taken for one: no axis of a published model comes near.
const MAX_SIZE: u64 = 1 << 28;
/// The largest number of layers.
const MAX_LAYERS: usize = 4096;

/// An object of `config.json`, and where it stands in it.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    fields: Map<String, Value>,
    /// `""`, or `text_config.` for the fields of a part.
    path: String,
}

/// The sizes that every transformer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Width of a token's row.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width between the two products of a feed-forward.
    pub inner: usize,
    /// Number of tokens.
    pub vocab: usize,
    /// Tokens that the model was made for.
    pub context: usize,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// Where it cannot be read, is no JSON object, or names a field twice.
    pub(crate) fn read(path: &Path) -> Result<Self, ImportError> {
        let cannot = |reason: String| Fault::bad(format!("it cannot be read: {reason}")).in_file(path);
        let metadata = std::fs::metadata(path).map_err(|error| cannot(error.to_string()))?;
        if !metadata.is_file() || metadata.len() > MAX_BYTES {
            return Err(cannot(format!("it is no file of at most {MAX_BYTES} bytes")));
        }
        let bytes = std::fs::read(path).map_err(|error| cannot(error.to_string()))?;
        Self::parse(&bytes).map_err(|fault| fault.in_file(path))
    }

    /// Parses a file's bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let Json(value) = serde_json::from_slice(bytes)
            .map_err(|error| Fault::bad(format!("it is no JSON configuration: {error}")))?;
        match value {
            Value::Object(fields) => Ok(Self::from_fields(fields)),
            _ => Err(Fault::bad("a configuration is a JSON object")),
        }
    }

    /// A configuration of these fields.
    pub(crate) fn from_fields(fields: Map<String, Value>) -> Self {
        Self { fields, path: String::new() }
    }

    /// The first of these fields that is there and not null, with its name.
    fn find<'a, 'n>(&'a self, names: &[&'n str]) -> Option<(&'n str, &'a Value)> {
        let mut found = names.iter().filter_map(|name| Some((*name, self.fields.get(*name)?)));
        found.find(|(_, value)| !value.is_null())
    }

    fn wrong(&self, name: &str, value: &Value, wanted: &str) -> Fault {
        let mut shown = value.to_string();
        if shown.len() > 60 {
            shown = shown.chars().take(60).collect::<String>() + "…";
        }
        Fault::bad(format!("`{}{name}` is {shown}; it must be {wanted}", self.path))
    }

    fn missing(&self, names: &[&str]) -> Fault {
        let path = &self.path;
        let names: Vec<String> = names.iter().map(|name| format!("`{path}{name}`")).collect();
        Fault::bad(format!("{} is missing", names.join(" or ")))
    }

    /// The same with another value of a flag.
    pub(crate) fn with(mut self, name: &str, flag: bool) -> Self {
        self.fields.insert(name.to_string(), Value::Bool(flag));
        self
    }

    /// The same with another value of a field.
    pub(crate) fn with_value(mut self, name: &str, value: Value) -> Self {
        self.fields.insert(name.to_string(), value);
        self
    }

    /// The same without a field.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.fields.remove(name);
        self
    }

    /// The fields.
    pub(crate) fn into_fields(self) -> Map<String, Value> {
        self.fields
    }

    /// Names of the fields.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }

    /// Whether a field is there and not null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(&[name]).is_some()
    }

    /// Number of fields.
    pub(crate) fn len(&self) -> usize {
        self.fields.len()
    }

    /// A positive size; `None` where no such field is there.
    pub(crate) fn optional_size(&self, names: &[&str]) -> Result<Option<usize>, Fault> {
        let Some((name, value)) = self.find(names) else { return Ok(None) };
        let wanted = format!("an integer from 1 to {MAX_SIZE}");
        let size = value.as_u64().filter(|size| (1..=MAX_SIZE).contains(size));
        size.map(|size| Some(size as usize)).ok_or_else(|| self.wrong(name, value, &wanted))
    }

    /// A positive size.
    pub(crate) fn size(&self, names: &[&str]) -> Result<usize, Fault> {
        self.optional_size(names)?.ok_or_else(|| self.missing(names))
    }

    /// A positive size with a default.
    pub(crate) fn size_or(&self, names: &[&str], default: usize) -> Result<usize, Fault> {
        Ok(self.optional_size(names)?.unwrap_or(default))
    }

    /// A size that may be 0: the number of something that need not be there.
    pub(crate) fn count(&self, name: &str, default: usize) -> Result<usize, Fault> {
        match self.find(&[name]) {
            Some((_, value)) if value.as_u64() == Some(0) => Ok(0),
            _ => self.size_or(&[name], default),
        }
    }

    /// Layers, of which there is one at least.
    pub(crate) fn layers(&self, names: &[&str]) -> Result<usize, Fault> {
        let layers = self.size(names)?;
        if layers > MAX_LAYERS {
            return Err(Fault::bad(format!("{layers} layers; at most {MAX_LAYERS} are read")));
        }
        Ok(layers)
    }

    /// A finite number; `None` where it is not there.
    pub(crate) fn optional_number(&self, names: &[&str]) -> Result<Option<f64>, Fault> {
        let Some((name, value)) = self.find(names) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| self.wrong(name, value, "a number"))
    }

    /// A number with a default.
    pub(crate) fn number(&self, names: &[&str], default: f64) -> Result<f64, Fault> {
        Ok(self.optional_number(names)?.unwrap_or(default))
    }

    /// A number above 0; `None` where it is not there.
    pub(crate) fn positive(&self, names: &[&str]) -> Result<Option<f64>, Fault> {
        let Some(number) = self.optional_number(names)? else { return Ok(None) };
        if number > 0.0 {
            return Ok(Some(number));
        }
        let (name, value) = self.find(names).ok_or_else(|| self.missing(names))?;
        Err(self.wrong(name, value, "a number above 0"))
    }

    /// What a norm adds to the variance.
    pub(crate) fn epsilon(&self, names: &[&str], default: f64) -> Result<f32, Fault> {
        let epsilon = self.number(names, default)?;
        if !(0.0..1.0).contains(&epsilon) {
            return Err(Fault::bad(format!("`{}{}` is {epsilon}; it must be small", self.path, names[0])));
        }
        Ok(epsilon as f32)
    }

    /// A boolean with a default.
    pub(crate) fn flag(&self, names: &[&str], default: bool) -> Result<bool, Fault> {
        let Some((name, value)) = self.find(names) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(name, value, "true or false"))
    }

    /// A text; `None` where it is not there.
    pub(crate) fn text(&self, names: &[&str]) -> Result<Option<&str>, Fault> {
        let Some((name, value)) = self.find(names) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(name, value, "a text"))
    }

    /// A list of texts; empty where it is not there.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<&str>, Fault> {
        let Some((name, value)) = self.find(&[name]) else { return Ok(Vec::new()) };
        let texts: Option<Vec<&str>> =
            value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        texts.ok_or_else(|| self.wrong(name, value, "a list of texts"))
    }

    /// Height and width: a list of two, or one size for both.
    pub(crate) fn pair(&self, name: &str) -> Result<[usize; 2], Fault> {
        match self.find(&[name]) {
            Some((_, Value::Array(_))) => match self.list(name)?[..] {
                [height, width] => Ok([height, width]),
                _ => Err(Fault::bad(format!("`{}{name}` must have a height and a width", self.path))),
            },
            _ => self.size(&[name]).map(|size| [size; 2]),
        }
    }

    /// A list of positive sizes.
    pub(crate) fn list(&self, name: &str) -> Result<Vec<usize>, Fault> {
        let (name, value) = self.find(&[name]).ok_or_else(|| self.missing(&[name]))?;
        let size = |value: &Value| value.as_u64().filter(|size| (1..=MAX_SIZE).contains(size));
        let sizes: Option<Vec<usize>> = value
            .as_array()
            .filter(|list| list.len() <= MAX_LAYERS)
            .and_then(|list| list.iter().map(|value| size(value).map(|size| size as usize)).collect());
        sizes.ok_or_else(|| self.wrong(name, value, "a list of positive sizes"))
    }

    /// A size for each of `count` things: a list of so many, or one size for all.
    pub(crate) fn sizes_of(&self, name: &str, count: usize) -> Result<Vec<usize>, Fault> {
        match self.find(&[name]) {
            Some((_, Value::Array(_))) => {
                let list = self.list(name)?;
                match list.len() == count {
                    true => Ok(list),
                    false => Err(Fault::bad(format!(
                        "`{}{name}` has {} entries for {count} layers",
                        self.path,
                        list.len()
                    ))),
                }
            }
            _ => Ok(vec![self.size(&[name])?; count]),
        }
    }

    /// Number of classes: of `id2label`, or as `num_labels` says.
    pub(crate) fn labels(&self) -> Result<usize, Fault> {
        match self.part("id2label")? {
            Some(labels) => Ok(labels.len()),
            None => self.size_or(&["num_labels"], 2),
        }
    }

    /// A list of numbers; `None` where it is not there.
    pub(crate) fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>, Fault> {
        let Some((name, value)) = self.find(&[name]) else { return Ok(None) };
        let numbers: Option<Vec<f64>> =
            value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        numbers.map(Some).ok_or_else(|| self.wrong(name, value, "a list of numbers"))
    }

    /// A part: an object among the fields.
    pub(crate) fn part(&self, name: &str) -> Result<Option<Config>, Fault> {
        let Some((name, value)) = self.find(&[name]) else { return Ok(None) };
        match value {
            Value::Object(fields) => {
                Ok(Some(Config { fields: fields.clone(), path: format!("{}{name}.", self.path) }))
            }
            _ => Err(self.wrong(name, value, "an object")),
        }
    }

    /// An unknown value of a field, with what is known.
    pub(crate) fn unknown(&self, name: &str, value: &str, known: &[&str]) -> Fault {
        let known = known.join(", ");
        Fault::unsupported(format!("`{}{name}` is {}; known are {known}", self.path, quote(value)))
    }

    /// The sizes under the names that decoders have for them.
    ///
    /// # Errors
    /// Where one is missing or no size, or where heads do not divide.
    pub(crate) fn sizes(&self) -> Result<Sizes, Fault> {
        self.sizes_with(self.size(&["vocab_size"])?)
    }

    /// The same for a stack with this many tokens; 0 for one of pictures.
    pub(crate) fn sizes_with(&self, vocab: usize) -> Result<Sizes, Fault> {
        let hidden = self.size(&["hidden_size", "n_embd", "d_model", "dim"])?;
        let layers = self.layers(&["num_hidden_layers", "n_layer", "n_layers", "num_layers"])?;
        let heads = self.size(&["num_attention_heads", "n_head", "n_heads", "num_heads"])?;
        let kv_heads = self.size_or(&["num_key_value_heads", "n_kv_heads", "num_kv_heads"], heads)?;
        let head_dim = match self.optional_size(&["head_dim"])? {
            Some(head_dim) => head_dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let reason = format!("{heads} attention heads do not divide the hidden size {hidden}");
                return Err(Fault::bad(reason));
            }
        };
        if !heads.is_multiple_of(kv_heads) {
            let reason = format!("{kv_heads} key and value heads do not divide {heads} attention heads");
            return Err(Fault::bad(reason));
        }
        let inner = self.size_or(
            &["intermediate_size", "ffn_dim", "n_inner", "mlp_hidden_size", "hidden_dim"],
            hidden.saturating_mul(4),
        )?;
        let names = [
            "max_position_embeddings",
            "n_positions",
            "max_seq_len",
            "max_sequence_length",
            "n_ctx",
            "seq_length",
        ];
        let context = self.size_or(&names, 2048)?;
        Ok(Sizes { hidden, layers, heads, kv_heads, head_dim, inner, vocab, context })
    }
}

/// `config.json` in a folder.
pub(crate) fn path_in(folder: &Path) -> PathBuf {
    folder.join("config.json")
}
