//! Graphs: names to values, constants, inputs, nodes in order, outputs.

use lathe_ir::{Function, FunctionId, Module, ValueId};
use lathe_proto::onnx::{FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use lathe_tensor::{DType, Tensor};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::ImportOptions;
use crate::error::{Fault, quote};
use crate::onnx::attributes::{Attributes, Environment};
use crate::onnx::functions::{Library, MAX_DEPTH, Opsets, describe, domain, opsets};
use crate::onnx::item::Item;
use crate::onnx::maybe_scalar::{MaybeScalar, Rank};
use crate::onnx::node::{Handler, Node};
use crate::onnx::order::order;
use crate::onnx::table;
use crate::onnx::tensor::Tensors;
use crate::onnx::types::{self, Symbols};

/// What a name stands for.
#[derive(Clone, Debug)]
pub(crate) enum Binding {
    /// A value of the function, or several that together are one of the model.
    Value(Item),
    /// A constant that nothing has used yet.
    Unused(Tensor),
    /// An input of a model function that the caller left out.
    Absent,
}

/// A body that is being imported: of the graph, of a branch, of a called function.
pub(crate) struct Frame<'m> {
    /// Where its nodes go.
    pub function: FunctionId,
    /// What its names stand for.
    pub names: FxHashMap<&'m str, Binding>,
    /// Versions of the operators.
    pub opsets: std::rc::Rc<Opsets<'m>>,
    /// The attributes that the model function was called with.
    pub environment: Option<std::rc::Rc<Environment<'m>>>,
    /// Put before the names of nodes: the calls that lead here.
    pub path: String,
}

/// The state of one import.
pub(crate) struct Importer<'m> {
    model: &'m ModelProto,
    library: Library<'m>,
    pub tensors: Tensors,
    pub module: Module,
    depth: usize,
    branches: usize,
    pub(crate) maybe_scalar: MaybeScalar,
    /// Bodies of loops that were read, again for wider sizes included.
    pub(crate) bodies: usize,
    /// Whether the model quantises values by their own range, so that the last bit of a float may decide about a code.
    pub(crate) quantises_by_range: bool,
}

impl<'m> Importer<'m> {
    pub(crate) fn new(model: &'m ModelProto, library: Library<'m>, tensors: Tensors) -> Self {
        let module = Module::with_custom(library.custom.clone());
        let quantises = |node: &NodeProto| node.op_type().starts_with("DynamicQuantize");
        Self {
            quantises_by_range: model.graph.iter().any(|graph| graph.node.iter().any(quantises)),
            model,
            library,
            tensors,
            module,
            depth: 0,
            branches: 0,
            maybe_scalar: MaybeScalar::default(),
            bodies: 0,
        }
    }

    /// Imports the model's graph as `main`.
    pub(crate) fn run(mut self, options: &ImportOptions) -> Result<Module, Fault> {
        let Some(graph) = &self.model.graph else { return Err(Fault::bad("it has no graph")) };
        let function = self.module.add_function(Function::new("main"));
        let mut frame = Frame {
            function,
            names: FxHashMap::default(),
            opsets: std::rc::Rc::new(opsets(&self.model.opset_import)?),
            environment: None,
            path: String::new(),
        };
        self.initializers(&mut frame, graph)?;
        self.inputs(&mut frame, &graph.input, options)?;
        self.nodes(&mut frame, &graph.node)?;
        let outputs = self.outputs(&mut frame, graph)?;
        let mut seen = FxHashSet::default();
        for (output, item) in graph.output.iter().zip(outputs) {
            if !seen.insert(output.name()) {
                return Err(Fault::bad(format!("output {} is listed twice", quote(output.name()))));
            }
            let place = || format!("output {}", quote(output.name()));
            self.certain_rank(function, &item).map_err(|fault| fault.at(place))?;
            self.result(function, output, item)?;
        }
        Ok(self.module)
    }

    fn inputs(
        &mut self,
        frame: &mut Frame<'m>,
        inputs: &'m [ValueInfoProto],
        options: &ImportOptions,
    ) -> Result<(), Fault> {
        let mut symbols = Symbols::new(&options.dims, inputs);
        let mut seen = FxHashSet::default();
        for input in inputs {
            let name = input.name();
            let place = || format!("input {}", quote(name));
            if name.is_empty() || !seen.insert(name) {
                let problem = if name.is_empty() { "it has no name" } else { "it is listed twice" };
                return Err(Fault::bad(problem).at(place));
            }
            // An input with an initialiser is a constant: files before IR version 4 list all initialisers as inputs.
            if frame.names.contains_key(name) {
                continue;
            }
            let item = match types::composite(input).map_err(|fault| fault.at(place))? {
                Some(form) => self.composite_input(frame.function, name, form, &mut symbols),
                None => {
                    let ty = symbols.input_type(input).map_err(|fault| fault.at(place))?;
                    let known = options.known.iter().find(|(known, _)| known == name);
                    Item::Tensor(match known.filter(|_| ty.dtype == DType::Bool && ty.rank() <= 1) {
                        // One element, whatever the size is called.
                        Some((_, holds)) => {
                            let shape = vec![1; ty.rank()];
                            self.constant(frame.function, Tensor::from_bools(&[*holds], &shape)?, None)
                        }
                        None => self.module.function_mut(frame.function).add_input(name, ty),
                    })
                }
            };
            frame.names.insert(name, Binding::Value(item));
        }
        Ok(())
    }

