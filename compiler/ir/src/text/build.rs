//! From statements to a module.

use lathe_ops::Op;
use lathe_tensor::{DType, Encoding};
use rustc_hash::FxHashMap;
use serde_json::{Map, Value};

use super::cursor::{Parsed, error_at};
use super::parse::{Constant, Graph, Literal, Node, Operand, Reference};
use super::{Lookup, constant};
use crate::verify::MAX_CALL_DEPTH;
use crate::{
    Answer, ConstantId, Dim, Function, FunctionId, GuardCondition, Module, Operation, Symbol, ValueId,
    ValueType,
};

/// Bytes that `splat` constants of one text may take together.
const MAX_SPLAT_BYTES: usize = 256 << 20;

pub(super) fn module(
    text: &str,
    graphs: Vec<Graph>,
    lookup: Lookup<'_>,
    mut module: Module,
) -> Parsed<Module> {
    let mut ids = FxHashMap::default();
    for graph in &graphs {
        let mut function = Function::new(graph.name.clone());
        for input in &graph.inputs {
            let id = function.add_input(input.name.clone(), input.ty.clone());
            let known = input.known.clone().filter(|known| known_fits(&input.ty, known));
            function.value_mut(id).known = known.map(Into::into);
        }
        for guard in &graph.requirements {
            function.add_guard(guard.clone());
        }
        *function.composites_mut() = graph.composites.clone();
        let id = module.add_function(function);
        if ids.insert(graph.name.clone(), id).is_some() {
            return Err(error_at(text, graph.position, "a graph of this name stands above"));
        }
    }
    module.fresh_symbols = first_free_symbol(&graphs);
    let states = vec![State::Waiting; graphs.len()];
    let mut builder = Builder {
        text,
        module,
        graphs: &graphs,
        ids,
        states,
        lookup,
        shared: FxHashMap::default(),
        splat_bytes: 0,
    };
    for index in 0..graphs.len() {
        builder.graph(index, 0)?;
    }
    Ok(builder.module)
}

fn known_fits(ty: &ValueType, known: &[Dim]) -> bool {
    Dim::product(&ty.dims).as_constant() == i64::try_from(known.len()).ok()
}

/// The number after the largest `u7` that occurs.
fn first_free_symbol(graphs: &[Graph]) -> u32 {
    let mut next = 0u32;
    let mut visit = |symbol: &Symbol| {
        let number = symbol.name().strip_prefix('u').and_then(|digits| digits.parse::<u32>().ok());
        next = next.max(number.map_or(0, |number| number.saturating_add(1)));
    };
    for graph in graphs {
        let inputs = graph.inputs.iter().map(|input| &input.ty);
        let results =
            graph.nodes.iter().flat_map(|node| node.results.iter().filter_map(|(_, ty)| ty.as_ref()));
        let known = graph.inputs.iter().flat_map(|input| input.known.iter().flatten());
        let elements = graph.nodes.iter().flat_map(|node| node.dims.iter().flatten());
        for dim in inputs.chain(results).flat_map(|ty| &ty.dims).chain(known).chain(elements) {
            dim.visit_symbols(&mut |symbol| visit(symbol));
        }
    }
    next
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Waiting,
    Building,
    Done,
}

struct Builder<'a> {
    text: &'a str,
    module: Module,
    graphs: &'a [Graph],
    ids: FxHashMap<String, FunctionId>,
    states: Vec<State>,
    lookup: Lookup<'a>,
    /// Constants given by the same hash, or of one name and the same elements, are one constant.
    shared: FxHashMap<(u64, String), ConstantId>,
    splat_bytes: usize,
}

/// What the names in one graph mean.
#[derive(Default)]
struct Scope<'a> {
    inputs: FxHashMap<&'a str, ValueId>,
    constants: FxHashMap<u64, ValueId>,
    results: FxHashMap<u64, ValueId>,
}

impl<'a> Builder<'a> {
    /// Builds a graph after those that it applies.
    fn graph(&mut self, index: usize, depth: usize) -> Parsed<()> {
        let graph = &self.graphs[index];
        match self.states[index] {
            State::Done => return Ok(()),
            State::Building => return Err(error_at(self.text, graph.position, "the graph applies itself")),
            State::Waiting if depth > MAX_CALL_DEPTH => {
                return Err(error_at(self.text, graph.position, "graphs nest too deeply"));
            }
            State::Waiting => self.states[index] = State::Building,
        }
        let id = self.ids[&graph.name];
        let mut scope = Scope::default();
        for (input, value) in graph.inputs.iter().zip(self.module.function(id).inputs()) {
            if scope.inputs.insert(&input.name, *value).is_some() {
                return Err(error_at(
                    self.text,
                    graph.position,
                    format!("two inputs are named `{}`", input.name),
                ));
            }
        }
        for constant in &graph.constants {
            let value = self.constant(id, constant)?;
            if scope.constants.insert(constant.number, value).is_some() {
                return Err(error_at(self.text, constant.position, "a constant of this number stands above"));
            }
        }
        for node in &graph.nodes {
            self.node(id, node, &mut scope, depth)?;
        }
        for (operand, name) in &graph.outputs {
            match self.operand(operand, &scope)? {
                Some(value) => self.module.function_mut(id).add_output(name.clone(), value),
                None => return Err(error_at(self.text, operand.position, "an output cannot be missing")),
            }
        }
        self.states[index] = State::Done;
        Ok(())
    }

