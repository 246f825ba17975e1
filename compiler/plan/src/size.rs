//! Sizes while planning: interned integer polynomials over symbols, in a normal form, so that equal sizes are equal ids.

use std::collections::BTreeMap;
use std::rc::Rc;

use lathe_ir::{Dim, DimAlgebra, Symbol};
use rustc_hash::FxHashMap;

/// Products with more terms than this are kept as opaque factors, so that sizes stay small.
const MOST_TERMS: usize = 64;

/// An interned size; equal ids are equal for all values of the symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Size(u32);

impl Size {
    /// 0.
    pub const ZERO: Self = Self(0);
    /// 1.
    pub const ONE: Self = Self(1);
}

/// What a term multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Factor {
    Symbol(u32),
    FloorDiv(Size, Size),
    Mod(Size, Size),
    Min(Size, Size),
    Max(Size, Size),
    Broadcast(Size, Size),
    BroadcastStride(Size, Size),
    /// A sum that was not multiplied out.
    Whole(Size),
}

/// `constant` plus terms, each a sorted product of factors times a coefficient that is not 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Polynomial {
    pub(crate) constant: i64,
    pub(crate) terms: BTreeMap<Vec<Factor>, i64>,
}

/// A symbol with a meaning: a run-time size, or another name of a size.
struct Meaning {
    size: Size,
}

/// The interner.
pub struct Sizes {
    polynomials: Vec<Rc<Polynomial>>,
    stages: Vec<u32>,
    ids: FxHashMap<Rc<Polynomial>, Size>,
    meanings: FxHashMap<Symbol, Meaning>,
    symbol_stages: Vec<u32>,
    translated: FxHashMap<Dim, Size>,
}

impl Default for Sizes {
    fn default() -> Self {
        let mut sizes = Self {
            polynomials: Vec::new(),
            stages: Vec::new(),
            ids: FxHashMap::default(),
            meanings: FxHashMap::default(),
            symbol_stages: Vec::new(),
            translated: FxHashMap::default(),
        };
        sizes.constant(0);
        sizes.constant(1);
        sizes
    }
}

impl Sizes {
    /// A constant.
    pub fn constant(&mut self, value: i64) -> Size {
        self.intern(Polynomial { constant: value, terms: BTreeMap::new() })
    }

    /// Defines a symbol as run-time entry number `index`, known after `stage`.
    pub fn define(&mut self, symbol: &Symbol, stage: u32) -> u32 {
        let index = self.symbol_stages.len() as u32;
        self.symbol_stages.push(stage);
        let size = self.factor(Factor::Symbol(index));
        self.meanings.insert(symbol.clone(), Meaning { size });
        index
    }

    /// Makes a symbol another name of a size.
    pub fn alias(&mut self, symbol: &Symbol, size: Size) {
        self.meanings.insert(symbol.clone(), Meaning { size });
    }

    /// Whether the symbol has a meaning yet.
    pub fn is_defined(&self, symbol: &Symbol) -> bool {
        self.meanings.contains_key(symbol)
    }

    /// The symbols of a size that have no meaning yet.
    pub fn undefined(&self, dim: &Dim) -> Vec<Symbol> {
        if self.translated.contains_key(dim) {
            return Vec::new();
        }
        let mut finder = Finder { sizes: self, missing: Vec::new() };
        dim.translate(&mut finder);
        finder.missing
    }

    /// The size of an IR dim; the symbol that has no meaning otherwise.
    pub fn translate(&mut self, dim: &Dim) -> Result<Size, Symbol> {
        if let Some(value) = dim.as_constant() {
            return Ok(self.constant(value));
        }
        if let Some(&size) = self.translated.get(dim) {
            return Ok(size);
        }
        let mut translation = Translation { sizes: self, missing: None };
        let size = dim.translate(&mut translation);
        if let Some(symbol) = translation.missing {
            return Err(symbol);
        }
        self.translated.insert(dim.clone(), size);
        Ok(size)
    }

    /// The value of a constant size.
    pub fn as_constant(&self, size: Size) -> Option<i64> {
        let polynomial = self.get(size);
        polynomial.terms.is_empty().then_some(polynomial.constant)
    }

