//! Mixtures of experts: `MoE` and `QMoE` of com.microsoft.

use lathe_ir::{Dim, Source, ValueId};
use lathe_ops::elementwise::Activation;
use lathe_ops::moe::{Clamped, Gate, Moe, Router};
use lathe_ops::quant::DequantizeLinear;
use lathe_ops::shape::Concat;
use lathe_ops::{Limits, Op};
use lathe_tensor::{Buffer, DType, Tensor};

use crate::error::{Fault, quote};
use crate::onnx::node::{Node, Outputs, positive};

/// One of the up to three layers of the experts.
#[derive(Clone, Copy, Default)]
struct Layer {
    /// `[experts, out, in]`.
    weight: Option<ValueId>,
    bias: Option<ValueId>,
}

/// MoE-1: `input, router_probs, fc1, fc1_bias?, fc2, fc2_bias?, fc3?, fc3_bias?`. The router's operand holds logits.
pub(crate) fn moe(node: &mut Node<'_, '_>) -> Outputs {
    let layer = |index: usize| Layer { weight: node.optional(index), bias: node.optional(index + 1) };
    let layers = [layer(2), layer(4), layer(6)];
    build(node, layers, false)
}

/// QMoE-1: each layer is `weight, scales, bias?` of integers of 4 or 8 bits, then come three zero points.
pub(crate) fn quantised_moe(node: &mut Node<'_, '_>) -> Outputs {
    let bits = node.attributes.int_or("expert_weight_bits", 4)?;
    let block = node.attributes.int_or("block_size", 0)?;
    let mut layers = [Layer::default(); 3];
    for (index, layer) in layers.iter_mut().enumerate() {
        let Some(weight) = node.optional(2 + 3 * index) else { continue };
        let scales = node.input(3 + 3 * index)?;
        let zeros = node.optional(11 + index);
        let weight = dequantised(node, weight, scales, zeros, (bits, block))?;
        *layer = Layer { weight: Some(weight), bias: node.optional(4 + 3 * index) };
    }
    // onnxruntime's softmax runs over the chosen experts, whatever `normalize_routing_weights` says.
    build(node, layers, true)
}

/// A constant operand.
fn constant(node: &Node<'_, '_>, value: ValueId, what: &str) -> Result<Tensor, Fault> {
    let module = &node.importer.module;
    match module.function(node.function()).value(value).source {
        Source::Constant(constant) => Ok(module.constant(constant).tensor.clone()),
        _ => Err(Fault::unsupported(format!("{what} of experts that are computed"))),
    }
}

/// `(weight - zero) * scale` by rows or blocks of rows, as a constant in the dtype of the tokens.
fn dequantised(
    node: &mut Node<'_, '_>,
    weight: ValueId,
    scales: ValueId,
    zeros: Option<ValueId>,
    (bits, block): (i64, i64),
) -> Result<ValueId, Fault> {
    let (packed, scales) = (constant(node, weight, "quantised weights")?, constant(node, scales, "scales")?);
    let (stored, per_byte, middle) = match bits {
        4 => (DType::U4, 2, 0x88),
        8 => (DType::U8, 1, 0x80),
        _ => return Err(Fault::unsupported(format!("weights of {bits} bits"))),
    };
    let &[experts, rows, bytes] = packed.shape() else {
        return Err(Fault::bad("quantised weights of experts have three axes"));
    };
    if packed.dtype() != DType::U8 {
        return Err(Fault::bad(format!("quantised weights are u8, not {}", packed.dtype())));
    }
    let columns =
        bytes.checked_mul(per_byte).ok_or_else(|| Fault::bad("its weights have too many columns"))?;
    let block = if block == 0 { columns.max(1) } else { positive("block_size", block)? };
    let blocks = columns.div_ceil(block);
    let scale_shape = [experts, rows, blocks];
    let weight = Tensor::new(stored, vec![experts, rows, columns], packed.buffer().clone())?;
    let scales = scales.reshape(&scale_shape)?;
    let zeros = match zeros {
        Some(zeros) => {
            let zeros = constant(node, zeros, "zero points")?;
            // Rows of zero points are padded to whole bytes.
            if blocks % per_byte != 0 && per_byte > 1 {
                return Err(Fault::unsupported("zero points of an odd number of blocks"));
            }
            Tensor::new(stored, scale_shape.to_vec(), zeros.buffer().clone())?
        }
        None => {
            let count = experts.checked_mul(rows).and_then(|count| count.checked_mul(blocks));
            let bytes = count.and_then(|count| stored.storage_bytes(count));
            let bytes = bytes.filter(|bytes| *bytes <= packed.bytes().len().max(16));
            let bytes = bytes.ok_or_else(|| Fault::bad("its scales do not fit its weights"))?;
            Tensor::new(stored, scale_shape.to_vec(), Buffer::copy_of(&vec![middle; bytes]))?
        }
    };
    let to = node.dtype(node.input(0)?);
    let op = Op::DequantizeLinear(DequantizeLinear { axis: 2, block_size: block, to });
    let result = op
        .evaluate(&[Some(&weight), Some(&scales), Some(&zeros)], 1, &Limits::default())
        .map_err(|error| Fault::bad(error.to_string()))?;
    let result = result.into_iter().next().ok_or_else(|| Fault::bad("its weights have no value"))?;
    Ok(node.constant(result))
}

