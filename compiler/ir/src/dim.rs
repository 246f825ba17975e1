//! Symbolic sizes.
//!
//! A [`Dim`] is a sum of terms, each an integer times a product of atoms; an atom is a symbol or an opaque
//! operation on dims. This normal form makes equal polynomials equal values. Symbols are sizes: never negative.

use std::sync::Arc;

/// A named size that is not known at compile time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol(Arc<str>);

impl Symbol {
    /// The symbol of this name; equal names are the same symbol.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// What is known of a statement about symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It holds for all values of the symbols.
    Yes,
    /// It holds for none.
    No,
    /// It depends, or was not decided.
    Unknown,
}

/// A size: an integer expression over symbols.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim {
    pub(crate) constant: i64,
    pub(crate) terms: Vec<Term>,
}

/// `coefficient * factors[0] * factors[1] * ...`; factors sorted, coefficient not 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Term {
    pub(crate) factors: Vec<Atom>,
    pub(crate) coefficient: i64,
}

/// What a term multiplies.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Atom {
    /// A symbol.
    Symbol(Symbol),
    /// `floor(a / b)`; 0 where `b` is 0.
    FloorDiv(Arc<(Dim, Dim)>),
    /// `a - b * floor(a / b)`; 0 where `b` is 0.
    Mod(Arc<(Dim, Dim)>),
    /// The smaller.
    Min(Arc<(Dim, Dim)>),
    /// The larger.
    Max(Arc<(Dim, Dim)>),
    /// The size that both broadcast to: `b` where `a` is 1, else `a`.
    Broadcast(Arc<(Dim, Dim)>),
}

impl Dim {
    /// A constant size.
    pub fn constant(value: i64) -> Self {
        Self { constant: value, terms: Vec::new() }
    }

    /// A symbolic size.
    pub fn symbol(symbol: Symbol) -> Self {
        Self { constant: 0, terms: vec![Term { factors: vec![Atom::Symbol(symbol)], coefficient: 1 }] }
    }

    /// The value, where it depends on no symbol.
    pub fn as_constant(&self) -> Option<i64> {
        self.terms.is_empty().then_some(self.constant)
    }

    /// The symbol, where it is just one.
    pub fn as_symbol(&self) -> Option<&Symbol> {
        match (self.constant, &self.terms[..]) {
            (0, [Term { factors, coefficient: 1 }]) => match &factors[..] {
                [Atom::Symbol(symbol)] => Some(symbol),
                _ => None,
            },
            _ => None,
        }
    }
}

impl From<i64> for Dim {
    fn from(value: i64) -> Self {
        Self::constant(value)
    }
}
