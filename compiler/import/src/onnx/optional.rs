//! Optionals: a flag and what it speaks of.

use lathe_ops::elementwise::Unary;
use lathe_tensor::Tensor;
use lathe_tensor::value::Form;

use crate::error::Fault;
use crate::onnx::item::Item;
use crate::onnx::node::{Items, Node};
use crate::onnx::types;

/// Identity-1 to 25, of any kind of value.
pub(crate) fn identity(node: &mut Node<'_, '_>) -> Items {
    match node.item(0)? {
        Item::Tensor(x) => Ok(vec![node.unary(Unary::Identity, x)?.into()]),
        other => Ok(vec![other]),
    }
}

/// Optional-15: of a value, or of nothing, whose type the attribute `type` says.
pub(crate) fn optional(node: &mut Node<'_, '_>) -> Items {
    let ty = node.attributes.type_proto("type")?;
    if let Ok(item) = node.item(0) {
        let form = match node.form(&item) {
            Form::Optional(_) => return Err(Fault::bad("an optional of an optional")),
            form => Form::Optional(Box::new(form)),
        };
        return Ok(vec![node.convert(&item, &form)?]);
    }
    let content = match ty {
        Some(ty) => types::form(ty)?.unwrap_or(Form::Nothing),
        None => return Err(Fault::bad("it has neither an input nor the attribute `type`")),
    };
    let form = Form::Optional(Box::new(content));
    let parts = form.absent()?.into_iter().map(|tensor| node.constant(tensor)).collect();
    Ok(vec![Item::new(form, parts)])
}

/// OptionalGetElement-15 and 18, 28.
pub(crate) fn get_element(node: &mut Node<'_, '_>) -> Items {
    let item = node.item(0)?;
    if node.opset < 18 && !matches!(node.form(&item), Form::Optional(_)) {
        return Err(Fault::bad("its input is no optional, as opsets below 18 ask for"));
    }
    let name = node.name.clone();
    Ok(vec![node.importer.content(node.frame.function, &item, &name)?])
}

/// OptionalHasElement-15 and 18, 28: of an operand that is left out, false.
pub(crate) fn has_element(node: &mut Node<'_, '_>) -> Items {
    let Ok(item) = node.item(0) else {
        return Ok(vec![node.constant(Tensor::from_bools(&[false], &[])?).into()]);
    };
    let flag = match (node.form(&item), item.parts().first()) {
        (Form::Optional(_), Some(&present)) => node.unary(Unary::Identity, present)?,
        _ => node.constant(Tensor::from_bools(&[true], &[])?),
    };
    Ok(vec![flag.into()])
}
