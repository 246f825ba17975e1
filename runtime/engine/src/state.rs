//! One run: what all workers share, and what the leader alone touches.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lathe_artifact::abi::Status;
use lathe_artifact::plan::DimId;
use lathe_ops::custom::CustomFunctions;
use lathe_tensor::{Buffer, Tensor};
use rustc_hash::FxHashMap;

use crate::barrier::Barrier;
use crate::cancel::Stop;
use crate::program::{Address, Program};
use crate::stages::StageArena;
use crate::{Model, RuntimeError};

/// No step failed.
const NO_FAILURE: u64 = u64::MAX;

/// The dims and slot tables of a run. Generated code reads them by address while a leader step writes other entries, so
/// they are read and written entry by entry and never borrowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables {
    dims: *mut i64,
    dim_count: usize,
    slots: *mut Address,
    slot_count: usize,
}

// SAFETY: the tables belong to a session that outlives the run; only the leader writes them, between barriers.
unsafe impl Send for Tables {}

impl Tables {
    /// Tables over memory that stays where it is, borrowed by nobody else, until the run ends.
    pub(crate) fn new(dims: &mut [i64], slots: &mut [Address]) -> Self {
        let (dim_count, slot_count) = (dims.len(), slots.len());
        Self { dims: dims.as_mut_ptr(), dim_count, slots: slots.as_mut_ptr(), slot_count }
    }

    pub(crate) fn dims(&self) -> *mut i64 {
        self.dims
    }

    pub(crate) fn slots(&self) -> *const *mut u8 {
        // `Address` is transparent over a pointer.
        self.slots.cast::<*mut u8>()
    }

    pub(crate) fn dim(&self, id: DimId) -> i64 {
        let index = id.0 as usize;
        assert!(index < self.dim_count, "dims were validated");
        // SAFETY: inside the table, which outlives the run.
        unsafe { self.dims.add(index).read() }
    }

    pub(crate) fn set_dim(&self, index: usize, value: i64) {
        assert!(index < self.dim_count, "dims were validated");
        // SAFETY: inside the table; an entry of a later stage, which no worker reads before the next barrier.
        unsafe { self.dims.add(index).write(value) }
    }

    pub(crate) fn address(&self, slot: usize) -> *mut u8 {
        assert!(slot < self.slot_count, "slots were validated");
        // SAFETY: inside the table, which outlives the run.
        unsafe { self.slots.add(slot).read() }.0
    }

    pub(crate) fn set_address(&self, slot: usize, address: *mut u8) {
        assert!(slot < self.slot_count, "slots were validated");
        // SAFETY: inside the table; a slot of a later stage, which no worker reads before the next barrier.
        unsafe { self.slots.add(slot).write(Address(address)) }
    }
}

/// What leader steps own.
#[derive(Debug)]
pub(crate) struct Leader {
    pub(crate) tables: Tables,
    /// Memory of slots whose size was not known at the start.
    pub(crate) owned: FxHashMap<usize, Buffer>,
    /// Memory of the other slots of this kind, by stage.
    pub(crate) arenas: Vec<StageArena>,
    /// Strings, by slot: they have no address.
    pub(crate) texts: FxHashMap<usize, Tensor>,
    /// Bytes that the run may still allocate, and how the limit comes about.
    pub(crate) budget: Budget,
    /// Why a leader step failed.
    pub(crate) error: Option<RuntimeError>,
    /// Evaluator steps that ran.
    pub(crate) evaluated: u64,
    /// Iterations of loops that no size bounds.
    pub(crate) iterations: u64,
}

/// What a run may allocate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) limit: u64,
    pub(crate) used: u64,
}

impl Budget {
    /// Gives back what was taken for memory that is gone.
    pub(crate) fn give_back(&mut self, bytes: usize) {
        self.used = self.used.saturating_sub(bytes as u64);
    }

