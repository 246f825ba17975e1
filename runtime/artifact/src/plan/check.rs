//! Whether a plan is well formed: for plans that come from a file, and for the code generator. Nothing here trusts an index.

use lathe_tensor::DType;
use lathe_tensor::value::Composite;

use super::{
    Arg, Call, Condition, DimExpr, DimId, Evaluate, Plan, Port, Sizes, SlotId, SlotKind, State, Step,
    StepKind, SymbolSource, TensorRef, View,
};
use crate::builtin::FieldKind;
use crate::region::{Region, RegionOpKind, RegionOperand};

/// Blocks may be nested this deep.
pub const MAX_DEPTH: usize = 64;
/// Most elements of a page of a state: far above any model, far below what overflows.
const MAX_PAGE_ELEMENTS: usize = 1 << 32;

/// A plan that breaks a rule of its form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed plan: {place}: {reason}")]
pub struct MalformedPlan {
    /// Where: a table and index, or a step.
    pub place: String,
    /// The rule.
    pub reason: String,
}

type Checked = Result<(), String>;

/// The parts of composites are ports of their dtypes and ranks, one composite after the other.
fn composites(list: &[Composite], ports: &[Port]) -> Result<(), MalformedPlan> {
    let mut next = 0;
    for composite in list {
        let parts = composite.form.parts();
        let found = ports.get(composite.first..).and_then(|ports| ports.get(..parts.len()));
        let fits = found.filter(|_| composite.first >= next).is_some_and(|found| {
            let mut pairs = found.iter().map(|port| &port.tensor).zip(&parts);
            pairs.all(|(port, part)| port.dtype == part.dtype && port.dims.len() == part.rank as usize)
        });
        if !fits {
            let place = format!("composite `{}`", composite.name);
            return Err(MalformedPlan { place, reason: "its parts are no ports of its form".into() });
        }
        next = composite.first + parts.len();
    }
    Ok(())
}

impl Plan {
    /// Checks indices, the order of the dims table, argument kinds, stages and step numbers.
    ///
    /// # Errors
    /// The first rule that is broken, with its place.
    pub fn check(&self) -> Result<(), MalformedPlan> {
        let at = |place: String| move |reason| MalformedPlan { place, reason };
        self.check_dims().map_err(at("dims".into()))?;
        for (index, symbol) in self.symbols.iter().enumerate() {
            self.symbol(index, symbol.dim, symbol.source).map_err(at(format!("symbol {index}")))?;
        }
        for (index, slot) in self.slots.iter().enumerate() {
            self.slot_entry(index).map_err(at(format!("slot {index}")))?;
            self.known(slot.bytes, slot.stage).map_err(at(format!("slot {index}")))?;
        }
        for (index, guard) in self.guards.iter().enumerate() {
            let (Condition::Equal(a, b) | Condition::Broadcastable(a, b) | Condition::AtLeast(a, b)) =
                guard.condition;
            let both = self.known(a, guard.stage).and_then(|()| self.known(b, guard.stage));
            both.map_err(at(format!("guard {index}")))?;
        }
        for port in self.inputs.iter().chain(&self.outputs) {
            self.tensor(&port.tensor).map_err(at(format!("port `{}`", port.name)))?;
        }
        for (index, state) in self.states.iter().enumerate() {
            self.state(index, state).map_err(at(format!("state {index}")))?;
        }
        for routing in &self.routings {
            let both = self.tensor(&routing.counts).and_then(|()| self.tensor(&routing.sums));
            both.map_err(at(format!("routing `{}`", routing.node)))?;
        }
        composites(&self.composites.inputs, &self.inputs)?;
        composites(&self.composites.outputs, &self.outputs)?;
        let mut next = 0;
        self.check_steps(&self.steps, 0, &mut next)
    }

