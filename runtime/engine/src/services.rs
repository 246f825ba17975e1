//! What generated code calls: barrier, evaluator, dynamic sizes, loops, failures, trace.
//!
//! Each is entered from generated code and must not unwind into it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lathe_artifact::abi::{Service, Status, Worker};

use crate::RuntimeError;
use crate::state::RunState;

type StepService = unsafe extern "C" fn(*const Worker, u64) -> i32;

/// The addresses of the services, in the order of [`Service`].
pub(crate) fn addresses() -> [usize; Service::COUNT] {
    let mut table = [0; Service::COUNT];
    let wait: unsafe extern "C" fn(*const Worker) -> i32 = barrier;
    let record: unsafe extern "C" fn(*const Worker, u64, i32) -> i32 = fail;
    table[Service::Barrier as usize] = wait as usize;
    table[Service::Evaluate as usize] = evaluate as StepService as usize;
    table[Service::Resolve as usize] = resolve as StepService as usize;
    table[Service::Fail as usize] = record as usize;
    table[Service::Trace as usize] = trace as StepService as usize;
    table[Service::Iterate as usize] = iterate as StepService as usize;
    table
}

/// The run that a worker takes part in.
///
/// # Safety
/// `worker` points to a worker of a live run.
unsafe fn state<'a>(worker: *const Worker) -> &'a RunState<'a> {
    // SAFETY: by the caller's promise; `engine` is the address of the run's state, which outlives all of its workers.
    unsafe { &*(*(*worker).run).engine.cast::<RunState<'a>>() }
}

/// `barrier(worker) -> status`.
unsafe extern "C" fn barrier(worker: *const Worker) -> i32 {
    // SAFETY: generated code passes on the worker that it was called with.
    let state = unsafe { state(worker) };
    state.barrier.wait(|| state.word()) as i32
}

/// `evaluate(worker, step) -> status`.
unsafe extern "C" fn evaluate(worker: *const Worker, step: u64) -> i32 {
    // SAFETY: as in `barrier`.
    let state = unsafe { state(worker) };
    leader_step(state, step, |state| state.leader().evaluate(state, step))
}

/// `resolve(worker, step) -> status`.
unsafe extern "C" fn resolve(worker: *const Worker, step: u64) -> i32 {
    // SAFETY: as in `barrier`.
    let state = unsafe { state(worker) };
    leader_step(state, step, |state| state.leader().resolve(state, step))
}

/// `iterate(worker, step) -> status`.
unsafe extern "C" fn iterate(worker: *const Worker, step: u64) -> i32 {
    // SAFETY: as in `barrier`.
    let state = unsafe { state(worker) };
    leader_step(state, step, |state| state.leader().iterate(state, step))
}

/// `fail(worker, step, status) -> status`.
unsafe extern "C" fn fail(worker: *const Worker, step: u64, status: i32) -> i32 {
    // SAFETY: as in `barrier`.
    unsafe { state(worker) }.fail(step, status)
}

/// `trace(worker, step) -> 0`.
unsafe extern "C" fn trace(worker: *const Worker, step: u64) -> i32 {
    // SAFETY: as in `barrier`; the worker's own index lies behind the same pointer.
    let (state, index) = unsafe { (state(worker), (*worker).index) };
    if index == 0 {
        state.trace(step);
    }
    0
}

/// Runs a leader step; its error is kept for the end of the run, a panic becomes one.
fn leader_step(
    state: &RunState<'_>,
    step: u64,
    work: impl Fn(&RunState<'_>) -> Result<(), RuntimeError>,
) -> i32 {
    let result = catch_unwind(AssertUnwindSafe(|| work(state)));
    let error = match result {
        Ok(Ok(())) => return Status::Ok as i32,
        Ok(Err(error)) => error,
        Err(_) => {
            let node = state.program.steps.get(step as usize).map_or("?", |entry| entry.node.as_str());
            RuntimeError::Bug(format!("node `{node}`, step {step}: the evaluator panicked"))
        }
    };
    let status = match &error {
        RuntimeError::Cancelled(_) => Status::Cancelled,
        RuntimeError::Resource(_) => Status::OutOfMemory,
        RuntimeError::BadShape { .. } => Status::BadShape,
        _ => Status::StepFailed,
    };
    state.leader().error.get_or_insert(error);
    status as i32
}
