//! The plan: schedule, memory, kernels, each choice with its reason.
