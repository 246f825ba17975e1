//! Fewer bits for what is computed with: on request, as they change the answer.

pub mod weights;
