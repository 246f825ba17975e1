//! Values of one element whose rank data decides: the branches of an `If` give a scalar and a vector of one element.
//!
//! They are kept as vectors. What computes with them element by element beside another operand of one axis or more gives the same for both
//! ranks; operators that would show the rank are refused.

use lathe_ir::{FunctionId, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::shape::Reshape;
use lathe_tensor::Tensor;
use rustc_hash::FxHashSet;

use crate::error::Fault;
use crate::onnx::graph::Importer;
use crate::onnx::item::Item;

/// Operators whose result has the rank of their first operand, element by element.
const UNARY: [&str; 12] =
    ["Abs", "Cast", "Ceil", "Exp", "Floor", "Identity", "Log", "Neg", "Not", "Reciprocal", "Round", "Sqrt"];
/// Operators that broadcast their operands.
const BROADCAST: [&str; 22] = [
    "Add",
    "And",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "Pow",
    "Sub",
    "Sum",
    "Where",
    "Xor",
];

/// Whether the results of a node may be scalars too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    Certain,
    Open,
}

/// The values that may be scalars in the model.
#[derive(Debug, Default)]
pub(crate) struct MaybeScalar {
    values: FxHashSet<(FunctionId, ValueId)>,
}

impl Importer<'_> {
    /// Remembers values that may be scalars.
    pub(crate) fn remember_scalars(
        &mut self,
        function: FunctionId,
        values: impl IntoIterator<Item = ValueId>,
    ) {
        self.maybe_scalar.values.extend(values.into_iter().map(|value| (function, value)));
    }

    /// Whether a value may be a scalar.
    pub(crate) fn may_be_scalar(&self, function: FunctionId, item: &Item) -> bool {
        item.parts().iter().any(|value| self.maybe_scalar.values.contains(&(function, *value)))
    }

    /// Refuses values whose rank would be seen.
    pub(crate) fn certain_rank(&self, function: FunctionId, item: &Item) -> Result<(), Fault> {
        match self.may_be_scalar(function, item) {
            true => Err(Fault::unsupported(
                "a value that is a scalar in one branch of an `If` and a vector in the other, where the rank counts",
            )),
            false => Ok(()),
        }
    }

    /// What operands that may be scalars make of the results of an operator.
    pub(crate) fn rank_of_results(
        &self,
        function: FunctionId,
        operator: &str,
        items: &[Option<Item>],
    ) -> Result<Rank, Fault> {
        if self.maybe_scalar.values.is_empty() {
            return Ok(Rank::Certain);
        }
        let open = |item: &Item| self.may_be_scalar(function, item);
        let items: Vec<&Item> = items.iter().flatten().collect();
        if !items.iter().any(|item| open(item)) {
            return Ok(Rank::Certain);
        }
        if UNARY.contains(&operator)
            || (operator == "CastLike" && items.first().is_some_and(|item| open(item)))
        {
            return Ok(Rank::Open);
        }
        if operator == "CastLike" {
            return Ok(Rank::Certain);
        }
        if !BROADCAST.contains(&operator) {
            return items
                .iter()
                .try_for_each(|item| self.certain_rank(function, item))
                .map(|()| Rank::Certain);
        }
        let body = self.module.function(function);
        let certain = items.iter().filter(|item| !open(item)).filter_map(|item| item.tensor());
        let wide = certain.map(|value| body.ty(value).rank()).max();
        Ok(if wide.is_some_and(|rank| rank > 0) { Rank::Certain } else { Rank::Open })
    }

    /// The results of two branches, where one is a scalar and the other a vector of one element, as two vectors; and whether the rank of the
    /// result is open.
    pub(crate) fn even_ranks(
        &mut self,
        functions: [FunctionId; 2],
        results: [&Item; 2],
        name: &str,
    ) -> Result<([Item; 2], Rank), Fault> {
        let same = [results[0].clone(), results[1].clone()];
        let open = functions.iter().zip(results).any(|(function, item)| self.may_be_scalar(*function, item));
        let (Some(a), Some(b)) = (results[0].tensor(), results[1].tensor()) else {
            return Ok((same, Rank::Certain));
        };
        let dims = |function: FunctionId, value| self.module.function(function).ty(value).dims.clone();
        let (a, b) = ((functions[0], a), (functions[1], b));
        let scalar = match (&dims(a.0, a.1)[..], &dims(b.0, b.1)[..]) {
            ([], [size]) if size.as_constant() == Some(1) => 0,
            ([size], []) if size.as_constant() == Some(1) => 1,
            _ => return Ok((same, if open { Rank::Open } else { Rank::Certain })),
        };
        let (function, value) = [a, b][scalar];
        let shape = self.constant(function, Tensor::from_slice(&[1i64], &[1])?, None);
        let reshape = Operation::Op(Op::Reshape(Reshape { allow_zero: true }));
        let vector = self.module.add_node(function, reshape, &[Some(value), Some(shape)], 1, name)?;
        let mut even = same;
        even[scalar] = Item::Tensor(vector.first().copied().unwrap_or(value));
        Ok((even, Rank::Open))
    }
}
