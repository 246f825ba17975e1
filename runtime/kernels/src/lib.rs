//! SIMD microkernels behind the builtin table.
