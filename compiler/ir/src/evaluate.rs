//! The walker: evaluates a function node by node with the plain evaluations of `lathe-ops`. For constant folding and as the
//! oracle of everything else.

use lathe_ops::{EvalError, Limits};
use lathe_tensor::Tensor;
use rustc_hash::FxHashMap;

mod control;

use crate::infer::known;
use crate::verify::MAX_CALL_DEPTH;
use crate::{
    Dim, Function, FunctionId, Guard, GuardCondition, Module, Node, Operation, Source, Symbol, ValueId,
};

/// How to evaluate.
#[derive(Clone, Copy, Debug, Default)]
pub struct EvaluateOptions<'a> {
    /// Memory of all live values together, and cancellation.
    pub limits: Limits<'a>,
    /// Also compare inferred sizes and known elements with the actual ones: finds mistakes of inference.
    pub check: bool,
}

/// An evaluation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// The inputs do not fit the function.
    #[error("input `{name}` of `{function}`: {reason}")]
    BadInput {
        /// The function.
        function: String,
        /// The input; empty where the number of inputs is wrong.
        name: String,
        /// What does not fit.
        reason: String,
    },
    /// A node failed.
    #[error("node `{node}` ({op}) on {shapes:?}: {source}")]
    Node {
        /// The node.
        node: String,
        /// Its operation.
        op: String,
        /// Shapes of its operands.
        shapes: Vec<Vec<usize>>,
        /// Why.
        source: Box<EvalError>,
    },
    /// Sizes do not fit one another.
    #[error("node `{node}` ({op}): {reason}")]
    Guard {
        /// The node, or the function.
        node: String,
        /// Its operation.
        op: String,
        /// The condition, with values.
        reason: String,
    },
    /// More memory than the limit.
    #[error("node `{node}` ({op}) needs {bytes} bytes in all, the limit is {limit}")]
    Resource {
        /// The node.
        node: String,
        /// Its operation.
        op: String,
        /// Bytes of all live values.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The module is not valid, or inference was wrong.
    #[error("internal error at node `{node}` ({op}): {reason}")]
    Bug {
        /// The node.
        node: String,
        /// Its operation.
        op: String,
        /// What is wrong.
        reason: String,
    },
}

/// Evaluates a function on inputs in its order.
///
/// # Errors
/// Inputs that do not fit, sizes that break a guard, failures of single ops, too much memory.
pub fn evaluate(
    module: &Module,
    function: FunctionId,
    inputs: &[Tensor],
    options: &EvaluateOptions<'_>,
) -> Result<Vec<Tensor>, EvaluateError> {
    let symbols = FxHashMap::default();
    let mut walker = Walker { module, options, live_bytes: 0 };
    walker.call(function, inputs.to_vec(), symbols, 0)
}

struct Walker<'a> {
    module: &'a Module,
    options: &'a EvaluateOptions<'a>,
    live_bytes: usize,
}

/// A function being evaluated.
struct Frame<'a> {
    function: &'a Function,
    symbols: FxHashMap<Symbol, i64>,
    values: Vec<Option<Tensor>>,
    /// Uses of each value that are still to come.
    uses: Vec<usize>,
    depth: usize,
}

impl Frame<'_> {
    fn size(&self, dim: &Dim) -> Option<i64> {
        dim.evaluate(&|symbol| self.symbols.get(symbol).copied())
    }

    /// Binds symbols that stand alone as a size; where `sizes` disagree with what is bound, `wrong` is told.
    fn bind(&mut self, dims: &[Dim], shape: &[usize], check: bool) -> Result<(), String> {
        if dims.len() != shape.len() {
            return Err(format!("rank {} where {} is declared", shape.len(), dims.len()));
        }
        for (dim, &size) in dims.iter().zip(shape) {
            let size = i64::try_from(size).unwrap_or(i64::MAX);
            if let Some(symbol) = dim.as_symbol() {
                self.symbols.entry(symbol.clone()).or_insert(size);
            }
        }
        for (axis, (dim, &size)) in dims.iter().zip(shape).enumerate() {
            let expected = if check { self.size(dim) } else { None };
            if expected.is_some_and(|expected| usize::try_from(expected) != Ok(size)) {
                return Err(format!("axis {axis} has size {size}, but {dim} is {}", expected.unwrap_or(0)));
            }
        }
        Ok(())
    }

    /// A guard that is broken, in words; guards over sizes not yet known hold.
    fn broken(&self, guard: &Guard) -> Option<String> {
        let both = |a: &Dim, b: &Dim| Some((self.size(a)?, self.size(b)?));
        let (a, b, relation, holds) = match &guard.condition {
            GuardCondition::Equal(a, b) => (a, b, "equal", both(a, b).is_none_or(|(x, y)| x == y)),
            GuardCondition::Broadcastable(a, b) => {
                (a, b, "broadcast with", both(a, b).is_none_or(|(x, y)| x == y || x == 1 || y == 1))
            }
            GuardCondition::AtLeast(a, b) => (a, b, "be at least", both(a, b).is_none_or(|(x, y)| x >= y)),
        };
        let values = || both(a, b).map_or(String::new(), |(x, y)| format!(" ({x} and {y})"));
        (!holds).then(|| format!("{}: {a} must {relation} {b}{}", guard.reason, values()))
    }
}

