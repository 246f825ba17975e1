//! The intermediate representation: modules, functions, symbolic dims, inference and verifier.
