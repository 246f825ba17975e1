//! The phases: literal lists. The order within a list is the order in which passes run.

use lathe_tensor::DType;

use crate::driver::Pass;
use crate::{canonical, fuse, quantize, specialize};

/// Integers in place of floats between `dequantize_linear` and `quantize_linear`, before constants that are dequantised are folded.
pub const QUANTIZE: &[Pass<'static>] = &[
    Pass::Rule(&quantize::movement::IntegerMovement),
    Pass::Rule(&quantize::products::IntegerProducts),
    Pass::Rule(&quantize::results::IntegerResults),
    Pass::Function(&canonical::dead_code::DeadCode),
];

/// Turns exporters' habits into one form: constants and shapes folded, no-ops gone, affine maps inside weights.
pub const CANONICAL: &[Pass<'static>] = &[
    Pass::Rule(&canonical::fold_constants::FoldConstants),
    // Once its ones are constants; the copies fold as the rest does.
    Pass::Rule(&canonical::unroll_experts::UnrollExperts),
    Pass::Rule(&canonical::fold_constants::FoldConstants),
    Pass::Rule(&canonical::fold_shapes::FoldShapes),
    Pass::Rule(&canonical::whole_non_zero::WholeNonZero),
    // Sizes that turn out constant take what is computed from them along.
    Pass::Rule(&canonical::fold_constants::FoldConstants),
    // What is too large to fold stays as it is stored.
    Pass::Function(&quantize::blocks::BlockWeights),
    Pass::Rule(&canonical::no_ops::NoOps),
    Pass::Rule(&canonical::attention_past::AttentionPast),
    Pass::Rule(&canonical::merge_casts::MergeCasts),
    Pass::Rule(&canonical::merge_transposes::MergeTransposes),
    // Transposes that cancel stand between scatters.
    Pass::Rule(&canonical::no_ops::NoOps),
    Pass::Rule(&canonical::scatter_boxes::ScatterBoxes),
    // What stood around a scatter meets what stands around the concatenation.
    Pass::Rule(&canonical::merge_transposes::MergeTransposes),
    Pass::Function(&canonical::sink_transposes::SinkTransposes),
    Pass::Rule(&canonical::merge_reshapes::MergeReshapes),
    Pass::Function(&canonical::common_subexpressions::CommonSubexpressions),
    Pass::Function(&canonical::dead_code::DeadCode),
];

/// Recognises high-level ops in their decompositions.
pub const FUSE: &[Pass<'static>] = &[
    Pass::Rule(&fuse::layer_norm::LayerNormFusion),
    Pass::Rule(&fuse::rms_norm::RmsNormFusion),
    // Heads that count as tokens get an axis of their own.
    Pass::Rule(&fuse::norm_heads::NormHeads),
    Pass::Rule(&canonical::merge_reshapes::MergeReshapes),
    Pass::Rule(&fuse::rotary::RotaryFusion),
    // Each rotation made its own tables; layers, queries and keys share them.
    Pass::Function(&canonical::common_subexpressions::CommonSubexpressions),
    Pass::Rule(&fuse::rotary::facts::RotaryFacts),
    Pass::Rule(&fuse::softmax::SoftmaxFusion),
    // Before what swallows its pieces: scales into weights, masks into regions.
    Pass::Rule(&fuse::attention::AttentionFusion),
    Pass::Rule(&fuse::attention::proven::MaskProving),
    Pass::Rule(&fuse::gelu::GeluFusion),
    Pass::Rule(&fuse::silu::SiluFusion),
    Pass::Rule(&fuse::hard_swish::HardSwishFusion),
    // Needs the activations as ops, and the products not yet merged with what follows them.
    Pass::Rule(&fuse::moe::MoeFusion),
    Pass::Rule(&fuse::linear::LinearFusion),
    Pass::Rule(&fuse::batch_norm::BatchNormFolding),
    Pass::Rule(&fuse::affine::AffineFolding),
    Pass::Rule(&fuse::affine_forward::AffineForwarding),
    // After the affine maps are gone the activation is the layer's next neighbour.
    Pass::Rule(&fuse::activation::ActivationFusion),
    Pass::Rule(&fuse::residual::ResidualFusion),
    // An activation of a layer's sum with its residual.
    Pass::Rule(&fuse::activation::ActivationFusion),
    // A second round: what stood between two layers may have moved into the weights.
    Pass::Rule(&canonical::no_ops::NoOps),
    Pass::Function(&canonical::dead_code::DeadCode),
];

/// Functions for special uses beside `main`, while ops are still whole.
pub const SPECIALIZE: &[Pass<'static>] = &[
    Pass::Rule(&specialize::gqa::HeadMerging { kv_heads: None }),
    Pass::Function(&specialize::cache::Cache { dtype: DType::F32, latent: true }),
    // Each row-wise value was given its sizes anew.
    Pass::Function(&canonical::common_subexpressions::CommonSubexpressions),
    Pass::Rule(&canonical::no_ops::NoOps),
    Pass::Function(&canonical::dead_code::DeadCode),
];

/// The last step before planning: what is left of elementwise chains becomes regions, and those from bytes to bytes tables.
pub const LOWER: &[Pass<'static>] =
    &[Pass::Function(&fuse::regions::RegionFusion), Pass::Function(&quantize::tables::ByteTables)];

/// The pipeline of `compile`.
pub fn standard() -> Vec<Pass<'static>> {
    [QUANTIZE, CANONICAL, FUSE, SPECIALIZE, LOWER].concat()
}
