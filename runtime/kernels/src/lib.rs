//! SIMD microkernels behind the builtin table of [`lathe_artifact::builtin`].
//!
//! [`isa::table`] gives the addresses that generated code calls. The kernels know pointers and sizes, no graph. Each is
//! written once over [`simd`]'s 16 lanes; its bits do not depend on the number of workers.

pub mod failpoint;
mod image;
pub mod isa;
pub mod measure;

mod attention;
mod conv;
mod dynamic;
mod elementwise;
mod fourier;
mod gather;
mod kernel;
mod math;
mod matmul;
mod moe;
mod norm;
mod number;
mod pool;
mod position;
mod quant;
mod recurrent;
mod reduce;
mod resize;
mod rows;
mod scan;
mod shape;
mod simd;
mod softmax;

#[cfg(test)]
mod harness;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
