//! Mixtures of experts.

use lathe_ops::moe::{Gate, Moe};
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use crate::{Dim, IrError};

pub(super) fn moe(cx: &mut Context<'_>, moe: &Moe) -> Outputs {
    moe.check().map_err(|reason| cx.bad(reason))?;
    for index in 0..7 {
        cx.dtype_of(index, "a float", DType::is_float)?;
        if cx.optional(index).is_some() {
            cx.same_dtype(0, index)?;
        }
    }
    let (x, logits) = (cx.ty(0)?, cx.ty(1)?);
    let (Some((input, leading)), Some((experts, rows))) = (x.dims.split_last(), logits.dims.split_last())
    else {
        return Err(cx.bad("tokens and logits have an axis at least"));
    };
    if leading.len() != rows.len() {
        return Err(cx.bad("the logits are one row a token"));
    }
    for (a, b) in leading.iter().zip(rows) {
        cx.equal(a, b, "one row of logits a token")?;
    }
    let count = Dim::constant(cx.count(moe.experts)?);
    cx.equal(experts, &count, "one logit an expert")?;
    let (rows_in, hidden) = matrix(cx, 2, &count, moe.transposed)?;
    let (inner, output) = matrix(cx, 3, &count, moe.transposed)?;
    cx.equal(&rows_in, input, "inner sizes of the first product")?;
    let gated = if moe.gate == Gate::None { 1 } else { 2 };
    cx.equal(&hidden, &inner.scale(gated), "inner sizes of the second product")?;
    for (index, columns) in [(4, None), (5, Some(&hidden)), (6, Some(&output))] {
        if cx.optional(index).is_none() {
            continue;
        }
        let dims = cx.ranked(index, 1 + usize::from(columns.is_some()))?.dims.clone();
        for (found, wanted) in dims.iter().zip([Some(&count), columns].into_iter().flatten()) {
            cx.equal(found, wanted, "biases of the experts")?;
        }
    }
    let dims = [leading, std::slice::from_ref(&output)].concat();
    Ok(vec![
        Output::new(x.dtype, dims),
        Output::new(DType::I64, [count]),
        Output::new(DType::I64, []),
        Output::new(DType::F32, []),
    ])
}

/// Rows and columns of the experts' matrices.
fn matrix(cx: &mut Context<'_>, index: usize, count: &Dim, swapped: bool) -> Result<(Dim, Dim), IrError> {
    let dims = &cx.ranked(index, 3)?.dims;
    cx.equal(&dims[0], count, "one matrix an expert")?;
    let (rows, columns) = if swapped { (&dims[2], &dims[1]) } else { (&dims[1], &dims[2]) };
    Ok((rows.clone(), columns.clone()))
}