    /// Input and output of a state are whole slots of that state, and its table is an input.
    fn state(&self, index: usize, state: &State) -> Checked {
        let whole = |port: Option<&Port>| {
            let view = port.map(|port| port.tensor.view);
            let slot = view.filter(|view| view.offset.is_none());
            slot.and_then(|view| self.slots.get(view.slot.0 as usize))
                .is_some_and(|slot| slot.kind == SlotKind::State(index as u32))
        };
        if !whole(self.inputs.get(state.input as usize)) {
            return Err(format!("input {} is not its memory", state.input));
        }
        if state.output.is_some_and(|output| !whole(self.outputs.get(output as usize))) {
            return Err("its output is not its memory".into());
        }
        if state.block_table as usize >= self.inputs.len() {
            return Err(format!("no input {} for its block table", state.block_table));
        }
        if state.page_elements() == 0 || state.page_elements() > MAX_PAGE_ELEMENTS {
            return Err(format!("a page holds {} elements", state.page_elements()));
        }
        Ok(())
    }

    fn check_dims(&self) -> Checked {
        if self.dim_stages.len() != self.dims.len() {
            return Err("one stage an entry".into());
        }
        for (index, (expression, &stage)) in self.dims.iter().zip(&self.dim_stages).enumerate() {
            if stage >= self.stages {
                return Err(format!("entry {index} is of stage {stage} of {}", self.stages));
            }
            for operand in expression.operands() {
                let earlier = (operand.0 as usize) < index;
                if !earlier || self.dim_stages.get(operand.0 as usize).is_none_or(|&other| other > stage) {
                    return Err(format!(
                        "entry {index} uses entry {}, which is not known before it",
                        operand.0
                    ));
                }
            }
            if let DimExpr::Symbol(symbol) = *expression
                && self.symbols.get(symbol as usize).is_none_or(|symbol| symbol.dim.0 as usize != index)
            {
                return Err(format!("entry {index} and symbol {symbol} do not name one another"));
            }
        }
        Ok(())
    }

    fn symbol(&self, index: usize, dim: DimId, source: SymbolSource) -> Checked {
        match self.dims.get(dim.0 as usize) {
            Some(DimExpr::Symbol(symbol)) if *symbol as usize == index => {}
            _ => return Err("its entry is not this symbol".into()),
        }
        let SymbolSource::Input { input, axis } = source else { return Ok(()) };
        match self.inputs.get(input as usize) {
            Some(port) if (axis as usize) < port.tensor.dims.len() => Ok(()),
            _ => Err(format!("no axis {axis} of input {input}")),
        }
    }

    fn slot_entry(&self, index: usize) -> Checked {
        let slot = &self.slots[index];
        match slot.kind {
            SlotKind::Input(input) if input as usize >= self.inputs.len() => Err(format!("no input {input}")),
            SlotKind::Output(output) if output as usize >= self.outputs.len() => {
                Err(format!("no output {output}"))
            }
            SlotKind::State(state) if state as usize >= self.states.len() => Err(format!("no state {state}")),
            SlotKind::Arena { .. } if slot.stage != 0 => Err("the arena holds what stage 0 knows".into()),
            SlotKind::Arena { first, last } if first > last || last >= self.phases => {
                Err(format!("phases {first}..={last} of {}", self.phases))
            }
            _ => Ok(()),
        }
    }

    fn check_steps(&self, steps: &[Step], depth: usize, next: &mut u32) -> Result<(), MalformedPlan> {
        for step in steps {
            let place = || format!("step {} `{}`", step.id.0, step.node);
            let fail = |reason| MalformedPlan { place: place(), reason };
            if step.id.0 != *next {
                return Err(fail(format!("it should be number {next}")));
            }
            *next += 1;
            match &step.kind {
                StepKind::Barrier => {}
                StepKind::Call(call) => self.call(call).map_err(fail)?,
                StepKind::Region(region) => self.region(region).map_err(fail)?,
                StepKind::Evaluate(evaluate) => self.evaluate(evaluate).map_err(fail)?,
                StepKind::Sizes(sizes) => self.sizes(sizes).map_err(fail)?,
                StepKind::If { condition, then_steps, else_steps } => {
                    self.memory(condition).map_err(fail)?;
                    if depth >= MAX_DEPTH {
                        return Err(fail(format!("blocks are nested deeper than {MAX_DEPTH}")));
                    }
                    self.check_steps(then_steps, depth + 1, next)?;
                    self.check_steps(else_steps, depth + 1, next)?;
                }
                StepKind::Loop(repeat) => {
                    let views = [&repeat.iteration, &repeat.condition, &repeat.next];
                    views
                        .into_iter()
                        .chain(&repeat.trips)
                        .try_for_each(|view| self.memory(view))
                        .map_err(fail)?;
                    if depth >= MAX_DEPTH {
                        return Err(fail(format!("blocks are nested deeper than {MAX_DEPTH}")));
                    }
                    self.check_steps(&repeat.steps, depth + 1, next)?;
                }
            }
        }
        Ok(())
    }

