//! What norms share: `d / sqrt(mean(d ^ 2) + epsilon)` in the forms that exporters write, and what a norm's scale may be.

use lathe_ir::{Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Unary};
use lathe_ops::norm::Rounding;
use lathe_ops::reduce::ReduceKind;
use lathe_tensor::{DType, Tensor};

use crate::context::dims_equal;
use crate::pattern::{Match, Pattern, any_scalar, binary, op, scalar, unary};
use crate::rewrite::Term;
use crate::{Context, Rewrite};

/// `d / sqrt(mean(d ^ 2) + epsilon)`: a quotient by a root or a product with a factor.
pub(super) fn forms(d: &dyn Fn() -> Pattern) -> Vec<Pattern> {
    let quotients = roots(d).into_iter().map(|root| d() / root);
    quotients.chain(factors(d).into_iter().map(|factor| factor * d())).collect()
}

/// How a norm in place of a formula rounds: as the formula where a code may hang on the last bit.
pub(super) fn rounding(context: Context<'_>, found: &Match) -> Rounding {
    if !context.module.quantises_by_range() {
        return Rounding::Free;
    }
    let divides = |value: &ValueId| match context.producer(*value) {
        // A quotient by the root itself, not the reciprocal of the root.
        Some((_, node, Op::Binary(Binary::Div))) => {
            node.inputs.first().copied().flatten().is_none_or(|x| context.scalar(x).is_none())
        }
        _ => false,
    };
    if found.interior.iter().any(divides) { Rounding::Quotient } else { Rounding::Factor }
}

/// `1 / sqrt(mean(d ^ 2) + epsilon)` as a reciprocal, a quotient, a power or the root of a reciprocal.
pub(super) fn factors(d: &dyn Fn() -> Pattern) -> Vec<Pattern> {
    let of_roots = roots(d)
        .into_iter()
        .flat_map(|root| [unary(Unary::Reciprocal, root.clone()), binary(Binary::Div, scalar(1.0), root)]);
    let of_spreads = spreads(d).into_iter().flat_map(|spread| {
        [
            binary(Binary::Pow, spread.clone(), scalar(-0.5)),
            unary(Unary::Sqrt, unary(Unary::Reciprocal, spread)),
        ]
    });
    of_roots.chain(of_spreads).collect()
}

/// `sqrt(mean(d ^ 2) + epsilon)` as a root or a power.
fn roots(d: &dyn Fn() -> Pattern) -> Vec<Pattern> {
    let both =
        |spread: Pattern| [unary(Unary::Sqrt, spread.clone()), binary(Binary::Pow, spread, scalar(0.5))];
    spreads(d).into_iter().flat_map(both).collect()
}

/// `mean(d ^ 2) + epsilon` with the square as a power or a product.
fn spreads(d: &dyn Fn() -> Pattern) -> [Pattern; 2] {
    let squares = [binary(Binary::Pow, d(), scalar(2.0)), d() * d()];
    squares.map(|square| mean(square) + any_scalar("epsilon"))
}

/// The mean of a pattern's value that keeps its axes.
pub(super) fn mean(x: Pattern) -> Pattern {
    op(is_mean, vec![x])
}

fn is_mean(op: &Op) -> bool {
    matches!(op, Op::Reduce(reduce) if reduce.kind == ReduceKind::Mean && reduce.keep_dims)
}

/// True for everything but a mean over other axes than the last.
pub(super) fn averages_last_axis(context: Context<'_>, value: ValueId, rank: usize) -> bool {
    match context.producer(value) {
        Some((_, _, Op::Reduce(reduce))) => match reduce.axes.as_deref() {
            Some([axis]) => *axis == -1 || usize::try_from(*axis).is_ok_and(|axis| axis + 1 == rank),
            _ => false,
        },
        _ => true,
    }
}

/// The other operand of the one node that uses a value, where it is this operation of two operands.
pub(super) fn sole_partner(context: Context<'_>, value: ValueId, kind: Binary) -> Option<ValueId> {
    let body = context.body();
    let (true, [user]) = (context.single_use(value), body.users(value)) else { return None };
    let node = body.node(*user)?;
    match (&node.operation, &node.inputs[..]) {
        (Operation::Op(Op::Binary(found)), [Some(a), Some(b)]) if *found == kind => {
            Some(if *a == value { *b } else { *a })
        }
        _ => None,
    }
}

/// Whether a value has one element for each of the last axis of `x`.
pub(super) fn is_vector_of(context: Context<'_>, x: ValueId, value: ValueId) -> bool {
    let last = context.ty(x).dims.last();
    last.is_some_and(|last| dims_equal(&context.ty(value).dims, std::slice::from_ref(last)))
}

/// The scale of a norm of the last axis of `x`: ones where the formula has none.
///
/// # Errors
/// Where the scale is not one value an element, or ones cannot be made.
pub(super) fn scale_or_ones(
    context: Context<'_>,
    rewrite: &mut Rewrite,
    x: ValueId,
    scale: Option<ValueId>,
) -> Result<Term, &'static str> {
    if let Some(scale) = scale {
        return match is_vector_of(context, x, scale) {
            true => Ok(Rewrite::value(scale)),
            false => Err("the scale is not one value an element of the last axis"),
        };
    }
    let ty = context.ty(x);
    let size = ty.dims.last().and_then(|last| last.as_constant()).and_then(|size| usize::try_from(size).ok());
    match size {
        Some(size) if ty.dtype == DType::F32 => {
            let ones = Tensor::from_slice(&vec![1.0f32; size], &[size])
                .map_err(|_| "there is no memory for ones")?;
            Ok(rewrite.constant(ones))
        }
        Some(_) => Err("there is no scale and the elements are not f32"),
        None => Err("there is no scale and the size of the last axis is not known"),
    }
}
