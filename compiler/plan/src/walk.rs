//! The walk over a function: one node after the other becomes steps, a view, or nothing.

use std::collections::BTreeSet;

use lathe_artifact::plan::{Condition, Guard, Plan, Port, Symbol, SymbolSource, TensorRef};
use lathe_ir::{FunctionId, GuardCondition, Module, Node, NodeId, Operation, ValueId};
use lathe_ops::Op;

use crate::error::Refusal;
use crate::location::Location;
use crate::planner::{BufferKind, NO_STEP, Planner};
use crate::schedule;
use crate::scope::{Context, Fits, Scope};
use crate::select;
use crate::size::Size;
use crate::state;
use crate::weights::Weights;
use crate::{PlanError, PlanOptions, Planned, PlannedModule};

/// Plans a function of a verified module.
///
/// # Errors
/// [`PlanError::Unsupported`] where a node can neither be compiled nor evaluated, [`PlanError::Bug`] where the module
/// breaks an invariant of the verifier.
pub fn plan(module: &Module, function: FunctionId, options: &PlanOptions) -> Result<Planned, PlanError> {
    let mut weights = Weights::default();
    let plan = plan_function(module, function, options, &mut weights)?;
    Ok(Planned { plan, weights: weights.list })
}

/// Plans several functions of a verified module; a weight that two of them read is packed once.
///
/// # Errors
/// As [`plan`].
pub fn plan_all(
    module: &Module,
    functions: &[FunctionId],
    options: &PlanOptions,
) -> Result<PlannedModule, PlanError> {
    let mut weights = Weights::default();
    let plans = functions
        .iter()
        .map(|&function| plan_function(module, function, options, &mut weights))
        .collect::<Result<_, _>>()?;
    Ok(PlannedModule { plans, weights: weights.list })
}

fn plan_function(
    module: &Module,
    function: FunctionId,
    options: &PlanOptions,
    weights: &mut Weights,
) -> Result<Plan, PlanError> {
    let mut planner = Planner::new(module, options);
    planner.weights = std::mem::take(weights);
    let function = module.function(function);
    let mut context = Context { planner: &mut planner, scope: Scope::new(function, 0) };
    let inputs = context.bind_inputs()?;
    context.function_guards()?;
    context.body()?;
    let outputs = context.bind_outputs()?;
    let routed = planner.routings.iter().flat_map(|routing| [&routing.counts, &routing.sums]);
    let kept = outputs.iter().map(|port| &port.tensor).chain(routed);
    let kept: BTreeSet<_> = kept.map(|tensor| tensor.view.slot).collect();
    planner.close_slots(&kept);
    let plan = Plan {
        name: function.name().to_string(),
        dims: planner.table.entries,
        dim_stages: planner.table.stages,
        symbols: planner.symbols,
        stages: planner.stages,
        guards: planner.guards,
        inputs,
        outputs,
        slots: planner.slots,
        steps: planner.steps,
        phases: planner.phase + 1,
        views: planner.views,
        states: planner.states,
        regimes: state::regimes(function),
        routings: planner.routings,
        composites: function.composites().clone(),
    };
    *weights = planner.weights;
    tracing::debug!(steps = plan.steps.len(), slots = plan.slots.len(), dims = plan.dims.len(), "planned");
    Ok(plan)
}

