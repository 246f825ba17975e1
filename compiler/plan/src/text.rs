//! The plan as text: one line a step, stable for equal plans.

use std::fmt::{self, Display, Formatter};

use lathe_artifact::layout::KvPage;
use lathe_artifact::plan::{
    Arg, Condition, DimExpr, DimId, Evaluate, Plan, Slot, SlotKind, State, StateKind, Step, StepKind,
    SymbolSource, TensorRef, View,
};
use lathe_artifact::region::{Region, RegionOp, RegionOpKind, RegionOperand};

/// Prints a plan (`--emit plan`).
pub struct PlanText<'a>(pub &'a Plan);

impl Display for PlanText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let plan = self.0;
        writeln!(f, "plan \"{}\" {{", plan.name)?;
        writeln!(f, "  // {} slots, {} phases, {} stages", plan.slots.len(), plan.phases, plan.stages)?;
        self.states(f)?;
        for port in &plan.inputs {
            writeln!(f, "  input \"{}\": {}", port.name, self.tensor(&port.tensor))?;
        }
        for (index, slot) in plan.slots.iter().enumerate() {
            writeln!(f, "  s{index}: {}", self.slot(slot))?;
        }
        for symbol in &plan.symbols {
            if let SymbolSource::Step { step, output, axis } = symbol.source {
                writeln!(f, "  symbol {} = step {} output {output} axis {axis}", symbol.name, step.0)?;
            }
        }
        for guard in &plan.guards {
            let (a, sign, b) = match guard.condition {
                Condition::Equal(a, b) => (a, "==", b),
                Condition::Broadcastable(a, b) => (a, "broadcasts with", b),
                Condition::AtLeast(a, b) => (a, ">=", b),
            };
            writeln!(
                f,
                "  guard {} {sign} {} // stage {}, {}",
                self.dim(a),
                self.dim(b),
                guard.stage,
                guard.origin
            )?;
        }
        self.steps(f, &plan.steps, 1)?;
        for port in &plan.outputs {
            writeln!(f, "  output \"{}\": {}", port.name, self.tensor(&port.tensor))?;
        }
        writeln!(f, "}}")
    }
}

/// The length that the memory of states is printed for.
const PRINTED_TOKENS: u64 = 4096;

