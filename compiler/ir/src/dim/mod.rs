//! Symbolic sizes.
//!
//! A [`Dim`] is a sum of terms, each an integer times a product of atoms; an atom is a symbol or an opaque
//! operation on dims. This normal form makes equal polynomials equal values. Symbols are sizes: never negative.
//!
//! Every simplification holds for all values of the symbols, 0 and 1 included. Expressions are bounded: what would overflow
//! `i64` or grow past a limit becomes [`Dim::overflow`], which equals nothing and has no value.

mod bounds;
mod divide;
mod evaluate;
mod order;
mod polynomial;
mod select;
#[cfg(test)]
mod tests;
mod text;

use std::sync::Arc;

pub use text::DimParseError;

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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dim {
    pub(crate) constant: i64,
    pub(crate) terms: Vec<Term>,
    // Both follow from the terms; kept so that limits are checked without walking the expression.
    weight: u32,
    depth: u32,
}

/// `coefficient * factors[0] * factors[1] * ...`; factors sorted, coefficient not 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    pub(crate) factors: Vec<Atom>,
    pub(crate) coefficient: i64,
}

impl Term {
    /// What is multiplied; at least one.
    pub fn factors(&self) -> &[Atom] {
        &self.factors
    }

    /// The integer factor; not 0.
    pub fn coefficient(&self) -> i64 {
        self.coefficient
    }
}

/// What a term multiplies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// The size that both broadcast to: `b` where `a` is 1, else `a`. No value where they do not broadcast.
    Broadcast(Arc<(Dim, Dim)>),
    /// `a * b`, not expanded because the polynomial would be large.
    Product(Arc<(Dim, Dim)>),
    /// An expression that overflowed or grew too large: it has no value.
    Overflow,
}

impl Atom {
    /// The two operands of an opaque operation.
    pub fn operands(&self) -> Option<(&Dim, &Dim)> {
        match self {
            Atom::Symbol(_) | Atom::Overflow => None,
            Atom::FloorDiv(pair)
            | Atom::Mod(pair)
            | Atom::Min(pair)
            | Atom::Max(pair)
            | Atom::Broadcast(pair)
            | Atom::Product(pair) => Some((&pair.0, &pair.1)),
        }
    }
}

impl Dim {
    /// A constant size.
    pub fn constant(value: i64) -> Self {
        Self { constant: value, terms: Vec::new(), weight: 1, depth: 0 }
    }

    /// A symbolic size.
    pub fn symbol(symbol: Symbol) -> Self {
        Self::atom(Atom::Symbol(symbol))
    }

    /// The value, where it depends on no symbol.
    pub fn as_constant(&self) -> Option<i64> {
        self.terms.is_empty().then_some(self.constant)
    }

    /// The symbol, where it is just one.
    pub fn as_symbol(&self) -> Option<&Symbol> {
        match self.as_atom() {
            Some(Atom::Symbol(symbol)) => Some(symbol),
            _ => None,
        }
    }

    /// The atom, where it is just one.
    pub fn as_atom(&self) -> Option<&Atom> {
        match (self.constant, &self.terms[..]) {
            (0, [Term { factors, coefficient: 1 }]) => match &factors[..] {
                [atom] => Some(atom),
                _ => None,
            },
            _ => None,
        }
    }

    /// The constant added to the terms.
    pub fn constant_part(&self) -> i64 {
        self.constant
    }

    /// The terms: with [`Self::constant_part`] the whole sum. What a planner walks to lower a size.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The expression without a value: what arithmetic gives on overflow and past the size limits.
    pub fn overflow() -> Self {
        Self {
            constant: 0,
            terms: vec![Term { factors: vec![Atom::Overflow], coefficient: 1 }],
            weight: 2,
            depth: 1,
        }
    }

    /// Whether this is [`Self::overflow`].
    pub fn is_overflow(&self) -> bool {
        self.as_atom() == Some(&Atom::Overflow)
    }
}

impl From<i64> for Dim {
    fn from(value: i64) -> Self {
        Self::constant(value)
    }
}

impl From<Symbol> for Dim {
    fn from(symbol: Symbol) -> Self {
        Self::symbol(symbol)
    }
}
