//! Formulas over the coordinates of a cell.

use std::rc::Rc;

use lathe_ir::{Atom, Dim, ValueId};

use super::Space;
use super::space::term_of;

/// A statement about the cell at the coordinates of a [`Space`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Formula {
    /// Decided.
    Known(bool),
    /// The expression is at least 0.
    AtLeast(Dim),
    /// The element of a value at an index is not zero.
    NonZero(ValueId, Vec<Dim>),
    /// The opposite.
    Not(Rc<Formula>),
    /// Both.
    And(Rc<Formula>, Rc<Formula>),
    /// Either.
    Or(Rc<Formula>, Rc<Formula>),
}

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

    /// Both hold.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Formula::Known(true), x) | (x, Formula::Known(true)) => x,
            (Formula::Known(false), _) | (_, Formula::Known(false)) => Formula::Known(false),
            (a, b) if a == b => a,
            (a, b) => Formula::And(a.into(), b.into()),
        }
    }

    /// One of them holds.
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Formula::Known(false), x) | (x, Formula::Known(false)) => x,
            (Formula::Known(true), _) | (_, Formula::Known(true)) => Formula::Known(true),
            (a, b) if a == b => a,
            (a, b) => Formula::Or(a.into(), b.into()),
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
