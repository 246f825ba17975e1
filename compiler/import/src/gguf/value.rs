//! Values of a GGUF file's metadata.

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
    Text(Vec<String>),
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
            Self::Text(items) => items.iter().take(most).map(|item| item.as_str().into()).collect(),
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