    /// Reads and checks every initialiser; each becomes a constant when first used.
    pub(crate) fn initializers(&mut self, frame: &mut Frame<'m>, graph: &'m GraphProto) -> Result<(), Fault> {
        for proto in &graph.initializer {
            let tensor = self.tensors.dense(proto)?;
            define(frame, proto.name(), tensor)?;
        }
        for proto in &graph.sparse_initializer {
            let tensor = self.tensors.sparse(proto)?;
            define(frame, proto.values.as_ref().map(|values| values.name()).unwrap_or_default(), tensor)?;
        }
        Ok(())
    }

    /// The value that a name stands for; `None` for an input that the caller of a model function left out.
    pub(crate) fn value(&mut self, frame: &mut Frame<'m>, name: &'m str) -> Result<Option<Item>, Fault> {
        match frame.names.get(name) {
            None => Err(Fault::bad(format!("{} is not defined", quote(name)))),
            Some(Binding::Absent) => Ok(None),
            Some(Binding::Value(item)) => Ok(Some(item.clone())),
            Some(Binding::Unused(tensor)) => {
                let tensor = tensor.clone();
                let item = Item::Tensor(self.constant(frame.function, tensor, Some(name.to_string())));
                frame.names.insert(name, Binding::Value(item.clone()));
                Ok(Some(item))
            }
        }
    }

    /// A new constant as a value of a function.
    pub(crate) fn constant(&mut self, function: FunctionId, tensor: Tensor, name: Option<String>) -> ValueId {
        let constant = self.module.add_constant(tensor, name.clone());
        self.module.constant_value(function, constant, name)
    }

    /// The values of a body's outputs.
    pub(crate) fn outputs(
        &mut self,
        frame: &mut Frame<'m>,
        graph: &'m GraphProto,
    ) -> Result<Vec<Item>, Fault> {
        let mut values = Vec::with_capacity(graph.output.len());
        for output in &graph.output {
            let place = || format!("output {}", quote(output.name()));
            let value = self.value(frame, output.name()).map_err(|fault| fault.at(place))?;
            values.push(value.ok_or_else(|| Fault::bad("it is an input that was left out").at(place))?);
        }
        Ok(values)
    }

