//! Attention with projections and masks as com.microsoft has them.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::attention::Attention;
use lathe_ops::elementwise::{Binary, Compare};
use lathe_ops::gather::Gather;
use lathe_ops::matmul::MatMul;
use lathe_ops::quant::DequantizeLinear;
use lathe_ops::shape::{Concat, Range, Split, Transpose, Unsqueeze};
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs, positive};

/// The operands of one attention: `[batch, seq, heads * head_dim]`, pasts `[batch, heads, seq, head_dim]`.
struct Operands {
    q: ValueId,
    k: ValueId,
    v: ValueId,
    past: Option<[ValueId; 2]>,
    /// Added to the scores.
    bias: Option<ValueId>,
}

/// Attributes that the operators share.
fn attend(node: &mut Node<'_, '_>, operands: &Operands, heads: usize, outputs: usize) -> Outputs {
    let op = Attention {
        q_heads: Some(heads),
        kv_heads: Some(heads),
        causal: node.attributes.flag("unidirectional", false)?,
        scale: node.given_float("scale")?,
        softcap: 0.0,
        // The probabilities.
        qk_output: 3,
        left_window: None,
        right_window: None,
        softmax_in_f64: false,
        bottom_right: false,
        exact: node.importer.quantises_by_range,
        divisor: None,
    };
    let [past_k, past_v] = operands.past.map_or([None, None], |[k, v]| [Some(k), Some(v)]);
    let inputs = [Some(operands.q), Some(operands.k), Some(operands.v), operands.bias, past_k, past_v];
    let given = inputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    node.add_all(Op::Attention(op), &inputs[..given], outputs.max(1))
}

impl Node<'_, '_> {
    /// What is added to scores where a mask of 0 and 1 forbids a key.
    fn mask_bias(&mut self, mask: ValueId, like: ValueId) -> Result<ValueId, Fault> {
        let filter = self.attributes.float_or("mask_filter_value", -10_000.0)?;
        let mask = self.cast(mask, self.dtype(like))?;
        let (one, filter) = (self.number_like(like, 1.0)?, self.number_like(like, f64::from(filter))?);
        let forbidden = self.binary(Binary::Sub, one, mask)?;
        self.binary(Binary::Mul, forbidden, filter)
    }

    /// A mask as com.microsoft gives it, as what is added to scores `[batch, heads, seq, keys]`: `[batch, keys]` and
    /// `[batch, seq, keys]` are 0 and 1, `[batch]` counts the keys, `[2 * batch]` also says where they begin.
    fn additive_mask(
        &mut self,
        mask: ValueId,
        like: ValueId,
        keys: &Dim,
        batch: &Dim,
    ) -> Result<ValueId, Fault> {
        let axes = match self.rank(mask) {
            2 => vec![1, 2],
            3 => vec![1],
            4 => vec![],
            1 => return self.counted_mask(mask, like, keys, batch),
            rank => return Err(Fault::unsupported(format!("a mask of {rank} axes"))),
        };
        let bias = self.mask_bias(mask, like)?;
        if axes.is_empty() {
            return Ok(bias);
        }
        self.add(Op::Unsqueeze(Unsqueeze { axes: Some(axes) }), &[bias])
    }

    fn counted_mask(
        &mut self,
        mask: ValueId,
        like: ValueId,
        keys: &Dim,
        batch: &Dim,
    ) -> Result<ValueId, Fault> {
        let size = self.sizes(vec![keys.clone()])?;
        let size = self.reshape(size, vec![])?;
        let (zero, one) = (self.number(DType::I64, 0.0)?, self.number(DType::I64, 1.0)?);
        let places = self.add(Op::Range(Range {}), &[zero, size, one])?;
        let mask = self.as_i64(mask)?;
        let count = self.dims(mask)[0].clone();
        let column = |node: &mut Self, x: ValueId| {
            node.add(Op::Unsqueeze(Unsqueeze { axes: Some(vec![1, 2, 3]) }), &[x])
        };
        let inside = if count.equals(batch) == lathe_ir::Answer::Yes {
            let ends = column(self, mask)?;
            self.add(Op::Compare(Compare::Less), &[places, ends])?
        } else if count.equals(&batch.scale(2)) == lathe_ir::Answer::Yes {
            let split = Op::Split(Split { axis: 0, outputs: 2 });
            let parts = self.add_all(split, &[Some(mask)], 2)?;
            let (ends, starts) = (column(self, parts[0])?, column(self, parts[1])?);
            let before = self.add(Op::Compare(Compare::Less), &[places, ends])?;
            let after = self.add(Op::Compare(Compare::GreaterOrEqual), &[places, starts])?;
            self.binary(Binary::And, before, after)?
        } else {
            return Err(Fault::unsupported(format!("a mask of {count} numbers for a batch of {batch}")));
        };
        self.mask_bias(inside, like)
    }