    fn call(&self, call: &Call) -> Checked {
        let fields = call.builtin.fields();
        if fields.len() != call.args.len() {
            return Err(format!("{} takes {} arguments", call.builtin.name(), fields.len()));
        }
        // A range is as long as the field before it says: `rank` or `batch_rank`.
        let mut length = 0;
        for ((name, kind), arg) in fields.iter().zip(&call.args) {
            if let Arg::Int(value) = arg
                && name.ends_with("rank")
            {
                length = u32::try_from(*value).map_err(|_| format!("{name} is {value}"))?;
            }
            match (kind, arg) {
                (FieldKind::Input | FieldKind::Output | FieldKind::Inout, Arg::View(view)) => {
                    self.memory(view)?
                }
                (FieldKind::Input | FieldKind::Output | FieldKind::Inout, Arg::Null) => {}
                (FieldKind::Dims, Arg::Dims(first)) => {
                    let end = first.0.checked_add(length).ok_or("a range is too long")?;
                    if end as usize > self.dims.len() {
                        return Err(format!("{name}: entries {}..{end} of {}", first.0, self.dims.len()));
                    }
                }
                (FieldKind::Int, Arg::Dim(dim)) => self.dim(*dim)?,
                (FieldKind::Int, Arg::Int(_)) | (FieldKind::Float, Arg::Float(_)) => {}
                _ => return Err(format!("{name} does not take such an argument")),
            }
        }
        Ok(())
    }

    fn region(&self, region: &Region) -> Checked {
        region.sizes.iter().try_for_each(|size| self.dim(*size))?;
        let operand = |operand: &RegionOperand| {
            if operand.strides.len() != region.sizes.len() {
                return Err("one stride a loop axis".to_string());
            }
            operand.strides.iter().try_for_each(|stride| self.dim(*stride))?;
            self.memory(&operand.view)
        };
        region.inputs.iter().try_for_each(operand)?;
        for (index, op) in region.body.iter().enumerate() {
            let earlier = |values: &[u32]| values.iter().all(|value| (*value as usize) < index);
            let holds = match op.kind {
                RegionOpKind::Load(input) => (input as usize) < region.inputs.len(),
                RegionOpKind::Const(_) => true,
                RegionOpKind::Index(axis) => (axis as usize) < region.sizes.len(),
                RegionOpKind::Dim(dim) => self.dim(dim).is_ok(),
                RegionOpKind::Unary(_, a) | RegionOpKind::Tile(_, a) | RegionOpKind::Cast(a) => earlier(&[a]),
                RegionOpKind::Binary(_, a, b) => earlier(&[a, b]),
                RegionOpKind::Select(a, b, c) => earlier(&[a, b, c]),
            };
            if !holds {
                return Err(format!("instruction {index} uses what is not there"));
            }
        }
        for (target, value) in &region.outputs {
            operand(target)?;
            if *value as usize >= region.body.len() {
                return Err(format!("no instruction {value}"));
            }
        }
        Ok(())
    }

    fn evaluate(&self, evaluate: &Evaluate) -> Checked {
        if evaluate.begins_stage.is_some_and(|stage| stage == 0 || stage >= self.stages) {
            return Err("it begins a stage that is not there".into());
        }
        evaluate.inputs.iter().flatten().chain(&evaluate.outputs).try_for_each(|tensor| self.tensor(tensor))
    }

    fn sizes(&self, sizes: &Sizes) -> Checked {
        if sizes.begins_stage == 0 || sizes.begins_stage >= self.stages {
            return Err("it begins a stage that is not there".into());
        }
        self.tensor(&sizes.values)?;
        let written = |dim: &DimId| match self.dims.get(dim.0 as usize) {
            Some(DimExpr::Symbol(_)) => Ok(()),
            _ => Err(format!("dims entry {} is no symbol", dim.0)),
        };
        sizes.dims.iter().flatten().try_for_each(written)
    }

