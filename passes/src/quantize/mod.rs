//! Fewer bits: integer ops in place of floats between `dequantize_linear` and `quantize_linear`, and weights in blocks on
//! request, as those change the answer.

pub(crate) mod blocks;
mod maps;
pub(crate) mod movement;
pub(crate) mod products;
pub(crate) mod results;
pub(crate) mod tables;
pub mod weights;
