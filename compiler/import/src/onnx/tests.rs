//! Tests of whole imports, over models built here and evaluated plainly.

mod build;
mod functions;
mod mutations;
mod opsets;
mod symbols;
