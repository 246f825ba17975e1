//! Leader steps: ops that the evaluator runs, and sizes that are known only from data.

use lathe_artifact::abi::Status;
use lathe_artifact::plan::{Evaluate, Sizes, SlotKind, TensorRef};
use lathe_ops::control::MAX_ITERATIONS;
use lathe_ops::{EvalError, Limits};
use lathe_tensor::{Buffer, DType, Tensor};

use crate::RuntimeError;
use crate::guards::check_guards;
use crate::program::{Program, StepEntry};
use crate::state::{Leader, RunState};
use crate::view::byte_count;

/// The part of the memory limit that a value may take which an iteration of a loop resizes, as a divisor.
const SHARE_OF_LOOPS: u64 = 16;

impl Leader {
    /// Evaluates the op of an evaluator step.
    pub(crate) fn evaluate(&mut self, state: &RunState<'_>, step: u64) -> Result<(), RuntimeError> {
        let (entry, evaluate) = find(state.program, step)?;
        let failed = |reason: String| step_failed(entry, step, reason);
        if !state.evaluator {
            return Err(failed("it needs the evaluator, which is off (LATHE_EVAL=off)".into()));
        }
        self.evaluated += 1;
        if self.append(state.program, evaluate, entry.repeated).map_err(failed)? {
            return Ok(());
        }
        let gathered = evaluate.inputs.iter().map(|input| match input {
            Some(input) => self.gather(state.program, input).map(Some).map_err(failed),
            None => Ok(None),
        });
        let inputs = gathered.collect::<Result<Vec<_>, _>>()?;
        let borrowed: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
        let stopped = || state.stop.reason().is_some();
        let max_bytes = usize::try_from(self.budget.left()).unwrap_or(usize::MAX);
        let limits = Limits { max_bytes, cancel: Some(&stopped), custom: Some(state.custom) };
        let results =
            evaluate.op.evaluate(&borrowed, evaluate.outputs.len(), &limits).map_err(
                |error| match error {
                    EvalError::Cancelled { .. } => {
                        RuntimeError::Cancelled(state.stop.reason().unwrap_or("it was cancelled"))
                    }
                    EvalError::TooLarge { .. } => {
                        RuntimeError::Resource(failed(error.to_string()).to_string())
                    }
                    error => failed(error.to_string()),
                },
            )?;
        drop(inputs);
        self.record_sizes(state.program, evaluate, results.iter().map(Tensor::shape));
        for (output, result) in evaluate.outputs.iter().zip(results) {
            if result.dtype() != output.dtype || result.rank() != output.dims.len() {
                let (dtype, shape) = (result.dtype(), result.shape());
                return Err(failed(format!(
                    "it gave {dtype}{shape:?}, expected {} of rank {}",
                    output.dtype,
                    output.dims.len()
                )));
            }
            self.scatter(state.program, output, result, entry.repeated).map_err(failed)?;
        }
        Ok(())
    }

    /// Counts an iteration of a loop that no size bounds.
    pub(crate) fn iterate(&mut self, state: &RunState<'_>, step: u64) -> Result<(), RuntimeError> {
        self.iterations += 1;
        if self.iterations < MAX_ITERATIONS {
            return Ok(());
        }
        let entry = entry(state.program, step)?;
        let reason = format!(
            "the loops of this run that no size bounds made {MAX_ITERATIONS} iterations, which is the limit; does their \
             condition become false?"
        );
        Err(step_failed(entry, step, reason))
    }

    /// Begins the stage whose sizes a step has made.
    pub(crate) fn resolve(&mut self, state: &RunState<'_>, step: u64) -> Result<(), RuntimeError> {
        let entry = entry(state.program, step)?;
        let evaluated = entry.evaluate.as_ref().and_then(|evaluate| evaluate.begins_stage);
        let stage = match (&entry.sizes, evaluated) {
            (Some(sizes), _) => {
                self.read_sizes(state.program, sizes).map_err(|reason| step_failed(entry, step, reason))?;
                sizes.begins_stage
            }
            (None, Some(stage)) => stage,
            (None, None) => return Ok(()),
        };
        let Some(shape) = state.program.functions.shapes.get(stage as usize) else {
            return Err(RuntimeError::Bug(format!("stage {stage} has no shape function")));
        };
        // SAFETY: the table has as many entries as the plan, and its symbols of earlier stages are filled.
        let status = unsafe { shape(self.tables.dims()) };
        if status != Status::Ok as i32 {
            return Err(step_failed(entry, step, "the sizes that follow from its result overflow".into()));
        }
        let tables = self.tables;
        check_guards(&state.program.plan, stage, |id| tables.dim(id))?;
        self.begin_stage(state.program, stage, entry.repeated, entry.evaluate.as_deref())
    }

