//! What is checked before any work: the model's own functions, their growth, and that every operator is known.

use std::sync::Arc;

use lathe_ir::CustomOps;
use lathe_proto::onnx::{FunctionProto, ModelProto, NodeProto, OperatorSetIdProto};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::{Fault, UnsupportedOperator, quote};
use crate::onnx::table;

/// Nodes that a model may have once its functions are inlined: this many, or this factor of what the file holds.
const INLINED_NODES: u64 = 1 << 20;
const INLINED_FACTOR: u64 = 64;

/// How deep functions may call one another, and bodies of `If` stand in one another.
pub(crate) const MAX_DEPTH: usize = 64;

/// The newest version of ai.onnx that is read.
const NEWEST_OPSET: i64 = 28;

/// The version of each imported domain; ai.onnx is the empty domain.
pub(crate) type Opsets<'m> = FxHashMap<&'m str, i64>;

type Key<'m> = (&'m str, &'m str, &'m str);

/// The functions that a model defines.
#[derive(Debug, Default)]
pub(crate) struct Library<'m> {
    functions: FxHashMap<Key<'m>, &'m FunctionProto>,
    /// The operators that the app brings.
    pub custom: Arc<CustomOps>,
}

/// `ai.onnx` and the empty domain are one.
pub(crate) fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// Reads `opset_import`.
pub(crate) fn opsets(imports: &[OperatorSetIdProto]) -> Result<Opsets<'_>, Fault> {
    let mut opsets = Opsets::default();
    for import in imports {
        let (domain, version) = (domain(import.domain()), import.version());
        if opsets.insert(domain, version).is_some_and(|other| other != version) {
            let reason = format!("domain {} is imported twice, with different versions", quote(domain));
            return Err(Fault::bad(reason));
        }
    }
    match opsets.get("") {
        Some(version) if !(1..=NEWEST_OPSET).contains(version) => {
            let reason = format!("opset {version} of ai.onnx; 1 to {NEWEST_OPSET} are read");
            Err(Fault::unsupported(reason))
        }
        _ => Ok(opsets),
    }
}

/// Every node, those in bodies of attributes included.
pub(crate) fn every_node<'m>(nodes: &'m [NodeProto], mut visit: impl FnMut(&'m NodeProto)) {
    let mut open = vec![nodes];
    while let Some(nodes) = open.pop() {
        for node in nodes {
            visit(node);
            for attribute in &node.attribute {
                open.extend(attribute.g.iter().chain(&attribute.graphs).map(|graph| &graph.node[..]));
            }
        }
    }
}

/// How a message calls a node.
pub(crate) fn describe(node: &NodeProto) -> String {
    match (node.name(), node.output.iter().find(|output| !output.is_empty())) {
        ("", Some(output)) => format!("node of {}", quote(output)),
        ("", None) => "a node without name".to_string(),
        (name, _) => format!("node {}", quote(name)),
    }
}

impl<'m> Library<'m> {
    pub(crate) fn new(functions: &'m [FunctionProto], custom: Arc<CustomOps>) -> Result<Self, Fault> {
        let mut library = Self { custom, ..Self::default() };
        for function in functions {
            let key = (domain(function.domain()), function.name(), function.overload());
            if library.functions.insert(key, function).is_some() {
                return Err(Fault::bad(format!("function {} is defined twice", quote(function.name()))));
            }
        }
        Ok(library)
    }

