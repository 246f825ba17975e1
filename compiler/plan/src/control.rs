//! Control flow. `If`: both branches are planned in place; their results are made where the `If`'s outputs lie.

mod repeat;

use lathe_artifact::plan::{Step, SymbolSource};
use lathe_ir::{FunctionId, Node, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Unary;

use crate::error::Refusal;
use crate::location::Location;
use crate::planner::NO_STEP;
use crate::scope::{Context, Fits, Scope};

/// Deepest nesting of branches and loops.
const DEEPEST: u32 = 32;

/// Where an output of an `If` is made.
struct Target {
    location: Location,
    /// The stage that begins when it is bound, where its size is data-dependent.
    stage: Option<u32>,
}

impl<'m> Context<'_, 'm> {
    /// Plans an `If`.
    pub fn branch(&mut self, node: &Node, then: FunctionId, otherwise: FunctionId) -> Result<(), Refusal> {
        if self.scope.depth >= DEEPEST {
            return Err(self
                .planner
                .unsupported(format!("branches are nested deeper than {DEEPEST}"))
                .into());
        }
        let Some(Some(condition)) = node.inputs.first().copied() else {
            return Err(self.planner.bug("no condition").into());
        };
        let condition = self.dense(condition)?;
        let mut operands = Vec::new();
        for operand in node.inputs.iter().skip(1) {
            operands.push(match operand {
                Some(value) => Some((*value, self.location(*value)?)),
                None => None,
            });
        }
        let targets = self.targets(node)?;
        // Workers decide together: nobody is still writing what the branches touch.
        self.planner.barrier();
        self.planner.touch(condition.buffer);
        let view = self.planner.view(&condition);
        let name = self.planner.node.clone();
        let id = self.planner.emit_block(view);
        let then_steps = self.planned_branch(then, node, &condition, &operands, &targets)?;
        self.planner.next_phase();
        let else_steps = self.planned_branch(otherwise, node, &condition, &operands, &targets)?;
        self.planner.node = name;
        self.planner.touch(condition.buffer);
        self.planner.close_block(id, then_steps, else_steps);
        self.planner.barrier();
        for (&output, target) in node.outputs.iter().zip(targets) {
            self.planner.touch(target.location.buffer);
            self.place(output, target.location);
        }
        Ok(())
    }

    /// Memory for the outputs. Each output whose size only a branch knows begins a stage of its own.
    fn targets(&mut self, node: &Node) -> Result<Vec<Target>, Refusal> {
        let function = self.scope.function;
        let fresh: Vec<_> = node
            .outputs
            .iter()
            .flat_map(|&output| &function.ty(output).dims)
            .flat_map(|dim| self.planner.sizes.undefined(dim))
            .collect();
        let mut targets = Vec::new();
        for &output in &node.outputs {
            let dynamic = function.ty(output).dims.iter().any(|dim| {
                let mut found = false;
                dim.visit_symbols(&mut |symbol| found |= fresh.contains(symbol));
                found
            });
            let mut stage = None;
            if dynamic {
                stage = Some(self.planner.stages);
                self.planner.stages += 1;
                for (axis, dim) in function.ty(output).dims.iter().enumerate() {
                    if let Some(symbol) = dim.as_symbol()
                        && !self.planner.sizes.is_defined(symbol)
                    {
                        let source = SymbolSource::Step { step: NO_STEP, output: 0, axis: axis as u32 };
                        self.define(symbol, self.planner.stages - 1, source);
                    }
                }
            }
            let dims = self.dims(output)?;
            let location = match stage {
                Some(_) => self.planner.temporary(function.ty(output).dtype, &dims, self.scope.depth),
                None => self.destination(output, &dims, Fits::Dense)?,
            };
            targets.push(Target { location, stage });
        }
        Ok(targets)
    }

    /// The steps of one branch.
    fn planned_branch(
        &mut self,
        branch: FunctionId,
        node: &Node,
        condition: &Location,
        operands: &[Option<(ValueId, Location)>],
        targets: &[Target],
    ) -> Result<Vec<Step>, Refusal> {
        let outer = std::mem::take(&mut self.planner.steps);
        let operands: Vec<_> =
            operands.iter().map(|operand| operand.as_ref().map(|(_, location)| location)).collect();
        let gate = self.gate(branch, condition);
        self.inlined(branch, node, gate, &operands, targets)?;
        Ok(std::mem::replace(&mut self.planner.steps, outer))
    }

    /// A stage that begins with the branch, where it has conditions on sizes: they must hold only if the branch is taken.
    fn gate(&mut self, branch: FunctionId, condition: &Location) -> u32 {
        let function = self.planner.module.function(branch);
        let guarded =
            function.node_ids().any(|id| function.node(id).is_some_and(|node| !node.guards.is_empty()));
        if !guarded && function.guards().is_empty() {
            return self.scope.gate;
        }
        let stage = self.planner.stages;
        self.planner.stages += 1;
        let copy = self.planner.temporary(condition.dtype, &condition.dims, self.scope.depth + 1);
        let op = Op::Unary(Unary::Identity);
        let reason = "the branch's conditions on sizes are checked here";
        self.planner.evaluate(op, &[Some(condition.clone())], &[copy], Some(stage), reason);
        stage
    }

    /// The nodes of a fused region one by one, where one loop cannot express them.
    pub fn inline(&mut self, node: &Node, body: FunctionId) -> Result<(), Refusal> {
        let mut operands = Vec::new();
        for operand in &node.inputs {
            operands.push(match operand {
                Some(value) => Some(self.location(*value)?),
                None => None,
            });
        }
        let mut targets = Vec::new();
        for &output in &node.outputs {
            let dims = self.dims(output)?;
            let location = self.destination(output, &dims, Fits::Dense)?;
            targets.push(Target { location, stage: None });
        }
        let operands: Vec<_> = operands.iter().map(Option::as_ref).collect();
        self.inlined(body, node, self.scope.gate, &operands, &targets)?;
        for (&output, target) in node.outputs.iter().zip(targets) {
            self.place(output, target.location);
        }
        Ok(())
    }

    fn inlined(
        &mut self,
        body: FunctionId,
        node: &Node,
        gate: u32,
        operands: &[Option<&Location>],
        targets: &[Target],
    ) -> Result<(), Refusal> {
        let function: &'m lathe_ir::Function = self.planner.module.function(body);
        let scope = Scope { gate, ..Scope::new(function, self.scope.depth + 1) };
        let mut inner = Context { planner: &mut *self.planner, scope };
        for (&input, operand) in function.inputs().iter().zip(operands) {
            let Some(location) = operand else { continue };
            for (dim, &size) in function.ty(input).dims.iter().zip(&location.dims) {
                if let Some(symbol) = dim.as_symbol()
                    && !inner.planner.sizes.is_defined(symbol)
                {
                    inner.planner.sizes.alias(symbol, size);
                }
            }
            inner.place(input, (*location).clone());
        }
        for ((_, value), target) in function.outputs().iter().zip(targets) {
            let made_here = matches!(function.value(*value).source, lathe_ir::Source::Node(..));
            if target.stage.is_none() && made_here && !inner.scope.reserved.contains_key(value) {
                inner.scope.reserved.insert(*value, target.location.clone());
            }
        }
        inner.function_guards()?;
        inner.body()?;
        inner.planner.node = (node.name.clone(), node.operation.name().to_string());
        for ((_, value), target) in function.outputs().iter().zip(targets) {
            inner.bind_branch_output(*value, target)?;
        }
        Ok(())
    }

    fn bind_branch_output(&mut self, value: ValueId, target: &Target) -> Result<(), Refusal> {
        if let Some(stage) = target.stage {
            let location = self.dense(value)?;
            let op = Op::Unary(Unary::Identity);
            let outputs = [target.location.clone()];
            self.planner.evaluate(
                op,
                &[Some(location)],
                &outputs,
                Some(stage),
                "binds the result of the branch",
            );
            return Ok(());
        }
        let location = self.location(value)?;
        if location == target.location {
            return Ok(());
        }
        if location.dtype.element_bytes().is_none() {
            let location = self.dense(value)?;
            let op = Op::Unary(Unary::Identity);
            self.planner.evaluate(
                op,
                &[Some(location)],
                std::slice::from_ref(&target.location),
                None,
                "result of the branch",
            );
            return Ok(());
        }
        // The outer sizes are equal to the branch's, if perhaps in other words.
        let from = match location.broadcast(&mut self.planner.sizes, &target.location.dims) {
            Some(from) => from,
            None => return Err(self.planner.bug("the result has another rank").into()),
        };
        self.copy(&from, &target.location, "result of the branch")
    }
}