    /// Imports nodes, each after what it uses.
    pub(crate) fn nodes(&mut self, frame: &mut Frame<'m>, nodes: &'m [NodeProto]) -> Result<(), Fault> {
        if self.depth >= MAX_DEPTH {
            return Err(Fault::resource(format!("bodies stand in one another over {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let done = order(nodes, |name| frame.names.contains_key(name)).and_then(|order| {
            order.into_iter().try_for_each(|index| {
                let node = &nodes[index];
                let outputs =
                    self.node(frame, node).map_err(|fault| fault.at(|| place(&frame.path, node)))?;
                self.bind(frame, node, outputs);
                Ok(())
            })
        });
        self.depth -= 1;
        done
    }

    fn bind(&mut self, frame: &mut Frame<'m>, node: &'m NodeProto, outputs: Vec<Option<Item>>) {
        for (name, item) in node.output.iter().zip(outputs).filter(|(name, _)| !name.is_empty()) {
            let Some(item) = item else {
                frame.names.insert(name, Binding::Absent);
                continue;
            };
            if let Item::Tensor(value) = item {
                let known = self.module.function_mut(frame.function).value_mut(value);
                known.name.get_or_insert_with(|| format!("{}{name}", frame.path));
            }
            frame.names.insert(name, Binding::Value(item));
        }
    }

    fn node(&mut self, frame: &mut Frame<'m>, node: &'m NodeProto) -> Result<Vec<Option<Item>>, Fault> {
        let attributes = Attributes::resolve(node, frame.environment.as_deref())?;
        // Omitted operands at the end count for nothing.
        let given = node.input.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
        let mut items = Vec::with_capacity(given);
        for name in &node.input[..given] {
            items.push(if name.is_empty() { None } else { self.value(frame, name)? });
        }
        if let Some(function) = self.library.called(node) {
            return self.call(frame, node, function, &attributes, items);
        }
        let opset = frame.opsets.get(domain(node.domain())).copied().unwrap_or_default();
        let operator = table::find(domain(node.domain()), node.op_type());
        let registered = self.library.custom.has(domain(node.domain()), node.op_type(), opset);
        let Some(operator) =
            operator.filter(|row| row.since <= opset).or(registered.then_some(&table::CUSTOM))
        else {
            return Err(Fault::unsupported(format!("operator {}", quote(node.op_type()))));
        };
        let name = match (node.name(), node.output.first()) {
            ("", Some(output)) => format!("{}{output}", frame.path),
            (name, _) => format!("{}{name}", frame.path),
        };
        let wanted = node.output.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
        operator.check_counts(node, items.len(), wanted)?;
        if matches!(operator.handler, Handler::Tensors(_)) {
            items.iter().enumerate().try_for_each(|(index, item)| match item {
                Some(Item::Composite(composite)) => {
                    Err(Fault::bad(format!("its input {index} is {}, not a tensor", composite.form.kind())))
                }
                _ => Ok(()),
            })?;
        }
        let frame_function = frame.function;
        let rank = self.rank_of_results(frame_function, node.op_type(), &items)?;
        let inputs = items.iter().map(|item| item.as_ref().and_then(Item::tensor)).collect();
        let mut context =
            Node { importer: self, frame, node, opset, attributes, inputs, items, wanted, name };
        let outputs = match operator.handler {
            Handler::Tensors(handler) => handler(&mut context)?.into_iter().map(Item::Tensor).collect(),
            Handler::Items(handler) => handler(&mut context)?,
        };
        context.attributes.finish()?;
        if outputs.len() < wanted {
            return Err(Fault::bad(format!(
                "output {} is not one of this operator (in this opset)",
                wanted - 1
            )));
        }
        if rank == Rank::Open {
            self.remember_scalars(frame_function, outputs.iter().filter_map(Item::tensor));
        }
        Ok(outputs.into_iter().map(Some).collect())
    }

    /// Inlines a function of the model.
    fn call(
        &mut self,
        frame: &Frame<'m>,
        node: &'m NodeProto,
        function: &'m FunctionProto,
        attributes: &Attributes<'m>,
        inputs: Vec<Option<Item>>,
    ) -> Result<Vec<Option<Item>>, Fault> {
        let limits = [
            ("inputs", node.input.len(), function.input.len()),
            ("outputs", node.output.len(), function.output.len()),
        ];
        for (what, given, declared) in limits {
            if given > declared {
                let reason = format!("it has {given} {what}, its function declares {declared}");
                return Err(Fault::bad(reason));
            }
        }
        let mut body = Frame {
            function: frame.function,
            names: FxHashMap::default(),
            opsets: std::rc::Rc::new(opsets(&function.opset_import)?),
            environment: Some(std::rc::Rc::new(environment(function, attributes)?)),
            path: format!(
                "{}{}/",
                frame.path,
                if node.name().is_empty() { function.name() } else { node.name() }
            ),
        };
        let bound = inputs.into_iter().chain(std::iter::repeat(None));
        for (name, value) in function.input.iter().zip(bound) {
            let binding = value.map_or(Binding::Absent, Binding::Value);
            if body.names.insert(name, binding).is_some() {
                return Err(Fault::bad(format!("its function lists the input {} twice", quote(name))));
            }
        }
        self.nodes(&mut body, &function.node)?;
        function.output.iter().map(|name| self.value(&mut body, name)).collect()
    }

    /// A function for a branch; its name is new.
    pub(crate) fn add_branch(&mut self, kind: &str) -> FunctionId {
        self.branches += 1;
        self.module.add_function(Function::new(format!("{kind}_{}", self.branches - 1)))
    }
}

fn define<'m>(frame: &mut Frame<'m>, name: &'m str, tensor: Tensor) -> Result<(), Fault> {
    let problem = match frame.names.insert(name, Binding::Unused(tensor)) {
        _ if name.is_empty() => "it has no name",
        Some(_) => "it is defined twice",
        None => return Ok(()),
    };
    Err(Fault::bad(problem).at(|| format!("tensor {}", quote(name))))
}

fn place(path: &str, node: &NodeProto) -> String {
    let (inside, operator) = (describe(node), node.op_type().escape_debug());
    match path {
        "" => format!("{inside} ({operator})"),
        path => format!("{inside} ({operator}) in {}", quote(path)),
    }
}

/// The attributes of a call by the function's names, with its defaults; others are refused.
fn environment<'m>(function: &'m FunctionProto, given: &Attributes<'m>) -> Result<Environment<'m>, Fault> {
    let defaults = function.attribute_proto.iter().map(|attribute| (attribute.name(), attribute));
    let mut environment: Environment<'m> = defaults.collect();
    for (name, value) in given.iter() {
        let known = environment.contains_key(name) || function.attribute.iter().any(|known| known == name);
        if !known {
            return Err(Fault::bad(format!("unknown attribute {} of its function", quote(name))));
        }
        environment.insert(name, value);
    }
    Ok(environment)
}
