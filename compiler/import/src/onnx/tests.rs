//! Tests of whole imports, over models built here and evaluated plainly.

mod build;
mod custom;
mod functions;
mod ml;
mod mutations;
mod opsets;
mod quant;
mod random;
mod sequence;
mod signal;
mod symbols;
