//! What a value of `main` becomes in `decode`.

use lathe_ir::{Dim, ValueId};
use lathe_tensor::Tensor;

/// A value of `main` as `decode` knows it.
#[derive(Clone, Debug)]
pub(super) enum Mapped {
    /// The same for every token: a value of `decode`.
    Fixed(ValueId),
    /// Row-wise.
    Rows(Rows),
    /// Every element is this one (a tensor of rank 0), whatever the sizes: what `attention_mask` becomes, as no row is padding.
    Uniform(Tensor),
    /// A tensor of sizes: known elements, over the symbols of `main`.
    Sizes(Vec<Dim>),
    /// Consecutive integers along an axis of tokens.
    Places(Places),
    /// One element for each row and each place of the block table.
    Keyed(Keyed),
    /// One element: the total length plus this.
    Length(i64),
    /// Computed from the total length alone: `[1, rows, ...]`, as each row brings a length of its own, where `main` has rank 0 or 1.
    Lengths(ValueId),
    /// The new keys or values (rows along axis 2) behind those of a past.
    Joined(Rows, Part),
    /// A past with room for the new keys or values behind it.
    Room(Part),
    /// For each token how many up to it, itself included, have one of some ids.
    Count(Count),
    /// Made from the inputs of the encoder, or from pictures, alone: `encode` computes it, where a row reads it through an attention, or
    /// `vision`, where a row takes a part of it.
    Source,
    /// It has no meaning for a row: where and why.
    Refused(Refusal),
}

/// A row-wise value: `axis` runs over the rows of the call, and what stands there follows from that row's token, its position and
/// the state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rows {
    /// The value in `decode`.
    pub value: ValueId,
    /// The axis of the rows.
    pub axis: usize,
}

/// What an input of the past holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    /// The layer.
    pub layer: String,
    /// Whether it is its keys, or its values.
    pub keys: bool,
}

/// A number of tokens.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Count {
    /// What they are, in ascending order.
    pub ids: Vec<i64>,
    /// The axis of the tokens.
    pub axis: usize,
    /// It is never above this.
    pub limit: Option<Dim>,
}

/// A function of a row's and a key's position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Keyed {
    /// The value in `decode`.
    pub value: ValueId,
    /// The axis of the rows.
    pub rows: usize,
    /// The axis of the keys.
    pub keys: usize,
    /// What is known of its elements.
    pub fact: Option<Fact>,
}

/// What elements for rows at places `p` and keys at places `j` are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fact {
    /// `sign * (p - j) + offset`, of sign 1 or -1.
    Distance { sign: i64, offset: i64 },
    /// True where the row sees the key.
    Sees(Span),
    /// Added to scores: 0 where the row sees the key, a number that hides it elsewhere.
    Hides(Span),
}

/// `least <= p - j <= most`, of those bounds that there are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Span {
    pub least: Option<i64>,
    pub most: Option<i64>,
}

/// Consecutive integers along an axis of tokens: element `i` is `i + offset`, all other axes repeat it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Places {
    /// The axis of the tokens.
    pub axis: usize,
    /// The first element; may name the length of the past.
    pub offset: Dim,
    /// Whether the axis runs over the new tokens only, or over past and new ones.
    pub new: bool,
}

/// Why `decode` cannot be made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    /// The node.
    pub node: String,
    /// What about it.
    pub reason: String,
}

impl Refusal {
    pub fn new(node: &str, reason: impl Into<String>) -> Self {
        Self { node: node.to_string(), reason: reason.into() }
    }
}
