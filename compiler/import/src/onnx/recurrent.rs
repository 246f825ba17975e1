//! Recurrent layers.

use lathe_ops::Op;
use lathe_ops::recurrent::{Direction, Gru, Lstm, Rnn};

use crate::error::{Fault, quote};
use crate::onnx::node::{Node, Outputs, positive};

/// Activations that ONNX names.
const ACTIVATIONS: [&str; 11] = [
    "Affine",
    "Relu",
    "LeakyRelu",
    "ThresholdedRelu",
    "ScaledTanh",
    "HardSigmoid",
    "Elu",
    "Softsign",
    "Softplus",
    "Sigmoid",
    "Tanh",
];

/// What all recurrent layers have.
pub(crate) struct Layer {
    pub hidden: usize,
    pub direction: Direction,
    pub activations: Vec<String>,
    pub activation_alpha: Vec<f64>,
    pub activation_beta: Vec<f64>,
    pub clip: Option<f32>,
    pub batch_first: bool,
}

impl Layer {
    /// The attributes of a layer with so many activations a direction.
    pub(crate) fn of(node: &Node<'_, '_>, functions: usize) -> Result<Self, Fault> {
        let attributes = &node.attributes;
        let direction = attributes.choice(
            "direction",
            &[
                ("forward", Direction::Forward),
                ("reverse", Direction::Reverse),
                ("bidirectional", Direction::Bidirectional),
            ],
        )?;
        let directions = if direction == Direction::Bidirectional { 2 } else { 1 };
        // `hidden_size` may be left out: the recurrent weight `[directions, gates * hidden, hidden]` tells.
        let hidden = match attributes.int("hidden_size")? {
            Some(hidden) => positive("hidden_size", hidden)?,
            None => {
                let last = node.dims(node.input(2)?).last().and_then(|dim| dim.as_constant());
                let missing = || Fault::bad("attribute `hidden_size` is missing");
                positive("hidden_size", last.ok_or_else(missing)?)?
            }
        };
        let floats = |name: &str| -> Result<Vec<f64>, Fault> {
            Ok(attributes.floats(name)?.unwrap_or_default().iter().map(|&value| f64::from(value)).collect())
        };
        if node.opset < 7 {
            attributes.ignore(&["output_sequence"]);
        }
        Ok(Self {
            hidden,
            direction,
            activations: activations(node, functions * directions)?,
            activation_alpha: floats("activation_alpha")?,
            activation_beta: floats("activation_beta")?,
            clip: attributes.float("clip")?,
            batch_first: attributes.flag("layout", false)?,
        })
    }
}

/// LSTM-1 to 22.
pub(crate) fn lstm(node: &mut Node<'_, '_>) -> Outputs {
    let input_forget = node.attributes.flag("input_forget", false)?;
    let Layer { hidden, direction, activations, activation_alpha, activation_beta, clip, batch_first } =
        Layer::of(node, 3)?;
    node.direct(Op::Lstm(Lstm {
        hidden,
        direction,
        activations,
        activation_alpha,
        activation_beta,
        clip,
        input_forget,
        batch_first,
    }))
}

/// RNN-1 to 22.
pub(crate) fn rnn(node: &mut Node<'_, '_>) -> Outputs {
    let Layer { hidden, direction, activations, activation_alpha, activation_beta, clip, batch_first } =
        Layer::of(node, 1)?;
    node.direct(Op::Rnn(Rnn {
        hidden,
        direction,
        activations,
        activation_alpha,
        activation_beta,
        clip,
        batch_first,
    }))
}

/// GRU-1 to 22; before opset 3 there was no `linear_before_reset`.
pub(crate) fn gru(node: &mut Node<'_, '_>) -> Outputs {
    let linear_before_reset = node.attributes.flag("linear_before_reset", false)?;
    let Layer { hidden, direction, activations, activation_alpha, activation_beta, clip, batch_first } =
        Layer::of(node, 2)?;
    node.direct(Op::Gru(Gru {
        hidden,
        direction,
        activations,
        activation_alpha,
        activation_beta,
        clip,
        linear_before_reset,
        batch_first,
    }))
}

fn activations(node: &Node<'_, '_>, expected: usize) -> Result<Vec<String>, Fault> {
    let Some(names) = node.attributes.strings("activations")? else { return Ok(Vec::new()) };
    if names.len() != expected {
        return Err(Fault::bad(format!("it names {} activations, not {expected}", names.len())));
    }
    // Exporters differ in case.
    let canonical = |name: &&str| ACTIVATIONS.iter().find(|known| known.eq_ignore_ascii_case(name));
    names
        .iter()
        .map(|name| match canonical(name) {
            Some(known) => Ok(known.to_string()),
            None => Err(Fault::bad(format!(
                "unknown activation {}; known: {}",
                quote(name),
                ACTIVATIONS.join(", ")
            ))),
        })
        .collect()
}
