//! The intermediate representation.
//!
//! A [`Module`] holds constants shared by its functions; a [`Function`] is a graph of operations with ordered inputs and
//! typed outputs; a [`Dim`] is a size that may depend on symbols. `main` is the first function.
#![forbid(unsafe_code)]

mod algebra;
mod build;
mod builder;
mod custom;
mod dim;
mod edit;
#[cfg(test)]
mod edit_tests;
mod error;
mod evaluate;
#[cfg(test)]
mod evaluate_tests;
mod function;
mod graph;
mod infer;
mod module;
mod operation;
#[cfg(test)]
mod random;
mod substitute;
mod text;
mod types;
mod verify;

pub use algebra::DimAlgebra;
pub use builder::Builder;
pub use custom::{CustomNode, CustomOp, CustomOps, CustomOutput};
pub use dim::{Answer, Atom, Dim, DimParseError, Symbol, Term};
pub use edit::{Applied, Edit, EditValue};
pub use error::IrError;
pub use evaluate::{EvaluateError, EvaluateOptions, evaluate};
pub use function::{Function, Guard, GuardCondition, Node, Source, Value};
pub use module::{Constant, Module};
pub use operation::Operation;
pub use text::{Lookup, ParseError, constant_hash, parse, parse_custom, parse_with};
pub use types::{ConstantId, FunctionId, NodeId, ValueId, ValueType};
pub use verify::{VerifyError, verify};
