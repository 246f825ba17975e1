//! Matrix products.

use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use crate::{Dim, IrError};

pub(super) fn matmul(cx: &mut Context<'_>) -> Outputs {
    let dtype = cx.same_dtype(0, 1)?;
    cx.dtype_of(0, "a number", |dtype| !matches!(dtype, DType::Bool | DType::String))?;
    Ok(vec![Output::new(dtype, product_dims(cx)?)])
}

/// Dims of the product of operands 0 and 1 by NumPy's rules.
pub(super) fn product_dims(cx: &mut Context<'_>) -> Result<Vec<Dim>, IrError> {
    let (a, b) = (cx.ty(0)?, cx.ty(1)?);
    if a.rank() == 0 || b.rank() == 0 {
        return Err(cx.bad("a scalar has no matrix product"));
    }
    let split = |dims: &[Dim]| {
        let matrix = dims.len().saturating_sub(2);
        (dims[..matrix].to_vec(), dims[matrix..].to_vec())
    };
    let ((batch_a, a), (batch_b, b)) = (split(&a.dims), split(&b.dims));
    let inner_a = &a[a.len() - 1];
    let inner_b = &b[b.len().saturating_sub(2)];
    cx.equal(inner_a, inner_b, "inner sizes of the product")?;
    let mut dims = cx.broadcast_dims(&batch_a, &batch_b)?;
    dims.extend((a.len() == 2).then(|| a[0].clone()));
    dims.extend((b.len() == 2).then(|| b[1].clone()));
    Ok(dims)
}

pub(super) fn linear(cx: &mut Context<'_>) -> Outputs {
    let output = matmul(cx)?;
    for (index, reason) in [(2, "bias"), (3, "residual")] {
        if let Some(operand) = cx.optional(index) {
            cx.same_dtype(0, index)?;
            cx.broadcasts_to(&operand.ty.dims, &output[0].ty.dims, reason)?;
        }
    }
    Ok(output)
}
