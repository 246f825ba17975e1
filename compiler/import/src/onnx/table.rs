//! The operators that are read: a row each, with the opset that brought its present meaning and its handler.

use std::sync::LazyLock;

use lathe_proto::onnx::NodeProto;
use rustc_hash::FxHashMap;

use crate::error::Fault;
use crate::onnx::node::{Handler, Items, Node, Outputs};
use crate::onnx::{
    attention, constant, contrib, control, conv, custom, einsum, elementwise, gather, image, linalg, loss,
    matmul, ml, norm, optimiser, optional, pool, position, quant, random, recurrent, reduce, resize,
    sequence, shape, signal, text,
};

/// As many as there are.
pub(crate) const MANY: usize = usize::MAX;

/// The domain of classical models.
const ML: &str = "ai.onnx.ml";

/// An operator of a domain.
pub(crate) struct Row {
    pub domain: &'static str,
    pub operator: &'static str,
    /// The first opset whose meaning the handler knows.
    pub since: i64,
    /// Fewest and most operands over all opsets.
    pub inputs: (usize, usize),
    /// Fewest and most results over all opsets.
    pub outputs: (usize, usize),
    pub handler: Handler,
}

impl Row {
    /// The same operator of another domain.
    pub(crate) const fn of(self, domain: &'static str) -> Self {
        Self { domain, ..self }
    }

    /// Refuses counts that no opset allows; handlers refuse the rest.
    pub(crate) fn check_counts(&self, node: &NodeProto, inputs: usize, outputs: usize) -> Result<(), Fault> {
        let counts = [("inputs", inputs, self.inputs), ("outputs", outputs, self.outputs)];
        for (what, count, (fewest, most)) in counts {
            if count < fewest || count > most {
                let range = match most {
                    MANY => format!("at least {fewest}"),
                    most if most == fewest => format!("{most}"),
                    most => format!("{fewest} to {most}"),
                };
                let operator = self.operator;
                return Err(Fault::bad(format!("{operator} takes {range} {what}, it has {count}")));
            }
        }
        let listed = node.output.len();
        if listed > self.outputs.1 {
            return Err(Fault::bad(format!(
                "it lists {listed} outputs, {} has {}",
                self.operator, self.outputs.1
            )));
        }
        Ok(())
    }
}

pub(crate) const fn row(
    operator: &'static str,
    since: i64,
    inputs: (usize, usize),
    outputs: (usize, usize),
    handler: fn(&mut Node<'_, '_>) -> Outputs,
) -> Row {
    Row { domain: "", operator, since, inputs, outputs, handler: Handler::Tensors(handler) }
}

/// An operator that takes or gives sequences, optionals or maps.
const fn items(
    operator: &'static str,
    since: i64,
    inputs: (usize, usize),
    outputs: (usize, usize),
    handler: fn(&mut Node<'_, '_>) -> Items,
) -> Row {
    Row { domain: "", operator, since, inputs, outputs, handler: Handler::Items(handler) }
}

const fn unary(operator: &'static str, since: i64) -> Row {
    row(operator, since, (1, 1), (1, 1), elementwise::unary)
}

const fn binary(operator: &'static str, since: i64) -> Row {
    row(operator, since, (2, 2), (1, 1), elementwise::binary)
}

