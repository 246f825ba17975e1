//! Elements of small integer tensors as dims.

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
