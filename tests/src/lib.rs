//! Suites, conformance, differential tests and house rules.
