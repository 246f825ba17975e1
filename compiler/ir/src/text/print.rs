//! Printing.

use std::fmt;

use lathe_tensor::Encoding;
use rustc_hash::FxHashMap;
use serde_json::Value as Json;

use super::constant;
use super::cursor::is_plain_name;
use crate::{Function, GuardCondition, Module, Node, NodeId, Operation, Source, ValueId};

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (_, function)) in self.functions().enumerate() {
            f.write_str(if index == 0 { "" } else { "\n" })?;
            Printer::new(self, function).print(f)?;
        }
        Ok(())
    }
}

impl Module {
    /// The text form of one function.
    pub fn display_function(&self, id: crate::FunctionId) -> impl fmt::Display + '_ {
        fmt::from_fn(move |f| Printer::new(self, self.function(id)).print(f))
    }
}

struct Printer<'m> {
    module: &'m Module,
    function: &'m Function,
    order: Vec<NodeId>,
    names: FxHashMap<ValueId, String>,
    /// One value for each constant, in order of first use.
    constants: Vec<ValueId>,
}

fn quoted(name: &str) -> String {
    Json::from(name).to_string()
}

fn name_text(name: &str) -> String {
    if is_plain_name(name) { name.to_string() } else { quoted(name) }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(T::to_string).collect();
    format!("[{}]", items.join(", "))
}

fn write_line(f: &mut fmt::Formatter<'_>, line: &str, name: &str) -> fmt::Result {
    if name.is_empty() { writeln!(f, "  {line}") } else { writeln!(f, "  {line}  // {}", quoted(name)) }
}

impl<'m> Printer<'m> {
    fn new(module: &'m Module, function: &'m Function) -> Self {
        // A graph with a cycle is printed too: for the message that says so.
        let order = function.topological_order().unwrap_or_else(|| function.node_ids().collect());
        let mut printer =
            Self { module, function, order, names: FxHashMap::default(), constants: Vec::new() };
        for id in function.inputs() {
            let name = name_text(function.value(*id).name.as_deref().unwrap_or(""));
            printer.names.insert(*id, name);
        }
        let mut number = 0;
        let mut numbers = FxHashMap::default();
        for node in printer.order.clone().into_iter().filter_map(|id| function.node(id)) {
            for operand in node.inputs.iter().flatten() {
                printer.name_constant(*operand, &mut numbers);
            }
            for output in &node.outputs {
                printer.names.insert(*output, format!("%{number}"));
                number += 1;
            }
        }
        for (_, output) in function.outputs() {
            printer.name_constant(*output, &mut numbers);
        }
        printer
    }

    fn name_constant(&mut self, id: ValueId, numbers: &mut FxHashMap<usize, usize>) {
        if let Source::Constant(constant) = self.function.value(id).source {
            let next = numbers.len();
            let number = *numbers.entry(constant.index()).or_insert(next);
            if number == next {
                self.constants.push(id);
            }
            self.names.insert(id, format!("c{number}"));
        }
    }

    fn name(&self, id: ValueId) -> &str {
        self.names.get(&id).map_or("%undefined", String::as_str)
    }

    fn print(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.print_header(f)?;
        for guard in self.function.guards() {
            let condition = match &guard.condition {
                GuardCondition::Equal(a, b) => format!("{a} == {b}"),
                GuardCondition::AtLeast(a, b) => format!("{a} >= {b}"),
                GuardCondition::Broadcastable(a, b) => format!("{a} ~ {b}"),
            };
            writeln!(f, "  require {condition} {}", quoted(&guard.reason))?;
        }
        let composites = self.function.composites();
        if !(composites.inputs.is_empty() && composites.outputs.is_empty()) {
            writeln!(f, "  composites {}", serde_json::to_string(composites).map_err(|_| fmt::Error)?)?;
        }
        for id in &self.constants {
            self.print_constant(f, *id)?;
        }
        for node in self.order.iter().filter_map(|id| self.function.node(*id)) {
            self.print_node(f, node)?;
        }
        let outputs: Vec<_> = self
            .function
            .outputs()
            .iter()
            .map(|(name, id)| match name.as_str() {
                "" => self.name(*id).to_string(),
                name => format!("{} as {}", self.name(*id), name_text(name)),
            })
            .collect();
        writeln!(f, "  return {}\n}}", outputs.join(", "))
    }

    fn print_header(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "graph {} (", quoted(self.function.name()))?;
        for (index, id) in self.function.inputs().iter().enumerate() {
            let value = self.function.value(*id);
            write!(f, "{}{}: {}", if index == 0 { "" } else { ", " }, self.name(*id), value.ty)?;
            if let Some(known) = &value.known {
                write!(f, " known {}", list(known))?;
            }
        }
        writeln!(f, ") {{")
    }

    fn print_constant(&self, f: &mut fmt::Formatter<'_>, id: ValueId) -> fmt::Result {
        let value = self.function.value(id);
        let Source::Constant(constant) = value.source else { return Ok(()) };
        let constant = self.module.constant(constant);
        let mut line = format!("{} = const {} {}", self.name(id), value.ty, constant::print(constant));
        if constant.encoding != Encoding::Dense {
            let encoding = serde_json::to_string(&constant.encoding).map_err(|_| fmt::Error)?;
            line = format!("{line} {encoding}");
        }
        write_line(f, &line, constant.name.as_deref().unwrap_or(""))
    }

    fn print_node(&self, f: &mut fmt::Formatter<'_>, node: &Node) -> fmt::Result {
        let results: Vec<_> =
            node.outputs.iter().map(|id| format!("{}: {}", self.name(*id), self.function.ty(*id))).collect();
        let mut line = format!("{} = {}", results.join(", "), node.operation.name());
        let operands: Vec<_> =
            node.inputs.iter().map(|input| input.map_or("_", |id| self.name(id))).collect();
        if !operands.is_empty() {
            line = format!("{line} {}", operands.join(", "));
        }
        if let Operation::Dims { elements, .. } = &node.operation {
            line = format!("{line} {}", list(elements));
        }
        let attributes = self.attributes(&node.operation);
        if !attributes.is_empty() {
            line = format!("{line} {{{}}}", attributes.join(", "));
        }
        write_line(f, &line, &node.name)
    }

    fn attributes(&self, operation: &Operation) -> Vec<String> {
        let function = |id: crate::FunctionId| {
            quoted(self.module.get_function(id).map_or("undefined", |function| function.name()))
        };
        match operation {
            Operation::Op(op) => op
                .attributes()
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| format!("{}={value}", name_text(&key)))
                .collect(),
            Operation::Dims { scalar, .. } => scalar.then(|| "scalar=true".to_string()).into_iter().collect(),
            Operation::If { then_branch, else_branch } => {
                vec![format!("then={}", function(*then_branch)), format!("else={}", function(*else_branch))]
            }
            Operation::Loop { body, carried } => {
                vec![format!("body={}", function(*body)), format!("carried={carried}")]
            }
            Operation::Region { body } => vec![format!("body={}", function(*body))],
        }
    }
}
