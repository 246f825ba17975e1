//! Recurrent layers.

use lathe_ops::Op;
use lathe_ops::recurrent::{Direction, Lstm};

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

/// LSTM-7 to 22.
pub(crate) fn lstm(node: &mut Node<'_, '_>) -> Outputs {
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
    // `hidden_size` may be left out: the recurrent weight `[directions, 4 * hidden, hidden]` tells.
    let hidden = match attributes.int("hidden_size")? {
        Some(hidden) => positive("hidden_size", hidden)?,
        None => {
            let last = node.dims(node.input(2)?).last().and_then(|dim| dim.as_constant());
            positive("hidden_size", last.ok_or_else(|| Fault::bad("attribute `hidden_size` is missing"))?)?
        }
    };
    let floats = |name: &str| -> Result<Vec<f64>, Fault> {
        Ok(attributes.floats(name)?.unwrap_or_default().iter().map(|&value| f64::from(value)).collect())
    };
    let op = Lstm {
        hidden,
        direction,
        activations: activations(node, 3 * directions)?,
        activation_alpha: floats("activation_alpha")?,
        activation_beta: floats("activation_beta")?,
        clip: attributes.float("clip")?,
        input_forget: attributes.flag("input_forget", false)?,
        batch_first: attributes.flag("layout", false)?,
    };
    node.direct(Op::Lstm(op))
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
