//! Formulas over the coordinates of a cell.

use std::rc::Rc;

use lathe_ir::{Answer, Atom, Dim, ValueId};

use super::Space;
use super::space::term_of;

/// A statement about the cell at the coordinates of a [`Space`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Formula {
    /// Decided.
    Known(bool),
    /// The expression is at least 0.
    AtLeast(Dim),
    /// The element of a value at an index is this number.
    Is(ValueId, Vec<Dim>, i64),
    /// The opposite.
    Not(Rc<Formula>),
    /// Both.
    And(Rc<Formula>, Rc<Formula>),
    /// Either.
    Or(Rc<Formula>, Rc<Formula>),
}

/// Alternatives of two statements that are compared with one another.
const DISJUNCTS: usize = 8;

impl Formula {
    /// `dim >= 0`, decided where the space decides it; minima and maxima are split into their operands.
    pub fn at_least(space: &Space, dim: &Dim) -> Self {
        if let Some(holds) = space.sign(dim) {
            return Formula::Known(holds);
        }
        for (index, term) in dim.terms().iter().enumerate() {
            let [atom] = term.factors() else { continue };
            let Some((a, b)) = atom.operands() else { continue };
            let both = match (atom, term.coefficient() > 0) {
                (Atom::Min(_), true) | (Atom::Max(_), false) => true,
                (Atom::Max(_), true) | (Atom::Min(_), false) => false,
                _ => continue,
            };
            let rest = dim
                .terms()
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != index)
                .fold(Dim::constant(dim.constant_part()), |sum, (_, term)| {
                    sum.add(&term_of(term.factors(), term.coefficient()))
                });
            let with = |operand: &Dim| Self::at_least(space, &rest.add(&operand.scale(term.coefficient())));
            return if both { with(a).and(with(b)) } else { with(a).or(with(b)) };
        }
        Formula::AtLeast(dim.clone())
    }

    /// `a == b`.
    pub fn equal(space: &Space, a: &Dim, b: &Dim) -> Self {
        Self::at_least(space, &a.sub(b)).and(Self::at_least(space, &b.sub(a)))
    }

    /// The element of a value at an index is not zero.
    pub fn non_zero(value: ValueId, index: Vec<Dim>) -> Self {
        Formula::Is(value, index, 0).negate()
    }

    /// Both hold.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Formula::Known(true), x) | (x, Formula::Known(true)) => x,
            (Formula::Known(false), _) | (_, Formula::Known(false)) => Formula::Known(false),
            // Long ones are not what exporters write, and every pair of their parts would be compared.
            (a, b) if !a.is_small() || !b.is_small() => Formula::And(a.into(), b.into()),
            (a, b) if a.implies(&b) => a,
            (a, b) if b.implies(&a) => b,
            (a, b) => {
                if let Some(joined) = a.factored(&b) {
                    return joined;
                }
                let (a, b) = (a.clone().given(&b), b.given(&a));
                match (a, b) {
                    (Formula::Known(true), x) | (x, Formula::Known(true)) => x,
                    (Formula::Known(false), _) | (_, Formula::Known(false)) => Formula::Known(false),
                    // What is left of each may be enough for the other.
                    (a, b) if a.implies(&b) => a,
                    (a, b) if b.implies(&a) => b,
                    (a, b) => Formula::And(a.into(), b.into()),
                }
            }
        }
    }

    /// `(x or y) and (z or y)` as `(x and z) or y`.
    fn factored(&self, other: &Formula) -> Option<Formula> {
        let (a, b) = (self.disjuncts(), other.disjuncts());
        if a.len() < 2 || b.len() < 2 || a.len() + b.len() > DISJUNCTS {
            return None;
        }
        let either = |parts: Vec<&Formula>| {
            parts.into_iter().cloned().reduce(Formula::or).unwrap_or(Formula::Known(false))
        };
        let (common, x): (Vec<_>, Vec<_>) = a.into_iter().partition(|part| b.contains(part));
        if common.is_empty() {
            return None;
        }
        let z = b.into_iter().filter(|part| !common.contains(part)).collect();
        Some(either(x).and(either(z)).or(either(common)))
    }

    /// Statements of which one must hold.
    fn disjuncts(&self) -> Vec<&Formula> {
        match self {
            Formula::Or(a, b) => [a.disjuncts(), b.disjuncts()].concat(),
            other => vec![other],
        }
    }

    /// Whether it has few parts.
    fn is_small(&self) -> bool {
        fn left(formula: &Formula, budget: usize) -> Option<usize> {
            let budget = budget.checked_sub(1)?;
            match formula {
                Formula::And(a, b) | Formula::Or(a, b) => left(b, left(a, budget)?),
                Formula::Not(inner) => left(inner, budget),
                _ => Some(budget),
            }
        }
        left(self, 256).is_some()
    }

    /// One of them holds.
    pub fn or(self, other: Self) -> Self {
        match (&self, &other) {
            (Formula::Known(false), _) => other,
            (_, Formula::Known(false)) => self,
            _ => match self.negate().and(other.negate()) {
                // The opposite of what both opposites say.
                Formula::And(a, b) => Formula::Or((*a).clone().negate().into(), (*b).clone().negate().into()),
                one => one.negate(),
            },
        }
    }

    /// The same where `known` holds: alternatives that it rules out are gone.
    fn given(self, known: &Formula) -> Self {
        let facts = known.conjuncts();
        if facts.iter().any(|fact| self.contradicts(fact)) {
            return Formula::Known(false);
        }
        match &self {
            Formula::And(a, b) => {
                let (first, second) = ((**a).clone().given(known), (**b).clone().given(known));
                match first == **a && second == **b {
                    true => self,
                    false => first.and(second),
                }
            }
            Formula::Or(a, b) => {
                let (a, b) = ((**a).clone().given(known), (**b).clone().given(known));
                match (a, b) {
                    (Formula::Known(false), x) | (x, Formula::Known(false)) => x,
                    (a, b) if facts.iter().any(|fact| fact.implies(&a) || fact.implies(&b)) => {
                        Formula::Known(true)
                    }
                    (a, b) => Formula::Or(a.into(), b.into()),
                }
            }
            _ => self,
        }
    }

    /// Whether this one's truth is enough for the other's: `false` where that is not seen.
    fn implies(&self, other: &Formula) -> bool {
        match (self, other) {
            (a, b) if a == b => true,
            (Formula::And(a, b), other) => a.implies(other) || b.implies(other),
            (this, Formula::Or(a, b)) => this.implies(a) || this.implies(b),
            // Sizes and coordinates are never negative.
            (Formula::AtLeast(a), Formula::AtLeast(b)) => b.sub(a).at_least(0) == Answer::Yes,
            (Formula::Is(a, at, number), Formula::Not(inner)) => {
                matches!(&**inner, Formula::Is(b, place, other) if a == b && at == place && number != other)
            }
            _ => false,
        }
    }

    /// Whether both cannot hold: `false` where that is not seen.
    fn contradicts(&self, other: &Formula) -> bool {
        match (self, other) {
            (Formula::And(a, b), other) | (other, Formula::And(a, b)) => {
                a.contradicts(other) || b.contradicts(other)
            }
            (Formula::AtLeast(a), Formula::AtLeast(b)) => {
                a.add(b).scale(-1).sub(&Dim::constant(1)).at_least(0) == Answer::Yes
            }
            (Formula::Not(inner), other) | (other, Formula::Not(inner)) => other.implies(inner),
            (Formula::Is(a, at, number), Formula::Is(b, place, other)) => {
                a == b && at == place && number != other
            }
            _ => false,
        }
    }

    /// The opposite.
    pub fn negate(self) -> Self {
        match self {
            Formula::Known(holds) => Formula::Known(!holds),
            Formula::AtLeast(dim) => Formula::AtLeast(dim.scale(-1).sub(&Dim::constant(1))),
            Formula::Not(inner) => (*inner).clone(),
            Formula::And(a, b) => (*a).clone().negate().or((*b).clone().negate()),
            Formula::Or(a, b) => (*a).clone().negate().and((*b).clone().negate()),
            atom => Formula::Not(atom.into()),
        }
    }

    /// `if self then a else b`.
    pub fn choose(self, a: Self, b: Self) -> Self {
        match (&a, &b) {
            _ if a == b => a,
            (Formula::Known(true), Formula::Known(false)) => self,
            _ => self.clone().and(a).or(self.negate().and(b)),
        }
    }

    /// The statements that must all hold.
    pub fn conjuncts(&self) -> Vec<&Formula> {
        match self {
            Formula::Known(true) => Vec::new(),
            Formula::And(a, b) => {
                let mut all = a.conjuncts();
                b.conjuncts().into_iter().for_each(|part| {
                    if !all.contains(&part) {
                        all.push(part);
                    }
                });
                all
            }
            other => vec![other],
        }
    }
}
