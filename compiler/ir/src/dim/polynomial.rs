//! Sums and products: the normal form.

use std::ops::{Add, Mul, Sub};
use std::sync::Arc;

use super::{Atom, Dim, Term};

/// Atoms and terms in one expression, nested ones included.
const MAX_WEIGHT: u32 = 1024;
/// Nested opaque operations: bounds the recursion of everything that walks a dim.
const MAX_DEPTH: u32 = 64;
/// Terms that a product may expand to.
const MAX_EXPANDED: usize = 64;

impl Dim {
    pub(crate) fn atom(atom: Atom) -> Self {
        Self::from_terms(0, vec![Term { factors: vec![atom], coefficient: 1 }])
    }

    /// The sum of a constant and terms in any order, with sorted factors.
    pub(crate) fn from_terms(constant: i64, mut terms: Vec<Term>) -> Self {
        terms.sort_unstable_by(Term::order);
        let mut merged: Vec<Term> = Vec::with_capacity(terms.len());
        for term in terms {
            match merged.last_mut() {
                Some(last) if last.factors == term.factors => {
                    let Some(sum) = last.coefficient.checked_add(term.coefficient) else {
                        return Self::overflow();
                    };
                    last.coefficient = sum;
                }
                _ => {
                    if merged.last().is_some_and(|last| last.coefficient == 0) {
                        merged.pop();
                    }
                    merged.push(term);
                }
            }
        }
        if merged.last().is_some_and(|last| last.coefficient == 0) {
            merged.pop();
        }
        Self::limited(constant, merged)
    }

    fn limited(constant: i64, terms: Vec<Term>) -> Self {
        let (mut weight, mut depth) = (1u32, 0u32);
        for atom in terms.iter().flat_map(|term| &term.factors) {
            if *atom == Atom::Overflow {
                return Self::overflow();
            }
            let (inner_weight, inner_depth) = atom
                .operands()
                .map_or((0, 0), |(a, b)| (a.weight.saturating_add(b.weight), a.depth.max(b.depth)));
            weight = weight.saturating_add(1).saturating_add(inner_weight);
            depth = depth.max(inner_depth + 1);
        }
        if weight > MAX_WEIGHT || depth > MAX_DEPTH {
            return Self::overflow();
        }
        Self { constant, terms, weight, depth }
    }

    /// `self + other`.
    pub fn add(&self, other: &Dim) -> Dim {
        if other.terms.is_empty() && other.constant == 0 {
            return self.clone();
        }
        match self.constant.checked_add(other.constant) {
            Some(constant) => Self::from_terms(constant, [&self.terms[..], &other.terms[..]].concat()),
            None => Self::overflow(),
        }
    }

    /// `self - other`.
    pub fn sub(&self, other: &Dim) -> Dim {
        self.add(&other.scale(-1))
    }

    /// `factor * self`.
    pub fn scale(&self, factor: i64) -> Dim {
        if factor == 0 && !self.is_overflow() {
            return Self::constant(0);
        }
        let scaled = || {
            let terms = self
                .terms
                .iter()
                .map(|term| {
                    let coefficient = term.coefficient.checked_mul(factor)?;
                    Some(Term { factors: term.factors.clone(), coefficient })
                })
                .collect::<Option<Vec<_>>>()?;
            Some(Self { constant: self.constant.checked_mul(factor)?, terms, ..*self })
        };
        if self.is_overflow() { Self::overflow() } else { scaled().unwrap_or_else(Self::overflow) }
    }

    /// `self * other`.
    pub fn mul(&self, other: &Dim) -> Dim {
        if let Some(factor) = other.as_constant() {
            return self.scale(factor);
        }
        if let Some(factor) = self.as_constant() {
            return other.scale(factor);
        }
        if self.is_overflow() || other.is_overflow() {
            return Self::overflow();
        }
        if (self.terms.len() + 1) * (other.terms.len() + 1) > MAX_EXPANDED {
            let (a, b) = if self.order(other).is_le() { (self, other) } else { (other, self) };
            return Self::atom(Atom::Product(Arc::new((a.clone(), b.clone()))));
        }
        self.expanded_product(other).unwrap_or_else(Self::overflow)
    }

    fn expanded_product(&self, other: &Dim) -> Option<Dim> {
        let mut terms = Vec::new();
        for a in &self.terms {
            for b in &other.terms {
                let mut factors = [&a.factors[..], &b.factors[..]].concat();
                factors.sort_unstable_by(Atom::order);
                terms.push(Term { factors, coefficient: a.coefficient.checked_mul(b.coefficient)? });
            }
        }
        for (dim, factor) in [(self, other.constant), (other, self.constant)] {
            for term in dim.terms.iter().filter(|_| factor != 0) {
                let coefficient = term.coefficient.checked_mul(factor)?;
                terms.push(Term { factors: term.factors.clone(), coefficient });
            }
        }
        Some(Self::from_terms(self.constant.checked_mul(other.constant)?, terms))
    }

    /// The product of sizes; 1 for none.
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
        dims.into_iter().fold(Dim::constant(1), |product, dim| product.mul(dim))
    }

    /// The `q` of `self == q * divisor` as polynomials, where there is one: the quotient wherever `divisor` is not 0.
    pub fn exact_quotient(&self, divisor: &Dim) -> Option<Dim> {
        // Long division by the leading term in the graded order.
        if self.is_overflow() || divisor.is_overflow() {
            return None;
        }
        let (lead, rest) = (divisor.leading()?, self.terms.len() + 1);
        let mut remainder = self.clone();
        let mut quotient = Dim::constant(0);
        for _ in 0..rest.saturating_mul(2) {
            let Some(top) = remainder.leading() else { return Some(quotient) };
            if top.coefficient.checked_rem(lead.coefficient)? != 0 {
                return None;
            }
            let mut factors = top.factors.clone();
            for factor in &lead.factors {
                let position = factors.iter().position(|other| other == factor)?;
                factors.remove(position);
            }
            let coefficient = top.coefficient.checked_div(lead.coefficient)?;
            let step = if factors.is_empty() {
                Dim::constant(coefficient)
            } else {
                Dim::from_terms(0, vec![Term { factors, coefficient }])
            };
            quotient = quotient.add(&step);
            remainder = remainder.sub(&step.mul(divisor));
            if quotient.is_overflow() || remainder.is_overflow() {
                return None;
            }
        }
        (remainder == Dim::constant(0)).then_some(quotient)
    }

    /// The term of highest degree, the constant as a term of degree 0; `None` for 0.
    fn leading(&self) -> Option<Term> {
        self.terms
            .iter()
            .max_by(|a, b| a.factors.len().cmp(&b.factors.len()).then_with(|| a.order_of_factors(b)))
            .cloned()
            .or_else(|| {
                (self.constant != 0).then(|| Term { factors: Vec::new(), coefficient: self.constant })
            })
    }
}

impl Add for &Dim {
    type Output = Dim;

    fn add(self, other: &Dim) -> Dim {
        Dim::add(self, other)
    }
}

impl Sub for &Dim {
    type Output = Dim;

    fn sub(self, other: &Dim) -> Dim {
        Dim::sub(self, other)
    }
}

impl Mul for &Dim {
    type Output = Dim;

    fn mul(self, other: &Dim) -> Dim {
        Dim::mul(self, other)
    }
}
