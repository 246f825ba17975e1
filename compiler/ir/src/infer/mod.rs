//! Inference: types, known elements and guards of a node's results. One file a family, as in `lathe-ops`.

mod attention;
mod context;
mod control;
mod conv;
mod custom;
mod elementwise;
mod gather;
mod image;
pub(crate) mod known;
mod linalg;
mod linear_attention;
mod matmul;
mod ml;
mod moe;
mod norm;
mod pool;
mod position;
mod quant;
mod recurrent;
mod reduce;
mod resize;
mod sequence;
mod shape;
mod signal;
mod slice;
#[cfg(test)]
mod tests;
mod text;
mod unique;

use lathe_ops::Op;
use lathe_tensor::Encoding;

pub(crate) use context::{Context, Operand, Output};

use crate::{Function, Guard, IrError, Module, Operation, Source, ValueId};

/// What is inferred of a node.
pub(crate) struct Inferred {
    pub(crate) outputs: Vec<Output>,
    pub(crate) guards: Vec<Guard>,
}

/// What inference sees of a value.
pub(crate) fn operand(module: &Module, function: &Function, value: ValueId) -> Operand {
    let value = function.value(value);
    let constant = match value.source {
        Source::Constant(id) => Some(module.constant(id)),
        _ => None,
    };
    let dense = constant.filter(|constant| constant.encoding == Encoding::Dense);
    Operand {
        ty: value.ty.clone(),
        known: value.known.clone(),
        constant: dense.map(|constant| constant.tensor.clone()),
    }
}

/// Infers the results of an operation on operands.
pub(crate) fn infer(
    module: &Module,
    fresh_symbols: &mut u32,
    operation: &Operation,
    inputs: &[Option<Operand>],
    outputs: usize,
    node: &str,
) -> Result<Inferred, IrError> {
    let mut cx = Context { module, fresh_symbols, operation, node, inputs, outputs, guards: Vec::new() };
    if let Operation::Op(op) = operation {
        check_arity(&cx, op)?;
    }
    let mut results = match operation {
        Operation::Op(op) => infer_op(&mut cx, op)?,
        Operation::Dims { elements, scalar } => control::dims(&mut cx, elements, *scalar)?,
        Operation::If { then_branch, else_branch } => control::branches(&mut cx, *then_branch, *else_branch)?,
        Operation::Loop { body, carried } => control::repeat(&mut cx, *body, *carried)?,
        Operation::Region { body } => control::region(&mut cx, *body)?,
    };
    if results.len() < outputs || outputs == 0 {
        return Err(cx.bad(format!("has 1 to {} outputs, not {outputs}", results.len())));
    }
    results.truncate(outputs);
    if let Operation::Op(op) = operation {
        known::evaluate(&cx, op, &mut results);
    }
    for output in &mut results {
        if output.ty.dims.len() > MAX_RANK {
            return Err(cx.bad(format!("rank {} is above {MAX_RANK}", output.ty.dims.len())));
        }
        for dim in &output.ty.dims {
            if dim.is_overflow() {
                return Err(cx.bad("a size of the result overflows or is too complex an expression"));
            }
            if dim.as_constant().is_some_and(|size| size < 0) {
                return Err(cx.bad(format!("the result would have a negative size: {}", output.ty)));
            }
        }
        known::admit(output);
    }
    let guards = cx.guards;
    Ok(Inferred { outputs: results, guards })
}

/// Axes that a value may have.
pub(crate) const MAX_RANK: usize = 64;

fn check_arity(cx: &Context<'_>, op: &Op) -> Result<(), IrError> {
    let arity = op.arity();
    if cx.inputs.len() > arity.max_inputs {
        return Err(cx.bad(format!("takes at most {} inputs, not {}", arity.max_inputs, cx.inputs.len())));
    }
    if cx.outputs < arity.min_outputs || cx.outputs > arity.max_outputs {
        let (low, high) = (arity.min_outputs, arity.max_outputs);
        return Err(cx.bad(format!("has {low} to {high} outputs, not {}", cx.outputs)));
    }
    (0..arity.min_inputs).try_for_each(|index| cx.input(index).map(|_| ()))
}

