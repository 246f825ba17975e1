//! What an inference rule sees of its node: operands, and ways to report, to guard and to make symbols.

use std::sync::Arc;

use lathe_tensor::{DType, Tensor};

use super::known;
use crate::{Answer, Dim, Guard, GuardCondition, IrError, Module, Operation, Symbol, ValueType};

/// An operand of the node.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub(crate) ty: ValueType,
    /// Elements as dims, where they are known.
    pub(crate) known: Option<Arc<[Dim]>>,
    /// The whole tensor, where it is a dense constant.
    pub(crate) constant: Option<Tensor>,
}

/// A result of the node.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) ty: ValueType,
    pub(crate) known: Option<Arc<[Dim]>>,
}

impl Output {
    pub(crate) fn new(dtype: DType, dims: impl Into<Vec<Dim>>) -> Self {
        Self { ty: ValueType::new(dtype, dims), known: None }
    }

    /// The same with known elements.
    pub(crate) fn with(mut self, known: Option<Vec<Dim>>) -> Self {
        self.known = known.map(Into::into);
        self
    }
}

pub(crate) type Outputs = Result<Vec<Output>, IrError>;

pub(crate) struct Context<'a> {
    pub(crate) module: &'a Module,
    pub(crate) fresh_symbols: &'a mut u32,
    pub(crate) operation: &'a Operation,
    pub(crate) node: &'a str,
    pub(crate) inputs: &'a [Option<Operand>],
    /// Number of outputs asked for.
    pub(crate) outputs: usize,
    pub(crate) guards: Vec<Guard>,
}

impl<'a> Context<'a> {
    /// The model is wrong; the message gets the dims of all operands.
    pub(crate) fn bad(&self, reason: impl std::fmt::Display) -> IrError {
        let operands: Vec<_> = self
            .inputs
            .iter()
            .map(|input| input.as_ref().map_or("none".to_string(), |input| input.ty.to_string()))
            .collect();
        let reason = match operands.is_empty() {
            true => reason.to_string(),
            false => format!("{reason}; operands: {}", operands.join(", ")),
        };
        IrError::BadModel { node: self.node.to_string(), op: self.operation.name().to_string(), reason }
    }

    pub(crate) fn unsupported(&self, reason: impl std::fmt::Display) -> IrError {
        IrError::Unsupported {
            node: self.node.to_string(),
            op: self.operation.name().to_string(),
            reason: reason.to_string(),
        }
    }

    /// The rank of the result follows from the elements of operand `index`, which are not known.
    pub(crate) fn rank_depends_on_data(&self, index: usize) -> IrError {
        self.unsupported(format!(
            "the rank of the result depends on data (operand {index}); make that operand a constant or give its size"
        ))
    }

