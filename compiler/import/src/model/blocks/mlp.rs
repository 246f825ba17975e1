//! Feed-forward blocks: plain, gated, and experts.

use lathe_ir::ValueId;

use super::moe::Experts;
use crate::error::Fault;
use crate::model::net::{Activation, Linear, Net};

/// What stands behind an attention.
#[derive(Clone, Debug)]
pub(crate) enum Feed {
    /// `down(act(up(x)))`.
    Plain {
        /// Into the inner width.
        up: Linear,
        /// Out of it.
        down: Linear,
        /// Between them.
        activation: Activation,
        /// The inner width.
        inner: usize,
    },
    /// `down(act(gate(x)) * up(x))` (Shazeer, "GLU variants improve transformer", 2020).
    Gated(Gated),
    /// The best of many.
    Experts(Box<Experts>),
}

/// A gated feed-forward.
#[derive(Clone, Debug)]
pub(crate) struct Gated {
    /// The matrices that lead in.
    pub input: GateInput,
    /// The matrix that leads out.
    pub down: Linear,
    /// Applied to the gate.
    pub activation: Activation,
    /// The inner width.
    pub inner: usize,
}

/// The matrices that lead into a gated feed-forward.
#[derive(Clone, Debug)]
pub(crate) enum GateInput {
    /// Two matrices.
    Separate {
        /// What is activated.
        gate: Linear,
        /// What is not.
        up: Linear,
    },
    /// One matrix with the gate in its first half.
    Merged(Linear),
}

impl Gated {
    /// `gate_proj`, `up_proj`, `down_proj` below a prefix, as LLaMA names them.
    pub(crate) fn llama(prefix: &str, activation: Activation, inner: usize, bias: bool) -> Self {
        let named = |name: &str| Linear::new(format!("{prefix}.{name}"), bias);
        let input = GateInput::Separate { gate: named("gate_proj"), up: named("up_proj") };
        Self { input, down: named("down_proj"), activation, inner }
    }

    /// Builds it for rows of `width`.
    pub(crate) fn build(&self, net: &mut Net<'_>, x: ValueId, width: usize) -> Result<ValueId, Fault> {
        let (gate, up) = match &self.input {
            GateInput::Separate { gate, up } => {
                (net.linear(x, gate, width, self.inner)?, net.linear(x, up, width, self.inner)?)
            }
            GateInput::Merged(both) => {
                let both = net.linear(x, both, width, 2 * self.inner)?;
                let halves = net.split(both, &[self.inner, self.inner])?;
                (halves[0], halves[1])
            }
        };
        let gate = net.activate(gate, self.activation)?;
        let product = net.b.mul(gate, up)?;
        net.linear(product, &self.down, self.inner, width)
    }
}

impl Feed {
    /// Builds it for rows of `width`.
    pub(crate) fn build(&self, net: &mut Net<'_>, x: ValueId, width: usize) -> Result<ValueId, Fault> {
        match self {
            Feed::Plain { up, down, activation, inner } => {
                let hidden = net.linear(x, up, width, *inner)?;
                let hidden = net.activate(hidden, *activation)?;
                net.linear(hidden, down, *inner, width)
            }
            Feed::Gated(gated) => gated.build(net, x, width),
            Feed::Experts(experts) => experts.build(net, x, width),
        }
    }
}
