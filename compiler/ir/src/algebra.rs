//! Walking a [`Dim`]: translation of sizes into another representation, innermost parts first.

use crate::dim::Atom;
use crate::{Dim, Symbol};

/// Another representation of sizes, for example entries of a plan's table or concrete numbers.
pub trait DimAlgebra {
    /// A translated size.
    type Size;

    /// A constant.
    fn constant(&mut self, value: i64) -> Self::Size;
    /// A symbol.
    fn symbol(&mut self, symbol: &Symbol) -> Self::Size;
    /// `a + b`.
    fn add(&mut self, a: Self::Size, b: Self::Size) -> Self::Size;
    /// `a * b`.
    fn mul(&mut self, a: Self::Size, b: Self::Size) -> Self::Size;
    /// `floor(a / b)`; 0 where `b` is 0.
    fn floor_div(&mut self, a: Self::Size, b: Self::Size) -> Self::Size;
    /// `a - b * floor(a / b)`; 0 where `b` is 0.
    fn modulo(&mut self, a: Self::Size, b: Self::Size) -> Self::Size;
    /// The smaller.
    fn min(&mut self, a: Self::Size, b: Self::Size) -> Self::Size;
    /// The larger.
    fn max(&mut self, a: Self::Size, b: Self::Size) -> Self::Size;
    /// `b` where `a` is 1, else `a`.
    fn broadcast(&mut self, a: Self::Size, b: Self::Size) -> Self::Size;
}

impl Dim {
    /// Translates the size into `algebra`.
    pub fn translate<A: DimAlgebra>(&self, algebra: &mut A) -> A::Size {
        let mut sum = None;
        for term in &self.terms {
            let mut product = (term.coefficient != 1).then(|| algebra.constant(term.coefficient));
            for atom in &term.factors {
                let factor = translate_atom(atom, algebra);
                product = Some(match product {
                    Some(product) => algebra.mul(product, factor),
                    None => factor,
                });
            }
            let product = product.unwrap_or_else(|| algebra.constant(1));
            sum = Some(match sum {
                Some(sum) => algebra.add(sum, product),
                None => product,
            });
        }
        match sum {
            None => algebra.constant(self.constant),
            Some(sum) if self.constant == 0 => sum,
            Some(sum) => {
                let constant = algebra.constant(self.constant);
                algebra.add(sum, constant)
            }
        }
    }
}

fn translate_atom<A: DimAlgebra>(atom: &Atom, algebra: &mut A) -> A::Size {
    let mut both = |pair: &(Dim, Dim)| (pair.0.translate(algebra), pair.1.translate(algebra));
    match atom {
        Atom::Symbol(symbol) => algebra.symbol(symbol),
        Atom::FloorDiv(pair) => {
            let (a, b) = both(pair);
            algebra.floor_div(a, b)
        }
        Atom::Mod(pair) => {
            let (a, b) = both(pair);
            algebra.modulo(a, b)
        }
        Atom::Min(pair) => {
            let (a, b) = both(pair);
            algebra.min(a, b)
        }
        Atom::Max(pair) => {
            let (a, b) = both(pair);
            algebra.max(a, b)
        }
        Atom::Broadcast(pair) => {
            let (a, b) = both(pair);
            algebra.broadcast(a, b)
        }
        Atom::Product(pair) => {
            let (a, b) = both(pair);
            algebra.mul(a, b)
        }
        // Inference refuses types with such sizes; a size that no memory holds is refused by whoever sees it.
        Atom::Overflow => algebra.constant(i64::MAX),
    }
}
