//! The dims table: sizes lowered to entries in SSA form, equal ones shared.

use lathe_artifact::plan::{DimExpr, DimId};
use rustc_hash::FxHashMap;

use crate::size::{Factor, Size, Sizes};

/// The entries made so far.
#[derive(Default)]
pub struct DimTable {
    pub(crate) entries: Vec<DimExpr>,
    pub(crate) stages: Vec<u32>,
    ids: FxHashMap<DimExpr, DimId>,
    sizes: FxHashMap<Size, DimId>,
    ranges: FxHashMap<Vec<Size>, DimId>,
}

impl DimTable {
    /// The entry that holds a size.
    pub fn entry(&mut self, sizes: &Sizes, size: Size) -> DimId {
        if let Some(&id) = self.sizes.get(&size) {
            return id;
        }
        let polynomial = sizes.get(size).clone();
        let mut sum = None;
        for (factors, &coefficient) in &polynomial.terms {
            let mut product = None;
            for factor in factors {
                let value = self.factor(sizes, factor);
                product = Some(match product {
                    Some(product) => self.intern(DimExpr::Mul(product, value)),
                    None => value,
                });
            }
            let mut term = product.unwrap_or_else(|| self.intern(DimExpr::Const(1)));
            if coefficient != 1 {
                let coefficient = self.intern(DimExpr::Const(coefficient));
                term = self.intern(DimExpr::Mul(term, coefficient));
            }
            sum = Some(match sum {
                Some(sum) => self.intern(DimExpr::Add(sum, term)),
                None => term,
            });
        }
        let id = match sum {
            None => self.intern(DimExpr::Const(polynomial.constant)),
            Some(sum) if polynomial.constant == 0 => sum,
            Some(sum) => {
                let constant = self.intern(DimExpr::Const(polynomial.constant));
                self.intern(DimExpr::Add(sum, constant))
            }
        };
        self.sizes.insert(size, id);
        id
    }

    /// The first of consecutive entries that hold these sizes; entry 0 or any other where there are none.
    pub fn range(&mut self, sizes: &Sizes, range: &[Size]) -> DimId {
        if range.is_empty() {
            return self.intern(DimExpr::Const(0));
        }
        if let Some(&id) = self.ranges.get(range) {
            return id;
        }
        if let &[size] = range {
            return self.entry(sizes, size);
        }
        let values: Vec<_> = range
            .iter()
            .map(|&size| match sizes.as_constant(size) {
                Some(value) => DimExpr::Const(value),
                None => DimExpr::Copy(self.entry(sizes, size)),
            })
            .collect();
        let first = DimId(self.entries.len() as u32);
        for value in values {
            self.push(value);
        }
        self.ranges.insert(range.to_vec(), first);
        first
    }

    /// The stage after which an entry is known.
    pub fn stage(&self, id: DimId) -> u32 {
        self.stages.get(id.0 as usize).copied().unwrap_or(0)
    }

    /// The entry of a run-time symbol, known after `stage`.
    pub fn symbol(&mut self, index: u32, stage: u32) -> DimId {
        let expression = DimExpr::Symbol(index);
        if let Some(&id) = self.ids.get(&expression) {
            return id;
        }
        let id = DimId(self.entries.len() as u32);
        self.entries.push(expression.clone());
        self.stages.push(stage);
        self.ids.insert(expression, id);
        id
    }

    fn factor(&mut self, sizes: &Sizes, factor: &Factor) -> DimId {
        let mut both = |a, b| (self.entry(sizes, a), self.entry(sizes, b));
        let expression = match *factor {
            // Symbols are entered when they are defined.
            Factor::Symbol(index) => DimExpr::Symbol(index),
            Factor::Whole(size) => return self.entry(sizes, size),
            Factor::FloorDiv(a, b) => {
                let (a, b) = both(a, b);
                DimExpr::FloorDiv(a, b)
            }
            Factor::Mod(a, b) => {
                let (a, b) = both(a, b);
                DimExpr::Mod(a, b)
            }
            Factor::Min(a, b) => {
                let (a, b) = both(a, b);
                DimExpr::Min(a, b)
            }
            Factor::Max(a, b) => {
                let (a, b) = both(a, b);
                DimExpr::Max(a, b)
            }
            Factor::Broadcast(a, b) => {
                let (a, b) = both(a, b);
                DimExpr::Broadcast(a, b)
            }
            Factor::BroadcastStride(size, stride) => {
                let (size, stride) = both(size, stride);
                DimExpr::BroadcastStride { size, stride }
            }
        };
        self.intern(expression)
    }

    fn intern(&mut self, expression: DimExpr) -> DimId {
        if let Some(&id) = self.ids.get(&expression) {
            return id;
        }
        let id = self.push(expression.clone());
        self.ids.insert(expression, id);
        id
    }

    fn push(&mut self, expression: DimExpr) -> DimId {
        let stage = expression
            .operands()
            .map(|operand| self.stages.get(operand.0 as usize).copied().unwrap_or(0))
            .max()
            .unwrap_or(0);
        self.entries.push(expression);
        self.stages.push(stage);
        DimId(self.entries.len() as u32 - 1)
    }
}