    fn tensor(&self, tensor: &TensorRef) -> Checked {
        self.view(&tensor.view)?;
        tensor.dims.iter().try_for_each(|dim| self.dim(*dim))
    }

    /// A view that native code reads or writes: strings have no memory.
    fn memory(&self, view: &View) -> Checked {
        self.view(view)?;
        match self.slots.get(view.slot.0 as usize) {
            Some(slot) if slot.dtype == DType::String => {
                Err(format!("slot {} holds strings, which have no address", view.slot.0))
            }
            _ => Ok(()),
        }
    }

    fn view(&self, view: &View) -> Checked {
        let SlotId(slot) = view.slot;
        if slot as usize >= self.slots.len() {
            return Err(format!("no slot {slot}"));
        }
        view.offset.map_or(Ok(()), |offset| self.dim(offset))
    }

    fn dim(&self, dim: DimId) -> Checked {
        if (dim.0 as usize) < self.dims.len() { Ok(()) } else { Err(format!("no dims entry {}", dim.0)) }
    }

    /// The entry is there and known after `stage`.
    fn known(&self, dim: DimId, stage: u32) -> Checked {
        match self.dim_stages.get(dim.0 as usize) {
            None => Err(format!("no dims entry {}", dim.0)),
            Some(_) if stage >= self.stages => Err(format!("stage {stage} of {}", self.stages)),
            Some(&known) if known > stage => {
                Err(format!("entry {} is known after stage {known} only", dim.0))
            }
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::Builtin;
    use crate::plan::{Slot, StepId};

    fn fill() -> Plan {
        let view = View { slot: SlotId(0), offset: None };
        let args = vec![Arg::View(view), Arg::Int(4), Arg::Dim(DimId(0)), Arg::Int(0)];
        let step = Step {
            id: StepId(0),
            kind: StepKind::Call(Call { builtin: Builtin::Fill, args }),
            node: "fill".into(),
            op: "fill".into(),
            reason: String::new(),
        };
        Plan {
            name: "main".into(),
            dims: vec![DimExpr::Const(3), DimExpr::Mul(DimId(0), DimId(0))],
            dim_stages: vec![0, 0],
            symbols: Vec::new(),
            stages: 1,
            guards: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            slots: vec![Slot {
                kind: SlotKind::Arena { first: 0, last: 0 },
                dtype: DType::F32,
                bytes: DimId(1),
                stage: 0,
            }],
            steps: vec![step],
            phases: 1,
            views: Vec::new(),
            states: Vec::new(),
            regimes: Vec::new(),
            routings: Vec::new(),
            composites: Default::default(),
        }
    }

    fn reason(edit: impl FnOnce(&mut Plan)) -> String {
        let mut plan = fill();
        assert_eq!(plan.check(), Ok(()));
        edit(&mut plan);
        plan.check().expect_err("the edit breaks a rule").to_string()
    }

    #[test]
    fn each_broken_rule_is_named() {
        let reasons = [
            reason(|plan| plan.dims[0] = DimExpr::Copy(DimId(1))),
            reason(|plan| plan.dims[0] = DimExpr::Symbol(7)),
            reason(|plan| plan.slots.clear()),
            reason(|plan| plan.slots[0].bytes = DimId(9)),
            reason(|plan| plan.slots[0].kind = SlotKind::Output(0)),
            reason(|plan| plan.steps[0].id = StepId(5)),
            reason(|plan| {
                if let StepKind::Call(call) = &mut plan.steps[0].kind {
                    call.args[1] = Arg::Float(1.0);
                }
            }),
            reason(|plan| {
                if let StepKind::Call(call) = &mut plan.steps[0].kind {
                    call.args.pop();
                }
            }),
        ];
        assert_eq!(
            reasons.join("\n"),
            "malformed plan: dims: entry 0 uses entry 1, which is not known before it\n\
             malformed plan: dims: entry 0 and symbol 7 do not name one another\n\
             malformed plan: step 0 `fill`: no slot 0\n\
             malformed plan: slot 0: no dims entry 9\n\
             malformed plan: slot 0: no output 0\n\
             malformed plan: step 5 `fill`: it should be number 0\n\
             malformed plan: step 0 `fill`: element_bytes does not take such an argument\n\
             malformed plan: step 0 `fill`: fill takes 4 arguments"
        );
    }
}