    fn operand(&self, operand: &Operand, scope: &Scope<'_>) -> Parsed<Option<ValueId>> {
        let found = match &operand.reference {
            Reference::Missing => return Ok(None),
            Reference::Result(number) => scope.results.get(number),
            Reference::Constant(number) => scope.constants.get(number),
            Reference::Input(name) => scope.inputs.get(name.as_str()),
        };
        match found {
            Some(value) => Ok(Some(*value)),
            None => Err(error_at(self.text, operand.position, "no value above has this name")),
        }
    }

    fn constant(&mut self, function: FunctionId, constant: &Constant) -> Parsed<ValueId> {
        let error = |reason: String| error_at(self.text, constant.position, reason);
        let (dtype, dims) = (constant.ty.dtype, &constant.ty.dims);
        let shape = dims.iter().map(|dim| dim.as_constant().and_then(|size| usize::try_from(size).ok()));
        let shape: Vec<usize> = shape
            .collect::<Option<_>>()
            .ok_or_else(|| error("sizes of constants are numbers".to_string()))?;
        let encoding: Encoding = match &constant.encoding {
            None => Encoding::Dense,
            Some(json) => serde_json::from_value(json.clone()).map_err(|reason| error(reason.to_string()))?,
        };
        let tensor = match &constant.literal {
            Literal::Elements(texts) => constant::read(dtype, shape, texts).map_err(error)?,
            Literal::Splat(text) => {
                let left = MAX_SPLAT_BYTES - self.splat_bytes;
                let tensor = constant::read_splat(dtype, shape, text, left).map_err(error)?;
                self.splat_bytes += tensor.bytes().len();
                tensor
            }
            Literal::Hash(hash) => {
                let key = (*hash, format!("{} {encoding:?}", constant.ty));
                if let Some(id) = self.shared.get(&key) {
                    return Ok(self.add_constant(function, *id, constant));
                }
                let (dtype, stored) = match encoding {
                    Encoding::Dense => (dtype, shape.clone()),
                    Encoding::Blocked(format) => {
                        let bytes = format.storage_bytes(&shape).filter(|_| dtype == DType::F32);
                        let reason =
                            || error(format!("a {dtype}{shape:?} is not made of {} blocks", format.name()));
                        (DType::U8, vec![bytes.ok_or_else(reason)?])
                    }
                    Encoding::Widened(stored) => {
                        if !matches!(stored, DType::F16 | DType::BF16) || dtype != DType::F32 {
                            return Err(error(format!("a {dtype}{shape:?} is not made of wider {stored}")));
                        }
                        (stored, shape.clone())
                    }
                };
                let tensor = (self.lookup)(*hash, dtype, &stored)
                    .ok_or_else(|| error(format!("no tensor with hash {hash:016x} is given")))?;
                if tensor.dtype() != dtype || tensor.shape() != stored {
                    let (dtype, shape) = (tensor.dtype(), tensor.shape());
                    return Err(error(format!("the tensor given for the hash is {dtype}{shape:?}")));
                }
                let name = constant.name.clone();
                let id = self.module.add_encoded_constant(tensor, encoding, shape, name);
                self.shared.insert(key, id);
                return Ok(self.add_constant(function, id, constant));
            }
        };
        if encoding != Encoding::Dense {
            return Err(error("encoded constants are given by hash".to_string()));
        }
        let Some(name) = &constant.name else {
            let id = self.module.add_constant(tensor, None);
            return Ok(self.add_constant(function, id, constant));
        };
        // The same weight in two functions is one constant again.
        let key = (constant::constant_hash(&tensor), format!("{} {name:?}", constant.ty));
        let id = match self.shared.get(&key) {
            Some(id) => *id,
            None => self.module.add_constant(tensor, Some(name.clone())),
        };
        self.shared.insert(key, id);
        Ok(self.add_constant(function, id, constant))
    }

    fn add_constant(&mut self, function: FunctionId, id: ConstantId, constant: &Constant) -> ValueId {
        self.module.constant_value(function, id, constant.name.clone())
    }

