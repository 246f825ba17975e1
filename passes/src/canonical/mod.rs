//! Canonical passes: one form for what exporters write in many.

pub(crate) mod attention_past;
pub(crate) mod common_subexpressions;
pub(crate) mod dead_code;
pub(crate) mod fold_constants;
pub(crate) mod fold_shapes;
mod hit_experts;
pub(crate) mod merge_casts;
pub(crate) mod merge_reshapes;
pub(crate) mod merge_transposes;
pub(crate) mod no_ops;
pub(crate) mod scatter_boxes;
pub(crate) mod sink_transposes;
pub(crate) mod unroll_experts;
pub(crate) mod whole_non_zero;