fn guard_error(node: &str, op: &str, reason: String) -> EvaluateError {
    EvaluateError::Guard { node: node.to_string(), op: op.to_string(), reason }
}

fn bug(node: &Node, reason: impl Into<String>) -> EvaluateError {
    EvaluateError::Bug {
        node: node.name.clone(),
        op: node.operation.name().to_string(),
        reason: reason.into(),
    }
}

impl<'a> Walker<'a> {
    /// Applies a function; `symbols` are those that are bound outside of it.
    fn call(
        &mut self,
        id: FunctionId,
        inputs: Vec<Tensor>,
        symbols: FxHashMap<Symbol, i64>,
        depth: usize,
    ) -> Result<Vec<Tensor>, EvaluateError> {
        let Some(function) = self.module.get_function(id) else {
            return Err(guard_error("", "call", format!("no function has id {}", id.index())));
        };
        let mut frame = Frame {
            function,
            symbols,
            values: vec![None; function.value_count()],
            uses: vec![0; function.value_count()],
            depth,
        };
        self.bind_inputs(&mut frame, inputs)?;
        let Some(order) = function.topological_order().filter(|_| depth <= MAX_CALL_DEPTH) else {
            return Err(guard_error(
                function.name(),
                "call",
                "a cycle, or calls that nest too deeply".into(),
            ));
        };
        for node in order.iter().filter_map(|id| function.node(*id)) {
            for operand in node.inputs.iter().flatten() {
                frame.uses[operand.index()] += 1;
            }
        }
        for (_, output) in function.outputs() {
            frame.uses[output.index()] += 1;
        }
        for node in order.iter().filter_map(|id| function.node(*id)) {
            self.step(&mut frame, node)?;
        }
        let mut outputs = Vec::with_capacity(function.outputs().len());
        for (name, id) in function.outputs() {
            match self.value(&frame, *id) {
                Some(tensor) => outputs.push(tensor),
                None => return Err(guard_error(name, "return", "the output has no value".to_string())),
            }
        }
        self.live_bytes = self.live_bytes.saturating_sub(frame_bytes(&frame));
        Ok(outputs)
    }

    fn bind_inputs(&mut self, frame: &mut Frame<'a>, inputs: Vec<Tensor>) -> Result<(), EvaluateError> {
        let function = frame.function;
        let error = |name: &str, reason: String| EvaluateError::BadInput {
            function: function.name().to_string(),
            name: name.to_string(),
            reason,
        };
        if inputs.len() != function.inputs().len() {
            let reason = format!("{} inputs are given, {} are taken", inputs.len(), function.inputs().len());
            return Err(error("", reason));
        }
        // Symbols first, so that `n` may stand after `2*n`.
        for check in [false, true] {
            for (id, tensor) in function.inputs().iter().zip(&inputs) {
                let value = function.value(*id);
                let name = value.name.as_deref().unwrap_or("");
                if value.ty.dtype != tensor.dtype() {
                    return Err(error(
                        name,
                        format!("{} is given, {} is taken", tensor.dtype(), value.ty.dtype),
                    ));
                }
                frame
                    .bind(&value.ty.dims, tensor.shape(), check)
                    .map_err(|reason| error(name, format!("{reason} (type {})", value.ty)))?;
            }
        }
        for guard in function.guards() {
            if let Some(reason) = frame.broken(guard) {
                return Err(error("", reason));
            }
        }
        for (id, tensor) in function.inputs().iter().zip(inputs) {
            self.live_bytes = self.live_bytes.saturating_add(tensor.bytes().len());
            frame.values[id.index()] = Some(tensor);
        }
        Ok(())
    }

    fn value(&self, frame: &Frame<'_>, id: ValueId) -> Option<Tensor> {
        match frame.function.value(id).source {
            Source::Constant(constant) => {
                let constant = self.module.get_constant(constant)?;
                constant.dense().ok()
            }
            _ => frame.values.get(id.index())?.clone(),
        }
    }

