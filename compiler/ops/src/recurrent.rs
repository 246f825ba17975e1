//! Recurrent layers.

use serde::{Deserialize, Serialize};

/// Attributes of [`crate::Op::Lstm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lstm {
    /// Size of the state.
    pub hidden: usize,
    /// Which way the sequence is walked.
    pub direction: Direction,
    /// Names of f, g, h for each direction; empty for the default.
    pub activations: Vec<String>,
    /// Their first parameters.
    pub activation_alpha: Vec<f64>,
    /// Their second parameters.
    pub activation_beta: Vec<f64>,
    /// Bound of the gates' inputs.
    pub clip: Option<f32>,
    /// The forget gate is one minus the input gate.
    pub input_forget: bool,
    /// `x` is `[batch, seq, input]` (layout 1).
    pub batch_first: bool,
}

/// Which way a sequence is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Direction {
    Forward,
    Reverse,
    Bidirectional,
}