    /// The stage after which the size is known.
    pub fn stage(&self, size: Size) -> u32 {
        self.stages[size.0 as usize]
    }

    pub(crate) fn get(&self, size: Size) -> &Rc<Polynomial> {
        &self.polynomials[size.0 as usize]
    }

    /// `a + b`.
    pub fn add(&mut self, a: Size, b: Size) -> Size {
        if a == Size::ZERO {
            return b;
        }
        if b == Size::ZERO {
            return a;
        }
        let mut sum = (**self.get(a)).clone();
        let other = Rc::clone(self.get(b));
        sum.constant = sum.constant.saturating_add(other.constant);
        for (factors, &coefficient) in &other.terms {
            add_term(&mut sum.terms, factors.clone(), coefficient);
        }
        self.intern(sum)
    }

    /// `a - b`.
    pub fn sub(&mut self, a: Size, b: Size) -> Size {
        let minus = self.constant(-1);
        let negative = self.mul(b, minus);
        self.add(a, negative)
    }

    /// `a + b` for a constant `b`.
    pub fn add_constant(&mut self, a: Size, b: i64) -> Size {
        let b = self.constant(b);
        self.add(a, b)
    }

    /// `a * b` for a constant `b`.
    pub fn mul_constant(&mut self, a: Size, b: i64) -> Size {
        let b = self.constant(b);
        self.mul(a, b)
    }

    /// `a * b`.
    pub fn mul(&mut self, a: Size, b: Size) -> Size {
        match (a, b) {
            (Size::ZERO, _) | (_, Size::ZERO) => return Size::ZERO,
            (Size::ONE, other) | (other, Size::ONE) => return other,
            _ => {}
        }
        let (left, right) = (Rc::clone(self.get(a)), Rc::clone(self.get(b)));
        if (left.terms.len() + 1) * (right.terms.len() + 1) > MOST_TERMS {
            let mut factors = vec![Factor::Whole(a), Factor::Whole(b)];
            factors.sort_unstable();
            return self.intern(Polynomial { constant: 0, terms: BTreeMap::from([(factors, 1)]) });
        }
        let mut product =
            Polynomial { constant: left.constant.saturating_mul(right.constant), ..Default::default() };
        for (factors, &coefficient) in &left.terms {
            add_term(&mut product.terms, factors.clone(), coefficient.saturating_mul(right.constant));
        }
        for (factors, &coefficient) in &right.terms {
            add_term(&mut product.terms, factors.clone(), coefficient.saturating_mul(left.constant));
        }
        for (a_factors, &a_coefficient) in &left.terms {
            for (b_factors, &b_coefficient) in &right.terms {
                let mut factors = [&a_factors[..], &b_factors[..]].concat();
                factors.sort_unstable();
                add_term(&mut product.terms, factors, a_coefficient.saturating_mul(b_coefficient));
            }
        }
        self.intern(product)
    }

    /// The product of sizes; 1 of none.
    pub fn product(&mut self, sizes: &[Size]) -> Size {
        sizes.iter().fold(Size::ONE, |product, &size| self.mul(product, size))
    }

    /// `floor(a / b)`; 0 where `b` is 0.
    pub fn floor_div(&mut self, a: Size, b: Size) -> Size {
        match (self.as_constant(a), self.as_constant(b)) {
            (_, Some(0)) => Size::ZERO,
            (_, Some(1)) => a,
            (Some(a), Some(b)) => self.constant(floor_div(a, b)),
            (None, Some(b)) if self.divisible(a, b) => {
                let mut quotient = (**self.get(a)).clone();
                quotient.constant /= b;
                quotient.terms.values_mut().for_each(|coefficient| *coefficient /= b);
                self.intern(quotient)
            }
            _ => self.factor(Factor::FloorDiv(a, b)),
        }
    }

    /// `a - b * floor(a / b)`; 0 where `b` is 0.
    pub fn modulo(&mut self, a: Size, b: Size) -> Size {
        match (self.as_constant(a), self.as_constant(b)) {
            (_, Some(0 | 1)) => Size::ZERO,
            (Some(a), Some(b)) => {
                let value = a.wrapping_sub(b.wrapping_mul(floor_div(a, b)));
                self.constant(value)
            }
            _ => self.factor(Factor::Mod(a, b)),
        }
    }

