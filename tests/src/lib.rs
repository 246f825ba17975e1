//! Suites, conformance, differential tests and house rules.

pub mod operators;
