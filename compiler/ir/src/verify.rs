//! The verifier. What it checks is what a valid module is:
//!
//! 1. Every operand and output of a function is a value of that function. An input's source is its own place among the
//!    inputs; a constant's is a constant of the module; a node's output is listed by that node at that place.
//! 2. The users of a value are exactly the operands that name it, one entry a use.
//! 3. The graph is acyclic, and its edges agree with the operands.
//! 4. Each node has as many operands and results as its operation takes.
//! 5. Types agree with inference: the same dtype and rank, no size that is provably different, no negative size. Better known
//!    sizes than inferred ones are valid.
//! 6. A value of a dense constant has the constant's dtype and shape; one of quantised blocks is f32 and
//!    stored as the `u8` bytes of its blocks.
//! 7. Names of functions, and of the inputs of one function, are unique; so are the names of its outputs.
//! 8. Functions do not call themselves, directly or through others, and calls nest at most 64 deep.
//! 9. Both branches of an `if` take the operands given and return equally many values of equal dtypes and ranks.
//! 10. The body of a region holds elementwise operations only, linear quantisation by one scale among them.
//! 11. A symbol in the elements of `dims` occurs in the function's inputs, or stands alone as a size of an operand of that node.
//! 12. A state is threaded: what `kv_append` changes is an input of the function or the result of another `kv_append`, and
//!     nothing else uses that version; whoever reads the state reads the newest version.
//! 13. The parts of composite inputs and outputs are inputs and outputs of their dtypes and ranks, one composite after the other.

use lathe_ops::Op;
use lathe_tensor::{DType, Encoding};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::infer;
use crate::{Answer, Function, FunctionId, Module, Node, NodeId, Operation, Source, ValueId, ValueType};

/// A module that breaks an invariant: a mistake of a pass or importer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("function `{function}`{}: {reason}", .node.as_ref().map(|node| format!(", node {node}")).unwrap_or_default())]
pub struct VerifyError {
    /// The function.
    pub function: String,
    /// The node, where it is one: its name and operation.
    pub node: Option<String>,
    /// The invariant and what breaks it.
    pub reason: String,
}

/// Calls that may nest.
pub(crate) const MAX_CALL_DEPTH: usize = 64;

/// Checks every invariant in the list above.
pub fn verify(module: &Module) -> Result<(), VerifyError> {
    let mut names = FxHashSet::default();
    for (id, function) in module.functions() {
        let check = Check { module, function };
        if !names.insert(function.name()) {
            return Err(check.error(None, "two functions have this name"));
        }
        check.ports()?;
        check.composites()?;
        check.uses()?;
        check.calls(id)?;
        let order = function.topological_order();
        let order = order.ok_or_else(|| check.error(None, "the graph has a cycle"))?;
        for node in order {
            check.node(node)?;
        }
    }
    Ok(())
}

struct Check<'m> {
    module: &'m Module,
    function: &'m Function,
}

