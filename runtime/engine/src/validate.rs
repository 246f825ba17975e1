//! Checks once that a plan's indices lie inside its tables, so that runs need not.

use lathe_artifact::plan::{Condition, DimExpr, DimId, Plan, SlotKind, SymbolSource, TensorRef};

use lathe_tensor::DType;

use crate::RuntimeError;
use crate::program::StepEntry;

/// Most entries of any table of a plan.
const MAX_ENTRIES: usize = 1 << 28;

/// Checks what the engine uses of a plan.
pub(crate) fn validate(plan: &Plan, steps: &[StepEntry], shapes: usize) -> Result<(), RuntimeError> {
    check(plan, steps, shapes)
        .map_err(|reason| RuntimeError::Bug(format!("the plan of `{}`: {reason}", plan.name)))
}

fn check(plan: &Plan, steps: &[StepEntry], shapes: usize) -> Result<(), String> {
    let stages = plan.stages as usize;
    let expect = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_string()) };
    expect((1..=MAX_ENTRIES).contains(&stages) && shapes == stages, "one shape function a stage")?;
    expect(
        plan.dims.len() < MAX_ENTRIES && plan.dim_stages.len() == plan.dims.len(),
        "a stage for each dim",
    )?;
    check_dims(plan)?;
    for (index, slot) in plan.slots.iter().enumerate() {
        dim(plan, slot.bytes)?;
        expect((slot.stage as usize) < stages, "a slot's stage")?;
        let stage = plan.dim_stages[slot.bytes.0 as usize];
        expect(stage <= slot.stage, "a slot whose size is known later than its stage")?;
        match &slot.kind {
            SlotKind::Input(input) => expect((*input as usize) < plan.inputs.len(), "a slot's input")?,
            SlotKind::Output(output) => expect((*output as usize) < plan.outputs.len(), "a slot's output")?,
            SlotKind::State(state) => expect((*state as usize) < plan.states.len(), "a slot's state")?,
            SlotKind::Arena { first, last } => {
                expect(slot.stage == 0 && first <= last, &format!("arena slot {index}"))?;
            }
            SlotKind::Dynamic { first, last } => expect(first <= last, &format!("dynamic slot {index}"))?,
            SlotKind::Weight(_) => {}
        }
        let port = match &slot.kind {
            SlotKind::Input(input) => plan.inputs.get(*input as usize),
            SlotKind::Output(output) => plan.outputs.get(*output as usize),
            _ => None,
        };
        let beside = |dtype: DType| dtype == DType::String;
        let fits = port.is_none_or(|port| beside(port.tensor.dtype) == beside(slot.dtype));
        expect(fits, "a slot of strings is that of strings")?;
    }
    for port in plan.inputs.iter().chain(&plan.outputs) {
        tensor(plan, &port.tensor)?;
    }
    for routing in &plan.routings {
        tensor(plan, &routing.counts)?;
        tensor(plan, &routing.sums)?;
    }
    check_symbols(plan, steps)?;
    for guard in &plan.guards {
        expect((guard.stage as usize) < stages, "a guard's stage")?;
        let (Condition::Equal(a, b) | Condition::Broadcastable(a, b) | Condition::AtLeast(a, b)) =
            guard.condition;
        dim(plan, a)?;
        dim(plan, b)?;
    }
    for evaluate in steps.iter().filter_map(|step| step.evaluate.as_ref()) {
        evaluate.inputs.iter().flatten().chain(&evaluate.outputs).try_for_each(|each| tensor(plan, each))?;
        let begins = evaluate.begins_stage.is_none_or(|stage| (1..plan.stages).contains(&stage));
        expect(begins, "the stage that an evaluator step begins")?;
    }
    for sizes in steps.iter().filter_map(|step| step.sizes.as_ref()) {
        tensor(plan, &sizes.values)?;
        let fits = sizes.values.dtype == DType::I64 && sizes.values.dims.len() == 1;
        expect(fits && (1..plan.stages).contains(&sizes.begins_stage), "sizes that a step reads")?;
        for &id in sizes.dims.iter().flatten() {
            dim(plan, id)?;
            let symbol = matches!(plan.dims[id.0 as usize], DimExpr::Symbol(_));
            expect(symbol, "a size that a step reads and that is no symbol")?;
        }
    }
    Ok(())
}

fn check_dims(plan: &Plan) -> Result<(), String> {
    for (index, expression) in plan.dims.iter().enumerate() {
        if let DimExpr::Symbol(symbol) = *expression
            && plan.symbols.get(symbol as usize).is_none_or(|symbol| symbol.dim.0 as usize != index)
        {
            return Err(format!("dim {index} is not the entry of its symbol"));
        }
        if expression.operands().any(|operand| operand.0 as usize >= index) {
            return Err(format!("dim {index} uses a later entry"));
        }
        if plan.dim_stages[index] >= plan.stages {
            return Err(format!("the stage of dim {index}"));
        }
    }
    Ok(())
}

fn check_symbols(plan: &Plan, steps: &[StepEntry]) -> Result<(), String> {
    for symbol in &plan.symbols {
        dim(plan, symbol.dim)?;
        let rank = match symbol.source {
            SymbolSource::Input { input, axis } => {
                let port = plan.inputs.get(input as usize);
                port.map(|port| (port.tensor.dims.len(), axis))
            }
            SymbolSource::Step { step, output, axis } => {
                let step = steps.get(step.0 as usize);
                let evaluate = step.and_then(|step| step.evaluate.as_ref());
                let tensor = evaluate.and_then(|evaluate| evaluate.outputs.get(output as usize));
                let sizes = step.and_then(|step| step.sizes.as_ref());
                if sizes.is_some_and(|sizes| sizes.dims.contains(&Some(symbol.dim))) {
                    continue;
                }
                tensor.map(|tensor| (tensor.dims.len(), axis))
            }
        };
        if rank.is_none_or(|(rank, axis)| axis as usize >= rank) {
            return Err(format!("the source of symbol `{}`", symbol.name));
        }
    }
    Ok(())
}

fn dim(plan: &Plan, id: DimId) -> Result<(), String> {
    if (id.0 as usize) < plan.dims.len() { Ok(()) } else { Err(format!("there is no dim {}", id.0)) }
}

fn tensor(plan: &Plan, tensor: &TensorRef) -> Result<(), String> {
    if tensor.view.slot.0 as usize >= plan.slots.len() {
        return Err(format!("there is no slot {}", tensor.view.slot.0));
    }
    tensor.view.offset.iter().chain(&tensor.dims).try_for_each(|&id| dim(plan, id))
}