    /// The function that a node calls, where it is one of the model's own.
    pub(crate) fn called(&self, node: &'m NodeProto) -> Option<&'m FunctionProto> {
        let key = (domain(node.domain()), node.op_type(), node.overload());
        self.functions.get(&key).copied()
    }

    /// Checks that functions do not call themselves and that inlining them makes a model of reasonable size.
    pub(crate) fn check_growth(&self, model: &'m ModelProto) -> Result<(), Fault> {
        let Some(graph) = &model.graph else { return Ok(()) };
        let mut sizes = FxHashMap::default();
        let inlined = self.inlined(&graph.node, &mut sizes, &mut Vec::new())?;
        let mut written = 0u64;
        let bodies = model.functions.iter().map(|function| &function.node[..]);
        bodies.chain([&graph.node[..]]).for_each(|nodes| every_node(nodes, |_| written += 1));
        let limit = INLINED_NODES.max(written.saturating_mul(INLINED_FACTOR));
        if inlined.nodes > limit {
            let nodes = inlined.nodes;
            return Err(Fault::resource(format!(
                "its functions expand to {nodes} nodes, above the limit of {limit}"
            )));
        }
        Ok(())
    }

    fn inlined(
        &self,
        nodes: &'m [NodeProto],
        sizes: &mut FxHashMap<*const FunctionProto, Inlined>,
        calls: &mut Vec<&'m FunctionProto>,
    ) -> Result<Inlined, Fault> {
        let mut total = Inlined { nodes: 0, depth: calls.len() };
        let mut called = Vec::new();
        every_node(nodes, |node| {
            total.nodes = total.nodes.saturating_add(1);
            called.extend(self.called(node));
        });
        for function in called {
            let size = match sizes.get(&std::ptr::from_ref(function)) {
                Some(size) => *size,
                None => {
                    if calls.iter().any(|open| std::ptr::eq(*open, function)) {
                        return Err(Fault::bad(format!("function {} calls itself", quote(function.name()))));
                    }
                    if calls.len() >= MAX_DEPTH {
                        return Err(Fault::resource(format!(
                            "functions call one another over {MAX_DEPTH} deep"
                        )));
                    }
                    calls.push(function);
                    let size = self.inlined(&function.node, sizes, calls)?;
                    calls.pop();
                    sizes.insert(function, size);
                    size
                }
            };
            total.nodes = total.nodes.saturating_add(size.nodes);
            total.depth = total.depth.max(size.depth);
        }
        Ok(total)
    }

    /// Every use of an operator that is neither in the table nor a function; an error where a domain is not imported.
    pub(crate) fn unsupported(&self, model: &'m ModelProto) -> Result<Vec<UnsupportedOperator>, Fault> {
        let mut unsupported = Vec::new();
        let mut seen: FxHashSet<*const FunctionProto> = FxHashSet::default();
        let main = model.graph.as_ref().map_or(&[][..], |graph| &graph.node[..]);
        let mut open = vec![(main, &model.opset_import[..])];
        while let Some((nodes, imports)) = open.pop() {
            let opsets = opsets(imports)?;
            let mut fault = None;
            every_node(nodes, |node| match self.called(node) {
                Some(function) => {
                    if seen.insert(function) {
                        open.push((&function.node[..], &function.opset_import[..]));
                    }
                }
                None => match self.check_operator(node, &opsets) {
                    Ok(()) => {}
                    Err(Verdict::Unsupported(operator)) => unsupported.push(operator),
                    Err(Verdict::Broken(broken)) => fault = fault.take().or(Some(broken)),
                },
            });
            fault.map_or(Ok(()), Err)?;
        }
        Ok(unsupported)
    }
}

#[derive(Clone, Copy)]
struct Inlined {
    nodes: u64,
    depth: usize,
}

enum Verdict {
    Unsupported(UnsupportedOperator),
    Broken(Fault),
}

impl Library<'_> {
    fn check_operator(&self, node: &NodeProto, opsets: &Opsets<'_>) -> Result<(), Verdict> {
        let (domain, operator) = (domain(node.domain()), node.op_type());
        let broken = |reason: String| Verdict::Broken(Fault::bad(reason).at(|| describe(node)));
        if operator.is_empty() {
            return Err(broken("it names no operator".into()));
        }
        let Some(&opset) = opsets.get(domain) else {
            let shown = if domain.is_empty() { "ai.onnx" } else { domain };
            return Err(broken(format!("its domain {} is not in `opset_import`", quote(shown))));
        };
        match table::find(domain, operator) {
            Some(row) if row.since <= opset => Ok(()),
            _ if self.custom.has(domain, operator, opset) => Ok(()),
            _ => Err(Verdict::Unsupported(UnsupportedOperator {
                domain: domain.to_string(),
                operator: operator.to_string(),
                opset,
                node: describe(node),
            })),
        }
    }
}