    /// The smaller.
    pub fn min(&mut self, a: Size, b: Size) -> Size {
        match (self.as_constant(a), self.as_constant(b)) {
            _ if a == b => a,
            (Some(x), Some(y)) => {
                if x <= y {
                    a
                } else {
                    b
                }
            }
            (Some(x), None) if x <= 0 && self.non_negative(b) => a,
            (None, Some(y)) if y <= 0 && self.non_negative(a) => b,
            _ => self.factor(Factor::Min(a.min(b), a.max(b))),
        }
    }

    /// The larger.
    pub fn max(&mut self, a: Size, b: Size) -> Size {
        match (self.as_constant(a), self.as_constant(b)) {
            _ if a == b => a,
            (Some(x), Some(y)) => {
                if x >= y {
                    a
                } else {
                    b
                }
            }
            (Some(x), None) if x <= 0 && self.non_negative(b) => b,
            (None, Some(y)) if y <= 0 && self.non_negative(a) => a,
            _ => self.factor(Factor::Max(a.min(b), a.max(b))),
        }
    }

    /// `b` where `a` is 1, else `a`.
    pub fn broadcast(&mut self, a: Size, b: Size) -> Size {
        match (self.as_constant(a), self.as_constant(b)) {
            _ if a == b => a,
            (Some(1), _) => b,
            (Some(_), _) | (_, Some(1)) => a,
            _ if self.is_one_only_with(b, a) => a,
            _ => self.factor(Factor::Broadcast(a, b)),
        }
    }

    /// The stride of an operand in a loop over `extent`: 0 where its axis of `size` is 1, else `stride`.
    pub fn broadcast_stride(&mut self, size: Size, stride: Size, extent: Size) -> Size {
        match self.as_constant(size) {
            _ if stride == Size::ZERO || size == extent => stride,
            Some(1) => Size::ZERO,
            Some(_) => stride,
            // In a loop of one index any stride will do.
            None if self.is_one_only_with(size, extent) => stride,
            None => self.factor(Factor::BroadcastStride(size, stride)),
        }
    }

    /// Whether `size` is the smaller of `other` and something above 1, so that it is 1 only where `other` is.
    fn is_one_only_with(&self, size: Size, other: Size) -> bool {
        let polynomial = self.get(size);
        let Some((factors, 1)) = polynomial.terms.iter().next() else { return false };
        let &[Factor::Min(a, b)] = &factors[..] else { return false };
        let bound = if a == other { b } else { a };
        polynomial.constant == 0
            && polynomial.terms.len() == 1
            && (a == other || b == other)
            && self.as_constant(bound).is_some_and(|bound| bound > 1)
    }

    /// Whether the size is proven not to be negative.
    pub fn non_negative(&self, size: Size) -> bool {
        let polynomial = self.get(size);
        polynomial.constant >= 0
            && polynomial.terms.iter().all(|(factors, &coefficient)| {
                coefficient >= 0 && factors.iter().all(|factor| self.non_negative_factor(factor))
            })
    }

    fn non_negative_factor(&self, factor: &Factor) -> bool {
        match *factor {
            Factor::Symbol(_) => true,
            Factor::FloorDiv(a, b) | Factor::Mod(a, b) | Factor::Min(a, b) | Factor::Broadcast(a, b) => {
                self.non_negative(a) && self.non_negative(b)
            }
            Factor::Max(a, b) => self.non_negative(a) || self.non_negative(b),
            Factor::BroadcastStride(_, size) | Factor::Whole(size) => self.non_negative(size),
        }
    }

    fn divisible(&self, size: Size, by: i64) -> bool {
        let polynomial = self.get(size);
        by > 0
            && polynomial.constant % by == 0
            && polynomial.terms.values().all(|coefficient| coefficient % by == 0)
    }

    fn factor(&mut self, factor: Factor) -> Size {
        self.intern(Polynomial { constant: 0, terms: BTreeMap::from([(vec![factor], 1)]) })
    }