const fn reduction(operator: &'static str) -> Row {
    row(operator, 1, (1, 2), (1, 1), reduce::reduce)
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    unary("Acos", 7), unary("Acosh", 9), unary("Asin", 7), unary("Asinh", 9), unary("Atan", 7), unary("Atanh", 9),
    unary("BitwiseNot", 18), unary("Cosh", 9), unary("Sinh", 9), unary("Tan", 7),
    unary("Abs", 1), unary("Ceil", 1), unary("Cos", 7), unary("Erf", 9), unary("Exp", 1), unary("Floor", 1),
    unary("HardSwish", 14), unary("IsNaN", 9), unary("Log", 1), unary("Neg", 1),
    unary("Not", 1), unary("Reciprocal", 1), unary("Relu", 1), unary("Round", 11), unary("Sigmoid", 1),
    unary("Sign", 9), unary("Sin", 7), unary("Softplus", 1), unary("Sqrt", 1), unary("Tanh", 1),
    binary("BitShift", 11), binary("BitwiseAnd", 18), binary("BitwiseOr", 18), binary("BitwiseXor", 18),
    binary("Add", 1), binary("And", 1), binary("Div", 1), binary("Equal", 1), binary("Greater", 1),
    binary("GreaterOrEqual", 12), binary("Less", 1), binary("LessOrEqual", 12), binary("Mod", 10), binary("Mul", 1),
    binary("Or", 1), binary("Pow", 1), binary("Sub", 1), binary("Xor", 1),
    row("Bernoulli", 15, (1, 1), (1, 1), random::bernoulli),
    row("BitCast", 26, (1, 1), (1, 1), elementwise::bit_cast),
    row("Cast", 6, (1, 1), (1, 1), elementwise::cast),
    row("CastLike", 15, (2, 2), (1, 1), elementwise::cast_like),
    row("Celu", 12, (1, 1), (1, 1), elementwise::celu),
    row("Clip", 1, (1, 3), (1, 1), elementwise::clip),
    row("Dropout", 1, (1, 3), (1, 2), random::dropout),
    row("Elu", 1, (1, 1), (1, 1), elementwise::elu),
    row("Gelu", 20, (1, 1), (1, 1), elementwise::gelu),
    row("HardSigmoid", 1, (1, 1), (1, 1), elementwise::hard_sigmoid),
    row("IsInf", 10, (1, 1), (1, 1), elementwise::is_inf),
    row("LeakyRelu", 1, (1, 1), (1, 1), elementwise::leaky_relu),
    row("Max", 1, (1, MANY), (1, 1), elementwise::variadic),
    row("Mean", 6, (1, MANY), (1, 1), elementwise::variadic),
    row("Min", 1, (1, MANY), (1, 1), elementwise::variadic),
    row("Mish", 18, (1, 1), (1, 1), elementwise::mish),
    row("PRelu", 1, (2, 2), (1, 1), elementwise::prelu),
    row("Selu", 6, (1, 1), (1, 1), elementwise::elu),
    row("Softsign", 1, (1, 1), (1, 1), elementwise::softsign),
    row("Multinomial", 7, (1, 1), (1, 1), random::multinomial),
    row("RandomNormal", 1, (0, 0), (1, 1), random::random_normal),
    row("RandomNormalLike", 1, (1, 1), (1, 1), random::random_normal),
    row("RandomUniform", 1, (0, 0), (1, 1), random::random_uniform),
    row("RandomUniformLike", 1, (1, 1), (1, 1), random::random_uniform),
    row("Shrink", 9, (1, 1), (1, 1), elementwise::shrink),
    row("SwiGLU", 28, (2, 2), (1, 1), elementwise::swiglu),
    row("ThresholdedRelu", 10, (1, 1), (1, 1), elementwise::thresholded_relu),
    row("Sum", 6, (1, MANY), (1, 1), elementwise::variadic),
    row("Swish", 24, (1, 1), (1, 1), elementwise::swish),
    row("Where", 9, (3, 3), (1, 1), elementwise::choose),
    row("Constant", 1, (0, 0), (1, 1), constant::constant),
    row("ConstantOfShape", 9, (1, 1), (1, 1), constant::constant_of_shape),
    items("If", 1, (1, 1), (1, MANY), control::conditional),
    items("Loop", 1, (0, MANY), (1, MANY), control::repeat),
    items("Identity", 1, (1, 1), (1, 1), optional::identity),
    items("Optional", 15, (0, 1), (1, 1), optional::optional),
    items("OptionalGetElement", 15, (1, 1), (1, 1), optional::get_element),
    items("OptionalHasElement", 15, (0, 1), (1, 1), optional::has_element),
    items("SequenceAt", 11, (2, 2), (1, 1), sequence::at),
    items("SequenceConstruct", 11, (1, MANY), (1, 1), sequence::construct),
    items("SequenceEmpty", 11, (0, 0), (1, 1), sequence::empty),
    items("SequenceErase", 11, (1, 2), (1, 1), sequence::erase),
    items("SequenceInsert", 11, (2, 3), (1, 1), sequence::insert),
    items("SequenceLength", 11, (1, 1), (1, 1), sequence::length),
    items("SequenceMap", 17, (1, MANY), (1, MANY), control::sequence_map),
    items("SplitToSequence", 11, (1, 2), (1, 1), sequence::split),
    items("ConcatFromSequence", 11, (1, 1), (1, 1), sequence::concat),
    row("Scan", 8, (1, MANY), (1, MANY), control::scan),
    row("CenterCropPad", 18, (2, 2), (1, 1), shape::center_crop_pad),
    row("EyeLike", 9, (1, 1), (1, 1), shape::eye_like),
    row("Concat", 1, (1, MANY), (1, 1), shape::concat),
    row("DepthToSpace", 1, (1, 1), (1, 1), shape::depth_to_space),
    row("Expand", 8, (2, 2), (1, 1), shape::expand),
    row("Flatten", 1, (1, 1), (1, 1), shape::flatten),
    row("Pad", 2, (1, 4), (1, 1), shape::pad),
    row("Range", 11, (3, 3), (1, 1), shape::range),
    row("Reshape", 5, (2, 2), (1, 1), shape::reshape),
    row("Shape", 1, (1, 1), (1, 1), shape::shape),
    row("Size", 1, (1, 1), (1, 1), shape::size),
    row("Slice", 1, (1, 5), (1, 1), shape::slice),
    row("SpaceToDepth", 1, (1, 1), (1, 1), shape::space_to_depth),
    row("Split", 2, (1, 2), (1, MANY), shape::split),
    row("Squeeze", 1, (1, 2), (1, 1), shape::squeeze),
    row("Tile", 6, (2, 2), (1, 1), shape::tile),
    row("Transpose", 1, (1, 1), (1, 1), shape::transpose),
    row("Trilu", 14, (1, 2), (1, 1), shape::trilu),
    row("Unsqueeze", 1, (1, 2), (1, 1), shape::unsqueeze),
    row("Resize", 10, (1, 4), (1, 1), resize::resize),
    row("Upsample", 7, (1, 2), (1, 1), resize::upsample),
    row("Compress", 9, (2, 2), (1, 1), gather::compress),
    row("ReverseSequence", 10, (2, 2), (1, 1), gather::reverse_sequence),
    row("TensorScatter", 24, (2, 3), (1, 1), gather::tensor_scatter),
    row("Unique", 11, (1, 1), (1, 4), gather::unique),
    row("Gather", 1, (2, 2), (1, 1), gather::gather),
    row("GatherElements", 11, (2, 2), (1, 1), gather::gather_elements),
    row("GatherND", 11, (2, 2), (1, 1), gather::gather_nd),
    row("NonZero", 9, (1, 1), (1, 1), gather::non_zero),
    row("OneHot", 9, (3, 3), (1, 1), gather::one_hot),
    row("Scatter", 9, (3, 3), (1, 1), gather::scatter_elements),
    row("ScatterElements", 11, (3, 3), (1, 1), gather::scatter_elements),
    row("ScatterND", 11, (3, 3), (1, 1), gather::scatter_nd),
    row("Einsum", 12, (1, MANY), (1, 1), einsum::einsum),
    row("Gemm", 1, (2, 3), (1, 1), matmul::gemm),
    row("MatMul", 1, (2, 2), (1, 1), matmul::matmul),
    row("CausalConvWithState", 27, (2, 4), (1, 2), conv::causal_conv),
    row("DeformConv", 19, (3, 5), (1, 1), conv::deform_conv),
    row("Det", 11, (1, 1), (1, 1), linalg::det),
    row("Conv", 1, (2, 3), (1, 1), conv::conv),
    row("ConvTranspose", 1, (2, 3), (1, 1), conv::conv_transpose),
    row("AveragePool", 1, (1, 1), (1, 1), pool::average_pool),
    row("GlobalAveragePool", 1, (1, 1), (1, 1), pool::global),
    row("GlobalMaxPool", 1, (1, 1), (1, 1), pool::global),
    row("GlobalLpPool", 1, (1, 1), (1, 1), pool::global_lp),
    row("LpPool", 1, (1, 1), (1, 1), pool::lp_pool),
    row("MaxUnpool", 9, (2, 3), (1, 1), pool::max_unpool),
    row("AffineGrid", 20, (2, 2), (1, 1), image::affine_grid),
    row("Col2Im", 18, (3, 3), (1, 1), image::col2im),
    row("GridSample", 16, (2, 2), (1, 1), image::grid_sample),
    row("ImageDecoder", 20, (1, 1), (1, 1), image::image_decoder),
    row("MaxRoiPool", 1, (2, 2), (1, 1), image::max_roi_pool),
    row("NonMaxSuppression", 10, (2, 5), (1, 1), image::non_max_suppression),
    row("RoiAlign", 10, (3, 3), (1, 1), image::roi_align),
    row("BlackmanWindow", 17, (1, 1), (1, 1), signal::window),
    row("DFT", 17, (1, 3), (1, 1), signal::dft),
    row("HammingWindow", 17, (1, 1), (1, 1), signal::window),
    row("HannWindow", 17, (1, 1), (1, 1), signal::window),
    row("MelWeightMatrix", 17, (5, 5), (1, 1), signal::mel_weight_matrix),
    row("STFT", 17, (2, 4), (1, 1), signal::stft),
    row("NegativeLogLikelihoodLoss", 12, (2, 3), (1, 1), loss::negative_log_likelihood),
    row("SoftmaxCrossEntropyLoss", 12, (2, 3), (1, 2), loss::softmax_cross_entropy),
    row("MaxPool", 1, (1, 1), (1, 2), pool::max_pool),
    row("BatchNormalization", 1, (5, 5), (1, 5), norm::batch_norm),
    row("GroupNormalization", 18, (3, 3), (1, 1), norm::group_norm),
    row("Hardmax", 1, (1, 1), (1, 1), norm::hardmax),
    row("LRN", 1, (1, 1), (1, 1), norm::local_response),
    row("LpNormalization", 1, (1, 1), (1, 1), norm::lp_norm),
    row("MeanVarianceNormalization", 9, (1, 1), (1, 1), norm::mean_variance),
    row("InstanceNormalization", 1, (3, 3), (1, 1), norm::instance_norm),
    // onnxruntime writes it into models of any opset.
    row("LayerNormalization", 1, (2, 3), (1, 3), norm::layer_norm),
    row("LogSoftmax", 1, (1, 1), (1, 1), norm::softmax),
    row("SimplifiedLayerNormalization", 1, (2, 2), (1, 1), contrib::simplified_layer_norm),
    row("RMSNormalization", 23, (2, 2), (1, 1), norm::rms_norm),
    row("Softmax", 1, (1, 1), (1, 1), norm::softmax),
    reduction("ReduceL1"), reduction("ReduceL2"), reduction("ReduceLogSum"), reduction("ReduceLogSumExp"),
    reduction("ReduceMax"), reduction("ReduceMean"), reduction("ReduceMin"), reduction("ReduceProd"),
    reduction("ReduceSum"), reduction("ReduceSumSquare"),
    row("ArgMax", 1, (1, 1), (1, 1), reduce::arg_reduce),
    row("ArgMin", 1, (1, 1), (1, 1), reduce::arg_reduce),
    row("CumProd", 26, (2, 2), (1, 1), reduce::cum_prod),
    row("CumSum", 11, (2, 2), (1, 1), reduce::cum_sum),
    row("TopK", 1, (1, 2), (1, 2), reduce::top_k),
    row("DequantizeLinear", 10, (2, 3), (1, 1), quant::dequantize),
    row("DynamicQuantizeLinear", 11, (1, 1), (1, 3), quant::dynamic_quantize),
    row("ConvInteger", 10, (2, 4), (1, 1), quant::conv_integer),
    row("QLinearConv", 10, (8, 9), (1, 1), quant::q_linear_conv),
    row("QLinearMatMul", 10, (8, 8), (1, 1), quant::q_linear_matmul),
    row("MatMulInteger", 10, (2, 4), (1, 1), quant::matmul_integer),
    row("QuantizeLinear", 10, (2, 3), (1, 1), quant::quantize),
    row("Attention", 23, (3, 7), (1, 4), attention::attention),
    row("RotaryEmbedding", 23, (3, 4), (1, 1), position::rotary_embedding),
    row("LinearAttention", 27, (3, 6), (1, 2), attention::linear_attention),
    row("GRU", 1, (3, 6), (0, 2), recurrent::gru),
    row("LSTM", 1, (3, 8), (0, 3), recurrent::lstm),
    row("RNN", 1, (3, 6), (0, 2), recurrent::rnn),
    row("RegexFullMatch", 20, (1, 1), (1, 1), text::full_match),
    row("StringConcat", 20, (2, 2), (1, 1), text::concat),
    row("StringNormalizer", 10, (1, 1), (1, 1), text::normalizer),
    row("StringSplit", 20, (1, 1), (1, 2), text::split),
    row("TfIdfVectorizer", 9, (1, 1), (1, 1), text::tf_idf),
    items("CastMap", 1, (1, 1), (1, 1), ml::cast_map).of(ML),
    items("DictVectorizer", 1, (1, 1), (1, 1), ml::dict_vectorizer).of(ML),
    items("ZipMap", 1, (1, 1), (1, 1), ml::zip_map).of(ML),
    row("LinearClassifier", 1, (1, 1), (1, 2), ml::linear_classifier).of(ML),
    row("SVMClassifier", 1, (1, 1), (1, 2), ml::svm_classifier).of(ML),
    row("SVMRegressor", 1, (1, 1), (1, 1), ml::svm_regressor).of(ML),
    row("TreeEnsemble", 5, (1, 1), (1, 1), ml::tree_ensemble).of(ML),
    row("TreeEnsembleClassifier", 1, (1, 1), (1, 2), ml::tree_ensemble_classifier).of(ML),
    row("TreeEnsembleRegressor", 1, (1, 1), (1, 1), ml::tree_ensemble_regressor).of(ML),
    row("ArrayFeatureExtractor", 1, (2, 2), (1, 1), ml::array_feature_extractor).of(ML),
    row("Binarizer", 1, (1, 1), (1, 1), ml::binarizer).of(ML),
    row("CategoryMapper", 1, (1, 1), (1, 1), ml::category_mapper).of(ML),
    row("FeatureVectorizer", 1, (1, MANY), (1, 1), ml::feature_vectorizer).of(ML),
    row("Imputer", 1, (1, 1), (1, 1), ml::imputer).of(ML),
    row("LabelEncoder", 1, (1, 1), (1, 1), ml::label_encoder).of(ML),
    row("LinearRegressor", 1, (1, 1), (1, 1), ml::linear_regressor).of(ML),
    row("Normalizer", 1, (1, 1), (1, 1), ml::normalizer).of(ML),
    row("OneHotEncoder", 1, (1, 1), (1, 1), ml::one_hot_encoder).of(ML),
    row("Scaler", 1, (1, 1), (1, 1), ml::scaler).of(ML),
    row("FlexAttention", 1, (3, 3), (1, 1), attention::flex_attention).of("ai.onnx.preview"),
    row("Adagrad", 1, (3, MANY), (1, MANY), optimiser::adagrad).of("ai.onnx.preview.training"),
    row("Adam", 1, (3, MANY), (1, MANY), optimiser::adam).of("ai.onnx.preview.training"),
    row("Momentum", 1, (3, MANY), (1, MANY), optimiser::momentum).of("ai.onnx.preview.training"),
];