    fn step(&mut self, frame: &mut Frame<'a>, node: &'a Node) -> Result<(), EvaluateError> {
        let op = node.operation.name();
        let check_guards = |frame: &Frame<'_>| match node.guards.iter().find_map(|guard| frame.broken(guard))
        {
            Some(reason) => Err(guard_error(&node.name, op, reason)),
            None => Ok(()),
        };
        check_guards(frame)?;
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            inputs.push(match input {
                None => None,
                Some(id) => Some(self.value(frame, *id).ok_or_else(|| bug(node, "an operand has no value"))?),
            });
        }
        let results = self.apply(frame, node, &inputs)?;
        if results.len() != node.outputs.len() {
            return Err(bug(node, format!("{} results for {} outputs", results.len(), node.outputs.len())));
        }
        for (id, tensor) in node.outputs.iter().zip(&results) {
            self.check_result(frame, node, *id, tensor)?;
        }
        check_guards(frame)?;
        drop(inputs);
        self.store(frame, node, results)
    }

    fn apply(
        &mut self,
        frame: &Frame<'a>,
        node: &Node,
        inputs: &[Option<Tensor>],
    ) -> Result<Vec<Tensor>, EvaluateError> {
        let tensors = |from: usize| {
            inputs
                .iter()
                .skip(from)
                .cloned()
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| bug(node, "an operand is missing"))
        };
        match &node.operation {
            Operation::Op(op) => {
                let references: Vec<_> = inputs.iter().map(Option::as_ref).collect();
                let left = self.options.limits.max_bytes.saturating_sub(self.live_bytes);
                let custom = Some(self.module.custom().functions());
                let limits = Limits { max_bytes: left, custom, ..self.options.limits };
                op.evaluate(&references, node.outputs.len(), &limits).map_err(|source| EvaluateError::Node {
                    node: node.name.clone(),
                    op: op.name().to_string(),
                    shapes: inputs.iter().flatten().map(|input| input.shape().to_vec()).collect(),
                    source: Box::new(source),
                })
            }
            Operation::Dims { elements, scalar } => {
                let sizes: Option<Vec<i64>> = elements.iter().map(|dim| frame.size(dim)).collect();
                let sizes = sizes.ok_or_else(|| bug(node, "a size has no value"))?;
                let shape = if *scalar { vec![] } else { vec![sizes.len()] };
                Tensor::from_slice(&sizes, &shape)
                    .map(|tensor| vec![tensor])
                    .map_err(|error| bug(node, error.to_string()))
            }
            Operation::If { then_branch, else_branch } => {
                let condition =
                    inputs.first().and_then(Option::as_ref).and_then(|tensor| tensor.bytes().first());
                let condition = *condition.ok_or_else(|| bug(node, "the condition has no element"))? != 0;
                let branch = if condition { *then_branch } else { *else_branch };
                self.call(branch, tensors(1)?, frame.symbols.clone(), frame.depth + 1)
            }
            Operation::Loop { body, carried } => self.repeat(frame, node, inputs, (*body, *carried)),
            Operation::Region { body } => {
                self.call(*body, tensors(0)?, frame.symbols.clone(), frame.depth + 1)
            }
        }
    }

    fn check_result(
        &self,
        frame: &mut Frame<'a>,
        node: &Node,
        id: ValueId,
        tensor: &Tensor,
    ) -> Result<(), EvaluateError> {
        let value = frame.function.value(id);
        if value.ty.dtype != tensor.dtype() {
            return Err(bug(node, format!("the result is {}, inferred is {}", tensor.dtype(), value.ty)));
        }
        frame.bind(&value.ty.dims, tensor.shape(), self.options.check).map_err(|reason| {
            bug(node, format!("the result is {:?}, inferred is {}: {reason}", tensor.shape(), value.ty))
        })?;
        let Some(known) = value.known.as_ref().filter(|_| self.options.check) else { return Ok(()) };
        let actual = known::of_tensor(tensor, usize::MAX).unwrap_or_default();
        for (index, dim) in known.iter().enumerate() {
            let expected = frame.size(dim);
            if expected.is_some() && expected != actual.get(index).and_then(Dim::as_constant) {
                let found = actual.get(index);
                let found = found.map_or("nothing".to_string(), Dim::to_string);
                return Err(bug(node, format!("element {index} is {found}, but {dim} is known of it")));
            }
        }
        Ok(())
    }

    /// Keeps results, drops operands after their last use, and checks the memory.
    fn store(
        &mut self,
        frame: &mut Frame<'a>,
        node: &Node,
        results: Vec<Tensor>,
    ) -> Result<(), EvaluateError> {
        for operand in node.inputs.iter().flatten() {
            let uses = &mut frame.uses[operand.index()];
            *uses = uses.saturating_sub(1);
            if *uses == 0
                && let Some(tensor) = frame.values[operand.index()].take()
            {
                self.live_bytes = self.live_bytes.saturating_sub(tensor.bytes().len());
            }
        }
        for (id, tensor) in node.outputs.iter().zip(results) {
            if frame.uses[id.index()] > 0 {
                self.live_bytes = self.live_bytes.saturating_add(tensor.bytes().len());
                frame.values[id.index()] = Some(tensor);
            }
        }
        let limit = self.options.limits.max_bytes;
        if self.live_bytes > limit {
            let op = node.operation.name().to_string();
            return Err(EvaluateError::Resource {
                node: node.name.clone(),
                op,
                bytes: self.live_bytes,
                limit,
            });
        }
        Ok(())
    }
}

fn frame_bytes(frame: &Frame<'_>) -> usize {
    frame.values.iter().flatten().map(|tensor| tensor.bytes().len()).sum()
}
