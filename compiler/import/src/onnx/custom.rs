//! Operators that an app brings.

use lathe_ops::Op;
use lathe_ops::custom::Custom;
use lathe_proto::onnx::AttributeProto;
use lathe_proto::onnx::attribute_proto::AttributeType;
use serde_json::{Map, Value};

use crate::error::{Fault, quote};
use crate::onnx::attributes::kind;
use crate::onnx::functions::domain;
use crate::onnx::node::{Node, Outputs};

/// A node of a registered operator: its attributes as they are.
pub(crate) fn custom(node: &mut Node<'_, '_>) -> Outputs {
    let mut attributes = Map::new();
    let mut names = Vec::new();
    for (name, attribute) in node.attributes.iter() {
        attributes.insert(name.to_string(), value(name, attribute)?);
        names.push(name);
    }
    node.attributes.ignore(&names);
    let custom = Custom {
        domain: domain(node.node.domain()).to_string(),
        operator: node.operator().to_string(),
        attributes,
    };
    node.direct(Op::Custom(custom))
}

fn value(name: &str, attribute: &AttributeProto) -> Result<Value, Fault> {
    let unfit =
        |what: &str| Fault::unsupported(format!("attribute {} of a custom operator: {what}", quote(name)));
    let float = |value: f32| match value.is_finite() {
        true => Ok(Value::from(value)),
        false => Err(unfit("a number that is not finite")),
    };
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Value::from(text)),
        Err(_) => Err(unfit("a string that is not UTF-8")),
    };
    Ok(match kind(attribute)? {
        AttributeType::Int => Value::from(attribute.i()),
        AttributeType::Float => float(attribute.f())?,
        AttributeType::String => text(attribute.s())?,
        AttributeType::Ints => Value::from(&attribute.ints[..]),
        AttributeType::Floats => {
            attribute.floats.iter().map(|&value| float(value)).collect::<Result<_, _>>()?
        }
        AttributeType::Strings => {
            attribute.strings.iter().map(|string| text(string)).collect::<Result<_, _>>()?
        }
        _ => {
            return Err(unfit(
                "only numbers, strings and lists of them are passed on; make a tensor an input",
            ));
        }
    })
}