    fn intern(&mut self, polynomial: Polynomial) -> Size {
        if let Some(&size) = self.ids.get(&polynomial) {
            return size;
        }
        let stage =
            polynomial.terms.keys().flatten().map(|factor| self.factor_stage(factor)).max().unwrap_or(0);
        let polynomial = Rc::new(polynomial);
        let size = Size(self.polynomials.len() as u32);
        self.polynomials.push(Rc::clone(&polynomial));
        self.stages.push(stage);
        self.ids.insert(polynomial, size);
        size
    }

    fn factor_stage(&self, factor: &Factor) -> u32 {
        match *factor {
            Factor::Symbol(index) => self.symbol_stages[index as usize],
            Factor::Whole(size) => self.stage(size),
            Factor::FloorDiv(a, b)
            | Factor::Mod(a, b)
            | Factor::Min(a, b)
            | Factor::Max(a, b)
            | Factor::Broadcast(a, b)
            | Factor::BroadcastStride(a, b) => self.stage(a).max(self.stage(b)),
        }
    }
}

fn add_term(terms: &mut BTreeMap<Vec<Factor>, i64>, factors: Vec<Factor>, coefficient: i64) {
    if coefficient == 0 {
        return;
    }
    let entry = terms.entry(factors);
    match entry {
        std::collections::btree_map::Entry::Vacant(entry) => {
            entry.insert(coefficient);
        }
        std::collections::btree_map::Entry::Occupied(mut entry) => {
            let sum = entry.get().saturating_add(coefficient);
            if sum == 0 {
                entry.remove();
            } else {
                entry.insert(sum);
            }
        }
    }
}

fn floor_div(a: i64, b: i64) -> i64 {
    let quotient = a.wrapping_div(b);
    if a.wrapping_rem(b) != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient }
}

/// Translates a dim; the first symbol without meaning is remembered.
struct Translation<'a> {
    sizes: &'a mut Sizes,
    missing: Option<Symbol>,
}

impl DimAlgebra for Translation<'_> {
    type Size = Size;

    fn constant(&mut self, value: i64) -> Size {
        self.sizes.constant(value)
    }
    fn symbol(&mut self, symbol: &Symbol) -> Size {
        match self.sizes.meanings.get(symbol) {
            Some(meaning) => meaning.size,
            None => {
                self.missing.get_or_insert_with(|| symbol.clone());
                Size::ONE
            }
        }
    }
    fn add(&mut self, a: Size, b: Size) -> Size {
        self.sizes.add(a, b)
    }
    fn mul(&mut self, a: Size, b: Size) -> Size {
        self.sizes.mul(a, b)
    }
    fn floor_div(&mut self, a: Size, b: Size) -> Size {
        self.sizes.floor_div(a, b)
    }
    fn modulo(&mut self, a: Size, b: Size) -> Size {
        self.sizes.modulo(a, b)
    }
    fn min(&mut self, a: Size, b: Size) -> Size {
        self.sizes.min(a, b)
    }
    fn max(&mut self, a: Size, b: Size) -> Size {
        self.sizes.max(a, b)
    }
    fn broadcast(&mut self, a: Size, b: Size) -> Size {
        self.sizes.broadcast(a, b)
    }
}

/// Collects the symbols without meaning.
struct Finder<'a> {
    sizes: &'a Sizes,
    missing: Vec<Symbol>,
}

impl DimAlgebra for Finder<'_> {
    type Size = ();

    fn constant(&mut self, _: i64) {}
    fn symbol(&mut self, symbol: &Symbol) {
        if !self.sizes.is_defined(symbol) && !self.missing.contains(symbol) {
            self.missing.push(symbol.clone());
        }
    }
    fn add(&mut self, (): (), (): ()) {}
    fn mul(&mut self, (): (), (): ()) {}
    fn floor_div(&mut self, (): (), (): ()) {}
    fn modulo(&mut self, (): (), (): ()) {}
    fn min(&mut self, (): (), (): ()) {}
    fn max(&mut self, (): (), (): ()) {}
    fn broadcast(&mut self, (): (), (): ()) {}
}