    fn both(&mut self, a: Option<ValueId>, b: Option<ValueId>) -> Result<Option<ValueId>, Fault> {
        match (a, b) {
            (Some(a), Some(b)) => Ok(Some(self.binary(Binary::Add, a, b)?)),
            (a, b) => Ok(a.or(b)),
        }
    }

    /// `[batch, heads, seq, head_dim]` as `[batch, seq, heads * head_dim]`.
    fn packed_heads(&mut self, x: ValueId) -> Result<ValueId, Fault> {
        let dims = self.dims(x).to_vec();
        if dims.len() != 4 {
            return Ok(x);
        }
        let x = self.add(Op::Transpose(Transpose { perm: vec![0, 2, 1, 3] }), &[x])?;
        self.reshape(x, vec![dims[0].clone(), dims[2].clone(), dims[1].mul(&dims[3])])
    }
}

/// The past of keys and values from one tensor `[2, batch, heads, seq, head_dim]`.
fn past_pair(node: &mut Node<'_, '_>, past: ValueId) -> Result<[ValueId; 2], Fault> {
    let mut half = |index: f64| {
        let index = node.number(DType::I64, index)?;
        node.add(Op::Gather(Gather { axis: 0 }), &[past, index])
    };
    Ok([half(0.0)?, half(1.0)?])
}

/// MultiHeadAttention: inputs `query, key?, value?, bias?, key_padding_mask?, attention_bias?, past_key?, past_value?`.
pub(super) fn multi_head_attention(node: &mut Node<'_, '_>) -> Outputs {
    let heads = positive("num_heads", node.attributes.required_int("num_heads")?)?;
    if node.optional(8).is_some() || node.optional(9).is_some() {
        return Err(Fault::unsupported("a shared buffer of past keys and values"));
    }
    let [q, k, v] = separate(node, heads)?;
    // Heads that come apart bring their bias with them: only the query's is added then, as in onnxruntime.
    let apart = node.optional(1).is_some_and(|key| node.rank(key) == 4);
    let [biased_q, biased_k, biased_v] = biased(node, [q, k, v], node.optional(3))?;
    let [q, k, v] = if apart { [biased_q, k, v] } else { [biased_q, biased_k, biased_v] };
    let past = match (node.optional(6), node.optional(7)) {
        (Some(k), Some(v)) => Some([k, v]),
        (None, None) => None,
        _ => return Err(Fault::bad("past keys and past values must be given together")),
    };
    let (batch, mut keys) = (node.dims(q)[0].clone(), node.dims(k)[1].clone());
    if let Some([past, _]) = past
        && node.rank(past) == 4
    {
        keys = keys.add(&node.dims(past)[2]);
    }
    let mask = node.optional(4).map(|mask| node.additive_mask(mask, q, &keys, &batch)).transpose()?;
    let bias = node.both(mask, node.optional(5))?;
    node.attributes.ignore(&["mask_filter_value"]);
    let wanted = node.wanted;
    attend(node, &Operands { q, k, v, past, bias }, heads, wanted)
}

/// The query, key and value, which may be packed into one or two tensors: `[batch, seq, heads, 3, head_dim]` and
/// `[batch, seq, heads, 2, head_dim]`.
fn separate(node: &mut Node<'_, '_>, heads: usize) -> Result<[ValueId; 3], Fault> {
    let q = node.input(0)?;
    let part = |node: &mut Node<'_, '_>, x: ValueId, index: f64| {
        let dims = node.dims(x).to_vec();
        let index = node.number(DType::I64, index)?;
        let part = node.add(Op::Gather(Gather { axis: 3 }), &[x, index])?;
        node.reshape(part, vec![dims[0].clone(), dims[1].clone(), dims[2].mul(&dims[4])])
    };
    match (node.optional(1), node.optional(2)) {
        (Some(k), Some(v)) => {
            let (k, v) = (node.packed_heads(k)?, node.packed_heads(v)?);
            Ok([q, k, v])
        }
        (Some(kv), None) if node.rank(kv) == 5 => Ok([q, part(node, kv, 0.0)?, part(node, kv, 1.0)?]),
        (None, None) if node.rank(q) == 5 => {
            Ok([part(node, q, 0.0)?, part(node, q, 1.0)?, part(node, q, 2.0)?])
        }
        _ => Err(Fault::bad(format!("key and value are missing, and {heads} heads are not packed"))),
    }
}

