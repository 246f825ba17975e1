//! Attention over a buffer of keys and values, and its positions.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::attention::Attention;
use lathe_ops::elementwise::{Binary, Compare, Where};
use lathe_ops::gather::{Reduction, ScatterElements};
use lathe_ops::position::RotaryEmbedding;
use lathe_ops::shape::{Concat, ConstantOfShape, Expand, Pad, PadMode, Range, Split, Transpose, Unsqueeze};
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs, positive};

impl Node<'_, '_> {
    /// `0, 1, 2, ...` below a size, an i64 scalar.
    fn counting(&mut self, size: ValueId) -> Result<ValueId, Fault> {
        let (zero, one) = (self.number(DType::I64, 0.0)?, self.number(DType::I64, 1.0)?);
        self.add(Op::Range(Range {}), &[zero, size, one])
    }

    fn size_scalar(&mut self, size: Dim) -> Result<ValueId, Fault> {
        let size = self.sizes(vec![size])?;
        self.reshape(size, vec![])
    }

    fn with_axes(&mut self, x: ValueId, axes: &[i64]) -> Result<ValueId, Fault> {
        self.add(Op::Unsqueeze(Unsqueeze { axes: Some(axes.to_vec()) }), &[x])
    }
}

/// RotaryEmbedding: inputs `x, position_ids, cos, sin`; one position is that of the first token.
pub(super) fn rotary_embedding(node: &mut Node<'_, '_>) -> Outputs {
    let interleaved = node.attributes.flag("interleaved", false)?;
    let partial = node.attributes.int_or("rotary_embedding_dim", 0)?;
    let heads = node.attributes.int_or("num_heads", 0)?;
    node.attributes.ignore(&["is_packed_batching", "scale"]);
    let (x, positions, cos, sin) = (node.input(0)?, node.input(1)?, node.input(2)?, node.input(3)?);
    let (batch, seq) = match &node.dims(x).to_vec()[..] {
        [batch, seq, _] => (batch.clone(), seq.clone()),
        [batch, _, seq, _] => (batch.clone(), seq.clone()),
        dims => return Err(Fault::bad(format!("its input has {} axes, not 3 or 4", dims.len()))),
    };
    let positions = match node.rank(positions) {
        2 => positions,
        _ => {
            let first = node.as_i64(positions)?;
            let first = node.reshape(first, vec![])?;
            let size = node.size_scalar(seq.clone())?;
            let steps = node.counting(size)?;
            let places = node.binary(Binary::Add, steps, first)?;
            let shape = node.sizes(vec![batch, seq])?;
            node.add(Op::Expand(Expand {}), &[places, shape])?
        }
    };
    let heads = match (node.rank(x), heads) {
        (4, _) => None,
        (_, 0) => {
            // Without a number of heads all of a head is rotated.
            let (width, half) = (node.known_size(x, 2, "the input")?, node.known_size(cos, 1, "the table")?);
            Some(positive("num_heads", width / (2 * half).max(1))?)
        }
        (_, heads) => Some(positive("num_heads", heads)?),
    };
    let rotary_dim = if partial == 0 { None } else { Some(positive("rotary_embedding_dim", partial)?) };
    let op = RotaryEmbedding { interleaved, heads, rotary_dim, base: None, scaling: None };
    Ok(vec![node.add(Op::RotaryEmbedding(op), &[x, cos, sin, positions])?])
}

/// Attributes of GroupQueryAttention.
struct Group {
    heads: usize,
    kv_heads: usize,
    window: Option<i64>,
    causal: bool,
}

