//! Suites, conformance, differential tests and house rules.

pub mod facts;
pub mod operators;
pub mod text;
