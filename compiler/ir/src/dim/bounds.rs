//! Bounds and the three-valued questions that they answer.

use super::{Answer, Atom, Dim, Term};

/// Case distinctions that one bound may make.
const FUEL: u32 = 24;

/// Lowest and highest value; `None` is unbounded.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Interval {
    low: Option<i64>,
    high: Option<i64>,
}

const ANY: Interval = Interval { low: None, high: None };

impl Interval {
    fn exactly(value: i64) -> Self {
        Self { low: Some(value), high: Some(value) }
    }

    fn add(self, other: Self) -> Self {
        let sum = |a: Option<i64>, b: Option<i64>| a?.checked_add(b?);
        Self { low: sum(self.low, other.low), high: sum(self.high, other.high) }
    }

    fn scale(self, factor: i64) -> Self {
        let times = |a: Option<i64>| a?.checked_mul(factor);
        let (low, high) = if factor < 0 { (self.high, self.low) } else { (self.low, self.high) };
        Self { low: times(low), high: times(high) }
    }

    fn mul(self, other: Self) -> Self {
        let product = |a: i64, b: i64| a.checked_mul(b);
        if let (Some(a), Some(b)) = (self.low, other.low)
            && a >= 0
            && b >= 0
        {
            let high = match (self.high, other.high) {
                (Some(0), _) | (_, Some(0)) => Some(0),
                (Some(a), Some(b)) => product(a, b),
                _ => None,
            };
            // A product too large for i64 has no value, so the smaller bound is safe.
            return Self { low: product(a, b).or(Some(0)), high };
        }
        let (Some(a), Some(b), Some(c), Some(d)) = (self.low, self.high, other.low, other.high) else {
            return ANY;
        };
        let corners = [product(a, c), product(a, d), product(b, c), product(b, d)];
        match corners.into_iter().collect::<Option<Vec<_>>>() {
            Some(corners) => Self { low: corners.iter().min().copied(), high: corners.iter().max().copied() },
            None => ANY,
        }
    }

    fn hull(self, other: Self) -> Self {
        let both = |a: Option<i64>, b: Option<i64>, f: fn(i64, i64) -> i64| Some(f(a?, b?));
        Self { low: both(self.low, other.low, i64::min), high: both(self.high, other.high, i64::max) }
    }
}

/// The bound that is known, or the better one by `pick`.
fn better(a: Option<i64>, b: Option<i64>, pick: fn(i64, i64) -> i64) -> Option<i64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(pick(a, b)),
        (known, None) | (None, known) => known,
    }
}

fn atom_interval(atom: &Atom) -> Interval {
    let Some((a, b)) = atom.operands() else {
        return if *atom == Atom::Overflow { ANY } else { Interval { low: Some(0), high: None } };
    };
    let (x, y) = (interval(a), interval(b));
    match atom {
        Atom::FloorDiv(_) => match b.as_constant() {
            Some(divisor) if divisor > 0 => Interval {
                low: x.low.map(|low| low.div_euclid(divisor)),
                high: x.high.map(|high| high.div_euclid(divisor)),
            },
            _ if x.low >= Some(0) && y.low >= Some(0) => Interval { low: Some(0), high: x.high },
            _ => ANY,
        },
        Atom::Mod(_) if y.low >= Some(0) => {
            let below = y.high.map(|high| (high - 1).max(0));
            let high = if x.low >= Some(0) { better(below, x.high, i64::min) } else { below };
            Interval { low: Some(0), high }
        }
        Atom::Min(_) => Interval {
            low: x.low.and_then(|low| Some(low.min(y.low?))),
            high: better(x.high, y.high, i64::min),
        },
        Atom::Max(_) => Interval {
            low: better(x.low, y.low, i64::max),
            high: x.high.and_then(|high| Some(high.max(y.high?))),
        },
        Atom::Broadcast(_) => x.hull(y),
        Atom::Product(_) => x.mul(y),
        _ => ANY,
    }
}

fn interval(dim: &Dim) -> Interval {
    dim.terms.iter().fold(Interval::exactly(dim.constant), |sum, term| {
        let product =
            term.factors.iter().fold(Interval::exactly(1), |product, atom| product.mul(atom_interval(atom)));
        sum.add(product.scale(term.coefficient))
    })
}

