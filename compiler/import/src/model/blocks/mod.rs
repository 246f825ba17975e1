//! Blocks that families share: each builds the ops that the passes make of an exporter's decomposition.

pub(crate) mod attention;
pub(crate) mod buckets;
pub(crate) mod conv;
pub(crate) mod grids;
pub(crate) mod longformer;
pub(crate) mod mlp;
pub(crate) mod moe;
pub(crate) mod rope;
pub(crate) mod rotary;
pub(crate) mod splice;
pub(crate) mod vision;