impl Check<'_> {
    fn error(&self, node: Option<&Node>, reason: impl Into<String>) -> VerifyError {
        VerifyError {
            function: self.function.name().to_string(),
            node: node.map(|node| format!("`{}` ({})", node.name, node.operation.name())),
            reason: reason.into(),
        }
    }

    /// Inputs, outputs and constants.
    fn ports(&self) -> Result<(), VerifyError> {
        let function = self.function;
        let mut names = FxHashSet::default();
        for (index, id) in function.inputs().iter().enumerate() {
            self.defined(None, *id)?;
            if function.value(*id).source != Source::Input(index) {
                return Err(self.error(None, format!("input {index} has another source")));
            }
            let name = function.value(*id).name.as_deref().unwrap_or("");
            if !names.insert(name) {
                return Err(self.error(None, format!("two inputs are named `{name}`")));
            }
        }
        names.clear();
        for (name, id) in function.outputs() {
            self.defined(None, *id)?;
            if !names.insert(name) {
                return Err(self.error(None, format!("two outputs are named `{name}`")));
            }
        }
        Ok(())
    }

    /// Parts of sequences, optionals and maps.
    fn composites(&self) -> Result<(), VerifyError> {
        let function = self.function;
        let outputs: Vec<ValueId> = function.outputs().iter().map(|(_, value)| *value).collect();
        let composites = function.composites();
        for (list, ports) in [(&composites.inputs, function.inputs()), (&composites.outputs, &outputs[..])] {
            let mut next = 0;
            for composite in list {
                let parts = composite.form.parts();
                let found = ports.get(composite.first..).and_then(|ports| ports.get(..parts.len()));
                let fits = found.filter(|_| composite.first >= next).is_some_and(|found| {
                    let types = found.iter().map(|value| function.ty(*value));
                    let mut pairs = types.zip(&parts);
                    pairs.all(|(ty, part)| ty.dtype == part.dtype && ty.rank() == part.rank as usize)
                });
                if !fits {
                    return Err(
                        self.error(None, format!("`{}` has other parts than its form", composite.name))
                    );
                }
                next = composite.first + parts.len();
            }
        }
        Ok(())
    }

    /// That a value exists and its source knows it.
    fn defined(&self, user: Option<&Node>, id: ValueId) -> Result<(), VerifyError> {
        let function = self.function;
        if id.index() >= function.value_count() {
            return Err(self.error(user, format!("no value has id {}", id.index())));
        }
        let value = function.value(id);
        let known = match value.source {
            Source::Input(index) => function.inputs().get(index) == Some(&id),
            Source::Constant(constant) => match self.module.get_constant(constant) {
                Some(constant) => {
                    self.constant(user, &value.ty, constant)?;
                    true
                }
                None => false,
            },
            Source::Node(node, output) => {
                function.node(node).is_some_and(|node| node.outputs.get(output) == Some(&id))
            }
        };
        if known { Ok(()) } else { Err(self.error(user, format!("value {} has no source", id.index()))) }
    }

    fn constant(
        &self,
        user: Option<&Node>,
        ty: &ValueType,
        constant: &crate::Constant,
    ) -> Result<(), VerifyError> {
        let tensor = &constant.tensor;
        let same = |(dim, &size): (&crate::Dim, &usize)| dim.as_constant() == i64::try_from(size).ok();
        let stored = match constant.encoding {
            Encoding::Dense => constant.shape == tensor.shape(),
            Encoding::Blocked(format) => {
                tensor.dtype() == DType::U8
                    && tensor.rank() == 1
                    && format.storage_bytes(&constant.shape) == Some(tensor.len())
            }
            Encoding::Widened(dtype) => {
                matches!(dtype, DType::F16 | DType::BF16)
                    && tensor.dtype() == dtype
                    && constant.shape == tensor.shape()
            }
        };
        let fits = stored
            && ty.dtype == constant.dtype()
            && ty.rank() == constant.shape.len()
            && ty.dims.iter().zip(&constant.shape).all(same);
        if fits {
            return Ok(());
        }
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        Err(self.error(user, format!("a constant {dtype}{shape:?} stands for a value of type {ty}")))
    }

    /// Users against operands.
    fn uses(&self) -> Result<(), VerifyError> {
        let mut counts: FxHashMap<(usize, NodeId), i64> = FxHashMap::default();
        for id in self.function.node_ids() {
            let Some(node) = self.function.node(id) else { continue };
            for value in node.inputs.iter().flatten() {
                self.defined(Some(node), *value)?;
                *counts.entry((value.index(), id)).or_default() += 1;
            }
        }
        for index in 0..self.function.value_count() {
            for user in self.function.users(ValueId(index as u32)) {
                *counts.entry((index, *user)).or_default() -= 1;
            }
        }
        match counts.iter().find(|(_, count)| **count != 0) {
            None => Ok(()),
            Some(((value, user), _)) => {
                let reason = format!("the users of value {value} disagree with the operands");
                Err(self.error(self.function.node(*user), reason))
            }
        }
    }

    /// Call depth and recursion, from this function on.
    fn calls(&self, id: FunctionId) -> Result<(), VerifyError> {
        let mut heights = FxHashMap::default();
        match call_height(self.module, id, &mut heights, 0) {
            Some(_) => Ok(()),
            None => Err(self.error(None, "calls itself, an unknown function, or nests calls too deeply")),
        }
    }

    fn node(&self, id: NodeId) -> Result<(), VerifyError> {
        let Some(node) = self.function.node(id) else { return Ok(()) };
        for (index, output) in node.outputs.iter().enumerate() {
            self.defined(Some(node), *output)?;
            if self.function.value(*output).source != Source::Node(id, index) {
                return Err(self.error(Some(node), format!("output {index} has another source")));
            }
        }
        self.types(node)?;
        if let Operation::Dims { elements, .. } = &node.operation
            && let Some(symbol) = self.function.symbol_without_source(elements, &node.inputs)
        {
            let reason = format!("no input and no operand has the size `{}`", symbol.name());
            return Err(self.error(Some(node), reason));
        }
        self.state(node)?;
        if let Operation::Region { body } = node.operation {
            let body = self.module.function(body);
            let foreign = body
                .node_ids()
                .filter_map(|id| body.node(id))
                .find(|node| !node.operation.is_elementwise() && !is_one_map(body, node));
            if let Some(foreign) = foreign {
                let name = foreign.operation.name();
                return Err(
                    self.error(Some(node), format!("the region holds `{name}`, which is not elementwise"))
                );
            }
        }
        Ok(())
    }

    /// Linear use of the state that an append changes in place.
    fn state(&self, node: &Node) -> Result<(), VerifyError> {
        let Operation::Op(Op::KvAppend(_)) = node.operation else { return Ok(()) };
        let Some(state) = node.inputs.first().copied().flatten() else { return Ok(()) };
        let threaded = match self.function.value(state).source {
            Source::Input(_) => true,
            Source::Constant(_) => false,
            Source::Node(producer, _) => self
                .function
                .node(producer)
                .is_some_and(|node| matches!(node.operation, Operation::Op(Op::KvAppend(_)))),
        };
        if !threaded {
            return Err(self.error(Some(node), "the state is neither an input nor a version of one"));
        }
        if self.function.users(state).len() != 1 || self.function.is_output(state) {
            return Err(self.error(Some(node), "another use of the version of the state that it changes"));
        }
        Ok(())
    }

    fn types(&self, node: &Node) -> Result<(), VerifyError> {
        let operands: Vec<_> = node
            .inputs
            .iter()
            .map(|input| input.map(|id| infer::operand(self.module, self.function, id)))
            .collect();
        let mut fresh = self.module.fresh_symbols;
        let outputs = node.outputs.len();
        let inferred = infer::infer(self.module, &mut fresh, &node.operation, &operands, outputs, &node.name)
            .map_err(|error| self.error(Some(node), error.to_string()))?;
        for (index, (id, output)) in node.outputs.iter().zip(&inferred.outputs).enumerate() {
            let (ty, found) = (self.function.ty(*id), &output.ty);
            let agree = ty.dtype == found.dtype
                && ty.rank() == found.rank()
                && ty.dims.iter().zip(&found.dims).all(|(a, b)| a.equals(b) != Answer::No)
                && ty.dims.iter().all(|dim| dim.at_least(0) != Answer::No && !dim.is_overflow());
            if !agree {
                return Err(self.error(Some(node), format!("output {index} is {ty}, inferred is {found}")));
            }
        }
        Ok(())
    }
}

