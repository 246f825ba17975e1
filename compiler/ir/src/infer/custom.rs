//! Operators that an app brings: their own shape functions.

use lathe_ops::custom::Custom;

use super::context::{Context, Output, Outputs};
use crate::custom::CustomNode;

pub(super) fn custom(cx: &mut Context<'_>, custom: &Custom) -> Outputs {
    let inputs = cx.inputs.iter().map(|input| input.as_ref().map(|input| &input.ty)).collect();
    let node = CustomNode { inputs, outputs: cx.outputs, attributes: &custom.attributes };
    let types = match cx.module.custom().shape(custom, &node) {
        Some(Ok(types)) => types,
        Some(Err(reason)) => return Err(cx.bad(format!("{}: {reason}", custom.qualified()))),
        None => {
            let operator = custom.qualified();
            return Err(cx.unsupported(format!(
                "operator {operator} is not registered: add it to the custom operators"
            )));
        }
    };
    let mut outputs = Vec::with_capacity(types.len());
    for ty in types {
        let mut dims = Vec::with_capacity(ty.dims.len());
        for dim in ty.dims {
            dims.push(match dim {
                Some(dim) => dim,
                None => cx.fresh(),
            });
        }
        outputs.push(Output::new(ty.dtype, dims));
    }
    Ok(outputs)
}
