//! Elements of small integer tensors as dims.

use lathe_ops::{Limits, Op};
use lathe_tensor::{DType, Tensor};

use super::context::{Context, Operand, Output};
use crate::{Answer, Dim};

/// Elements of a tensor that are tracked.
pub(crate) const MAX_KNOWN: usize = 64;

/// Elements of a constant that are read: axes, pads, indices.
const MAX_READ: usize = 4096;

/// The elements of an integer or bool tensor of at most `limit` elements.
pub(crate) fn of_tensor(tensor: &Tensor, limit: usize) -> Option<Vec<Dim>> {
    if tensor.len() > limit {
        return None;
    }
    let wide = |values: Vec<i64>| values.into_iter().map(Dim::constant).collect();
    match tensor.dtype() {
        DType::I64 => Some(wide(tensor.to_slice::<i64>().ok()?.to_vec())),
        DType::I32 => Some(wide(tensor.to_slice::<i32>().ok()?.iter().map(|&v| v.into()).collect())),
        DType::Bool => Some(wide(tensor.to_slice::<u8>().ok()?.iter().map(|&v| (v != 0).into()).collect())),
        _ => None,
    }
}

pub(crate) fn elements(operand: &Operand) -> Option<Vec<Dim>> {
    match (&operand.known, &operand.constant) {
        (Some(known), _) => (small_count(&operand.ty.dims) == Some(known.len())).then(|| known.to_vec()),
        (None, Some(tensor)) => of_tensor(tensor, MAX_READ),
        (None, None) => None,
    }
}

/// Number of elements of these dims, where it is a small constant.
pub(crate) fn small_count(dims: &[Dim]) -> Option<usize> {
    let count = Dim::product(dims).as_constant().and_then(|count| usize::try_from(count).ok())?;
    (count <= MAX_KNOWN).then_some(count)
}

/// Drops elements that the output cannot have: another number than its dims say, beyond its dtype, not tracked.
pub(crate) fn admit(output: &mut Output) {
    let (low, high) = match output.ty.dtype {
        DType::I64 => (i64::MIN, i64::MAX),
        DType::I32 => (i32::MIN.into(), i32::MAX.into()),
        DType::Bool => (0, 1),
        _ => {
            output.known = None;
            return;
        }
    };
    let fits =
        |dim: &Dim| !dim.is_overflow() && dim.as_constant().is_none_or(|value| (low..=high).contains(&value));
    let count = small_count(&output.ty.dims);
    if output.known.as_ref().is_some_and(|known| Some(known.len()) != count || !known.iter().all(fits)) {
        output.known = None;
    }
}

/// Elements that an evaluation during inference reads and makes.
const MAX_EVALUATED: usize = 1024;

/// Completes results that inference left open where every operand is a small constant: a chain of constants that ends in pads,
/// repeats or axes gives sizes, whatever the ops in between. An evaluation that fails says nothing: the run reports it.
pub(crate) fn evaluate(cx: &Context<'_>, op: &Op, results: &mut [Output]) {
    let open = |output: &Output| {
        let tracked = matches!(output.ty.dtype, DType::I64 | DType::I32 | DType::Bool);
        let counted = small_count(&output.ty.dims);
        let sized = output.ty.dims.iter().all(|dim| dim.as_constant().is_some());
        !sized || (tracked && output.known.is_none() && counted.is_some())
    };
    if cx.inputs.is_empty() || !results.iter().any(open) {
        return;
    }
    let tensors: Option<Vec<Option<Tensor>>> = cx
        .inputs
        .iter()
        .map(|input| input.as_ref().map(to_tensor).map_or(Some(None), |t| t.map(Some)))
        .collect();
    let Some(tensors) = tensors else { return };
    let operands: Vec<_> = tensors.iter().map(Option::as_ref).collect();
    let limits = Limits { max_bytes: MAX_EVALUATED * 8, ..Limits::default() };
    let Ok(values) = op.evaluate(&operands, results.len(), &limits) else { return };
    for (output, value) in results.iter_mut().zip(values) {
        if value.dtype() != output.ty.dtype || value.shape().len() != output.ty.rank() {
            continue;
        }
        output.ty.dims = value
            .shape()
            .iter()
            .map(|&size| Dim::constant(i64::try_from(size).unwrap_or(i64::MAX)))
            .collect();
        output.known = output.known.take().or_else(|| of_tensor(&value, MAX_KNOWN).map(Into::into));
    }
}

/// The tensor of a small operand whose elements are all constants.
fn to_tensor(operand: &Operand) -> Option<Tensor> {
    if let Some(tensor) = &operand.constant {
        return (tensor.len() <= MAX_EVALUATED).then(|| tensor.clone());
    }
    let elements: Vec<i64> = operand.known.as_ref()?.iter().map(Dim::as_constant).collect::<Option<_>>()?;
    let shape: Vec<usize> =
        operand.ty.dims.iter().map(|dim| usize::try_from(dim.as_constant()?).ok()).collect::<Option<_>>()?;
    match operand.ty.dtype {
        DType::I64 => Tensor::from_slice(&elements, &shape).ok(),
        DType::I32 => {
            let narrow: Vec<i32> =
                elements.iter().map(|&element| i32::try_from(element).ok()).collect::<Option<_>>()?;
            Tensor::from_slice(&narrow, &shape).ok()
        }
        DType::Bool => {
            let bools: Vec<bool> = elements.iter().map(|&element| element != 0).collect();
            Tensor::from_bools(&bools, &shape).ok()
        }
        _ => None,
    }
}

/// Elements of operands `indices` as they broadcast to `dims`: one row an operand. `None` where one is not known or the
/// broadcast is neither of equal shapes nor of single elements.
pub(crate) fn broadcast<const N: usize>(
    cx: &Context<'_>,
    indices: [usize; N],
    dims: &[Dim],
) -> Option<[Vec<Dim>; N]> {
    let count = small_count(dims)?;
    let mut rows = [const { Vec::new() }; N];
    for (row, index) in rows.iter_mut().zip(indices) {
        let operand = cx.optional(index)?;
        let elements = elements(operand)?;
        *row = match &elements[..] {
            [one] => vec![one.clone(); count],
            _ if operand.ty.dims == dims => elements,
            _ => return None,
        };
    }
    Some(rows)
}

/// 1 or 0 for a decided answer.
pub(crate) fn decided(answer: Answer) -> Option<Dim> {
    match answer {
        Answer::Yes => Some(Dim::constant(1)),
        Answer::No => Some(Dim::constant(0)),
        Answer::Unknown => None,
    }
}