/// Whether a node is a linear map between integers and floats by one scale, which is elementwise.
fn is_one_map(body: &Function, node: &Node) -> bool {
    let blocks = match &node.operation {
        Operation::Op(Op::QuantizeLinear(map)) => map.block_size,
        Operation::Op(Op::DequantizeLinear(map)) => map.block_size,
        _ => return false,
    };
    let mut parameters = node.inputs.iter().skip(1).flatten();
    blocks == 0 && parameters.all(|value| body.ty(*value).dims.iter().all(|dim| dim.as_constant() == Some(1)))
}

/// Calls that nest below a function; `None` for recursion, unknown functions and too deep nesting.
fn call_height(
    module: &Module,
    id: FunctionId,
    heights: &mut FxHashMap<FunctionId, usize>,
    depth: usize,
) -> Option<usize> {
    if let Some(height) = heights.get(&id) {
        return Some(*height);
    }
    if depth > MAX_CALL_DEPTH {
        return None;
    }
    let function = module.get_function(id)?;
    let mut height = 0;
    for node in function.node_ids().filter_map(|id| function.node(id)) {
        for callee in node.operation.callees() {
            height = height.max(call_height(module, callee, heights, depth + 1)? + 1);
        }
    }
    heights.insert(id, height);
    (height <= MAX_CALL_DEPTH).then_some(height)
}