    /// Writes the symbols that a step of sizes names.
    fn read_sizes(&self, program: &Program, sizes: &Sizes) -> Result<(), String> {
        let values = self.gather(program, &sizes.values)?;
        let values = values.to_slice::<i64>().map_err(|error| error.to_string())?;
        for (dim, &size) in sizes.dims.iter().zip(values.iter()) {
            let Some(dim) = dim else { continue };
            if size < 0 {
                return Err(format!("it gives a size of {size}"));
            }
            self.tables.set_dim(dim.0 as usize, size);
        }
        Ok(())
    }

    /// Finds memory for the slots of a stage that the step, which begins it, has not bound.
    pub(crate) fn begin_stage(
        &mut self,
        program: &Program,
        stage: u32,
        repeated: bool,
        step: Option<&Evaluate>,
    ) -> Result<(), RuntimeError> {
        let slots = program.dynamic.get(stage as usize).map(Vec::as_slice).unwrap_or_default();
        for &slot in slots {
            let bytes = self.tables.dim(program.plan.slots[slot].bytes);
            let bytes = usize::try_from(bytes)
                .map_err(|_| RuntimeError::Bug(format!("slot {slot} takes {bytes} bytes")))?;
            match self.owned.get(&slot) {
                Some(bound) if bound.len() >= bytes => continue,
                Some(bound) if is_result(step, slot) => {
                    let reason = format!("slot {slot} takes {bytes} bytes, a step gave {}", bound.len());
                    return Err(RuntimeError::Bug(reason));
                }
                // An earlier iteration of a loop needed less.
                Some(bound) => self.budget.give_back(bound.len()),
                None => {}
            }
            self.owned.remove(&slot);
            self.take(bytes, repeated, "a value whose size depends on data")?;
            self.bind(slot, Buffer::zeroed(bytes));
        }
        self.place_stage(program, stage as usize, repeated)
    }

    /// Takes memory. What a loop makes anew may take a part of the budget only: a loop that doubles a value for ever ends soon.
    pub(crate) fn take(&mut self, bytes: usize, repeated: bool, what: &str) -> Result<(), RuntimeError> {
        self.may_repeat(bytes as u64, repeated, what)?;
        self.budget.take(bytes as u64, what)
    }

    /// Refuses what is too large for a value that an iteration of a loop resizes.
    pub(crate) fn may_repeat(&self, bytes: u64, repeated: bool, what: &str) -> Result<(), RuntimeError> {
        let most = self.budget.limit / SHARE_OF_LOOPS;
        if repeated && bytes > most {
            return Err(RuntimeError::Resource(format!(
                "{what} takes {bytes} bytes in a loop, over the limit of {most} bytes for values that an iteration resizes; \
                 raise the memory limit or use smaller inputs"
            )));
        }
        Ok(())
    }

    pub(crate) fn bind(&mut self, slot: usize, mut buffer: Buffer) {
        self.tables.set_address(slot, buffer.make_mut().as_mut_ptr());
        self.owned.insert(slot, buffer);
    }

