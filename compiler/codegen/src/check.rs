//! What a plan must hold before code is made of it: every index lies in its table, the dims table is in SSA form and stage
//! order, arguments fit their builtin. Regions are checked by [`crate::region`].

use lathe_artifact::builtin::FieldKind;
use lathe_artifact::plan::{Arg, Call, DimId, Plan, Step, StepKind, View};

use crate::CodegenError;
use crate::region;

/// Blocks nested deeper than this are refused, so that recursion stays bounded.
const MAX_DEPTH: usize = 64;

/// Tables longer than this are refused, so that byte offsets into them fit an instruction.
const MAX_TABLE: usize = 1 << 27;

/// Checks `plan`.
pub(crate) fn check(plan: &Plan) -> Result<(), CodegenError> {
    let checker = Checker { plan };
    checker.tables()?;
    checker.steps(&plan.steps, 0)
}

/// Checks of one plan.
pub(crate) struct Checker<'a> {
    plan: &'a Plan,
}

impl Checker<'_> {
    fn bad(&self, place: &str, reason: impl Into<String>) -> CodegenError {
        CodegenError::BadPlan {
            function: self.plan.name.clone(),
            place: place.to_string(),
            reason: reason.into(),
        }
    }

    fn tables(&self) -> Result<(), CodegenError> {
        let plan = self.plan;
        if plan.dims.len() > MAX_TABLE || plan.slots.len() > MAX_TABLE {
            return Err(self.bad("its tables", "too many dims or slots"));
        }
        if plan.stages == 0 || plan.stages as usize > plan.dims.len() + plan.steps.len() + 1 {
            return Err(self.bad("its stages", format!("{} stages", plan.stages)));
        }
        if plan.dim_stages.len() != plan.dims.len() {
            return Err(self.bad("the dims table", "dims and dim_stages differ in length"));
        }
        for (index, (expr, &stage)) in plan.dims.iter().zip(&plan.dim_stages).enumerate() {
            let place = || format!("dims[{index}]");
            if stage >= plan.stages {
                return Err(self.bad(&place(), format!("stage {stage} of {}", plan.stages)));
            }
            for operand in expr.operands() {
                let earlier = (operand.0 as usize) < index;
                if !earlier || plan.dim_stages.get(operand.0 as usize).is_none_or(|&first| first > stage) {
                    let reason = format!("it uses dims[{}], which is not computed before it", operand.0);
                    return Err(self.bad(&place(), reason));
                }
            }
        }
        Ok(())
    }

    fn steps(&self, steps: &[Step], depth: usize) -> Result<(), CodegenError> {
        for step in steps {
            let place = format!("step {} ({} `{}`)", step.id.0, step.op, step.node);
            let result = match &step.kind {
                StepKind::Barrier => Ok(()),
                StepKind::Evaluate(evaluate) => match evaluate.begins_stage {
                    Some(stage) if stage >= self.plan.stages => Err(format!("it begins stage {stage}")),
                    _ => Ok(()),
                },
                StepKind::Sizes(sizes) if sizes.begins_stage >= self.plan.stages => {
                    Err(format!("it begins stage {}", sizes.begins_stage))
                }
                StepKind::Sizes(_) => Ok(()),
                StepKind::Call(call) => self.call(call),
                StepKind::Region(region) => region::check(region, self),
                StepKind::If { condition, .. } => self.view(condition),
                StepKind::Loop(repeat) => {
                    let views = [&repeat.iteration, &repeat.condition, &repeat.next];
                    views.into_iter().chain(&repeat.trips).try_for_each(|view| self.view(view))
                }
            };
            result.map_err(|reason| self.bad(&place, reason))?;
            if let StepKind::If { then_steps, else_steps, .. } = &step.kind {
                if depth == MAX_DEPTH {
                    return Err(self.bad(&place, format!("blocks are nested deeper than {MAX_DEPTH}")));
                }
                self.steps(then_steps, depth + 1)?;
                self.steps(else_steps, depth + 1)?;
            }
            if let StepKind::Loop(repeat) = &step.kind {
                if depth == MAX_DEPTH {
                    return Err(self.bad(&place, format!("blocks are nested deeper than {MAX_DEPTH}")));
                }
                self.steps(&repeat.steps, depth + 1)?;
            }
        }
        Ok(())
    }

    fn call(&self, call: &Call) -> Result<(), String> {
        let fields = call.builtin.fields();
        let name = call.builtin.name();
        if fields.len() != call.args.len() {
            return Err(format!("{name} takes {} arguments, not {}", fields.len(), call.args.len()));
        }
        for ((field, kind), arg) in fields.iter().zip(&call.args) {
            let fits = match kind {
                FieldKind::Input | FieldKind::Output | FieldKind::Inout => {
                    matches!(arg, Arg::View(_) | Arg::Null)
                }
                FieldKind::Dims => matches!(arg, Arg::Dims(_) | Arg::Null),
                FieldKind::Int => matches!(arg, Arg::Dim(_) | Arg::Int(_)),
                FieldKind::Float => matches!(arg, Arg::Float(_)),
            };
            if !fits {
                return Err(format!("argument `{field}` of {name} cannot be {arg:?}"));
            }
            match arg {
                Arg::View(view) => self.view(view)?,
                Arg::Dims(dim) | Arg::Dim(dim) => self.dim(*dim)?,
                Arg::Null | Arg::Int(_) | Arg::Float(_) => {}
            }
        }
        Ok(())
    }

    /// Checks that a view's slot and offset exist.
    pub fn view(&self, view: &View) -> Result<(), String> {
        if view.slot.0 as usize >= self.plan.slots.len() {
            return Err(format!("slot {} of {}", view.slot.0, self.plan.slots.len()));
        }
        view.offset.map_or(Ok(()), |offset| self.dim(offset))
    }

    /// Checks that an entry of the dims table exists.
    pub fn dim(&self, dim: DimId) -> Result<(), String> {
        match (dim.0 as usize) < self.plan.dims.len() {
            true => Ok(()),
            false => Err(format!("dims[{}] of {}", dim.0, self.plan.dims.len())),
        }
    }
}
