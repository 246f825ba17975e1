//! Which step a node becomes. One file a family; a rule emits steps, makes a view, or refuses with a reason, and then the
//! op is evaluated.

mod attention;
mod conv;
mod dynamic;
mod elementwise;
mod gather;
mod image;
mod matmul;
mod moe;
mod norm;
mod pad;
mod pool;
mod position;
mod quant;
mod recurrent;
mod reduce;
mod resize;
mod resize_axes;
mod shape;
mod signal;

use lathe_artifact::builtin::Number;
use lathe_ir::{FunctionId, Node, NodeId, Operation, ValueId};
use lathe_ops::Op;
use lathe_tensor::DType;

use crate::error::{Refusal, refuse};
use crate::scope::Context;
use crate::size::Size;

/// Steps for a node.
pub(crate) fn node(context: &mut Context<'_, '_>, id: NodeId, node: &Node) -> Result<(), Refusal> {
    match &node.operation {
        Operation::Op(op) => select(context, id, node, op),
        Operation::Region { body } => region(context, node, *body),
        Operation::Dims { elements, .. } => shape::dims(context, node, elements),
        Operation::If { .. } | Operation::Loop { .. } => {
            Err(context.planner.bug("control flow is planned by the walk").into())
        }
    }
}

/// A fused region: a builtin where one computes it, else a loop.
fn region(context: &mut Context<'_, '_>, node: &Node, body: FunctionId) -> Result<(), Refusal> {
    if context.planner.options.native {
        match quant::region(context, node, body) {
            Err(Refusal::Evaluate(_)) => {}
            done => return done,
        }
    }
    elementwise::region(context, node, body)
}

fn select(context: &mut Context<'_, '_>, id: NodeId, node: &Node, op: &Op) -> Result<(), Refusal> {
    // Strings lie beside the memory of the run, where only evaluator steps reach them.
    if node.inputs.iter().flatten().chain(&node.outputs).any(|value| context.dtype(*value) == DType::String) {
        return refuse("strings have no address");
    }
    match op {
        Op::Unary(lathe_ops::elementwise::Unary::Identity) => shape::same(context, node),
        Op::Unary(_)
        | Op::Binary(_)
        | Op::Compare(_)
        | Op::LeakyRelu(_)
        | Op::HardSigmoid(_)
        | Op::Gelu(_)
        | Op::Clip(_)
        | Op::Where(_)
        | Op::Cast(_) => elementwise::single(context, node, op),
        Op::MatMul(product) => matmul::matmul(context, node, product),
        Op::Linear(linear) => matmul::linear(context, node, linear),
        Op::Conv(conv) => conv::conv(context, node, conv),
        Op::ConvTranspose(conv) => conv::conv_transpose(context, node, conv),
        Op::MaxPool(pool) => pool::max(context, node, pool),
        Op::AveragePool(pool) => pool::average(context, node, pool),
        Op::BatchNorm(norm) => norm::batch_norm(context, node, norm),
        Op::LayerNorm(norm) => norm::layer_norm(context, node, norm),
        Op::RmsNorm(norm) => norm::rms_norm(context, node, norm),
        Op::RotaryEmbedding(rotary) => position::rotary_embedding(context, node, rotary),
        Op::InstanceNorm(norm) => norm::instance_norm(context, node, norm.epsilon),
        Op::GroupNorm(norm) => norm::group_norm(context, node, norm),
        Op::Softmax(softmax) => norm::softmax(context, node, softmax),
        Op::Reduce(reduce) => reduce::reduce(context, node, reduce),
        Op::ArgReduce(reduce) => reduce::arg_reduce(context, node, reduce),
        Op::TopK(top_k) => reduce::top_k(context, node, top_k),
        Op::CumSum(sum) => reduce::cum_sum(context, node, sum),
        Op::Dft(transform) => signal::dft(context, node, transform),
        Op::Stft(transform) => signal::stft(context, node, transform),
        Op::Shape(_) | Op::Size(_) => shape::sizes(context, node, op),
        Op::Reshape(_) | Op::Squeeze(_) | Op::Unsqueeze(_) => shape::reshape(context, node),
        Op::Transpose(transpose) => shape::transpose(context, node, transpose),
        Op::Concat(concat) => shape::concat(context, id, node, concat),
        Op::Split(split) => shape::split(context, node, split),
        Op::Slice(_) => shape::slice(context, node),
        Op::Expand(_) => shape::expand(context, node),
        Op::Tile(_) => shape::tile(context, node),
        Op::Pad(pad) => pad::pad(context, node, pad),
        Op::Range(_) => shape::range(context, node),
        Op::ConstantOfShape(constant) => shape::constant_of_shape(context, node, constant),
        Op::Trilu(trilu) => shape::trilu(context, node, trilu),
        Op::Gather(gather) => gather::gather(context, node, gather),
        Op::GatherElements(gather) => gather::gather_elements(context, node, gather),
        Op::GatherNd(gather) => gather::gather_nd(context, node, gather),
        Op::ScatterElements(scatter) => gather::scatter_elements(context, node, scatter),
        Op::ScatterNd(scatter) => gather::scatter_nd(context, node, scatter),
        Op::Resize(resize) => resize::resize(context, node, resize),
        Op::Attention(op) => attention::attention(context, node, op),
        Op::KvAppend(_) => attention::kv_append(context, node),
        Op::PagedAttention(op) => attention::paged_attention(context, node, op),
        Op::Moe(moe) => moe::moe(context, node, moe),
        Op::QuantizeLinear(quantize) => quant::quantize(context, node, quantize),
        Op::DequantizeLinear(dequantize) => quant::dequantize(context, node, dequantize),
        Op::DynamicQuantizeLinear(_) => quant::dynamic_quantize(context, node),
        Op::MatMulInteger(product) => quant::matmul_integer(context, node, product),
        Op::MapBytes(_) => quant::map_bytes(context, node),
        Op::ConvInteger(conv) => quant::conv_integer(context, node, conv),
        Op::Lstm(lstm) => recurrent::lstm(context, node, lstm),
        Op::Gru(gru) => recurrent::gru(context, node, gru),
        Op::Rnn(rnn) => recurrent::rnn(context, node, rnn),
        Op::GridSample(sample) => image::grid_sample(context, node, sample),
        Op::RoiAlign(roi) => image::roi_align(context, node, roi),
        _ => refuse("no builtin for this op"),
    }
}