/// GroupQueryAttention: inputs `query, key?, value?, past_key?, past_value?, seqlens_k, total_sequence_length, cos?, sin?,
/// position_ids?, attention_bias?, head_sink?`; outputs `y, present_key, present_value, qk?`. `seqlens_k` is the number of
/// valid keys less one, the new ones included, which stand at the end of them; the buffers hold at least the total length.
pub(super) fn group_query_attention(node: &mut Node<'_, '_>) -> Outputs {
    let attributes = &node.attributes;
    let heads = positive("num_heads", attributes.required_int("num_heads")?)?;
    let kv_heads = positive("kv_num_heads", attributes.required_int("kv_num_heads")?)?;
    let window = Some(attributes.int_or("local_window_size", -1)?).filter(|window| *window >= 0);
    let group = Group { heads, kv_heads, window, causal: attributes.flag("causal", true)? };
    if node.optional(12).is_some() || node.optional(13).is_some() {
        return Err(Fault::unsupported("a quantised buffer of keys and values"));
    }
    node.attributes.ignore(&["kv_cache_bit_width", "k_quant_type", "v_quant_type"]);
    let [mut q, mut k, v] = separate(node, &group)?;
    let lengths = node.input(5)?;
    let lengths = node.as_i64(lengths)?;
    if let Some(length) = node.known_ints(lengths).into_iter().flatten().find(|length| *length < 0) {
        return Err(Fault::bad(format!("`seqlens_k` holds {length}")));
    }
    let batch = node.dims(q)[0].clone();
    let lengths = node.reshape(lengths, vec![batch.clone()])?;
    let seq = node.size_scalar(node.dims(q)[1].clone())?;
    let (zero, one) = (node.number(DType::I64, 0.0)?, node.number(DType::I64, 1.0)?);
    let valid = node.binary(Binary::Add, lengths, one)?;
    let before = node.binary(Binary::Sub, valid, seq)?;
    let before = node.binary(Binary::Max, before, zero)?;
    // Positions of the new tokens `[batch, seq]`.
    let steps = node.counting(seq)?;
    let starts = node.with_axes(before, &[1])?;
    let places = node.binary(Binary::Add, starts, steps)?;
    if node.attributes.flag("do_rotary", false)? {
        let positions = node.optional(9).unwrap_or(places);
        [q, k] = rotated(node, &group, [q, k], positions)?;
    }
    let present_k = written(node, &group, k, node.optional(3), places)?;
    let present_v = written(node, &group, v, node.optional(4), places)?;
    let bias = visible(node, &group, present_k, valid, places)?;
    let bias = match node.optional(10) {
        Some(added) => combined(node, bias, added)?,
        None => bias,
    };
    let sinks = sinks(node, &group, q)?;
    let results = attend(node, &group, [q, present_k, present_v], bias, sinks)?;
    Ok(vec![results[0], present_k, present_v].into_iter().chain(results.get(3).copied()).collect())
}

fn separate(node: &mut Node<'_, '_>, group: &Group) -> Result<[ValueId; 3], Fault> {
    let q = node.input(0)?;
    if node.rank(q) != 3 {
        return Err(Fault::bad(format!("its query has {} axes, not 3", node.rank(q))));
    }
    match (node.optional(1), node.optional(2)) {
        (Some(k), Some(v)) => Ok([q, k, v]),
        (None, None) => {
            let width = node.known_size(q, 2, "the query")?;
            let head = width / (group.heads + 2 * group.kv_heads) as i64;
            let sizes = [group.heads, group.kv_heads, group.kv_heads].map(|count| count as i64 * head);
            let sizes = node.ints(&sizes)?;
            let parts = node.add_all(Op::Split(Split { axis: 2, outputs: 3 }), &[Some(q), Some(sizes)], 3)?;
            parts.try_into().map_err(|_| Fault::bad("the packed query has not three parts"))
        }
        _ => Err(Fault::bad("key and value must be given together")),
    }
}

fn rotated(
    node: &mut Node<'_, '_>,
    group: &Group,
    operands: [ValueId; 2],
    positions: ValueId,
) -> Result<[ValueId; 2], Fault> {
    let (Some(cos), Some(sin)) = (node.optional(7), node.optional(8)) else {
        return Err(Fault::bad("the tables of its rotary embedding are missing"));
    };
    let interleaved = node.attributes.flag("rotary_interleaved", false)?;
    let width = node.known_size(operands[0], 2, "the query")?;
    let half = node.known_size(cos, 1, "the table")?;
    let partial = 2 * half != width / group.heads as i64;
    let rotary_dim = if partial { Some(positive("cos_cache", 2 * half)?) } else { None };
    let mut results = operands;
    for (result, heads) in results.iter_mut().zip([group.heads, group.kv_heads]) {
        let op = RotaryEmbedding { interleaved, heads: Some(heads), rotary_dim, base: None, scaling: None };
        *result = node.add(Op::RotaryEmbedding(op), &[*result, cos, sin, positions])?;
    }
    Ok(results)
}

/// The buffer `[batch, kv_heads, total, head_dim]` with the new keys or values at their places.
fn written(
    node: &mut Node<'_, '_>,
    group: &Group,
    new: ValueId,
    past: Option<ValueId>,
    places: ValueId,
) -> Result<ValueId, Fault> {
    let dims = node.dims(new).to_vec();
    let heads = Dim::constant(group.kv_heads as i64);
    let head = dims[2].floor_div(&heads);
    let split = node.reshape(new, vec![dims[0].clone(), dims[1].clone(), heads.clone(), head.clone()])?;
    let new = node.add(Op::Transpose(Transpose { perm: vec![0, 2, 1, 3] }), &[split])?;
    let past = match past {
        Some(past) => past,
        None => {
            let shape = node.sizes(vec![dims[0].clone(), heads.clone(), 0.into(), head.clone()])?;
            let empty = ConstantOfShape { dtype: node.dtype(new), bits: 0 };
            node.add(Op::ConstantOfShape(empty), &[shape])?
        }
    };
    if node.rank(past) != 4 {
        return Err(Fault::bad("past keys and values have four axes"));
    }
    let total = node.input(6)?;
    let total = node.as_i64(total)?;
    let total = node.reshape(total, vec![1.into()])?;
    let room = node.sizes(vec![node.dims(past)[2].clone()])?;
    let missing = node.binary(Binary::Sub, total, room)?;
    let zero = node.ints(&[0])?;
    let missing = node.binary(Binary::Max, missing, zero)?;
    let zeros = node.ints(&[0; 6])?;
    let pads = node.add(Op::Concat(Concat { axis: 0 }), &[zeros, missing, zero])?;
    let buffer = node.add(Op::Pad(Pad { mode: PadMode::Constant }), &[past, pads])?;
    let places = node.with_axes(places, &[1, 3])?;
    let shape = node.sizes(node.dims(new).to_vec())?;
    let places = node.add(Op::Expand(Expand {}), &[places, shape])?;
    let op = ScatterElements { axis: 2, reduction: Reduction::Replace };
    node.add(Op::ScatterElements(op), &[buffer, places, new])
}

