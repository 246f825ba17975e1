//! Attention, and its paged form.

use lathe_ops::attention::Attention;
use lathe_ops::attention::paged::{KvPage, PagedAttention, is_state_dtype};
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
    extras(cx, &batch, &q.heads, &total)?;
    if attributes.bottom_right && cx.optional(6).is_some() {
        return Err(cx.bad("bottom_right and nonpad_kv_seq_len exclude each other"));
    }
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

/// The padding of keys, ALiBi and sinks.
fn extras(cx: &mut Context<'_>, batch: &Dim, q_heads: &Dim, total: &Dim) -> Result<(), IrError> {
    if cx.optional(6).is_some() {
        cx.index_operand(6)?;
        let lengths = &cx.ranked(6, 1)?.dims[0];
        cx.equal(lengths, batch, "one length a batch")?;
    }
    let number = |dtype: DType| dtype.is_float() || dtype.is_integer();
    cx.dtype_of(Attention::KEY_PADDING, "bool", |dtype| dtype == DType::Bool)?;
    cx.dtype_of(Attention::ALIBI_POSITIONS, "a number", number)?;
    for index in [Attention::KEY_PADDING, Attention::ALIBI_POSITIONS] {
        if cx.optional(index).is_some() {
            let dims = &cx.ranked(index, 2)?.dims;
            cx.equal(&dims[0], batch, "batch of what is said of keys")?;
            cx.equal(&dims[1], total, "number of keys that something is said of")?;
        }
    }
    for index in [Attention::ALIBI_SLOPES, Attention::SINKS] {
        per_head(cx, index, q_heads)?;
    }
    if cx.optional(Attention::ALIBI_POSITIONS).is_some() && cx.optional(Attention::ALIBI_SLOPES).is_none() {
        return Err(cx.bad("alibi_positions without alibi_slopes"));
    }
    Ok(())
}

/// An optional operand with one float a query head.
fn per_head(cx: &mut Context<'_>, index: usize, q_heads: &Dim) -> Result<(), IrError> {
    if cx.optional(index).is_none() {
        return Ok(());
    }
    cx.dtype_of(index, "a float", DType::is_float)?;
    let heads = &cx.ranked(index, 1)?.dims[0];
    cx.equal(heads, q_heads, "one number a query head")?;
    Ok(())
}

/// The rows of a paged op: `position` at `first`, then `seq_start`; `block_table` at `table`.
fn rows(cx: &mut Context<'_>, rows: &Dim, [first, table]: [usize; 2]) -> Result<Dim, IrError> {
    for index in [first, first + 1, table] {
        cx.dtype_of(index, "i64", |dtype| dtype == DType::I64)?;
    }
    let position = &cx.ranked(first, 2)?.dims;
    cx.equal(&position[0], &Dim::constant(1), "positions of packed rows")?;
    cx.equal(&position[1], rows, "one position a row")?;
    let sequences = cx.ranked(table, 2)?.dims[0].clone();
    let starts = &cx.ranked(first + 1, 1)?.dims[0];
    cx.equal(starts, &sequences.add(&Dim::constant(1)), "seq_start is one longer than the sequences")?;
    Ok(sequences)
}

/// `[1, heads, rows, size]`.
fn packed_rows(cx: &mut Context<'_>, index: usize) -> Result<[Dim; 3], IrError> {
    cx.dtype_of(index, "a float", DType::is_float)?;
    let dims = &cx.ranked(index, 4)?.dims;
    cx.equal(&dims[0], &Dim::constant(1), "rows are packed")?;
    Ok([dims[1].clone(), dims[2].clone(), dims[3].clone()])
}

pub(super) fn kv_append(cx: &mut Context<'_>) -> Outputs {
    cx.dtype_of(0, "f32, f16, bf16 or i8", is_state_dtype)?;
    let state = cx.ranked(0, 2)?.clone();
    let [kv_heads, count, k_size] = packed_rows(cx, 1)?;
    let mut v_size = Dim::constant(0);
    if cx.optional(2).is_some() {
        let [v_heads, v_count, size] = packed_rows(cx, 2)?;
        cx.equal(&kv_heads, &v_heads, "heads of k and v")?;
        cx.equal(&count, &v_count, "rows of k and v")?;
        v_size = size;
    }
    let scales = Dim::constant(KvPage::scales(state.dtype) as i64);
    let head = k_size.add(&v_size).add(&scales);
    let elements = kv_heads.mul(&head).mul(&Dim::constant(KvPage::TOKENS as i64));
    cx.equal(&state.dims[1], &elements, "elements of a page")?;
    rows(cx, &count, [3, 5])?;
    Ok(vec![Output::new(state.dtype, state.dims)])
}

pub(super) fn paged_attention(cx: &mut Context<'_>, attributes: &PagedAttention) -> Outputs {
    attributes.check().map_err(|reason| cx.bad(reason))?;
    cx.dtype_of(1, "f32, f16, bf16 or i8", is_state_dtype)?;
    let [heads, count, size] = packed_rows(cx, 0)?;
    let state = cx.ranked(1, 2)?.clone();
    let Some(elements) = attributes.page().elements(state.dtype) else {
        return Err(cx.bad("a page is too large"));
    };
    let elements = Dim::constant(cx.count(elements)?);
    cx.equal(&state.dims[1], &elements, "elements of a page")?;
    cx.equal(&size, &Dim::constant(cx.count(attributes.qk_head_dim)?), "elements of a query")?;
    let kv_heads = Dim::constant(cx.count(attributes.kv_heads)?);
    cx.at_least(&kv_heads, &Dim::constant(1), "heads of keys")?;
    cx.equal(&heads.modulo(&kv_heads), &Dim::constant(0), "query heads are a multiple of the key heads")?;
    let sequences = rows(cx, &count, [2, 5])?;
    cx.dtype_of(4, "i64", |dtype| dtype == DType::I64)?;
    let lengths = cx.ranked(4, 1)?.dims[0].clone();
    cx.equal(&lengths, &sequences, "one context length a sequence")?;
    if let Some(bias) = cx.optional(6) {
        cx.dtype_of(6, "a float", DType::is_float)?;
        let width = bias.ty.dims.last().cloned().unwrap_or(Dim::constant(1));
        let over = [Dim::constant(1), heads.clone(), count.clone(), width];
        cx.broadcasts_to(&bias.ty.dims, &over, "bias")?;
    }
    per_head(cx, 7, &heads)?;
    per_head(cx, 8, &heads)?;
    let v_size = Dim::constant(cx.count(attributes.value_dim())?);
    Ok(vec![Output::new(cx.ty(0)?.dtype, [Dim::constant(1), heads, count, v_size])])
}
