//! Operators of com.microsoft, by way of the ops that everything else uses.

mod activation;
mod attention;
mod blocks;
mod cache;
mod matmul;
mod norm;
mod quant;

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::elementwise::{Activation, Binary, Clip, HardSigmoid, LeakyRelu, Unary};
use lathe_ops::shape::Slice;

use crate::error::{Fault, quote};
use crate::onnx::node::Node;
use crate::onnx::table::{MANY, Row, row};
use crate::onnx::{attention as standard, conv, moe, quant as standard_quant, shape};

pub(crate) use norm::simplified_layer_norm;

/// The domain of these operators.
pub(crate) const DOMAIN: &str = "com.microsoft";

/// Their rows; the domain is that of all.
#[rustfmt::skip]
pub(crate) const ROWS: &[Row] = &[
    row("BiasGelu", 1, (2, 2), (1, 1), activation::gelu),
    row("FastGelu", 1, (1, 2), (1, 1), activation::gelu),
    row("Gelu", 1, (1, 1), (1, 1), activation::gelu),
    row("QuickGelu", 1, (1, 1), (1, 1), activation::quick_gelu),
    row("EmbedLayerNormalization", 1, (7, 9), (1, 3), norm::embed_layer_norm),
    row("GatedRMSNorm", 1, (3, 3), (1, 1), norm::gated_rms_norm),
    row("SimplifiedLayerNormalization", 1, (2, 2), (1, 1), norm::simplified_layer_norm),
    row("SkipLayerNormalization", 1, (3, 5), (1, 4), norm::skip_layer_norm),
    row("SkipSimplifiedLayerNormalization", 1, (3, 4), (1, 4), norm::skip_layer_norm),
    row("FusedConv", 1, (2, 4), (1, 1), matmul::fused_conv),
    row("FusedGemm", 1, (2, 3), (1, 1), matmul::fused_gemm),
    row("FusedMatMul", 1, (2, 2), (1, 1), matmul::fused_matmul),
    row("GatherBlockQuantized", 1, (3, 4), (1, 1), blocks::gather),
    row("MatMulBnb4", 1, (3, 3), (1, 1), blocks::matmul_bnb4),
    row("MatMulNBits", 1, (3, 6), (1, 1), blocks::matmul_nbits),
    row("MoE", 1, (5, 8), (1, 1), moe::moe),
    row("QMoE", 1, (6, 14), (1, 1), moe::quantised_moe),
    row("Attention", 1, (2, 7), (1, 2), attention::attention),
    row("CausalConvWithState", 1, (2, 4), (1, 2), conv::causal_conv),
    row("GroupQueryAttention", 1, (1, 14), (1, 4), cache::group_query_attention),
    row("LinearAttention", 1, (3, 6), (1, 2), standard::linear_attention),
    row("MultiHeadAttention", 1, (1, 10), (1, 4), attention::multi_head_attention),
    row("QAttention", 1, (5, 9), (1, 2), attention::quantised_attention),
    row("RotaryEmbedding", 1, (4, 4), (1, 1), cache::rotary_embedding),
    row("DynamicQuantizeLSTM", 1, (9, 12), (0, 3), quant::dynamic_lstm),
    row("DynamicQuantizeMatMul", 1, (3, 5), (1, 1), quant::dynamic_matmul),
    row("MatMulIntegerToFloat", 1, (4, 7), (1, 1), quant::matmul_to_float),
    row("QGemm", 1, (6, 9), (1, 1), quant::gemm),
    row("QLinearAdd", 1, (7, 8), (1, 1), quant::binary),
    row("QLinearAveragePool", 1, (4, 5), (1, 1), quant::unary),
    row("QLinearConcat", 1, (5, MANY), (1, 1), quant::concat),
    row("QLinearGlobalAveragePool", 1, (4, 5), (1, 1), quant::unary),
    row("QLinearLeakyRelu", 1, (4, 5), (1, 1), quant::unary),
    row("QLinearMul", 1, (7, 8), (1, 1), quant::binary),
    row("QLinearSigmoid", 1, (4, 5), (1, 1), quant::unary),
    row("QLinearSoftmax", 1, (4, 5), (1, 1), quant::unary),
    row("QLinearWhere", 1, (9, 9), (1, 1), quant::choose),
    row("DequantizeLinear", 1, (2, 3), (1, 1), standard_quant::dequantize),
    row("QuantizeLinear", 1, (2, 3), (1, 1), standard_quant::quantize),
    row("Trilu", 1, (1, 2), (1, 1), shape::trilu),
    row("TransposeMatMul", 1, (2, 2), (1, 1), matmul::fused_matmul),
];