impl<'m> Context<'_, 'm> {
    /// Ports of the inputs; sizes that are bare new names become symbols of the run.
    fn bind_inputs(&mut self) -> Result<Vec<Port>, PlanError> {
        let function = self.scope.function;
        for (index, &value) in function.inputs().iter().enumerate() {
            for (axis, dim) in function.ty(value).dims.iter().enumerate() {
                if let Some(symbol) = dim.as_symbol()
                    && !self.planner.sizes.is_defined(symbol)
                {
                    let source = SymbolSource::Input { input: index as u32, axis: axis as u32 };
                    self.define(symbol, 0, source);
                }
            }
        }
        let states = state::of(function).map_err(|reason| self.planner.bug(reason))?;
        let mut ports = Vec::new();
        for (index, &value) in function.inputs().iter().enumerate() {
            let dims = self.dims(value)?;
            let dtype = function.ty(value).dtype;
            let state = states.iter().position(|state| state.input as usize == index);
            let kind = match state {
                Some(state) => BufferKind::State(state as u32),
                None => BufferKind::Input(index as u32),
            };
            let buffer = self.planner.buffer(kind, dtype, &dims, 0);
            let location = Location::dense(&mut self.planner.sizes, buffer, dtype, &dims);
            let name = function.value(value).name.clone().unwrap_or_else(|| format!("input{index}"));
            ports.push(self.port(name, value, &location));
            self.place(value, location);
        }
        self.planner.states = states;
        Ok(ports)
    }

    /// Gives a symbol a run-time entry that is known after `stage`.
    pub fn define(&mut self, symbol: &lathe_ir::Symbol, stage: u32, source: SymbolSource) {
        let index = self.planner.sizes.define(symbol, stage);
        let dim = self.planner.table.symbol(index, stage);
        self.planner.symbols.push(Symbol { name: symbol.name().to_string(), dim, source });
    }

    fn port(&mut self, name: String, value: ValueId, location: &Location) -> Port {
        let tensor: TensorRef = self.planner.tensor(location);
        let dims_text = self.scope.function.ty(value).dims.iter().map(|dim| dim.to_string()).collect();
        Port { name, tensor, dims_text }
    }

    fn bind_outputs(&mut self) -> Result<Vec<Port>, PlanError> {
        let function = self.scope.function;
        let mut ports = Vec::new();
        for (index, (name, value)) in function.outputs().iter().enumerate() {
            self.planner.node = (name.clone(), "output".into());
            let location = self.location(*value).map_err(|refusal| self.failure(refusal))?;
            let location = if location.is_dense(&mut self.planner.sizes) {
                location
            } else {
                let dims = location.dims.clone();
                let kind = BufferKind::Output(index as u32);
                let count = self.planner.sizes.product(&dims);
                let target = if self.planner.sizes.stage(count) == 0 {
                    let buffer = self.planner.buffer(kind, location.dtype, &dims, 0);
                    Location::dense(&mut self.planner.sizes, buffer, location.dtype, &dims)
                } else {
                    self.planner.temporary(location.dtype, &dims, 0)
                };
                self.copy(&location, &target, "the output is row-major")
                    .map_err(|refusal| self.failure(refusal))?;
                target
            };
            ports.push(self.port(name.clone(), *value, &location));
        }
        Ok(ports)
    }

    fn failure(&self, refusal: Refusal) -> PlanError {
        match refusal {
            Refusal::Failed(error) => error,
            Refusal::Evaluate(reason) => self.planner.unsupported(reason),
        }
    }

    pub fn function_guards(&mut self) -> Result<(), PlanError> {
        let function = self.scope.function;
        for guard in function.guards() {
            self.guard(&guard.condition, guard.reason.clone())?;
        }
        Ok(())
    }

    fn guard(&mut self, condition: &GuardCondition, origin: String) -> Result<(), PlanError> {
        let (GuardCondition::Equal(a, b)
        | GuardCondition::Broadcastable(a, b)
        | GuardCondition::AtLeast(a, b)) = condition;
        let mut entry = |dim| {
            let size = self.planner.sizes.translate(dim).map_err(|symbol| {
                self.planner
                    .bug(format!("the guard `{origin}` uses symbol `{}` before its node", symbol.name()))
            })?;
            let stage = self.planner.sizes.stage(size);
            Ok::<_, PlanError>((self.planner.table.entry(&self.planner.sizes, size), stage))
        };
        let ((a, stage_a), (b, stage_b)) = (entry(a)?, entry(b)?);
        let condition = match condition {
            GuardCondition::Equal(..) => Condition::Equal(a, b),
            GuardCondition::Broadcastable(..) => Condition::Broadcastable(a, b),
            GuardCondition::AtLeast(..) => Condition::AtLeast(a, b),
        };
        let stage = stage_a.max(stage_b).max(self.scope.gate);
        self.planner.guards.push(Guard { stage, condition, origin });
        Ok(())
    }

    /// Plans every node of the function.
    pub fn body(&mut self) -> Result<(), PlanError> {
        let function = self.scope.function;
        let Some(order) = schedule::order(function) else {
            return Err(self.planner.bug(format!("function `{}` has a cycle", function.name())));
        };
        for id in order {
            let Some(node) = function.node(id) else { continue };
            self.planner.node = (node.name.clone(), node.operation.name().to_string());
            match self.node(id, node) {
                Ok(()) => {}
                Err(Refusal::Evaluate(reason)) => self.evaluate_node(node, &reason)?,
                Err(Refusal::Failed(error)) => return Err(error),
            }
            self.consume(id);
        }
        Ok(())
    }

    fn node(&mut self, id: NodeId, node: &Node) -> Result<(), Refusal> {
        if let Operation::If { then_branch, else_branch } = node.operation {
            self.node_guards(node)?;
            return self.branch(node, then_branch, else_branch);
        }
        if let Operation::Loop { body, carried } = node.operation {
            self.node_guards(node)?;
            return self.repeat(node, body, carried);
        }
        if node.outputs.iter().any(|output| self.has_undefined(*output)) {
            if !self.planner.options.native {
                return crate::error::refuse("native steps are turned off");
            }
            return select::dynamic(self, node);
        }
        self.node_guards(node)?;
        let known = node.outputs.iter().all(|output| self.known(*output).is_some());
        if known && !node.outputs.is_empty() {
            // Stored only if something reads it as data.
            self.planner.views.push(self.planner.node.clone());
            return Ok(());
        }
        if !self.planner.options.native && matches!(node.operation, Operation::Op(_)) {
            return crate::error::refuse("native steps are turned off");
        }
        select::node(self, id, node)
    }

    pub fn node_guards(&mut self, node: &Node) -> Result<(), PlanError> {
        for guard in &node.guards {
            let origin = format!("`{}` ({}): {}", node.name, node.operation.name(), guard.reason);
            self.guard(&guard.condition, origin)?;
        }
        Ok(())
    }

    /// An evaluator step for a node. Symbols that appear first in its outputs are written by it.
    fn evaluate_node(&mut self, node: &Node, reason: &str) -> Result<(), PlanError> {
        let Operation::Op(op) = &node.operation else {
            return Err(self.planner.unsupported(format!("{reason}, and it cannot be evaluated as one op")));
        };
        self.evaluate_op(op, node, reason).map_err(|refusal| self.failure(refusal))
    }

    fn evaluate_op(&mut self, op: &Op, node: &Node, reason: &str) -> Result<(), Refusal> {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            inputs.push(match input {
                Some(value) => Some(self.dense(*value)?),
                None => None,
            });
        }
        let begins = self.define_outputs(node);
        // Guards may name the new symbols.
        if begins.is_some() {
            self.node_guards(node)?;
        }
        let mut outputs = Vec::with_capacity(node.outputs.len());
        for &output in &node.outputs {
            let dims = self.dims(output)?;
            let location = match begins {
                // A state is changed where it is.
                _ if matches!(op, Op::KvAppend(_)) => match node.inputs.first().copied().flatten() {
                    Some(state) => self.location(state)?,
                    None => return Err(self.planner.bug("no state").into()),
                },
                Some(_) => {
                    self.planner.temporary(self.scope.function.ty(output).dtype, &dims, self.scope.depth)
                }
                None => self.destination(output, &dims, Fits::Dense)?,
            };
            outputs.push(location);
        }
        self.planner.evaluate(op.clone(), &inputs, &outputs, begins, reason);
        for (&output, location) in node.outputs.iter().zip(outputs) {
            self.place(output, location);
        }
        Ok(())
    }

    /// Defines the symbols that a node's outputs show first, as written by the next step; the stage that they begin.
    pub fn define_outputs(&mut self, node: &Node) -> Option<u32> {
        let function = self.scope.function;
        let stage = self.planner.stages;
        let mut found = false;
        for (output, &value) in node.outputs.iter().enumerate() {
            for (axis, dim) in function.ty(value).dims.iter().enumerate() {
                if let Some(symbol) = dim.as_symbol()
                    && !self.planner.sizes.is_defined(symbol)
                {
                    let source =
                        SymbolSource::Step { step: NO_STEP, output: output as u32, axis: axis as u32 };
                    self.define(symbol, stage, source);
                    found = true;
                }
            }
        }
        if !found {
            return None;
        }
        self.planner.stages += 1;
        Some(stage)
    }

    /// Elements of `dims` as sizes for a rule.
    pub fn size_of(&mut self, value: i64) -> Size {
        self.planner.sizes.constant(value)
    }
}