    /// Writes the symbols of the stage that the step begins: the sizes of its outputs that stand alone.
    pub(crate) fn record_sizes<'a>(
        &self,
        program: &Program,
        evaluate: &Evaluate,
        shapes: impl Iterator<Item = &'a [usize]>,
    ) {
        let Some(stage) = evaluate.begins_stage else { return };
        for (output, shape) in evaluate.outputs.iter().zip(shapes) {
            for (&dim, &size) in output.dims.iter().zip(shape) {
                if program.is_made_in(dim, stage) {
                    self.tables.set_dim(dim.0 as usize, size as i64);
                }
            }
        }
    }

    /// Where a tensor is: address, bytes, shape.
    pub(crate) fn locate(
        &self,
        program: &Program,
        tensor: &TensorRef,
    ) -> Result<(*mut u8, usize, Vec<usize>), String> {
        let size = |id| {
            let value = self.tables.dim(id);
            usize::try_from(value).map_err(|_| format!("a size of {value}"))
        };
        let shape = tensor.dims.iter().map(|&id| size(id)).collect::<Result<Vec<_>, _>>()?;
        let bytes = byte_count(tensor.dtype, &shape).ok_or_else(|| format!("a tensor of shape {shape:?}"))?;
        let offset = tensor.view.offset.map(size).transpose()?.unwrap_or(0);
        let slot = tensor.view.slot.0 as usize;
        let room = match self.owned.get(&slot) {
            Some(buffer) => buffer.len(),
            None => size(program.plan.slots[slot].bytes)?,
        };
        let address = self.tables.address(slot);
        if bytes > 0 && (address.is_null() || offset.checked_add(bytes).is_none_or(|end| end > room)) {
            return Err(format!(
                "{bytes} bytes at {offset} of slot {slot}, which has {room}: an internal error"
            ));
        }
        Ok((address.wrapping_add(offset), bytes, shape))
    }

    /// A tensor of the run: a weight is shared, anything else copied.
    pub(crate) fn gather(&self, program: &Program, tensor: &TensorRef) -> Result<Tensor, String> {
        let (address, bytes, shape) = self.locate(program, tensor)?;
        if tensor.dtype == DType::String {
            let slot = tensor.view.slot.0 as usize;
            let texts = self.texts.get(&slot).or_else(|| program.weights.get(&slot));
            let texts = texts.ok_or_else(|| format!("slot {slot} has no strings: an internal error"))?;
            return texts.reshape(&shape).map_err(|error| error.to_string());
        }
        if let Some(weight) = program.weights.get(&(tensor.view.slot.0 as usize))
            && tensor.view.offset.is_none()
            && let Some(buffer) = weight.buffer().slice(0, bytes)
        {
            return Tensor::new(tensor.dtype, shape, buffer).map_err(|error| error.to_string());
        }
        let buffer = match bytes {
            0 => Buffer::zeroed(0),
            // SAFETY: `locate` found the range inside its slot's memory; no worker writes it in this phase.
            _ => Buffer::copy_of(unsafe { std::slice::from_raw_parts(address, bytes) }),
        };
        Tensor::new(tensor.dtype, shape, buffer).map_err(|error| error.to_string())
    }

    /// Puts a result where the program expects it.
    fn scatter(
        &mut self,
        program: &Program,
        output: &TensorRef,
        result: Tensor,
        repeated: bool,
    ) -> Result<(), String> {
        let index = output.view.slot.0 as usize;
        let slot = &program.plan.slots[index];
        if output.dtype == DType::String {
            self.budget.take(text_bytes(&result), "its result").map_err(|error| error.to_string())?;
            if let Some(old) = self.texts.insert(index, result) {
                self.budget.give_back(text_bytes(&old) as usize);
            }
            return Ok(());
        }
        let binds = match slot.kind {
            SlotKind::Dynamic { .. } => true,
            SlotKind::Output(_) => slot.stage > 0,
            _ => false,
        };
        if binds && output.view.offset.is_none() {
            if let Some(old) = self.owned.remove(&index) {
                self.budget.give_back(old.len());
            }
            self.take(result.bytes().len(), repeated, "its result").map_err(|error| error.to_string())?;
            let buffer = result.buffer().clone();
            drop(result);
            self.bind(index, buffer);
            return Ok(());
        }
        let (address, bytes, shape) = self.locate(program, output)?;
        if shape != result.shape() || bytes != result.bytes().len() {
            return Err(format!("it gave shape {:?}, expected {shape:?}", result.shape()));
        }
        if matches!(slot.kind, SlotKind::Input(_) | SlotKind::Weight(_)) {
            return Err(format!("it writes slot {index}, which is read-only: an internal error"));
        }
        if bytes > 0 {
            // SAFETY: `locate` found the range inside its slot's memory, which belongs to the run; no worker uses it in this
            // phase; the result lies elsewhere.
            unsafe { std::ptr::copy_nonoverlapping(result.bytes().as_ptr(), address, bytes) };
        }
        Ok(())
    }
}

/// Whether a step has just made what the slot holds.
fn is_result(step: Option<&Evaluate>, slot: usize) -> bool {
    step.is_some_and(|step| step.outputs.iter().any(|output| output.view.slot.0 as usize == slot))
}

fn entry(program: &Program, step: u64) -> Result<&StepEntry, RuntimeError> {
    let entry = usize::try_from(step).ok().and_then(|step| program.steps.get(step));
    entry.ok_or_else(|| RuntimeError::Bug(format!("there is no step {step}")))
}

fn find(program: &Program, step: u64) -> Result<(&StepEntry, &Evaluate), RuntimeError> {
    let entry = entry(program, step)?;
    let evaluate = entry.evaluate.as_deref();
    let evaluate = evaluate.ok_or_else(|| RuntimeError::Bug(format!("step {step} is no evaluator step")))?;
    Ok((entry, evaluate))
}

fn step_failed(entry: &StepEntry, step: u64, reason: String) -> RuntimeError {
    RuntimeError::StepFailed { node: entry.node.clone(), op: entry.op.clone(), step: step as u32, reason }
}

/// Bytes that strings take.
fn text_bytes(texts: &Tensor) -> u64 {
    let strings = texts.strings().unwrap_or_default();
    strings.iter().fold(0, |sum, text| sum.saturating_add((text.len() + size_of::<Vec<u8>>()) as u64))
}