impl PlanText<'_> {
    /// The states, what a token takes in them, and the formula.
    fn states(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let plan = self.0;
        for (index, state) in plan.states.iter().enumerate() {
            let kind = match state.kind {
                StateKind::Kv => "kv",
                StateKind::Cross => "cross",
            };
            let window = state.window.map_or(String::new(), |window| format!(", window {window}"));
            let name = plan.inputs.get(state.input as usize).map_or("?", |port| port.name.as_str());
            let table = plan.inputs.get(state.block_table as usize).map_or("?", |port| port.name.as_str());
            writeln!(
                f,
                "  state {index} \"{name}\": {kind} of layer {}, {} heads of {} + {} {}{window}, pages of {} by \"{table}\"",
                state.layer,
                state.kv_heads,
                state.qk_head_dim,
                state.v_head_dim,
                state.dtype,
                KvPage::TOKENS
            )?;
        }
        for regime in &plan.regimes {
            writeln!(f, "  regime changes after {} tokens: `{}`", regime.boundary, regime.node)?;
        }
        if plan.kv_bytes_per_token() == 0 {
            return Ok(());
        }
        let (token, total) = (plan.kv_bytes_per_token(), plan.kv_bytes(PRINTED_TOKENS));
        let formula = self.formula();
        writeln!(
            f,
            "  // KV cache: {token} bytes per token; {PRINTED_TOKENS} tokens: {formula} = {total} bytes"
        )
    }

    /// `2 * layers * tokens * kv_heads * head_dim * bytes`, one term for layers of equal sizes.
    fn formula(&self) -> String {
        let mut groups: Vec<(&State, usize)> = Vec::new();
        let sizes =
            |state: &State| (state.kv_heads, state.qk_head_dim, state.v_head_dim, state.window, state.dtype);
        for state in self.0.states.iter().filter(|state| state.kind == StateKind::Kv) {
            match groups.iter_mut().find(|(other, _)| sizes(other) == sizes(state)) {
                Some((_, layers)) => *layers += 1,
                None => groups.push((state, 1)),
            }
        }
        let terms: Vec<_> = groups
            .into_iter()
            .map(|(state, layers)| {
                let tokens = state.bytes(PRINTED_TOKENS) / state.bytes_per_token().max(1);
                let bytes = state.dtype.storage_bytes(1).unwrap_or(0);
                let (heads, keys, values) = (state.kv_heads, state.qk_head_dim, state.v_head_dim);
                match keys == values {
                    true => format!("2 * {layers} * {tokens} * {heads} * {keys} * {bytes}"),
                    false => format!("{layers} * {tokens} * {heads} * ({keys} + {values}) * {bytes}"),
                }
            })
            .collect();
        terms.join(" + ")
    }

    fn steps(&self, f: &mut Formatter<'_>, steps: &[Step], depth: usize) -> fmt::Result {
        let indent = "  ".repeat(depth);
        for step in steps {
            let comment = format!("// {}({}) {}", step.op, step.node, step.reason);
            match &step.kind {
                StepKind::Barrier => writeln!(f, "{indent}barrier")?,
                StepKind::Call(call) => {
                    write!(f, "{indent}{}: {}", step.id.0, call.builtin.name())?;
                    for ((name, _), arg) in call.builtin.fields().iter().zip(&call.args) {
                        write!(f, " {name}={}", self.arg(arg))?;
                    }
                    writeln!(f, " {comment}")?;
                }
                StepKind::Region(region) => {
                    writeln!(f, "{indent}{}: region {} {comment}", step.id.0, self.region(region))?;
                }
                StepKind::Evaluate(evaluate) => {
                    writeln!(f, "{indent}{}: evaluate {} {comment}", step.id.0, self.evaluate(evaluate))?;
                }
                StepKind::Sizes(sizes) => {
                    let dims: Vec<_> =
                        sizes.dims.iter().map(|dim| dim.map_or("_".into(), |dim| self.dim(dim))).collect();
                    let (dims, values) = (dims.join(", "), self.tensor(&sizes.values));
                    let (id, stage) = (step.id.0, sizes.begins_stage);
                    writeln!(f, "{indent}{id}: sizes {dims} = {values} begins stage {stage} {comment}")?;
                }
                StepKind::If { condition, then_steps, else_steps } => {
                    writeln!(f, "{indent}{}: if {} {{ {comment}", step.id.0, self.view(condition))?;
                    self.steps(f, then_steps, depth + 1)?;
                    writeln!(f, "{indent}}} else {{")?;
                    self.steps(f, else_steps, depth + 1)?;
                    writeln!(f, "{indent}}}")?;
                }
                StepKind::Loop(repeat) => {
                    let trips = repeat.trips.as_ref().map_or("any".to_string(), |trips| self.view(trips));
                    let [iteration, condition, next] =
                        [&repeat.iteration, &repeat.condition, &repeat.next].map(|view| self.view(view));
                    writeln!(
                        f,
                        "{indent}{}: loop {iteration} below {trips} while {condition}, then {next} {{ {comment}",
                        step.id.0
                    )?;
                    self.steps(f, &repeat.steps, depth + 1)?;
                    writeln!(f, "{indent}}}")?;
                }
            }
        }
        Ok(())
    }

    fn slot(&self, slot: &Slot) -> String {
        let owner = match &slot.kind {
            SlotKind::Input(index) => format!("input {index}"),
            SlotKind::Output(index) => format!("output {index}"),
            SlotKind::State(index) => format!("state {index}"),
            SlotKind::Weight(name) => format!("weight \"{name}\""),
            SlotKind::Arena { first, last } => format!("arena {first}..={last}"),
            SlotKind::Dynamic { first, last } => format!("dynamic stage {}, {first}..={last}", slot.stage),
        };
        format!("{owner}, {} bytes", self.dim(slot.bytes))
    }

    fn evaluate(&self, evaluate: &Evaluate) -> String {
        let inputs: Vec<_> = evaluate
            .inputs
            .iter()
            .map(|input| input.as_ref().map_or_else(|| "_".to_string(), |tensor| self.tensor(tensor)))
            .collect();
        let outputs: Vec<_> = evaluate.outputs.iter().map(|tensor| self.tensor(tensor)).collect();
        let stage = evaluate.begins_stage.map_or_else(String::new, |stage| format!(" begins stage {stage}"));
        format!("{} = {}({}){stage}", outputs.join(", "), evaluate.op.name(), inputs.join(", "))
    }

    fn region(&self, region: &Region) -> String {
        let body: Vec<_> = region
            .body
            .iter()
            .enumerate()
            .map(|(index, op)| format!("v{index} = {}", self.instruction(region, op)))
            .collect();
        let outputs: Vec<_> = region
            .outputs
            .iter()
            .map(|(operand, value)| format!("{} = v{value}", self.operand(operand)))
            .collect();
        format!("{} {{ {}; {} }}", self.dims(&region.sizes), body.join("; "), outputs.join("; "))
    }

    fn instruction(&self, region: &Region, op: &RegionOp) -> String {
        let words = match &op.kind {
            RegionOpKind::Load(index) => match region.inputs.get(*index as usize) {
                Some(operand) => format!("load {}", self.operand(operand)),
                None => "load ?".into(),
            },
            RegionOpKind::Const(bits) => format!("{bits:#x}"),
            RegionOpKind::Index(axis) => format!("index {axis}"),
            RegionOpKind::Dim(dim) => format!("dim {}", self.dim(*dim)),
            RegionOpKind::Unary(op, a) => format!("{} v{a}", format!("{op:?}").to_lowercase()),
            RegionOpKind::Tile(function, a) => format!("{} v{a}", function.name()),
            RegionOpKind::Binary(op, a, b) => format!("{} v{a} v{b}", format!("{op:?}").to_lowercase()),
            RegionOpKind::Select(a, b, c) => format!("select v{a} v{b} v{c}"),
            RegionOpKind::Cast(a) => format!("cast v{a}"),
        };
        format!("{words}: {}", op.dtype)
    }

    fn operand(&self, operand: &RegionOperand) -> String {
        format!("{}{}", self.view(&operand.view), self.dims(&operand.strides))
    }

    fn tensor(&self, tensor: &TensorRef) -> String {
        format!("{}:{}{}", self.view(&tensor.view), tensor.dtype, self.dims(&tensor.dims))
    }

    fn view(&self, view: &View) -> String {
        match view.offset {
            None => format!("s{}", view.slot.0),
            Some(offset) => format!("s{}+{}", view.slot.0, self.dim(offset)),
        }
    }

    fn arg(&self, arg: &Arg) -> String {
        match arg {
            Arg::View(view) => self.view(view),
            Arg::Null => "_".into(),
            Arg::Dims(first) => format!("d{}..", first.0),
            Arg::Dim(dim) => self.dim(*dim),
            Arg::Int(value) => value.to_string(),
            Arg::Float(value) => format!("{value:?}"),
        }
    }

    fn dims(&self, dims: &[DimId]) -> String {
        let dims: Vec<_> = dims.iter().map(|&dim| self.dim(dim)).collect();
        format!("[{}]", dims.join(", "))
    }

    /// An entry as an expression over symbols.
    fn dim(&self, id: DimId) -> String {
        self.expression(id, 0)
    }

    fn expression(&self, id: DimId, depth: usize) -> String {
        let Some(expression) = self.0.dims.get(id.0 as usize) else { return "?".into() };
        if depth > 12 {
            return format!("d{}", id.0);
        }
        let of = |id: DimId| self.expression(id, depth + 1);
        match *expression {
            DimExpr::Const(value) => value.to_string(),
            DimExpr::Symbol(index) => {
                self.0.symbols.get(index as usize).map_or_else(|| "?".into(), |symbol| symbol.name.clone())
            }
            DimExpr::Copy(a) => of(a),
            DimExpr::Add(a, b) => format!("({} + {})", of(a), of(b)),
            DimExpr::Mul(a, b) => format!("{} * {}", of(a), of(b)),
            DimExpr::FloorDiv(a, b) => format!("floor({} / {})", of(a), of(b)),
            DimExpr::Mod(a, b) => format!("mod({}, {})", of(a), of(b)),
            DimExpr::Min(a, b) => format!("min({}, {})", of(a), of(b)),
            DimExpr::Max(a, b) => format!("max({}, {})", of(a), of(b)),
            DimExpr::Broadcast(a, b) => format!("broadcast({}, {})", of(a), of(b)),
            DimExpr::BroadcastStride { size, stride } => format!("({} == 1 ? 0 : {})", of(size), of(stride)),
        }
    }
}
