//! Linear attention.

use lathe_ops::linear_attention::LinearAttention;
use lathe_tensor::DType;

use super::context::{Context, Output, Outputs};
use crate::Dim;

pub(super) fn linear_attention(cx: &mut Context<'_>, attributes: &LinearAttention) -> Outputs {
    cx.dtype_of(0, "a float", DType::is_float)?;
    let (q, k, v) = (cx.ranked(0, 3)?, cx.ranked(1, 3)?, cx.ranked(2, 3)?);
    for other in [k, v] {
        cx.equal(&q.dims[0], &other.dims[0], "batch sizes")?;
        cx.equal(&q.dims[1], &other.dims[1], "lengths")?;
    }
    let (q_heads, kv_heads) = (cx.count(attributes.q_heads)?, cx.count(attributes.kv_heads)?);
    if q_heads == 0 || kv_heads == 0 || q_heads % kv_heads != 0 {
        return Err(cx.bad(format!("{q_heads} query heads for {kv_heads} heads of keys and values")));
    }
    let per_head = |dim: &Dim, heads: i64| dim.floor_div(&Dim::constant(heads));
    let (key, value) = (per_head(&q.dims[2], q_heads), per_head(&v.dims[2], kv_heads));
    cx.equal(&k.dims[2], &key.scale(kv_heads), "sizes of the keys")?;
    cx.equal(&v.dims[2], &value.scale(kv_heads), "sizes of the values")?;
    let state = [q.dims[0].clone(), Dim::constant(kv_heads), key, value.clone()];
    let mut state_dtype = q.dtype;
    if cx.optional(3).is_some() {
        let past = cx.ranked(3, 4)?;
        state_dtype = past.dtype;
        for (a, b) in past.dims.iter().zip(&state) {
            cx.equal(a, b, "past state")?;
        }
    }
    let y = [q.dims[0].clone(), q.dims[1].clone(), value.scale(q_heads)];
    Ok(vec![Output::new(q.dtype, y), Output::new(state_dtype, state)])
}
