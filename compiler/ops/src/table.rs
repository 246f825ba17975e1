//! The table itself: one row an op.

use lathe_tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::elementwise::{Binary, Compare, Unary};
use crate::evaluate::{self, Arity, Evaluate, Limits};
use crate::{
    EvalError, attention, control, conv, custom, deform_conv, elementwise, gather, image, linalg,
    linear_attention, matmul, ml, moe, norm, pool, position, quant, recurrent, reduce, resize, sequence,
    shape, signal, text, unique,
};

/// Attributes that do not fit their op.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttributeError {
    /// No op of that name.
    #[error("unknown op `{0}`")]
    UnknownOp(String),
    /// The attributes cannot be read.
    #[error("attributes of `{op}`: {reason}")]
    Bad {
        /// The op.
        op: String,
        /// Why.
        reason: String,
    },
}

macro_rules! op_table {
    ($($(#[doc = $doc:literal])* $variant:ident($attributes:ty) $name:literal,)*) => {
        /// An op with its attributes.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub enum Op {
            /// An elementwise function of one operand, named by its kind.
            #[serde(rename = "unary")]
            Unary(Unary),
            /// An elementwise function of two broadcast operands, named by its kind.
            #[serde(rename = "binary")]
            Binary(Binary),
            /// A comparison of two broadcast operands, named by its kind.
            #[serde(rename = "compare")]
            Compare(Compare),
            $($(#[doc = $doc])* #[serde(rename = $name)] $variant($attributes),)*
        }

        impl Op {
            /// The names of all ops, the kinds of [`Unary`], [`Binary`] and [`Compare`] included.
            pub fn names() -> impl Iterator<Item = &'static str> {
                let kinds = Unary::ALL.iter().map(|kind| kind.name());
                let kinds = kinds.chain(Binary::ALL.iter().map(|kind| kind.name()));
                kinds.chain(Compare::ALL.iter().map(|kind| kind.name())).chain([$($name),*])
            }

            /// The name in the text form.
            pub fn name(&self) -> &'static str {
                match self {
                    Op::Unary(kind) => kind.name(),
                    Op::Binary(kind) => kind.name(),
                    Op::Compare(kind) => kind.name(),
                    $(Op::$variant(_) => $name,)*
                }
            }

            /// The attributes as JSON; empty for the kinds of [`Unary`], [`Binary`] and [`Compare`].
            pub fn attributes(&self) -> Map<String, Value> {
                let value = match self {
                    Op::Unary(_) | Op::Binary(_) | Op::Compare(_) => Ok(Value::Null),
                    $(Op::$variant(attributes) => serde_json::to_value(attributes),)*
                };
                match value {
                    Ok(Value::Object(map)) => map,
                    _ => Map::new(),
                }
            }

            /// How many inputs and outputs the op has.
            pub fn arity(&self) -> Arity {
                self.row().arity()
            }

            /// The first `outputs` outputs (at least one) from the inputs by position, `None` where an optional one
            /// is missing.
            ///
            /// # Errors
            /// Whatever does not fit the op: number, dtypes, sizes and values of the inputs; more memory than
            /// `limits` allows; cancellation. It does not panic, whatever the inputs.
            pub fn evaluate(
                &self,
                inputs: &[Option<&Tensor>],
                outputs: usize,
                limits: &Limits<'_>,
            ) -> Result<Vec<Tensor>, EvalError> {
                evaluate::run(self.name(), self.row(), inputs, outputs, limits)
            }

            fn row(&self) -> &dyn Evaluate {
                match self {
                    Op::Unary(kind) => kind,
                    Op::Binary(kind) => kind,
                    Op::Compare(kind) => kind,
                    $(Op::$variant(attributes) => attributes,)*
                }
            }

            /// The inverse of [`Op::name`] and [`Op::attributes`].
            pub fn from_attributes(name: &str, attributes: Map<String, Value>) -> Result<Self, AttributeError> {
                if let Some(kind) = Unary::from_name(name) {
                    return Ok(Op::Unary(kind));
                }
                if let Some(kind) = Binary::from_name(name) {
                    return Ok(Op::Binary(kind));
                }
                if let Some(kind) = Compare::from_name(name) {
                    return Ok(Op::Compare(kind));
                }
                match name {
                    $($name => serde_json::from_value(Value::Object(attributes)).map(Op::$variant).map_err(|error| {
                        AttributeError::Bad { op: name.to_string(), reason: error.to_string() }
                    }),)*
                    _ => Err(AttributeError::UnknownOp(name.to_string())),
                }
            }
        }
    };
}

op_table! {
    /// `x < 0 ? alpha * x : x`.
    LeakyRelu(elementwise::LeakyRelu) "leaky_relu",
    /// `clamp(alpha * x + beta, 0, 1)`.
    HardSigmoid(elementwise::HardSigmoid) "hard_sigmoid",
    /// GELU.
    Gelu(elementwise::Gelu) "gelu",
    /// `clamp(x, min, max)`; inputs `x, min?, max?`.
    Clip(elementwise::Clip) "clip",
    /// `condition ? a : b`, broadcast.
    Where(elementwise::Where) "where",
    /// Conversion of dtype.
    Cast(elementwise::Cast) "cast",
    /// The same bits under another dtype.
    BitCast(elementwise::BitCast) "bit_cast",
    /// Batched matrix product with NumPy's rules.
    MatMul(matmul::MatMul) "matmul",
    /// `activation(x @ w + bias + residual)`; inputs `x, w, bias?, residual?`.
    Linear(matmul::Linear) "linear",
    /// Convolution; inputs `x, w, bias?, residual?`.
    Conv(conv::Conv) "conv",
    /// Transposed convolution; inputs `x, w, bias?`.
    ConvTranspose(conv::ConvTranspose) "conv_transpose",
    /// Deformable convolution; inputs `x, w, offset, bias?, mask?`.
    DeformConv(deform_conv::DeformConv) "deform_conv",
    /// Max pooling; outputs `y, indices?`.
    MaxPool(pool::MaxPool) "max_pool",
    /// Average pooling.
    AveragePool(pool::AveragePool) "average_pool",
    /// The Lp norm of each window.
    LpPool(pool::LpPool) "lp_pool",
    /// The inverse of max pooling; inputs `x, indices, output_shape?`.
    MaxUnpool(pool::MaxUnpool) "max_unpool",
    /// Batch normalisation; inputs `x, scale, bias, mean, var`; outputs `y`, and in training the running statistics.
    BatchNorm(norm::BatchNorm) "batch_norm",
    /// Layer normalisation; inputs `x, scale, bias?`; outputs `y, mean?, inv_std_dev?`.
    LayerNorm(norm::LayerNorm) "layer_norm",
    /// RMS normalisation; inputs `x, scale`.
    RmsNorm(norm::RmsNorm) "rms_norm",
    /// Instance normalisation; inputs `x, scale, bias`.
    InstanceNorm(norm::InstanceNorm) "instance_norm",
    /// Group normalisation; inputs `x, scale, bias`.
    GroupNorm(norm::GroupNorm) "group_norm",
    /// Softmax or log-softmax along one axis.
    Softmax(norm::Softmax) "softmax",
    /// Reduction; inputs `x, axes?`.
    Reduce(reduce::Reduce) "reduce",
    /// Index of the extreme along an axis.
    ArgReduce(reduce::ArgReduce) "arg_reduce",
    /// Largest or smallest `k` along an axis; inputs `x, k`; outputs `values, indices`.
    TopK(reduce::TopK) "top_k",
    /// Running sum; inputs `x, axis`.
    CumSum(reduce::CumSum) "cum_sum",
    /// Running product; inputs `x, axis`.
    CumProd(reduce::CumProd) "cum_prod",
    /// The sizes of `x` as i64.
    Shape(shape::ShapeOf) "shape",
    /// The number of elements of `x` as an i64 scalar.
    Size(shape::Size) "size",
    /// Same elements, new shape; inputs `x, shape`.
    Reshape(shape::Reshape) "reshape",
    /// Removes axes of size 1; inputs `x, axes?`.
    Squeeze(shape::Squeeze) "squeeze",
    /// Inserts axes of size 1; inputs `x, axes?`.
    Unsqueeze(shape::Unsqueeze) "unsqueeze",
    /// Permutes axes.
    Transpose(shape::Transpose) "transpose",
    /// Joins tensors along an axis.
    Concat(shape::Concat) "concat",
    /// Cuts a tensor along an axis; inputs `x, sizes?`.
    Split(shape::Split) "split",
    /// A strided box; inputs `x, starts, ends, axes, steps`, the last two always given.
    Slice(shape::Slice) "slice",
    /// Broadcasts to a shape; inputs `x, shape`.
    Expand(shape::Expand) "expand",
    /// Repeats along axes; inputs `x, repeats`.
    Tile(shape::Tile) "tile",
    /// Pads or crops; inputs `x, pads, value?, axes?`.
    Pad(shape::Pad) "pad",
    /// `start, start + delta, ...` below `limit`; inputs `start, limit, delta`.
    Range(shape::Range) "range",
    /// One value everywhere; inputs `shape`.
    ConstantOfShape(shape::ConstantOfShape) "constant_of_shape",
    /// Upper or lower triangle; inputs `x, k?`.
    Trilu(shape::Trilu) "trilu",
    /// Slices by index along an axis; inputs `x, indices`.
    Gather(gather::Gather) "gather",
    /// Elements by index along an axis; inputs `x, indices`.
    GatherElements(gather::GatherElements) "gather_elements",
    /// Slices by index tuple; inputs `x, indices`.
    GatherNd(gather::GatherNd) "gather_nd",
    /// Writes elements by index along an axis; inputs `x, indices, updates`.
    ScatterElements(gather::ScatterElements) "scatter_elements",
    /// Writes slices by index tuple; inputs `x, indices, updates`.
    ScatterNd(gather::ScatterNd) "scatter_nd",
    /// Indices of the nonzero elements `[rank, count]`.
    NonZero(gather::NonZero) "non_zero",
    /// Distinct elements or slices; outputs `y, first?, inverse?, counts?`.
    Unique(unique::Unique) "unique",
    /// Determinants of square matrices.
    Det(linalg::Det) "det",
    /// Discrete Fourier transform; inputs `x, length?`.
    Dft(signal::Dft) "dft",
    /// Fourier transforms of windows of a signal; inputs `x, step, window?, length?`.
    Stft(signal::Stft) "stft",
    /// Mel filters; inputs `bins, dft_length, sample_rate, lower_edge, upper_edge`.
    MelWeightMatrix(signal::MelWeightMatrix) "mel_weight_matrix",
    /// A picture at points; inputs `x, grid`.
    GridSample(image::GridSample) "grid_sample",
    /// Points of a moved regular grid; inputs `theta, size`.
    AffineGrid(image::AffineGrid) "affine_grid",
    /// Regions of a picture, resampled; inputs `x, boxes, batch_indices`.
    RoiAlign(image::RoiAlign) "roi_align",
    /// Largest pixels of regions; inputs `x, regions`.
    MaxRoiPool(image::MaxRoiPool) "max_roi_pool",
    /// Boxes that overlap no better one; inputs `boxes, scores, max_boxes?, iou_threshold?, score_threshold?`.
    NonMaxSuppression(image::NonMaxSuppression) "non_max_suppression",
    /// Columns to a picture; inputs `x, image_shape, block_shape`.
    Col2Im(image::Col2Im) "col2im",
    /// Pixels of a picture file.
    ImageDecoder(image::ImageDecoder) "image_decoder",
    /// Words without stop words, in one case.
    StringNormalizer(text::StringNormalizer) "string_normalizer",
    /// Parts of strings; outputs `parts, counts?`.
    StringSplit(text::StringSplit) "string_split",
    /// `a` followed by `b`, broadcast.
    StringConcat(text::StringConcat) "string_concat",
    /// Whether whole strings match an expression.
    RegexFullMatch(text::RegexFullMatch) "regex_full_match",
    /// Weighted counts of n-grams.
    TfIdf(text::TfIdf) "tf_idf",
    /// Values by key; inputs `x, keys, values, default`.
    Lookup(ml::Lookup) "lookup",
    /// Votes of decision trees; inputs `x, features, modes, splits, children, missing, members, member_ends, roots, leaf_ends, targets,
    /// weights`.
    TreeEnsemble(ml::tree::TreeEnsemble) "tree_ensemble",
    /// Probabilities of classes from those of pairs of classes.
    CoupleProbabilities(ml::couple::CoupleProbabilities) "couple_probabilities",
    /// Resampling; inputs `x, roi?, scales?, sizes?`.
    Resize(resize::Resize) "resize",
    /// Float to integer; inputs `x, scale, zero_point?`.
    QuantizeLinear(quant::QuantizeLinear) "quantize_linear",
    /// Integer to float; inputs `x, scale, zero_point?`.
    DequantizeLinear(quant::DequantizeLinear) "dequantize_linear",
    /// Float to u8 with a computed scale; outputs `y, scale, zero_point`.
    DynamicQuantizeLinear(quant::DynamicQuantizeLinear) "dynamic_quantize_linear",
    /// Bytes (u8 or i8) by a table of 256 bytes, at the place of the bits of each.
    MapBytes(quant::MapBytes) "map_bytes",
    /// Integer matrix product; inputs `a, b, a_zero_point?, b_zero_point?, bias?, scale?, y_zero_point?`.
    MatMulInteger(quant::MatMulInteger) "matmul_integer",
    /// Integer convolution; inputs `x, w, x_zero_point?, w_zero_point?, bias?, scale?, y_zero_point?`.
    ConvInteger(quant::ConvInteger) "conv_integer",
    /// Linear attention; inputs `q, k, v, past?, decay?, rate?`; outputs `y, present?`.
    LinearAttention(linear_attention::LinearAttention) "linear_attention",
    /// Attention; inputs `q, k, v, mask?, past_key?, past_value?, nonpad_kv_seq_len?, key_padding?, alibi_slopes?,
    /// alibi_positions?, sinks?`; outputs `y, present_key?, present_value?, qk?`.
    Attention(attention::Attention) "attention",
    /// Writes keys and values into the pages of a cache; inputs `state, k, v, position, seq_start, block_table`.
    KvAppend(attention::paged::KvAppend) "kv_append",
    /// Attention of packed rows over a paged cache; inputs `q, state, position, seq_start, context_len, block_table, bias?,
    /// alibi_slopes?, sinks?`.
    PagedAttention(attention::paged::PagedAttention) "paged_attention",
    /// Rotary position embedding; inputs `x, cos, sin, position_ids?`.
    RotaryEmbedding(position::RotaryEmbedding) "rotary_embedding",
    /// Mixture of experts; inputs `x, logits, w_in, w_out, selection_bias?, b_in?, b_out?`; outputs `y, load?, dropped?, balance?`.
    Moe(moe::Moe) "moe",
    /// `rows [count, ...]` with `row [...]` after them; inputs `rows, row`.
    Append(control::Append) "append",
    /// Tensors as a sequence; inputs the tensors; outputs `elements, sizes, layout`.
    SequenceConstruct(sequence::SequenceConstruct) "sequence_construct",
    /// A tensor of a sequence; inputs `elements, sizes, layout, position`.
    SequenceAt(sequence::SequenceAt) "sequence_at",
    /// A sequence with one more tensor; inputs `elements, sizes, layout, x, position?`; outputs `elements, sizes, layout`.
    SequenceInsert(sequence::SequenceInsert) "sequence_insert",
    /// A sequence with one tensor less; inputs `elements, sizes, layout, position?`; outputs `elements, sizes, layout`.
    SequenceErase(sequence::SequenceErase) "sequence_erase",
    /// Pieces of a tensor along an axis; inputs `x, split?`; outputs `elements, sizes, layout`.
    SplitToSequence(sequence::SplitToSequence) "split_to_sequence",
    /// The tensors of a sequence joined along an axis; inputs `elements, sizes, layout`.
    ConcatFromSequence(sequence::ConcatFromSequence) "concat_from_sequence",
    /// `x` where a condition holds, else an error; inputs `x, condition`.
    Require(sequence::Require) "require",
    /// LSTM; inputs `x, w, r, b?, sequence_lens?, initial_h?, initial_c?, p?`; outputs `y?, y_h?, y_c?`.
    Lstm(recurrent::Lstm) "lstm",
    /// Plain recurrent layer; inputs `x, w, r, b?, sequence_lens?, initial_h?`; outputs `y?, y_h?`.
    Rnn(recurrent::Rnn) "rnn",
    /// GRU; inputs `x, w, r, b?, sequence_lens?, initial_h?`; outputs `y?, y_h?`.
    Gru(recurrent::Gru) "gru",
    /// An operator that an app brings.
    Custom(custom::Custom) "custom",
}
