//! The coordinates of a cell of the scores, and what is known of sizes where such a cell exists.

use std::collections::BTreeSet;

use lathe_ir::{Answer, Atom, Dim, Symbol};

/// Names that no model file gives: coordinates are no sizes of the model.
const NAMES: [&str; 5] = ["\u{1}b", "\u{1}h", "\u{1}i", "\u{1}j", "\u{1}k"];

/// Coordinates `b, h, i, j` (batch, head, query, key) below their sizes, and the symbols known to be at least 1.
///
/// Sizes in a space are *lifted*: a symbol `n` that is at least 1 stands for `n + 1`, so that the arithmetic of [`Dim`] knows it.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    positive: BTreeSet<Symbol>,
    coordinates: Vec<(Symbol, Dim)>,
}

impl Space {
    /// The space of cells of a value with up to five axes of these sizes.
    pub fn new(dims: &[Dim]) -> Self {
        let mut positive = BTreeSet::new();
        dims.iter().for_each(|dim| collect_positive(dim, &mut positive));
        let mut space = Self { positive, coordinates: Vec::new() };
        space.coordinates =
            NAMES.iter().zip(dims).map(|(name, dim)| (Symbol::new(name), space.lift(dim))).collect();
        space
    }

    /// A size in terms of this space.
    pub fn lift(&self, dim: &Dim) -> Dim {
        dim.substitute(&|symbol| {
            self.positive.contains(symbol).then(|| Dim::symbol(symbol.clone()).add(&Dim::constant(1)))
        })
    }

    /// The coordinate along axis `axis`, where the axis has more than one place.
    pub fn coordinate(&self, axis: usize) -> Dim {
        match self.coordinates.get(axis) {
            Some((_, size)) if size.as_constant() == Some(1) => Dim::constant(0),
            Some((symbol, _)) => Dim::symbol(symbol.clone()),
            None => Dim::constant(0),
        }
    }

    /// All coordinates in order.
    pub fn index(&self) -> Vec<Dim> {
        (0..self.coordinates.len()).map(|axis| self.coordinate(axis)).collect()
    }

    /// The lifted size of axis `axis`.
    pub fn size(&self, axis: usize) -> Dim {
        self.coordinates.get(axis).map_or_else(|| Dim::constant(1), |(_, size)| size.clone())
    }

    /// Whether the index is a coordinate, and the size is that of its axis.
    pub fn is_size_of(&self, size: &Dim, index: &Dim) -> bool {
        let axis = self.coordinates.iter().find(|(symbol, _)| index.as_symbol() == Some(symbol));
        axis.is_some_and(|(_, own)| own == size)
    }

    /// Whether the expression mentions a coordinate.
    pub fn varies(&self, dim: &Dim) -> bool {
        dim.symbols().into_iter().any(|symbol| self.coordinates.iter().any(|(name, _)| name == symbol))
    }

    /// Whether `dim >= 0` at every cell.
    pub fn never_negative(&self, dim: &Dim) -> bool {
        self.lowest(dim).at_least(0) == Answer::Yes
    }

    /// Whether `dim >= 0` is decided: the same at every cell.
    pub fn sign(&self, dim: &Dim) -> Option<bool> {
        if self.never_negative(dim) {
            return Some(true);
        }
        // dim < 0 is -dim - 1 >= 0.
        self.never_negative(&dim.scale(-1).sub(&Dim::constant(1))).then_some(false)
    }

    /// The expression at the corner of the box of coordinates where it is smallest, as far as its form tells.
    fn lowest(&self, dim: &Dim) -> Dim {
        self.coordinates.iter().fold(dim.clone(), |dim, (symbol, size)| match direction(&dim, symbol) {
            Some(true) => replace(&dim, symbol, &Dim::constant(0)),
            Some(false) => replace(&dim, symbol, &size.sub(&Dim::constant(1))),
            None => dim,
        })
    }

    /// `(q, r)` with `index == q * size + r` and `0 <= r < size`; the second is `None` where that needs `r < size` to be assumed.
    pub fn divide(&self, index: &Dim, size: &Dim) -> (Dim, Dim, bool) {
        let (mut quotient, mut rest) = (Dim::constant(0), Dim::constant(index.constant_part()));
        for term in index.terms() {
            let term = term_of(term.factors(), term.coefficient());
            match term.exact_quotient(size) {
                Some(part) => quotient = quotient.add(&part),
                None => rest = rest.add(&term),
            }
        }
        let below = |rest: &Dim| self.never_negative(&size.sub(rest).sub(&Dim::constant(1)));
        if self.never_negative(&rest) {
            if below(&rest) {
                return (quotient, rest, true);
            }
            // A lifted size is a sum: b * (n + 1) + j has the terms b*n, b and j.
            if let Some((q, r)) = self.divide_sum(index, size)
                && self.never_negative(&r)
                && below(&r)
            {
                return (q, r, true);
            }
        }
        if size.as_constant().is_some_and(|size| size > 0) && self.never_negative(index) {
            return (index.floor_div(size), index.modulo(size), true);
        }
        match self.divide_sum(index, size) {
            Some((q, r)) if self.never_negative(&r) => {
                let sure = below(&r);
                (q, r, sure)
            }
            _ => (quotient, rest, false),
        }
    }