static INDEX: LazyLock<FxHashMap<(&'static str, &'static str), &'static Row>> = LazyLock::new(|| {
    let standard = ROWS.iter().map(|row| ((row.domain, row.operator), row));
    let contributed = contrib::ROWS.iter().map(|row| ((contrib::DOMAIN, row.operator), row));
    standard.chain(contributed).collect()
});

/// An operator that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operator {
    /// Its domain; that of ai.onnx is empty.
    pub domain: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The first opset of the domain whose meaning is known.
    pub since: i64,
}

/// Every operator that is read, by domain and name.
pub fn operators() -> Vec<Operator> {
    let of = |domain: &'static str, row: &Row| Operator { domain, name: row.operator, since: row.since };
    let standard = ROWS.iter().map(|row| of(row.domain, row));
    let mut operators: Vec<_> =
        standard.chain(contrib::ROWS.iter().map(|row| of(contrib::DOMAIN, row))).collect();
    operators.sort_unstable();
    operators
}

/// The row of every operator that an app brings.
pub(crate) static CUSTOM: Row = row("custom", 0, (0, MANY), (0, MANY), custom::custom);

/// The row of an operator; ai.onnx is the empty domain.
pub(crate) fn find(domain: &str, operator: &str) -> Option<&'static Row> {
    INDEX.get(&(domain, operator)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_distinct_and_found() {
        assert_eq!(INDEX.len(), ROWS.len() + contrib::ROWS.len());
        assert_eq!(find("", "Conv").map(|row| row.inputs), Some((2, 3)));
        assert!(find("com.example", "Conv").is_none());
    }
}