impl Dim {
    /// A value that the size never falls below, as tight as was found; `None` if none was.
    pub fn lower_bound(&self) -> Option<i64> {
        lower_bound(self, &mut FUEL.clone())
    }

    /// A value that the size never exceeds; `None` if none was found.
    pub fn upper_bound(&self) -> Option<i64> {
        self.scale(-1).lower_bound().and_then(i64::checked_neg)
    }

    /// Whether `self >= bound`.
    pub fn at_least(&self, bound: i64) -> Answer {
        if self.is_overflow() {
            return Answer::Unknown;
        }
        if let Some(value) = self.as_constant() {
            return if value >= bound { Answer::Yes } else { Answer::No };
        }
        if self.lower_bound().is_some_and(|low| low >= bound) {
            return Answer::Yes;
        }
        if self.upper_bound().is_some_and(|high| high < bound) {
            return Answer::No;
        }
        Answer::Unknown
    }

    /// Whether `self == other`.
    pub fn equals(&self, other: &Dim) -> Answer {
        let difference = self.sub(other);
        if difference.is_overflow() {
            return Answer::Unknown;
        }
        if let Some(value) = difference.as_constant() {
            return if value == 0 { Answer::Yes } else { Answer::No };
        }
        let common = difference.common_factor(0);
        if common > 1 && !difference.constant.unsigned_abs().is_multiple_of(common) {
            return Answer::No;
        }
        if difference.at_least(1) == Answer::Yes || difference.scale(-1).at_least(1) == Answer::Yes {
            return Answer::No;
        }
        Answer::Unknown
    }
}

/// The interval's bound, made tighter by replacing one opaque operation by what bounds it from below, so that
/// `n - min(n, 5)` and `n - floordiv(n, 2)` are found not to be negative.
fn lower_bound(dim: &Dim, fuel: &mut u32) -> Option<i64> {
    if dim.is_overflow() {
        return None;
    }
    let mut best = interval(dim).low;
    for (index, term) in dim.terms.iter().enumerate() {
        let [atom] = &term.factors[..] else { continue };
        let Some((a, b)) = atom.operands() else { continue };
        if *fuel == 0 {
            return best;
        }
        *fuel -= 1;
        let coefficient = term.coefficient;
        let mut with = |operand: &Dim| {
            let replaced = dim.without(index).add(&operand.scale(coefficient));
            if replaced.is_overflow() { None } else { lower_bound(&replaced, fuel) }
        };
        let found = match atom {
            Atom::Min(_) if coefficient < 0 => better(with(a), with(b), i64::max),
            Atom::Max(_) if coefficient > 0 => better(with(a), with(b), i64::max),
            Atom::Min(_) | Atom::Max(_) | Atom::Broadcast(_) => {
                with(a).and_then(|low| Some(low.min(with(b)?)))
            }
            Atom::FloorDiv(_) => match b.as_constant() {
                Some(divisor) if divisor > 1 => linear(&dim.without(index), coefficient, a, divisor, fuel),
                _ => None,
            },
            _ => None,
        };
        best = better(best, found, i64::max);
    }
    best
}

/// A lower bound of `rest + coefficient * floor(a / divisor)` by `floor(a / d) <= a / d` and `>= (a - d + 1) / d`.
fn linear(rest: &Dim, coefficient: i64, a: &Dim, divisor: i64, fuel: &mut u32) -> Option<i64> {
    let slack = if coefficient > 0 { 1i64.checked_sub(divisor)? } else { 0 };
    let scaled = rest.scale(divisor).add(&a.add(&Dim::constant(slack)).scale(coefficient));
    if scaled.is_overflow() {
        return None;
    }
    let low = lower_bound(&scaled, fuel)?;
    low.checked_add(divisor - 1).map(|low| low.div_euclid(divisor))
}

impl Dim {
    fn without(&self, index: usize) -> Dim {
        let terms: Vec<Term> = self
            .terms
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index)
            .map(|(_, term)| term.clone())
            .collect();
        Dim::from_terms(self.constant, terms)
    }
}
