//! What generated code, builtins and the engine share in memory. All fields are 8 bytes wide.
//!
//! - The entry and every chunk, region and builtin return a [`Status`] as `i32`: 0 goes on, anything else leaves
//!   the program at the next barrier.
//! - `entry(worker: *const Worker) -> i32` is run by every worker of the team at once (SPMD).
//! - `shape(dims: *mut i64) -> i32`, one a [`stage`](crate::plan::Plan::stages), fills the dims table from its symbols.
//! - A builtin is `unsafe extern "C" fn(worker: *const Worker, args: *const Args) -> i32` with the argument struct
//!   of its row in [`crate::builtin`]. It computes its share of the work by `worker.index` of `worker.count`.
//!
//! # How a run ends
//! Every worker calls [`Service::Barrier`] the same number of times, whatever happens, so none waits for ever:
//! - When a builtin, region or service other than the barrier returns a nonzero status to a worker, generated code calls
//!   `fail(worker, step, status)`, then `barrier(worker)` once, and returns from the entry without touching anything else.
//! - A barrier returns the run's status **as it was when the last worker arrived**, the same to all workers: nonzero where any
//!   worker called `fail` before it arrived, or where the last to arrive saw the cancel flag. A later `fail` belongs to the
//!   next barrier. Generated code returns from the entry as soon as a barrier returns nonzero, without another call.
//! - The entry ends with a barrier of its own and returns its status. So the last barrier that a worker passes is the last one
//!   of all workers, and a zero from the entry says that all workers completed all steps.
//!
//! The first `fail` of a run wins; its status is never 0. The branch of an `If` is decided by memory that all workers read
//! after a barrier, so all take the same one.

/// One call of generated code: shared by all workers of the run.
#[repr(C)]
#[derive(Debug)]
pub struct Run {
    /// The builtin table: addresses in the order of [`crate::builtin::Builtin`], then those of [`Service`].
    pub table: *const usize,
    /// Addresses of the slots, by [`crate::plan::SlotId`].
    pub slots: *const *mut u8,
    /// The dims table, by [`crate::plan::DimId`].
    pub dims: *mut i64,
    /// Nonzero asks the program to stop; read by barriers and by loops over 10 ms.
    pub cancel: *const u32,
    /// The engine's own state of this run, for services.
    pub engine: *mut std::ffi::c_void,
    /// Nonzero while profiling: the program then calls [`Service::Trace`] before each step.
    pub trace: u64,
}

/// One worker of a run. The entry, builtins and services receive it.
#[repr(C)]
#[derive(Debug)]
pub struct Worker {
    /// The run that this worker takes part in.
    pub run: *const Run,
    /// This worker's index, below `count`.
    pub index: u64,
    /// Number of workers in the run.
    pub count: u64,
    /// [`SCRATCH_BYTES`] of memory, aligned to 64, that only this worker touches.
    pub scratch: *mut u8,
}

/// Bytes of scratch memory of each worker.
pub const SCRATCH_BYTES: usize = 2 << 20;

/// What generated code and builtins return.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Go on.
    Ok = 0,
    /// The cancel flag or the deadline stopped the run.
    Cancelled = 1,
    /// An index lies outside its axis.
    IndexOutOfRange = 2,
    /// A dim or guard does not hold for the data (for example a shape that does not multiply up).
    BadShape = 3,
    /// An integer division by zero.
    DivisionByZero = 4,
    /// The memory budget does not allow it.
    OutOfMemory = 5,
    /// An evaluator step failed; the engine holds the message.
    StepFailed = 6,
    /// A builtin was called with arguments that break its contract: a bug.
    Internal = 7,
}

impl Status {
    /// The status of a code; unknown codes are [`Status::Internal`].
    pub const fn from_code(code: i32) -> Self {
        match code {
            0 => Self::Ok,
            1 => Self::Cancelled,
            2 => Self::IndexOutOfRange,
            3 => Self::BadShape,
            4 => Self::DivisionByZero,
            5 => Self::OutOfMemory,
            6 => Self::StepFailed,
            _ => Self::Internal,
        }
    }
}

impl Worker {
    /// This worker's share of `total` items: contiguous, whole multiples of `grain` (but for the end of the last), sizes
    /// as even as they get. The shares of all workers cover every item once.
    pub fn share(&self, total: usize, grain: usize) -> std::ops::Range<usize> {
        let grain = grain.max(1);
        let chunks = total.div_ceil(grain) as u64;
        let (each, rest) = (chunks / self.count.max(1), chunks % self.count.max(1));
        let start = self.index * each + self.index.min(rest);
        let end = start + each + u64::from(self.index < rest);
        (start as usize * grain).min(total)..(end as usize).saturating_mul(grain).min(total)
    }
}

/// Functions of the engine that generated code calls, after the builtins in the table.
///
/// `barrier(worker) -> status` waits for all workers and returns the run's status, the same for all.
/// `evaluate(worker, step: u64) -> status` runs an evaluator step (worker 0 only).
/// `resolve(worker, step: u64) -> status` runs after a step that made dynamic dims: reads them, runs the shape function of the
/// next stage and allocates the slots that became known (worker 0 only).
/// `iterate(worker, step) -> status` counts an iteration of a loop towards the limit of the run (worker 0 only).
/// `trace(worker, step) -> status` is called before each step where [`Run::trace`] is nonzero; the status is always 0.
#[repr(usize)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `barrier(worker)`.
    Barrier = 0,
    /// `evaluate(worker, step: u64)`.
    Evaluate = 1,
    /// `resolve(worker, step: u64)`, right after `evaluate` of the same step.
    Resolve = 2,
    /// `fail(worker, step: u64, status: i32)`: records which step failed, without waiting; returns the status.
    Fail = 3,
    /// `trace(worker, step)`: a step begins.
    Trace = 4,
    /// `iterate(worker, step)`: an iteration of a loop that no size bounds has ended.
    Iterate = 5,
}

impl Service {
    /// Number of services.
    pub const COUNT: usize = 6;

    /// Index in the table behind [`Run::table`].
    pub const fn index(self) -> usize {
        crate::builtin::Builtin::COUNT + self as usize
    }
}