    /// Long division where the size is a sum of terms: takes the multiple of `size` by the coordinate that its leading term shows.
    fn divide_sum(&self, index: &Dim, size: &Dim) -> Option<(Dim, Dim)> {
        let (mut quotient, mut rest) = (Dim::constant(0), index.clone());
        for _ in 0..8 {
            let step =
                self.coordinates.iter().map(|(symbol, _)| Dim::symbol(symbol.clone())).find_map(|by| {
                    let product = size.mul(&by);
                    let lead = product.terms().iter().max_by_key(|term| term.factors().len())?;
                    if lead.factors().len() < 2 {
                        return None;
                    }
                    let found = rest.terms().iter().find(|term| term.factors() == lead.factors())?;
                    let times =
                        found.coefficient().checked_div(lead.coefficient()).filter(|times| *times != 0)?;
                    Some(by.scale(times))
                });
            let Some(step) = step else { break };
            rest = rest.sub(&size.mul(&step));
            quotient = quotient.add(&step);
        }
        Some((quotient, rest))
    }
}

/// The symbols that are at least 1 where the size is.
fn collect_positive(dim: &Dim, into: &mut BTreeSet<Symbol>) {
    if dim.constant_part() != 0 || dim.terms().len() != 1 {
        return;
    }
    for factor in dim.terms().iter().flat_map(|term| term.factors()) {
        match (factor, factor.operands()) {
            (Atom::Symbol(symbol), _) => {
                into.insert(symbol.clone());
            }
            (Atom::Product(_) | Atom::Broadcast(_) | Atom::Min(_), Some((a, b))) => {
                collect_positive(a, into);
                collect_positive(b, into);
            }
            (Atom::FloorDiv(_), Some((a, b)))
                if a.at_least(0) == Answer::Yes && b.at_least(0) == Answer::Yes =>
            {
                collect_positive(a, into);
                collect_positive(b, into);
            }
            _ => {}
        }
    }
}

/// Whether the expression grows (or falls) with the symbol; `None` where it is not affine in it with coefficients of one sign.
fn direction(dim: &Dim, symbol: &Symbol) -> Option<bool> {
    let mut grows = None;
    for term in dim.terms() {
        let direct =
            term.factors().iter().filter(|factor| matches!(factor, Atom::Symbol(name) if name == symbol));
        let direct = direct.count();
        let hidden: Vec<&Atom> = term
            .factors()
            .iter()
            .filter(|factor| {
                factor
                    .operands()
                    .is_some_and(|(a, b)| a.symbols().contains(symbol) || b.symbols().contains(symbol))
            })
            .collect();
        if let [monotone] = hidden[..]
            && direct == 0
            && term.factors().len() == 1
        {
            let up = inner_direction(monotone, symbol)? == (term.coefficient() > 0);
            if grows.is_some_and(|grows| grows != up) {
                return None;
            }
            grows = Some(up);
            continue;
        }
        if !hidden.is_empty() {
            return None;
        }
        if direct == 0 {
            continue;
        }
        // Other factors that may be negative would turn the direction.
        let others = term.factors().iter().all(|factor| {
            matches!(factor, Atom::Symbol(_))
                || term_of(std::slice::from_ref(factor), 1).at_least(0) == Answer::Yes
        });
        let up = term.coefficient() > 0;
        if !others || direct > 1 || grows.is_some_and(|grows| grows != up) {
            return None;
        }
        grows = Some(up);
    }
    grows
}

/// The same of a quotient by a constant, of a minimum and of a maximum, which follow their operands.
fn inner_direction(atom: &Atom, symbol: &Symbol) -> Option<bool> {
    let (a, b) = atom.operands()?;
    let of = |dim: &Dim| dim.symbols().contains(symbol).then(|| direction(dim, symbol));
    match atom {
        Atom::FloorDiv(_) if b.as_constant().is_some_and(|divisor| divisor > 0) => direction(a, symbol),
        Atom::Min(_) | Atom::Max(_) => match (of(a), of(b)) {
            (Some(one), None) | (None, Some(one)) => one,
            (Some(one), Some(other)) => one.filter(|_| one == other),
            (None, None) => None,
        },
        _ => None,
    }
}

fn replace(dim: &Dim, symbol: &Symbol, by: &Dim) -> Dim {
    dim.substitute(&|name| (name == symbol).then(|| by.clone()))
}

/// The size that is this one term.
pub(super) fn term_of(factors: &[Atom], coefficient: i64) -> Dim {
    factors.iter().fold(Dim::constant(coefficient), |product, atom| product.mul(&atom_dim(atom)))
}

fn atom_dim(atom: &Atom) -> Dim {
    match (atom, atom.operands()) {
        (Atom::Symbol(symbol), _) => Dim::symbol(symbol.clone()),
        (Atom::FloorDiv(_), Some((a, b))) => a.floor_div(b),
        (Atom::Mod(_), Some((a, b))) => a.modulo(b),
        (Atom::Min(_), Some((a, b))) => a.min(b),
        (Atom::Max(_), Some((a, b))) => a.max(b),
        (Atom::Broadcast(_), Some((a, b))) => a.broadcast(b),
        (Atom::Product(_), Some((a, b))) => a.mul(b),
        _ => Dim::overflow(),
    }
}