impl Node<'_, '_> {
    /// Elements `start..end` of an axis.
    fn cut(&mut self, x: ValueId, axis: i64, start: i64, end: i64) -> Result<ValueId, Fault> {
        let (start, end) = (self.ints(&[start])?, self.ints(&[end])?);
        let (axis, step) = (self.ints(&[axis])?, self.ints(&[1])?);
        self.add(Op::Slice(Slice {}), &[x, start, end, axis, step])
    }

    /// The sum with an operand that may be absent.
    fn plus(&mut self, x: ValueId, other: Option<ValueId>) -> Result<ValueId, Fault> {
        match other {
            Some(other) => self.binary(Binary::Add, x, other),
            None => Ok(x),
        }
    }

    /// A size that must be known now.
    fn known_size(&self, x: ValueId, axis: usize, what: &str) -> Result<i64, Fault> {
        let size = self.dims(x).get(axis).ok_or_else(|| Fault::bad(format!("{what} has too few axes")))?;
        size.as_constant()
            .ok_or_else(|| Fault::unsupported(format!("{what} of a size that only the run knows")))
    }

    /// A factor attribute where 0 says "not given".
    fn given_float(&self, name: &str) -> Result<Option<f32>, Fault> {
        Ok(self.attributes.float(name)?.filter(|value| *value != 0.0))
    }
}

/// The attribute `activation` of a fused operator, its parameters by position.
fn activation(node: &Node<'_, '_>, parameters: &[f32]) -> Result<Activation, Fault> {
    let parameter = |index: usize, default: f32| parameters.get(index).copied().unwrap_or(default);
    Ok(match node.attributes.string("activation")?.unwrap_or("") {
        "" => Activation::None,
        "Relu" => Activation::Relu,
        "Tanh" => Activation::Tanh,
        "Sigmoid" => Activation::Sigmoid,
        "LeakyRelu" => Activation::LeakyRelu { alpha: parameter(0, 0.01) },
        "Clip" => Activation::Clip { min: parameter(0, f32::MIN), max: parameter(1, f32::MAX) },
        "HardSigmoid" => Activation::HardSigmoid { alpha: parameter(0, 0.2), beta: parameter(1, 0.5) },
        other => return Err(Fault::unsupported(format!("the fused activation {}", quote(other)))),
    })
}

/// An activation as a node of its own.
fn activated(node: &mut Node<'_, '_>, x: ValueId, activation: &Activation) -> Result<ValueId, Fault> {
    match *activation {
        Activation::Relu => node.unary(Unary::Relu, x),
        Activation::Tanh => node.unary(Unary::Tanh, x),
        Activation::Sigmoid => node.unary(Unary::Sigmoid, x),
        Activation::LeakyRelu { alpha } => node.add(Op::LeakyRelu(LeakyRelu { alpha }), &[x]),
        Activation::HardSigmoid { alpha, beta } => {
            node.add(Op::HardSigmoid(HardSigmoid { alpha, beta }), &[x])
        }
        Activation::Clip { min, max } => {
            let (min, max) = (node.number_like(x, f64::from(min))?, node.number_like(x, f64::from(max))?);
            node.add(Op::Clip(Clip {}), &[x, min, max])
        }
        _ => Ok(x),
    }
}
