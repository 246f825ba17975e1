//! Values of a GGUF file's metadata.

use std::fmt;
use std::sync::Arc;

/// A value. Integers keep whether they are signed, for what a key means says which it must be.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    /// An unsigned integer of 8 to 64 bits.
    Unsigned(u64),
    /// A signed integer of 8 to 64 bits.
    Signed(i64),
    /// A float of 32 or 64 bits.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(String),
    /// Elements of one type.
    Array(GgufArray),
}

/// An array, by the type of its elements.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufArray {
    /// Unsigned integers.
    Unsigned(Vec<u64>),
    /// Signed integers.
    Signed(Vec<i64>),
    /// Floats.
    Float(Vec<f64>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Texts.
    Text(Texts),
}

/// Texts one after another in one piece of memory, which clones share: vocabularies have hundreds of thousands.
#[derive(Clone, Default, PartialEq)]
pub struct Texts(Arc<Joined>);

#[derive(Default, PartialEq)]
struct Joined {
    text: String,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Texts {
    /// Number of texts.
    pub fn len(&self) -> usize {
        self.0.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.ends.is_empty()
    }

    /// Text `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.0.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.0.ends[before]);
        self.0.text.get(start..end)
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

impl<T: AsRef<str>> FromIterator<T> for Texts {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let mut joined = Joined::default();
        for text in texts {
            joined.text.push_str(text.as_ref());
            joined.ends.push(joined.text.len());
        }
        Self(Arc::new(joined))
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl GgufArray {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Unsigned(items) => items.len(),
            Self::Signed(items) => items.len(),
            Self::Float(items) => items.len(),
            Self::Bool(items) => items.len(),
            Self::Text(items) => items.len(),
        }
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `most` elements as JSON.
    fn to_json(&self, most: usize) -> Vec<serde_json::Value> {
        match self {
            Self::Unsigned(items) => items.iter().take(most).map(|&item| item.into()).collect(),
            Self::Signed(items) => items.iter().take(most).map(|&item| item.into()).collect(),
            Self::Float(items) => items.iter().take(most).map(|&item| item.into()).collect(),
            Self::Bool(items) => items.iter().take(most).map(|&item| item.into()).collect(),
            Self::Text(items) => items.iter().take(most).map(Into::into).collect(),
        }
    }
}

impl GgufValue {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unsigned(_) => "an unsigned integer",
            Self::Signed(_) => "a signed integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a truth value",
            Self::Text(_) => "a text",
            Self::Array(GgufArray::Unsigned(_)) => "an array of unsigned integers",
            Self::Array(GgufArray::Signed(_)) => "an array of signed integers",
            Self::Array(GgufArray::Float(_)) => "an array of floats",
            Self::Array(GgufArray::Bool(_)) => "an array of truth values",
            Self::Array(GgufArray::Text(_)) => "an array of texts",
        }
    }

    /// The value as JSON; arrays are cut to their first `most` elements.
    pub fn to_json(&self, most: usize) -> serde_json::Value {
        match self {
            Self::Unsigned(value) => (*value).into(),
            Self::Signed(value) => (*value).into(),
            Self::Float(value) => (*value).into(),
            Self::Bool(value) => (*value).into(),
            Self::Text(value) => value.as_str().into(),
            Self::Array(array) => array.to_json(most).into(),
        }
    }
}
