//! The compiler driver: pipeline, compile cache, verification.
