//! Attention.

use lathe_ops::attention::Attention;
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use crate::{Dim, IrError};

/// An operand as `[batch, heads, seq, size]`.
struct Heads {
    batch: Dim,
    heads: Dim,
    seq: Dim,
    size: Dim,
}

fn heads(cx: &mut Context<'_>, index: usize, count: Option<usize>) -> Result<Heads, IrError> {
    let dims = &cx.ty(index)?.dims;
    match &dims[..] {
        [batch, heads, seq, size] => {
            Ok(Heads { batch: batch.clone(), heads: heads.clone(), seq: seq.clone(), size: size.clone() })
        }
        [batch, seq, hidden] => {
            let heads = match count {
                Some(count) if count > 0 => Dim::constant(cx.count(count)?),
                _ => return Err(cx.bad(format!("operand {index} of rank 3 needs a number of heads"))),
            };
            let size = hidden.floor_div(&heads);
            cx.equal(hidden, &size.mul(&heads), "the hidden size is a multiple of the heads")?;
            Ok(Heads { batch: batch.clone(), heads, seq: seq.clone(), size })
        }
        _ => Err(cx.bad(format!("operand {index} must have rank 3 or 4, not {}", dims.len()))),
    }
}

pub(super) fn attention(cx: &mut Context<'_>, attributes: &Attention) -> Outputs {
    cx.dtype_of(0, "a float", DType::is_float)?;
    let dtype = cx.same_dtype(0, 1)?;
    let q = heads(cx, 0, attributes.q_heads)?;
    let k = heads(cx, 1, attributes.kv_heads)?;
    let v = heads(cx, 2, attributes.kv_heads)?;
    let batch = cx.equal(&q.batch, &k.batch, "batch of q and k")?;
    let batch = cx.equal(&batch, &v.batch, "batch of k and v")?;
    cx.equal(&q.size, &k.size, "head size of q and k")?;
    let kv_heads = cx.equal(&k.heads, &v.heads, "heads of k and v")?;
    let seq = cx.equal(&k.seq, &v.seq, "length of k and v")?;
    let groups = q.heads.modulo(&kv_heads);
    cx.equal(&groups, &Dim::constant(0), "query heads are a multiple of the key heads")?;
    let total = past(cx, &[batch.clone(), kv_heads.clone()], &k, &v)?.add(&seq);
    mask(cx, &[batch.clone(), q.heads.clone(), q.seq.clone()], &total)?;
    let y = match cx.ty(0)?.rank() {
        3 => vec![batch.clone(), q.seq.clone(), q.heads.mul(&v.size)],
        _ => vec![batch.clone(), q.heads.clone(), q.seq.clone(), v.size.clone()],
    };
    let present = |size: &Dim| vec![batch.clone(), kv_heads.clone(), total.clone(), size.clone()];
    Ok(vec![
        Output::new(dtype, y),
        Output::new(cx.ty(1)?.dtype, present(&k.size)),
        Output::new(cx.ty(2)?.dtype, present(&v.size)),
        Output::new(dtype, [batch.clone(), q.heads, q.seq, total.clone()]),
    ])
}

/// Length of the past; 0 where there is none.
fn past(cx: &mut Context<'_>, leading: &[Dim], k: &Heads, v: &Heads) -> Result<Dim, IrError> {
    if cx.optional(4).is_none() && cx.optional(5).is_none() {
        return Ok(Dim::constant(0));
    }
    let mut length = None;
    for (index, size) in [(4, &k.size), (5, &v.size)] {
        let dims = &cx.ranked(index, 4)?.dims;
        for (a, b) in dims.iter().zip(leading) {
            cx.equal(a, b, "batch and heads of the past")?;
        }
        cx.equal(&dims[3], size, "head size of the past")?;
        length = Some(match length {
            Some(length) => cx.equal(&length, &dims[2], "length of past keys and values")?,
            None => dims[2].clone(),
        });
    }
    Ok(length.unwrap_or_else(|| Dim::constant(0)))
}

/// The mask broadcasts to `[batch, heads, seq, total]`; its last axis may be shorter than that.
fn mask(cx: &mut Context<'_>, leading: &[Dim], total: &Dim) -> Result<(), IrError> {
    let Some(mask) = cx.optional(3) else { return Ok(()) };
    let Some((last, others)) = mask.ty.dims.split_last() else {
        return Err(cx.bad("the mask must have rank 2 or more"));
    };
    if mask.ty.dtype != DType::Bool && !mask.ty.dtype.is_float() {
        return Err(cx.bad("the mask must be bool or float"));
    }
    cx.broadcasts_to(others, leading, "mask")?;
    if last.as_constant() != Some(1) {
        cx.at_least(total, last, "the mask is at most as long as the keys")?;
    }
    Ok(())
}
