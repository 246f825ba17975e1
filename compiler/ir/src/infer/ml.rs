//! Operators of ai.onnx.ml that are no arithmetic.

use super::context::{Context, Output, Outputs};
use crate::Dim;

pub(super) fn lookup(cx: &mut Context<'_>) -> Outputs {
    cx.same_dtype(0, 1)?;
    let dtype = cx.same_dtype(2, 3)?;
    let count = cx.ranked(1, 1)?.dims[0].clone();
    cx.equal(&cx.ranked(2, 1)?.dims[0], &count, "one value a key")?;
    let default = Dim::product(&cx.ty(3)?.dims);
    cx.equal(&default, &Dim::constant(1), "one default")?;
    Ok(vec![Output::new(dtype, cx.ty(0)?.dims.clone())])
}
