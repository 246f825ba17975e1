//! A module as data for drawings: nodes with their operands, at one point of the pipeline.

use std::collections::HashMap;

use lathe_ir::{Function, Module, Operation, Source, ValueId};
use serde_json::{Value, json};

/// The functions of a module: `[{name, inputs: [{name, type}], nodes: [{op, name, attrs, type, inputs}], outputs: [{name, from}]}]`.
/// An operand is the index of the node that makes it, the name of an input of the function, or `constant`.
pub fn snapshot(module: &Module) -> Value {
    module.functions().map(|(_, function)| describe(function)).collect()
}

fn describe(function: &Function) -> Value {
    let order = function.topological_order().unwrap_or_default();
    let places: HashMap<_, _> = order.iter().enumerate().map(|(index, id)| (*id, index)).collect();
    let operand = |value: ValueId| match function.value(value).source {
        Source::Node(node, _) => json!(places.get(&node)),
        Source::Input(_) => json!(function.value(value).name),
        Source::Constant(_) => json!("constant"),
    };
    let nodes: Vec<Value> = order
        .iter()
        .filter_map(|id| function.node(*id))
        .map(|node| {
            let attributes = match &node.operation {
                Operation::Op(op) => op.attributes(),
                _ => serde_json::Map::new(),
            };
            let types: Vec<String> =
                node.outputs.iter().map(|output| function.ty(*output).to_string()).collect();
            let inputs: Vec<Value> = node.inputs.iter().flatten().map(|value| operand(*value)).collect();
            json!({
                "op": node.operation.name(), "name": node.name, "attrs": attributes,
                "type": types.join(", "), "inputs": inputs,
            })
        })
        .collect();
    let inputs: Vec<Value> = function
        .inputs()
        .iter()
        .map(|id| json!({"name": function.value(*id).name, "type": function.ty(*id).to_string()}))
        .collect();
    let outputs: Vec<Value> =
        function.outputs().iter().map(|(name, id)| json!({"name": name, "from": operand(*id)})).collect();
    json!({"name": function.name(), "inputs": inputs, "nodes": nodes, "outputs": outputs})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_are_nodes_inputs_and_constants() {
        let text = r#"graph "main" (x: f32[n]) {
  c0 = const f32[] 2.0
  %0 = mul x, c0 // "double"
  %1 = add %0, x // "sum"
  return %1 as y
}"#;
        let module = lathe_ir::parse(text).unwrap();
        let main = &snapshot(&module)[0];
        assert_eq!(main["nodes"][0]["inputs"], json!(["x", "constant"]));
        assert_eq!(main["nodes"][1]["inputs"], json!([0, "x"]));
        assert_eq!(main["nodes"][1]["type"], "f32[n]");
        assert_eq!(main["outputs"], json!([{"name": "y", "from": 1}]));
        assert_eq!(main["inputs"], json!([{"name": "x", "type": "f32[n]"}]));
    }
}