    /// The operand at `index`, which must be there.
    pub(crate) fn input(&self, index: usize) -> Result<&'a Operand, IrError> {
        self.optional(index).ok_or_else(|| self.bad(format!("operand {index} is missing")))
    }

    pub(crate) fn optional(&self, index: usize) -> Option<&'a Operand> {
        self.inputs.get(index).and_then(Option::as_ref)
    }

    pub(crate) fn ty(&self, index: usize) -> Result<&'a ValueType, IrError> {
        self.input(index).map(|input| &input.ty)
    }

    /// The type of operand `index`, which must have this rank.
    pub(crate) fn ranked(&self, index: usize, rank: usize) -> Result<&'a ValueType, IrError> {
        let ty = self.ty(index)?;
        if ty.rank() != rank {
            return Err(self.bad(format!("operand {index} must have rank {rank}, not {}", ty.rank())));
        }
        Ok(ty)
    }

    /// An axis attribute, where -1 is the last of `rank`.
    pub(crate) fn axis(&self, axis: i64, rank: usize) -> Result<usize, IrError> {
        let rank = rank as i64;
        if axis < -rank || axis >= rank {
            return Err(self.bad(format!("axis {axis} is outside of rank {rank}")));
        }
        Ok((if axis < 0 { axis + rank } else { axis }) as usize)
    }

    /// Axes, none of them twice, sorted.
    pub(crate) fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>, IrError> {
        let mut found = axes.iter().map(|&axis| self.axis(axis, rank)).collect::<Result<Vec<_>, _>>()?;
        found.sort_unstable();
        if found.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(self.bad(format!("axes {axes:?} name an axis twice")));
        }
        Ok(found)
    }

    /// A size that only the run knows: it is read off the axis of this node's output that has it.
    pub(crate) fn fresh(&mut self) -> Dim {
        Dim::symbol(self.module.unused_symbol(self.fresh_symbols))
    }

    pub(crate) fn fresh_dims(&mut self, count: usize) -> Vec<Dim> {
        (0..count).map(|_| self.fresh()).collect()
    }

    /// An attribute that counts something.
    pub(crate) fn count(&self, value: usize) -> Result<i64, IrError> {
        i64::try_from(value).map_err(|_| self.bad(format!("{value} is too large")))
    }

    /// Elements of operand `index` as dims, where known.
    pub(crate) fn elements(&self, index: usize) -> Option<Vec<Dim>> {
        known::elements(self.optional(index)?)
    }

    /// Elements of operand `index` where all are constant integers.
    pub(crate) fn integers(&self, index: usize) -> Option<Vec<i64>> {
        self.elements(index)?.iter().map(Dim::as_constant).collect()
    }

    /// Number of elements of the rank-1 (or scalar) operand `index`: the rank that its elements describe.
    pub(crate) fn element_count(&self, index: usize) -> Result<usize, IrError> {
        let ty = self.ty(index)?;
        let count = match &ty.dims[..] {
            [] => Some(1),
            [size] => size.as_constant(),
            _ => return Err(self.bad(format!("operand {index} must have rank 1, not {}", ty.rank()))),
        };
        match count.map(usize::try_from) {
            Some(Ok(count)) if count <= 1024 => Ok(count),
            Some(_) => Err(self.bad(format!("operand {index} has a size that no rank can have"))),
            None => Err(self.rank_depends_on_data(index)),
        }
    }

    pub(crate) fn same_dtype(&self, a: usize, b: usize) -> Result<DType, IrError> {
        let (x, y) = (self.ty(a)?.dtype, self.ty(b)?.dtype);
        if x != y {
            return Err(self.bad(format!("operands {a} and {b} must have one dtype, not {x} and {y}")));
        }
        Ok(x)
    }

    pub(crate) fn dtype_of(
        &self,
        index: usize,
        what: &str,
        accept: fn(DType) -> bool,
    ) -> Result<(), IrError> {
        match self.optional(index) {
            Some(input) if !accept(input.ty.dtype) => {
                Err(self.bad(format!("operand {index} must be {what}, not {}", input.ty.dtype)))
            }
            _ => Ok(()),
        }
    }

    /// An operand that carries sizes, axes or indices: i32 or i64.
    pub(crate) fn index_operand(&self, index: usize) -> Result<(), IrError> {
        self.dtype_of(index, "i64 or i32", |dtype| matches!(dtype, DType::I64 | DType::I32))
    }

    /// Requires `a == b`; the better known of both.
    pub(crate) fn equal(&mut self, a: &Dim, b: &Dim, reason: &str) -> Result<Dim, IrError> {
        match a.equals(b) {
            Answer::Yes => {}
            Answer::No => return Err(self.bad(format!("{reason}: {a} is not {b}"))),
            Answer::Unknown => self.guard(GuardCondition::Equal(a.clone(), b.clone()), reason),
        }
        Ok(if b.as_constant().is_some() { b.clone() } else { a.clone() })
    }

    /// Requires `a >= b`.
    pub(crate) fn at_least(&mut self, a: &Dim, b: &Dim, reason: &str) -> Result<(), IrError> {
        match a.sub(b).at_least(0) {
            Answer::Yes => Ok(()),
            Answer::No => Err(self.bad(format!("{reason}: {a} is less than {b}"))),
            Answer::Unknown => {
                self.guard(GuardCondition::AtLeast(a.clone(), b.clone()), reason);
                Ok(())
            }
        }
    }

    fn guard(&mut self, condition: GuardCondition, reason: &str) {
        if !self.guards.iter().any(|guard| guard.condition == condition) {
            self.guards.push(Guard { condition, reason: reason.to_string() });
        }
    }

    /// The size that `a` and `b` broadcast to.
    pub(crate) fn broadcast(&mut self, a: &Dim, b: &Dim) -> Result<Dim, IrError> {
        let one = Dim::constant(1);
        if a.equals(b) == Answer::Yes || *b == one {
            return Ok(a.clone());
        }
        if *a == one {
            return Ok(b.clone());
        }
        if a.equals(b) == Answer::No && a.equals(&one) == Answer::No && b.equals(&one) == Answer::No {
            return Err(self.bad(format!("sizes {a} and {b} do not broadcast")));
        }
        // `bcast(x, a)` with `a` was checked by the node that made it.
        let result = a.broadcast(b);
        if !contains_broadcast_of(a, b) && !contains_broadcast_of(b, a) {
            self.guard(GuardCondition::Broadcastable(a.clone(), b.clone()), "operands must broadcast");
        }
        Ok(result)
    }

    /// The dims that `a` and `b` broadcast to.
    pub(crate) fn broadcast_dims(&mut self, a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, IrError> {
        let rank = a.len().max(b.len());
        let one = Dim::constant(1);
        (0..rank)
            .map(|axis| {
                let of = |dims: &'_ [Dim]| {
                    (axis + dims.len()).checked_sub(rank).and_then(|axis| dims.get(axis)).cloned()
                };
                let (x, y) = (of(a), of(b));
                self.broadcast(x.as_ref().unwrap_or(&one), y.as_ref().unwrap_or(&one))
            })
            .collect()
    }

    /// Requires that `dims` broadcast to `to` without changing it.
    pub(crate) fn broadcasts_to(&mut self, dims: &[Dim], to: &[Dim], reason: &str) -> Result<(), IrError> {
        let Some(offset) = to.len().checked_sub(dims.len()) else {
            return Err(self.bad(format!("{reason}: rank {} is above rank {}", dims.len(), to.len())));
        };
        for (a, b) in dims.iter().zip(&to[offset..]) {
            if a.as_constant() != Some(1) {
                self.equal(a, b, reason)?;
            }
        }
        Ok(())
    }
}

/// Whether `whole` is a broadcast with `part` among its operands.
fn contains_broadcast_of(whole: &Dim, part: &Dim) -> bool {
    whole == part
        || match whole.as_atom() {
            Some(crate::Atom::Broadcast(pair)) => {
                contains_broadcast_of(&pair.0, part) || contains_broadcast_of(&pair.1, part)
            }
            _ => false,
        }
}

/// `prefix` and a number, not among the symbols of any function's inputs.
impl Module {
    pub(crate) fn unused_symbol(&self, counter: &mut u32) -> Symbol {
        loop {
            let symbol = Symbol::new(&format!("u{counter}"));
            *counter = counter.saturating_add(1);
            if !self.is_input_symbol(&symbol) {
                return symbol;
            }
        }
    }

    pub(crate) fn is_input_symbol(&self, symbol: &Symbol) -> bool {
        self.functions().any(|(_, function)| {
            function.inputs().iter().flat_map(|id| &function.ty(*id).dims).any(|dim| {
                let mut found = false;
                dim.visit_symbols(&mut |other| found |= other == symbol);
                found
            })
        })
    }
}
