//! Values, substitution and the symbols of a dim.

use std::collections::BTreeSet;

use super::{Atom, Dim, Symbol};

impl Dim {
    /// The value under these values of the symbols; `None` where one is missing, on overflow, and where sizes that do not
    /// broadcast meet.
    pub fn evaluate(&self, symbols: &dyn Fn(&Symbol) -> Option<i64>) -> Option<i64> {
        self.terms.iter().try_fold(self.constant, |sum, term| {
            let product = term
                .factors
                .iter()
                .try_fold(term.coefficient, |product, atom| product.checked_mul(atom.evaluate(symbols)?))?;
            sum.checked_add(product)
        })
    }

    /// The dim with symbols replaced; those for which `with` gives nothing stay.
    pub fn substitute(&self, with: &dyn Fn(&Symbol) -> Option<Dim>) -> Dim {
        self.terms.iter().fold(Dim::constant(self.constant), |sum, term| {
            let product = term
                .factors
                .iter()
                .fold(Dim::constant(term.coefficient), |product, atom| product.mul(&atom.substitute(with)));
            sum.add(&product)
        })
    }

    /// The symbols that occur, in order of their names.
    pub fn symbols(&self) -> BTreeSet<&Symbol> {
        let mut found = BTreeSet::new();
        self.visit_symbols(&mut |symbol| {
            found.insert(symbol);
        });
        found
    }

    /// Calls `visit` for each occurrence of a symbol.
    pub fn visit_symbols<'a>(&'a self, visit: &mut dyn FnMut(&'a Symbol)) {
        for atom in self.terms.iter().flat_map(|term| &term.factors) {
            match atom {
                Atom::Symbol(symbol) => visit(symbol),
                _ => {
                    if let Some((a, b)) = atom.operands() {
                        a.visit_symbols(visit);
                        b.visit_symbols(visit);
                    }
                }
            }
        }
    }
}

impl Atom {
    fn evaluate(&self, symbols: &dyn Fn(&Symbol) -> Option<i64>) -> Option<i64> {
        let (a, b) = match self {
            Atom::Symbol(symbol) => return symbols(symbol),
            _ => self.operands()?,
        };
        let (a, b) = (a.evaluate(symbols)?, b.evaluate(symbols)?);
        match self {
            Atom::FloorDiv(_) => floor_div(a, b),
            Atom::Mod(_) => {
                a.checked_sub(b.checked_mul(floor_div(a, b)?)?).filter(|_| b != 0).or((b == 0).then_some(0))
            }
            Atom::Min(_) => Some(a.min(b)),
            Atom::Max(_) => Some(a.max(b)),
            Atom::Broadcast(_) => match (a, b) {
                (1, size) | (size, 1) => Some(size),
                _ => (a == b).then_some(a),
            },
            Atom::Product(_) => a.checked_mul(b),
            Atom::Symbol(_) | Atom::Overflow => None,
        }
    }

    fn substitute(&self, with: &dyn Fn(&Symbol) -> Option<Dim>) -> Dim {
        let (a, b) = match (self, self.operands()) {
            (Atom::Symbol(symbol), _) => {
                return with(symbol).unwrap_or_else(|| Dim::symbol(symbol.clone()));
            }
            (_, Some((a, b))) => (a.substitute(with), b.substitute(with)),
            (_, None) => return Dim::overflow(),
        };
        match self {
            Atom::FloorDiv(_) => a.floor_div(&b),
            Atom::Mod(_) => a.modulo(&b),
            Atom::Min(_) => a.min(&b),
            Atom::Max(_) => a.max(&b),
            Atom::Broadcast(_) => a.broadcast(&b),
            Atom::Product(_) => a.mul(&b),
            Atom::Symbol(_) | Atom::Overflow => Dim::overflow(),
        }
    }
}

/// `floor(a / b)`; 0 where `b` is 0; `None` on overflow.
fn floor_div(a: i64, b: i64) -> Option<i64> {
    if b == 0 {
        return Some(0);
    }
    let quotient = a.checked_div(b)?;
    Some(if a % b != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient })
}