/// The parts of a bias `[q + k + v]` added to them.
fn biased(
    node: &mut Node<'_, '_>,
    operands: [ValueId; 3],
    bias: Option<ValueId>,
) -> Result<[ValueId; 3], Fault> {
    let Some(bias) = bias else { return Ok(operands) };
    let (mut results, mut start) = (operands, 0);
    for result in &mut results {
        let width = node.known_size(*result, 2, "an operand")?;
        let part = node.cut(bias, 0, start, start + width)?;
        *result = node.binary(Binary::Add, *result, part)?;
        start += width;
    }
    Ok(results)
}

/// Attention: inputs `input, weights, bias?, mask_index?, past?, attention_bias?`, outputs `y, present?`.
pub(super) fn attention(node: &mut Node<'_, '_>) -> Outputs {
    let (x, weights, bias) = (node.input(0)?, node.input(1)?, node.optional(2));
    if node.attributes.flag("do_rotary", false)? || node.optional(6).is_some() {
        return Err(Fault::unsupported("rotary embedding or a shared past inside Attention"));
    }
    node.attributes.ignore(&["rotary_embedding_dim", "past_present_share_buffer"]);
    let projected = node.add(Op::MatMul(MatMul::default()), &[x, weights])?;
    let projected = node.plus(projected, bias)?;
    let (mask, past, added) = (node.optional(3), node.optional(4), node.optional(5));
    projected_attention(node, projected, mask, past, added)
}

fn projected_attention(
    node: &mut Node<'_, '_>,
    projected: ValueId,
    mask: Option<ValueId>,
    past: Option<ValueId>,
    added: Option<ValueId>,
) -> Outputs {
    let heads = positive("num_heads", node.attributes.required_int("num_heads")?)?;
    let width = node.known_size(projected, 2, "the projection")?;
    let sizes = match node.attributes.ints("qkv_hidden_sizes")? {
        Some(sizes) if sizes.len() == 3 && sizes.iter().all(|size| *size > 0) => sizes.to_vec(),
        Some(sizes) => return Err(Fault::bad(format!("attribute `qkv_hidden_sizes` is {sizes:?}"))),
        None => vec![width / 3; 3],
    };
    let sizes = node.ints(&sizes)?;
    let split = Op::Split(Split { axis: 2, outputs: 3 });
    let parts = node.add_all(split, &[Some(projected), Some(sizes)], 3)?;
    let [q, k, v] = parts[..] else { return Err(Fault::bad("the projection has not three parts")) };
    let past = past.map(|past| past_pair(node, past)).transpose()?;
    let (batch, mut keys) = (node.dims(q)[0].clone(), node.dims(q)[1].clone());
    if let Some([past, _]) = past
        && node.rank(past) == 4
    {
        keys = keys.add(&node.dims(past)[2]);
    }
    let mask = mask.map(|mask| node.additive_mask(mask, q, &keys, &batch)).transpose()?;
    let bias = node.both(mask, added)?;
    node.attributes.ignore(&["mask_filter_value"]);
    let outputs = if node.wanted > 1 { 3 } else { 1 };
    let results = attend(node, &Operands { q, k, v, past, bias }, heads, outputs)?;
    if node.wanted < 2 {
        return Ok(results);
    }
    let axis = || Op::Unsqueeze(Unsqueeze { axes: Some(vec![0]) });
    let (k, v) = (node.add(axis(), &[results[1]])?, node.add(axis(), &[results[2]])?);
    Ok(vec![results[0], node.add(Op::Concat(Concat { axis: 0 }), &[k, v])?])
}

/// QAttention: inputs `input, weight, bias, input_scale, weight_scale, mask_index?, input_zero_point?, weight_zero_point?,
/// past?`.
pub(super) fn quantised_attention(node: &mut Node<'_, '_>) -> Outputs {
    if node.attributes.flag("do_rotary", false)? {
        return Err(Fault::unsupported("rotary embedding inside QAttention"));
    }
    node.attributes.ignore(&["past_present_share_buffer"]);
    let mut wide = |operand: usize, scale: usize, zero: usize| {
        let (x, scale) = (node.input(operand)?, node.input(scale)?);
        let op = DequantizeLinear { axis: 1, block_size: 0, to: node.dtype(scale) };
        let scale = node.trailing(scale, 0)?;
        let zero = node.optional(zero).map(|zero| node.trailing(zero, 0)).transpose()?;
        Ok::<_, Fault>(node.add_all(Op::DequantizeLinear(op), &[Some(x), Some(scale), zero], 1)?[0])
    };
    let (x, weight) = (wide(0, 3, 6)?, wide(1, 4, 7)?);
    let bias = node.input(2)?;
    let product = node.add(Op::MatMul(MatMul::default()), &[x, weight])?;
    let projected = node.binary(Binary::Add, product, bias)?;
    let (mask, past) = (node.optional(5), node.optional(8));
    projected_attention(node, projected, mask, past, None)
}
