//! Code generation: a plan becomes position-independent machine code.
