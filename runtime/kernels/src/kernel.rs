//! What stands around every builtin: entry from generated code, failpoints, panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

use lathe_artifact::abi::{SCRATCH_BYTES, Service, Status, Worker};
use lathe_artifact::builtin::Arguments;

use crate::failpoint;
use crate::simd::{Simd, WithSimd};

/// The work of a builtin, implemented by its argument struct, so that the two cannot drift apart.
pub(crate) trait Kernel: Arguments {
    /// Computes the worker's share. Implementations are `#[inline(always)]`.
    ///
    /// # Safety
    /// The arguments satisfy the contract of the builtin's row; `worker` is one worker of a live run.
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status;
}

struct Call<'a, K> {
    worker: &'a Worker,
    args: &'a K,
}

impl<K: Kernel> WithSimd for Call<'_, K> {
    type Output = Status;

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) -> Status {
        // SAFETY: `enter` passes on its caller's promise.
        unsafe { self.args.run(simd, self.worker) }
    }
}

/// Runs a builtin for generated code; a panic becomes [`Status::Internal`].
///
/// # Safety
/// `worker` and `args` point to valid values that satisfy the contract of the builtin's row.
#[inline(always)]
pub(crate) unsafe fn enter<S: Simd, K: Kernel>(simd: S, worker: *const Worker, args: *const K) -> Status {
    if failpoint::is_set(K::BUILTIN) {
        return Status::Internal;
    }
    // SAFETY: the caller gives valid pointers.
    let (worker, args) = unsafe { (&*worker, &*args) };
    catch_unwind(AssertUnwindSafe(|| simd.vectorize(Call { worker, args }))).unwrap_or(Status::Internal)
}

/// Whether the run is to end: asked now and then by loops that take long.
pub(crate) fn is_cancelled(worker: &Worker) -> bool {
    // SAFETY: a worker's run and its flag live as long as the call; the tests have no run.
    unsafe {
        let Some(run) = worker.run.as_ref() else { return false };
        let flag = run.cancel.cast::<AtomicU32>().as_ref();
        flag.is_some_and(|flag| flag.load(Ordering::Relaxed) != 0)
    }
}

/// Waits for all workers, in the middle of a builtin; the run's status, the same for all.
///
/// # Safety
/// The worker is one of a live run. All workers of the run are in the same call and wait as often; none returns another status than the one
/// that all get here.
pub(crate) unsafe fn barrier(worker: &Worker) -> Status {
    // SAFETY: the table of a live run has the services behind the builtins.
    unsafe {
        let address = *(*worker.run).table.add(Service::Barrier.index());
        let wait = std::mem::transmute::<usize, unsafe extern "C" fn(*const Worker) -> i32>(address);
        Status::from_code(wait(worker))
    }
}

/// A size or count of an argument struct; what is negative counts as none.
#[inline(always)]
pub(crate) fn size(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// Memory of one call: the worker's scratch memory where it suffices.
pub(crate) struct Buffer {
    scratch: *mut f32,
    own: Vec<f32>,
}

impl Buffer {
    /// Room for `len` elements with unspecified contents; `None` where there is no memory.
    pub(crate) fn new(worker: &Worker, len: usize) -> Option<Self> {
        let mut own = Vec::new();
        if len > SCRATCH_BYTES / size_of::<f32>() {
            own.try_reserve_exact(len).ok()?;
        }
        Some(Self { scratch: worker.scratch.cast(), own })
    }

    /// The first element. Whoever writes through it keeps the buffer alive.
    pub(crate) fn pointer(&mut self) -> *mut f32 {
        if self.own.capacity() == 0 { self.scratch } else { self.own.as_mut_ptr() }
    }
}