    pub(crate) fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// Takes `bytes` for `what`, or says how far they are over.
    pub(crate) fn take(&mut self, bytes: u64, what: impl Display) -> Result<(), RuntimeError> {
        match self.used.checked_add(bytes) {
            Some(used) if used <= self.limit => {
                self.used = used;
                Ok(())
            }
            _ => Err(RuntimeError::Resource(format!(
                "{what} takes {bytes} bytes: with {} in use that is over the limit of {} bytes; raise the memory limit \
                 or use smaller inputs",
                self.used, self.limit
            ))),
        }
    }
}

/// One run, shared by its workers.
#[derive(Debug)]
pub(crate) struct RunState<'a> {
    pub(crate) program: &'a Program,
    pub(crate) barrier: Barrier,
    pub(crate) stop: Stop<'a>,
    pub(crate) evaluator: bool,
    pub(crate) custom: &'a CustomFunctions,
    leader: Mutex<Leader>,
    /// The first step that failed, above its status.
    failure: AtomicU64,
    /// When each step began, on worker 0.
    trace: Mutex<Vec<(u32, Instant)>>,
}

impl<'a> RunState<'a> {
    pub(crate) fn new(
        program: &'a Program,
        barrier: Barrier,
        stop: Stop<'a>,
        model: &'a Model,
        leader: Leader,
    ) -> Self {
        let (leader, failure) = (Mutex::new(leader), AtomicU64::new(NO_FAILURE));
        let (evaluator, custom) = (model.evaluator(), model.custom());
        Self { program, barrier, stop, evaluator, custom, leader, failure, trace: Mutex::default() }
    }

    pub(crate) fn leader(&self) -> MutexGuard<'_, Leader> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a step failed. Of several in one phase the first in the program counts, whoever was faster.
    pub(crate) fn fail(&self, step: u64, status: i32) -> i32 {
        let status = if status == 0 { Status::Internal as i32 } else { status };
        let step = step.min(u64::from(u32::MAX - 1));
        self.failure.fetch_min(step << 32 | u64::from(status as u32), SeqCst);
        status
    }

    /// What all workers leave a barrier with.
    pub(crate) fn word(&self) -> u32 {
        match self.failure.load(SeqCst) {
            NO_FAILURE if self.stop.reason().is_some() => Status::Cancelled as u32,
            NO_FAILURE => 0,
            failure => failure as u32,
        }
    }

    pub(crate) fn trace(&self, step: u64) {
        let mut trace = self.trace.lock().unwrap_or_else(PoisonError::into_inner);
        trace.push((step as u32, Instant::now()));
    }

    pub(crate) fn take_trace(&self) -> Vec<(u32, Instant)> {
        std::mem::take(&mut *self.trace.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the run came to, from the status that the entry returned.
    pub(crate) fn outcome(&self, status: i32) -> Result<(), RuntimeError> {
        if status == 0 {
            return Ok(());
        }
        if let Some(error) = self.leader().error.take() {
            return Err(error);
        }
        let failure = self.failure.load(SeqCst);
        let (step, status) = match failure {
            NO_FAILURE => (None, Status::from_code(status)),
            _ => (self.program.steps.get((failure >> 32) as usize), Status::from_code(failure as u32 as i32)),
        };
        let reason = match status {
            Status::Cancelled => {
                return Err(RuntimeError::Cancelled(self.stop.reason().unwrap_or("it was cancelled")));
            }
            Status::IndexOutOfRange => "an index lies outside its axis",
            Status::BadShape => "the data does not fit a size of the model",
            Status::DivisionByZero => "an integer was divided by zero",
            Status::OutOfMemory => "it needs more memory than it may take",
            Status::StepFailed => "it failed",
            Status::Internal | Status::Ok => {
                "a builtin refused its arguments: an internal error, please report it"
            }
        };
        let Some(entry) = step else {
            return Err(RuntimeError::Bug(format!("the program ended with {status:?} and no step failed")));
        };
        let (node, op) = (entry.node.clone(), entry.op.clone());
        Err(RuntimeError::StepFailed { node, op, step: (failure >> 32) as u32, reason: reason.to_string() })
    }
}
