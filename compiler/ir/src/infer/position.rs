//! Position encodings.

use lathe_ops::position::RotaryEmbedding;
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use crate::Dim;

pub(super) fn rotary_embedding(cx: &mut Context<'_>, attributes: &RotaryEmbedding) -> Outputs {
    cx.dtype_of(0, "a float", DType::is_float)?;
    let x = cx.ty(0)?;
    let (batch, seq, size) = match &x.dims[..] {
        [batch, _, seq, size] => (batch, seq, size.clone()),
        [batch, seq, hidden] => match attributes.heads {
            Some(heads) if heads > 0 => {
                let heads = Dim::constant(cx.count(heads)?);
                let size = hidden.floor_div(&heads);
                cx.equal(hidden, &size.mul(&heads), "the hidden size is a multiple of the heads")?;
                (batch, seq, size)
            }
            _ => return Err(cx.bad("an operand of rank 3 needs a number of heads")),
        },
        _ => return Err(cx.bad(format!("operand 0 must have rank 3 or 4, not {}", x.rank()))),
    };
    let rotated = match attributes.rotary_dim {
        Some(rotary_dim) if rotary_dim > 0 => Dim::constant(cx.count(rotary_dim)?),
        _ => size.clone(),
    };
    cx.at_least(&size, &rotated, "the rotated part lies within a head")?;
    let half = rotated.floor_div(&Dim::constant(2));
    cx.equal(&half.scale(2), &rotated, "the rotated part is even")?;
    for table in [1, 2] {
        cx.same_dtype(0, table)?;
        let rank = if cx.optional(3).is_some() { 2 } else { 3 };
        let dims = &cx.ranked(table, rank)?.dims;
        cx.equal(&dims[rank - 1], &half, "width of the tables")?;
        if rank == 3 {
            cx.broadcasts_to(&dims[..2], &[batch.clone(), seq.clone()], "tables")?;
        }
    }
    if cx.optional(3).is_some() {
        cx.index_operand(3)?;
        let dims = &cx.ranked(3, 2)?.dims;
        cx.broadcasts_to(dims, &[batch.clone(), seq.clone()], "positions")?;
    }
    Ok(vec![Output::new(x.dtype, x.dims.clone())])
}