/// Steps for a node whose result has sizes that depend on data.
pub(crate) fn dynamic(context: &mut Context<'_, '_>, node: &Node) -> Result<(), Refusal> {
    match &node.operation {
        Operation::Op(Op::NonZero(_)) => dynamic::non_zero(context, node),
        Operation::Op(Op::Expand(_)) => dynamic::expand(context, node),
        Operation::Op(Op::TopK(top_k)) => dynamic::top_k(context, node, top_k),
        Operation::Op(Op::Resize(resize)) => resize_axes::computed_sizes(context, node, resize),
        Operation::Op(Op::NonMaxSuppression(suppression)) => {
            image::non_max_suppression(context, node, suppression)
        }
        _ => refuse("its sizes depend on data"),
    }
}

/// An axis that may count from the end.
pub(crate) fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}

impl Context<'_, '_> {
    /// Operand `index` of a node, where it is given.
    pub fn operand(&self, node: &Node, index: usize) -> Option<ValueId> {
        node.inputs.get(index).copied().flatten()
    }

    /// Operand `index`, which the op requires.
    pub fn required(&self, node: &Node, index: usize) -> Result<ValueId, Refusal> {
        self.operand(node, index)
            .ok_or_else(|| self.planner.bug(format!("operand {index} is missing")).into())
    }

    /// Output `index`.
    pub fn output(&self, node: &Node, index: usize) -> Result<ValueId, Refusal> {
        node.outputs.get(index).copied().ok_or_else(|| self.planner.bug(format!("no output {index}")).into())
    }

    /// Dtype of a value.
    pub fn dtype(&self, value: ValueId) -> DType {
        self.scope.function.ty(value).dtype
    }

    /// The code of a value's dtype for the builtins of several dtypes.
    pub fn number(&self, value: ValueId) -> Result<Number, Refusal> {
        match self.dtype(value) {
            DType::F32 => Ok(Number::F32),
            DType::I32 => Ok(Number::I32),
            DType::I64 => Ok(Number::I64),
            DType::U8 => Ok(Number::U8),
            DType::I8 => Ok(Number::I8),
            DType::F64 => Ok(Number::F64),
            DType::U64 => Ok(Number::U64),
            DType::U32 => Ok(Number::U32),
            DType::I16 => Ok(Number::I16),
            DType::U16 => Ok(Number::U16),
            other => refuse(format!("no builtin for {other} operands")),
        }
    }

    /// The same with the narrow floats, for builtins that widen them.
    pub fn wide_number(&self, value: ValueId) -> Result<Number, Refusal> {
        match self.dtype(value) {
            DType::F16 => Ok(Number::F16),
            DType::BF16 => Ok(Number::BF16),
            _ => self.number(value),
        }
    }

    /// Bytes of a value's elements.
    pub fn element_bytes(&self, value: ValueId) -> Result<usize, Refusal> {
        match self.dtype(value).element_bytes() {
            Some(bytes @ (1 | 2 | 4 | 8)) => Ok(bytes),
            _ => refuse(format!("{} elements have no address", self.dtype(value))),
        }
    }

    /// Refuses unless the operands given are all f32.
    pub fn require_f32(&self, node: &Node) -> Result<(), Refusal> {
        match node.inputs.iter().flatten().find(|value| self.dtype(**value) != DType::F32) {
            Some(value) => refuse(format!("no builtin for {} operands", self.dtype(*value))),
            None => Ok(()),
        }
    }

    /// Refuses where an output beyond the first is used.
    pub fn require_one_output(&self, node: &Node) -> Result<(), Refusal> {
        if node.outputs.iter().skip(1).any(|output| self.scope.remaining[output.index()] > 0) {
            return refuse("the builtin makes the first output only");
        }
        Ok(())
    }

    /// Products of the sizes before, at and after an axis.
    pub fn around(&mut self, dims: &[Size], axis: usize) -> (Size, Size, Size) {
        let outer = self.planner.sizes.product(&dims[..axis]);
        let inner = self.planner.sizes.product(&dims[axis + 1..]);
        (outer, dims[axis], inner)
    }
}