    fn node(&mut self, function: FunctionId, node: &Node, scope: &mut Scope<'_>, depth: usize) -> Parsed<()> {
        let operation = self.operation(node, depth)?;
        let inputs =
            node.operands.iter().map(|operand| self.operand(operand, scope)).collect::<Parsed<Vec<_>>>()?;
        let before = self.module.fresh_symbols;
        let values = self
            .module
            .add_node(function, operation, &inputs, node.results.len(), &node.name)
            .map_err(|error| error_at(self.text, node.position, error.to_string()))?;
        self.declare(function, node, &values, before)?;
        for ((number, _), value) in node.results.iter().zip(values) {
            if scope.results.insert(*number, value).is_some() {
                return Err(error_at(self.text, node.position, format!("%{number} stands above already")));
            }
        }
        Ok(())
    }

    /// Gives the results their declared types. Sizes that only the run knows get the declared names.
    fn declare(&mut self, function: FunctionId, node: &Node, values: &[ValueId], before: u32) -> Parsed<()> {
        let target = self.module.function(function);
        let mut names: FxHashMap<Symbol, Dim> = FxHashMap::default();
        for ((_, declared), value) in node.results.iter().zip(values) {
            let Some(declared) = declared else { continue };
            let inferred = target.ty(*value);
            let agree = declared.dtype == inferred.dtype
                && declared.rank() == inferred.rank()
                && declared.dims.iter().zip(&inferred.dims).all(|(a, b)| a.equals(b) != Answer::No);
            if !agree {
                let reason = format!("declared is {declared}, inferred is {inferred}");
                return Err(error_at(self.text, node.position, reason));
            }
            for (dim, inferred) in declared.dims.iter().zip(&inferred.dims) {
                let fresh = inferred.as_symbol().filter(|symbol| {
                    let number =
                        symbol.name().strip_prefix('u').and_then(|digits| digits.parse::<u32>().ok());
                    number.is_some_and(|number| number >= before)
                });
                if let Some(symbol) = fresh {
                    names.insert(symbol.clone(), dim.clone());
                }
            }
        }
        if node.results.iter().all(|(_, declared)| declared.is_some()) {
            self.module.fresh_symbols = before;
        }
        let rename = |dim: &Dim| dim.substitute(&|symbol| names.get(symbol).cloned());
        let target = self.module.function_mut(function);
        for ((_, declared), value) in node.results.iter().zip(values) {
            let value = target.value_mut(*value);
            if let Some(declared) = declared {
                value.ty = declared.clone();
            }
            if let Some(known) = value.known.take() {
                value.known = Some(known.iter().map(rename).collect());
            }
        }
        let id = values.first().and_then(|value| target.producer(*value)).map(|(id, _)| id);
        if let Some(node) = id.and_then(|id| target.node_mut(id)) {
            for guard in &mut node.guards {
                let (GuardCondition::Equal(a, b)
                | GuardCondition::AtLeast(a, b)
                | GuardCondition::Broadcastable(a, b)) = &mut guard.condition;
                (*a, *b) = (rename(a), rename(b));
            }
        }
        Ok(())
    }

    fn operation(&mut self, node: &Node, depth: usize) -> Parsed<Operation> {
        let error = |reason: String| error_at(self.text, node.position, reason);
        if node.dims.is_some() != (node.op == "dims") {
            return Err(error("sizes in brackets belong to `dims`".to_string()));
        }
        match (node.op.as_str(), &node.dims) {
            ("dims", Some(elements)) => {
                let scalar = node.attributes.get("scalar").is_some_and(|value| *value == Value::Bool(true));
                Ok(Operation::Dims { elements: elements.clone(), scalar })
            }
            ("if", _) => Ok(Operation::If {
                then_branch: self.callee(node, "then", depth)?,
                else_branch: self.callee(node, "else", depth)?,
            }),
            ("loop", _) => {
                let carried = node.attributes.get("carried").and_then(Value::as_u64);
                let carried = carried.and_then(|carried| usize::try_from(carried).ok());
                let carried = carried.ok_or_else(|| error("`carried` must be a number of values".into()))?;
                Ok(Operation::Loop { body: self.callee(node, "body", depth)?, carried })
            }
            ("region", _) => Ok(Operation::Region { body: self.callee(node, "body", depth)? }),
            (name, _) => {
                let attributes: Map<_, _> = node.attributes.clone();
                Op::from_attributes(name, attributes)
                    .map(Operation::Op)
                    .map_err(|reason| error(reason.to_string()))
            }
        }
    }

    /// The graph that an attribute names, built.
    fn callee(&mut self, node: &Node, key: &str, depth: usize) -> Parsed<FunctionId> {
        let name = node.attributes.get(key).and_then(Value::as_str);
        match name.and_then(|name| self.ids.get(name)).copied() {
            Some(id) => {
                self.graph(id.index(), depth + 1)?;
                Ok(id)
            }
            None => Err(error_at(self.text, node.position, format!("`{key}` must name a graph"))),
        }
    }
}