/// How the experts' first product becomes the operand of the second.
struct Inner {
    activation: Activation,
    gate: Gate,
    clamped: Option<Clamped>,
}

fn inner(node: &Node<'_, '_>, separate: bool) -> Result<Inner, Fault> {
    let gate = if separate { Gate::Halves } else { Gate::None };
    let plain = |activation| Inner { activation, gate, clamped: None };
    Ok(match node.attributes.string("activation_type")?.unwrap_or("relu") {
        "relu" => plain(Activation::Relu),
        // onnxruntime computes it by tanh here.
        "gelu" => plain(Activation::GeluTanh),
        "silu" => plain(Activation::Silu),
        "identity" => plain(Activation::None),
        "swiglu" => {
            let gate = match (node.attributes.int_or("swiglu_fusion", 0)?, separate) {
                (0, true) | (2, false) => Gate::Halves,
                (1, false) => Gate::Interleaved,
                (fusion, _) => {
                    return Err(Fault::bad(format!("swiglu_fusion {fusion} does not fit its operands")));
                }
            };
            let alpha = node.attributes.float_or("activation_alpha", 1.0)?;
            let beta = node.attributes.float_or("activation_beta", 0.0)?;
            let limit = node.attributes.float("swiglu_limit")?;
            if beta == 0.0 && alpha == 1.0 && limit.is_none_or(f32::is_infinite) {
                return Ok(Inner { activation: Activation::Silu, gate, clamped: None });
            }
            if beta != 1.0 {
                return Err(Fault::unsupported(format!("SwiGLU with beta {beta}")));
            }
            let limit = limit.filter(|limit| limit.is_finite()).unwrap_or(f32::MAX);
            Inner { activation: Activation::None, gate, clamped: Some(Clamped { alpha, limit }) }
        }
        other => return Err(Fault::unsupported(format!("activation {} of experts", quote(other)))),
    })
}

fn build(node: &mut Node<'_, '_>, [first, second, third]: [Layer; 3], always_renormalise: bool) -> Outputs {
    node.attributes.ignore(&["activation_alpha", "activation_beta", "swiglu_fusion", "swiglu_limit"]);
    if node.attributes.flag("use_sparse_mixer", false)? {
        return Err(Fault::unsupported("the sparse mixer as a router"));
    }
    let top_k = positive("k", node.attributes.int_or("k", 1)?)?;
    let Inner { activation, gate, clamped } = inner(node, third.weight.is_some())?;
    let (x, logits) = (node.input(0)?, node.input(1)?);
    let experts = node.dims(logits).last().and_then(|dim| dim.as_constant());
    let experts = experts.and_then(|experts| usize::try_from(experts).ok());
    let experts = experts.ok_or_else(|| Fault::unsupported("a number of experts that is not constant"))?;
    let missing = |what: &str| Fault::bad(format!("the {what} layer of its experts is missing"));
    let (w_in, w_out) =
        (first.weight.ok_or_else(|| missing("first"))?, second.weight.ok_or_else(|| missing("second"))?);
    let (w_in, b_in) = match third.weight {
        None => (w_in, first.bias),
        Some(up) => {
            let join = |node: &mut Node<'_, '_>, a, b| node.add(Op::Concat(Concat { axis: 1 }), &[a, b]);
            let bias = match (first.bias, third.bias) {
                (Some(a), Some(b)) => Some(join(node, a, b)?),
                (None, None) => None,
                _ => {
                    return Err(Fault::unsupported(
                        "a bias of one of two halves of the experts' first layer",
                    ));
                }
            };
            (join(node, w_in, up)?, bias)
        }
    };
    let logits = match node.dims(x).split_last() {
        Some((_, rows)) if rows.len() != 1 && node.rank(logits) == 2 => {
            let mut dims = rows.to_vec();
            dims.push(Dim::constant(experts as i64));
            node.reshape(logits, dims)?
        }
        _ => logits,
    };
    let renormalise = node.attributes.flag("normalize_routing_weights", false)? || always_renormalise;
    let op = Moe {
        experts,
        top_k,
        router: Router::Softmax,
        renormalise,
        epsilon: 0.0,
        scale: 1.0,
        groups: None,
        capacity: None,
        activation,
        gate,
        clamped,
        transposed: true,
        shared_experts: 0,
    };
    let inputs = [Some(x), Some(logits), Some(w_in), Some(w_out), None, b_in, second.bias];
    node.add_all(Op::Moe(op), &inputs, 1)
}
