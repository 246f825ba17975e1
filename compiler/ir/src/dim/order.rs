//! The order of terms in the normal form. Not `Ord`: its `min` and `max` would shadow those of sizes.

use std::cmp::Ordering;

use super::{Atom, Dim, Term};

fn lexicographic<T>(a: &[T], b: &[T], order: fn(&T, &T) -> Ordering) -> Ordering {
    let first = a.iter().zip(b).map(|(a, b)| order(a, b)).find(|order| order.is_ne());
    first.unwrap_or_else(|| a.len().cmp(&b.len()))
}

impl Dim {
    /// A total order without meaning, for sorting.
    pub fn order(&self, other: &Self) -> Ordering {
        self.constant.cmp(&other.constant).then_with(|| lexicographic(&self.terms, &other.terms, Term::order))
    }
}

impl Term {
    pub(super) fn order(&self, other: &Self) -> Ordering {
        self.order_of_factors(other).then(self.coefficient.cmp(&other.coefficient))
    }

    pub(super) fn order_of_factors(&self, other: &Self) -> Ordering {
        lexicographic(&self.factors, &other.factors, Atom::order)
    }
}

impl Atom {
    fn rank(&self) -> u8 {
        match self {
            Atom::Symbol(_) => 0,
            Atom::FloorDiv(_) => 1,
            Atom::Mod(_) => 2,
            Atom::Min(_) => 3,
            Atom::Max(_) => 4,
            Atom::Broadcast(_) => 5,
            Atom::Product(_) => 6,
            Atom::Overflow => 7,
        }
    }

    pub(super) fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Atom::Symbol(a), Atom::Symbol(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()).then_with(|| match (self.operands(), other.operands()) {
                (Some((a, b)), Some((c, d))) => a.order(c).then_with(|| b.order(d)),
                _ => Ordering::Equal,
            }),
        }
    }
}
