//! Division and remainder.

use std::sync::Arc;

use super::{Answer, Atom, Dim, Term};

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Dim {
    /// `floor(self / divisor)`; 0 where the divisor is 0.
    pub fn floor_div(&self, divisor: &Dim) -> Dim {
        if self.is_overflow() || divisor.is_overflow() {
            return Dim::overflow();
        }
        match divisor.as_constant() {
            Some(0) => Dim::constant(0),
            Some(divisor) if divisor > 0 => self.floor_div_positive(divisor),
            Some(divisor) => match divisor.checked_neg() {
                Some(divisor) => self.scale(-1).floor_div(&Dim::constant(divisor)),
                None => Dim::overflow(),
            },
            None => self.floor_div_symbolic(divisor),
        }
    }

    /// `ceil(self / divisor)`; 0 where the divisor is 0.
    pub fn ceil_div(&self, divisor: &Dim) -> Dim {
        match divisor.as_constant() {
            // The form that windows give too, so that equal sizes are found equal.
            Some(constant) if constant > 0 => self.add(&Dim::constant(constant - 1)).floor_div(divisor),
            _ => self.scale(-1).floor_div(divisor).scale(-1),
        }
    }

    /// `self - divisor * floor(self / divisor)`; 0 where the divisor is 0.
    pub fn modulo(&self, divisor: &Dim) -> Dim {
        if self.is_overflow() || divisor.is_overflow() {
            return Dim::overflow();
        }
        match divisor.as_constant() {
            Some(0) => Dim::constant(0),
            Some(divisor) if divisor > 0 => self.modulo_positive(divisor),
            Some(divisor) => match divisor.checked_neg() {
                Some(divisor) => self.scale(-1).modulo(&Dim::constant(divisor)).scale(-1),
                None => Dim::overflow(),
            },
            None if self.exact_quotient(divisor).is_some() => Dim::constant(0),
            None => Dim::atom(Atom::Mod(Arc::new((self.clone(), divisor.clone())))),
        }
    }

    fn floor_div_symbolic(&self, divisor: &Dim) -> Dim {
        if self.as_constant() == Some(0) {
            return Dim::constant(0);
        }
        if let Some(quotient) = self.exact_quotient(divisor)
            && divisor.equals(&Dim::constant(0)) == Answer::No
        {
            return quotient;
        }
        if self.at_least(0) == Answer::Yes && divisor.sub(self).at_least(1) == Answer::Yes {
            return Dim::constant(0);
        }
        Dim::atom(Atom::FloorDiv(Arc::new((self.clone(), divisor.clone()))))
    }

    fn floor_div_positive(&self, divisor: i64) -> Dim {
        let (quotient, remainder) = self.split(divisor);
        if remainder.terms.is_empty() || remainder.lies_below(divisor) {
            return quotient;
        }
        // floor((g*x + c) / (g*d)) = floor((x + floor(c / g)) / d)
        let common = remainder.common_factor(divisor as u64) as i64;
        let reduced = remainder.divided(common);
        let divisor = divisor / common;
        if let [Term { factors, coefficient: 1 }] = &reduced.terms[..]
            && let [Atom::FloorDiv(pair)] = &factors[..]
            && let Some(inner) = pair.1.as_constant().filter(|&inner| inner > 0)
            && let Some(both) = inner.checked_mul(divisor)
        {
            // floor((floor(x / m) + c) / d) = floor((x + c*m) / (m*d))
            let shift = Dim::constant(reduced.constant).scale(inner);
            return quotient.add(&pair.0.add(&shift).floor_div(&Dim::constant(both)));
        }
        let atom = Atom::FloorDiv(Arc::new((reduced, Dim::constant(divisor))));
        quotient.add(&Dim::atom(atom))
    }

    fn modulo_positive(&self, divisor: i64) -> Dim {
        let (_, remainder) = self.split(divisor);
        if remainder.terms.is_empty() || remainder.lies_below(divisor) {
            return remainder;
        }
        let mut common = remainder.common_factor(divisor as u64);
        common = gcd(common, remainder.constant.unsigned_abs());
        let common = common as i64;
        let pair = (remainder.divided(common), Dim::constant(divisor / common));
        Dim::atom(Atom::Mod(Arc::new(pair))).scale(common)
    }

    /// `(q, r)` with `self == divisor * q + r`, all integers of `r` in `0..divisor`.
    fn split(&self, divisor: i64) -> (Dim, Dim) {
        let part = |of: fn(i64, i64) -> i64| {
            let terms = self
                .terms
                .iter()
                .map(|term| Term {
                    factors: term.factors.clone(),
                    coefficient: of(term.coefficient, divisor),
                })
                .filter(|term| term.coefficient != 0)
                .collect();
            Dim::from_terms(of(self.constant, divisor), terms)
        };
        (part(i64::div_euclid), part(i64::rem_euclid))
    }

    fn lies_below(&self, bound: i64) -> bool {
        self.at_least(0) == Answer::Yes && Dim::constant(bound).sub(self).at_least(1) == Answer::Yes
    }

    /// The greatest common divisor of `with` and the coefficients.
    pub(super) fn common_factor(&self, with: u64) -> u64 {
        self.terms.iter().fold(with, |common, term| gcd(common, term.coefficient.unsigned_abs()))
    }

    fn divided(&self, by: i64) -> Dim {
        let terms = self
            .terms
            .iter()
            .map(|term| Term { factors: term.factors.clone(), coefficient: term.coefficient / by })
            .collect();
        Dim::from_terms(self.constant.div_euclid(by), terms)
    }
}
