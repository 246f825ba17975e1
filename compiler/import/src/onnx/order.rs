//! The order of a graph's nodes, and the names that a body takes from outside.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use lathe_proto::onnx::{GraphProto, NodeProto};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::{Fault, quote};
use crate::onnx::functions::{MAX_DEPTH, describe};

/// The bodies in a node's attributes.
fn bodies(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
}

/// Names that a body uses and does not define, each once, in order of use.
pub(crate) fn captures(graph: &GraphProto) -> Result<Vec<&str>, Fault> {
    captures_below(graph, 0)
}

fn captures_below(graph: &GraphProto, depth: usize) -> Result<Vec<&str>, Fault> {
    if depth > MAX_DEPTH {
        return Err(Fault::resource(format!("bodies stand in one another over {MAX_DEPTH} deep")));
    }
    let mut seen: FxHashSet<&str> = graph.input.iter().map(|input| input.name()).collect();
    seen.extend(graph.initializer.iter().map(|tensor| tensor.name()));
    seen.extend(graph.sparse_initializer.iter().filter_map(|tensor| Some(tensor.values.as_ref()?.name())));
    seen.extend(graph.node.iter().flat_map(|node| &node.output).map(String::as_str));
    seen.insert("");
    let mut captured = Vec::new();
    let mut note = |name| {
        if seen.insert(name) {
            captured.push(name);
        }
    };
    for node in &graph.node {
        node.input.iter().for_each(|name| note(name));
        for body in bodies(node) {
            captures_below(body, depth + 1)?.into_iter().for_each(&mut note);
        }
    }
    graph.output.iter().for_each(|output| note(output.name()));
    Ok(captured)
}

/// Indices of the nodes so that each comes after what it uses, in file order where that allows.
///
/// # Errors
/// A name defined twice, a name that nothing defines (`bound` says which are defined outside), a cycle.
pub(crate) fn order(nodes: &[NodeProto], bound: impl Fn(&str) -> bool) -> Result<Vec<usize>, Fault> {
    let producers = producers(nodes, &bound)?;
    let mut waiting = vec![0usize; nodes.len()];
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        let mut depend = |name: &str| match producers.get(name) {
            Some(&producer) => {
                waiting[index] += 1;
                users[producer].push(index);
                Ok(())
            }
            None if name.is_empty() || bound(name) => Ok(()),
            None => {
                let reason = format!("its input {} is not defined", quote(name));
                Err(Fault::bad(reason).at(|| describe(node)))
            }
        };
        node.input.iter().try_for_each(|name| depend(name))?;
        for body in bodies(node) {
            captures(body)?.into_iter().try_for_each(&mut depend)?;
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..nodes.len()).filter(|index| waiting[*index] == 0).map(Reverse).collect();
    let mut sorted = Vec::with_capacity(nodes.len());
    while let Some(Reverse(index)) = ready.pop() {
        sorted.push(index);
        for &user in &users[index] {
            waiting[user] -= 1;
            if waiting[user] == 0 {
                ready.push(Reverse(user));
            }
        }
    }
    match waiting.iter().position(|count| *count > 0) {
        Some(stuck) => {
            Err(Fault::bad("it depends on its own output: the graph has a cycle")
                .at(|| describe(&nodes[stuck])))
        }
        None => Ok(sorted),
    }
}

fn producers<'m>(
    nodes: &'m [NodeProto],
    bound: &impl Fn(&str) -> bool,
) -> Result<FxHashMap<&'m str, usize>, Fault> {
    let mut producers = FxHashMap::default();
    for (index, node) in nodes.iter().enumerate() {
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            if bound(output) || producers.insert(output.as_str(), index).is_some() {
                let reason = format!("its output {} is defined twice", quote(output));
                return Err(Fault::bad(reason).at(|| describe(node)));
            }
        }
    }
    Ok(producers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lathe_proto::onnx::AttributeProto;

    fn node(inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: outputs.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }
    }

    fn with_body(mut node: NodeProto, body: Vec<NodeProto>) -> NodeProto {
        let graph = GraphProto { node: body, ..Default::default() };
        node.attribute.push(AttributeProto { g: Some(graph), ..Default::default() });
        node
    }

    fn x(name: &str) -> bool {
        name == "x"
    }

    #[test]
    fn file_order_is_kept_where_it_can() {
        let sorted = [node(&["x"], &["a"]), node(&["x"], &["b"]), node(&["a", "b"], &["c"])];
        assert_eq!(order(&sorted, x).expect("sorted"), [0, 1, 2]);
        let reversed = [node(&["b"], &["c"]), node(&["a"], &["b"]), node(&["x", ""], &["a"])];
        assert_eq!(order(&reversed, x).expect("sortable"), [2, 1, 0]);
    }

    #[test]
    fn broken_graphs_are_refused() {
        let broken = [
            vec![node(&["a"], &["a"])],
            vec![node(&["b"], &["a"]), node(&["a"], &["b"])],
            vec![node(&["nowhere"], &["a"])],
            vec![node(&["x"], &["a"]), node(&["x"], &["a"])],
            vec![node(&["x"], &["a", "a"])],
            vec![node(&["x"], &["x"])],
            // A cycle behind a body.
            vec![with_body(node(&["x"], &["a"]), vec![node(&["b"], &["t"])]), node(&["a"], &["b"])],
        ];
        for nodes in broken {
            assert!(order(&nodes, x).is_err(), "{nodes:?}");
        }
    }

    #[test]
    fn bodies_capture_what_they_do_not_define() {
        let inner = with_body(node(&["c"], &["d"]), vec![node(&["t", "outer", "c"], &["u"])]);
        let graph = GraphProto { node: vec![node(&["x"], &["c"]), inner], ..Default::default() };
        assert_eq!(captures(&graph).expect("captures"), ["x", "t", "outer"]);
    }
}