/// Which keys a query sees: bool `[batch, 1, seq, total]`.
fn visible(
    node: &mut Node<'_, '_>,
    group: &Group,
    present: ValueId,
    valid: ValueId,
    places: ValueId,
) -> Result<ValueId, Fault> {
    let total = node.size_scalar(node.dims(present)[2].clone())?;
    let keys = node.counting(total)?;
    let valid = node.with_axes(valid, &[1, 2, 3])?;
    let mut mask = node.add(Op::Compare(Compare::Less), &[keys, valid])?;
    let places = node.with_axes(places, &[1, 3])?;
    if group.causal {
        let earlier = node.add(Op::Compare(Compare::LessOrEqual), &[keys, places])?;
        mask = node.binary(Binary::And, mask, earlier)?;
    }
    if let Some(window) = group.window {
        let window = node.number(DType::I64, window as f64)?;
        let first = node.binary(Binary::Sub, places, window)?;
        let near = node.add(Op::Compare(Compare::Greater), &[keys, first])?;
        mask = node.binary(Binary::And, mask, near)?;
    }
    Ok(mask)
}

/// A mask and a bias as one bias.
fn combined(node: &mut Node<'_, '_>, mask: ValueId, bias: ValueId) -> Result<ValueId, Fault> {
    let (zero, never) = (node.number_like(bias, 0.0)?, node.number_like(bias, f64::NEG_INFINITY)?);
    let mask = node.add(Op::Where(Where {}), &[mask, zero, never])?;
    node.binary(Binary::Add, mask, bias)
}

/// One more logit a head: as given, or 0 for a smooth softmax.
fn sinks(node: &mut Node<'_, '_>, group: &Group, like: ValueId) -> Result<Option<ValueId>, Fault> {
    if let Some(sinks) = node.optional(11) {
        return Ok(Some(sinks));
    }
    if !node.attributes.flag("smooth_softmax", false)? {
        return Ok(None);
    }
    let (zero, shape) = (node.number_like(like, 0.0)?, node.ints(&[group.heads as i64])?);
    node.add(Op::Expand(Expand {}), &[zero, shape]).map(Some)
}

fn attend(
    node: &mut Node<'_, '_>,
    group: &Group,
    [q, k, v]: [ValueId; 3],
    mask: ValueId,
    sinks: Option<ValueId>,
) -> Outputs {
    // The scores go out before (1) or after (2) the softmax.
    let qk_output = match node.attributes.int_or("qk_output", 0)? {
        0 | 2 => 3,
        1 => 2,
        mode => return Err(Fault::bad(format!("attribute `qk_output` is {mode}, not 0 to 2"))),
    };
    node.attributes.ignore(&["smooth_softmax", "rotary_interleaved"]);
    let op = Attention {
        q_heads: Some(group.heads),
        kv_heads: Some(group.kv_heads),
        causal: false,
        scale: node.given_float("scale")?,
        softcap: node.attributes.float_or("softcap", 0.0)?,
        qk_output,
        left_window: None,
        right_window: None,
        softmax_in_f64: false,
        bottom_right: false,
        exact: false,
        divisor: None,
    };
    let (dims, heads) = (node.dims(q).to_vec(), Dim::constant(group.heads as i64));
    let split = vec![dims[0].clone(), dims[1].clone(), heads.clone(), dims[2].floor_div(&heads)];
    let split = node.reshape(q, split)?;
    let q = node.add(Op::Transpose(Transpose { perm: vec![0, 2, 1, 3] }), &[split])?;
    let mut inputs = vec![Some(q), Some(k), Some(v), Some(mask)];
    if let Some(sinks) = sinks {
        inputs.resize(Attention::SINKS, None);
        inputs.push(Some(sinks));
    }
    let outputs = if node.wanted > 3 { 4 } else { 1 };
    let mut results = node.add_all(Op::Attention(op), &inputs, outputs)?;
    let y = node.add(Op::Transpose(Transpose { perm: vec![0, 2, 1, 3] }), &[results[0]])?;
    results[0] = node.reshape(y, dims)?;
    Ok(results)
}