fn infer_op(cx: &mut Context<'_>, op: &Op) -> Result<Vec<Output>, IrError> {
    match op {
        Op::Unary(kind) => elementwise::unary(cx, *kind),
        Op::Binary(kind) => elementwise::binary(cx, *kind),
        Op::Compare(kind) => elementwise::compare(cx, *kind),
        Op::LeakyRelu(_) | Op::HardSigmoid(_) | Op::Gelu(_) => elementwise::same_float(cx),
        Op::Clip(_) => elementwise::clip(cx),
        Op::Where(_) => elementwise::select(cx),
        Op::Cast(attributes) => elementwise::cast(cx, attributes),
        Op::BitCast(attributes) => elementwise::bit_cast(cx, attributes.to),
        Op::MatMul(_) => matmul::matmul(cx),
        Op::Linear(_) => matmul::linear(cx),
        Op::Custom(attributes) => custom::custom(cx, attributes),
        Op::Conv(attributes) => conv::conv(cx, attributes),
        Op::ConvTranspose(attributes) => conv::conv_transpose(cx, attributes),
        Op::MaxPool(attributes) => pool::max_pool(cx, attributes),
        Op::AveragePool(attributes) => pool::average_pool(cx, attributes),
        Op::DeformConv(attributes) => conv::deform_conv(cx, attributes),
        Op::LpPool(attributes) => pool::lp_pool(cx, attributes),
        Op::MaxUnpool(attributes) => pool::max_unpool(cx, attributes),
        Op::BatchNorm(attributes) => norm::batch_norm(cx, attributes),
        Op::LayerNorm(attributes) => norm::layer_norm(cx, attributes.axis),
        Op::RmsNorm(attributes) => norm::rms_norm(cx, attributes.axis),
        Op::InstanceNorm(_) => norm::instance_norm(cx),
        Op::GroupNorm(attributes) => norm::group_norm(cx, attributes),
        Op::Softmax(attributes) => norm::softmax(cx, attributes.axis),
        Op::Reduce(attributes) => reduce::reduce(cx, attributes),
        Op::ArgReduce(attributes) => reduce::arg_reduce(cx, attributes),
        Op::TopK(attributes) => reduce::top_k(cx, attributes.axis),
        Op::CumSum(_) | Op::CumProd(_) => reduce::cum_sum(cx),
        Op::Shape(attributes) => shape::shape_of(cx, attributes),
        Op::Size(_) => shape::size(cx),
        Op::Reshape(attributes) => shape::reshape(cx, attributes.allow_zero),
        Op::Squeeze(attributes) => shape::squeeze(cx, attributes.axes.as_deref()),
        Op::Unsqueeze(attributes) => shape::unsqueeze(cx, attributes.axes.as_deref()),
        Op::Transpose(attributes) => shape::transpose(cx, &attributes.perm),
        Op::Concat(attributes) => shape::concat(cx, attributes.axis),
        Op::Split(attributes) => slice::split(cx, attributes),
        Op::Slice(_) => slice::slice(cx),
        Op::Expand(_) => shape::expand(cx),
        Op::Tile(_) => slice::tile(cx),
        Op::Pad(_) => slice::pad(cx),
        Op::Range(_) => slice::range(cx),
        Op::ConstantOfShape(attributes) => shape::constant_of_shape(cx, attributes),
        Op::Trilu(_) => shape::trilu(cx),
        Op::Gather(attributes) => gather::gather(cx, attributes.axis),
        Op::GatherElements(attributes) => gather::gather_elements(cx, attributes.axis),
        Op::GatherNd(attributes) => gather::gather_nd(cx, attributes.batch_dims),
        Op::ScatterElements(attributes) => {
            gather::scatter_elements(cx, attributes.axis, attributes.reduction)
        }
        Op::ScatterNd(_) => gather::scatter_nd(cx),
        Op::NonZero(_) => gather::non_zero(cx),
        Op::Unique(attributes) => unique::unique(cx, attributes),
        Op::Det(_) => linalg::det(cx),
        Op::Dft(attributes) => signal::dft(cx, attributes),
        Op::Stft(attributes) => signal::stft(cx, attributes),
        Op::MelWeightMatrix(attributes) => signal::mel_weight_matrix(cx, attributes.to),
        Op::GridSample(_) => image::grid_sample(cx),
        Op::AffineGrid(_) => image::affine_grid(cx),
        Op::RoiAlign(attributes) => image::roi_align(cx, attributes.size),
        Op::MaxRoiPool(attributes) => image::max_roi_pool(cx, attributes.size),
        Op::NonMaxSuppression(_) => image::non_max_suppression(cx),
        Op::Col2Im(attributes) => image::col2im(cx, attributes),
        Op::ImageDecoder(attributes) => image::image_decoder(cx, attributes),
        Op::StringNormalizer(_) => text::normalizer(cx),
        Op::StringSplit(_) => text::split(cx),
        Op::StringConcat(_) => text::concat(cx),
        Op::RegexFullMatch(_) => text::full_match(cx),
        Op::TfIdf(attributes) => text::tf_idf(cx, attributes),
        Op::Lookup(_) => ml::lookup(cx),
        Op::TreeEnsemble(attributes) => ml::tree_ensemble(cx, attributes.targets),
        Op::CoupleProbabilities(attributes) => ml::couple(cx, attributes.classes),
        Op::Resize(attributes) => resize::resize(cx, attributes),
        Op::QuantizeLinear(attributes) => quant::quantize(cx, attributes),
        Op::DequantizeLinear(attributes) => quant::dequantize(cx, attributes),
        Op::DynamicQuantizeLinear(_) => quant::dynamic_quantize(cx),
        Op::MapBytes(_) => quant::map_bytes(cx),
        Op::ConvInteger(attributes) => conv::conv_integer(cx, attributes),
        Op::LinearAttention(attributes) => linear_attention::linear_attention(cx, attributes),
        Op::MatMulInteger(attributes) => quant::matmul_integer(cx, attributes),
        Op::Attention(attributes) => attention::attention(cx, attributes),
        Op::KvAppend(_) => attention::kv_append(cx),
        Op::PagedAttention(attributes) => attention::paged_attention(cx, attributes),
        Op::RotaryEmbedding(attributes) => position::rotary_embedding(cx, attributes),
        Op::Moe(attributes) => moe::moe(cx, attributes),
        Op::Append(_) => control::append(cx),
        Op::SequenceConstruct(attributes) => sequence::construct(cx, attributes),
        Op::SequenceAt(attributes) => sequence::at(cx, attributes),
        Op::SequenceInsert(_) => sequence::insert(cx),
        Op::SequenceErase(_) => sequence::erase(cx),
        Op::SplitToSequence(attributes) => sequence::split(cx, attributes),
        Op::ConcatFromSequence(attributes) => sequence::concat(cx, attributes),
        Op::Require(_) => sequence::require(cx),
        Op::Lstm(attributes) => recurrent::lstm(cx, attributes),
        Op::Rnn(attributes) => recurrent::rnn(cx, attributes),
        Op::Gru(attributes) => recurrent::gru(cx, attributes),
    }
}
