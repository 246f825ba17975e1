//! What the kernels' tests share: workers, comparison of every instruction set and number of workers.

use lathe_artifact::abi::{SCRATCH_BYTES, Status, Worker};
use lathe_artifact::builtin::Arguments;

use crate::isa::{self, Isa};

/// Every instruction set of this machine.
pub(crate) fn isas() -> Vec<Isa> {
    Isa::available().collect()
}

/// Scratch memory, aligned to 64.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line(#[allow(dead_code)] [u8; 64]);

/// Calls a builtin as the only worker.
///
/// # Safety
/// The arguments satisfy the builtin's contract.
pub(crate) unsafe fn call_alone<A: Arguments>(isa: Isa, args: &A) -> Status {
    // SAFETY: the caller's promise.
    unsafe { call_shared(isa, 1, args) }
}

/// Calls a builtin as each of `count` workers, one after the other, last first; the first failure or `Ok`.
///
/// # Safety
/// The arguments satisfy the builtin's contract.
pub(crate) unsafe fn call_shared<A: Arguments>(isa: Isa, count: u64, args: &A) -> Status {
    let mut scratch = vec![Line([0xa5; 64]); SCRATCH_BYTES / 64];
    let mut status = Status::Ok;
    for index in (0..count).rev() {
        let worker = Worker { run: std::ptr::null(), index, count, scratch: scratch.as_mut_ptr().cast() };
        // SAFETY: the caller's promise; this worker alone runs.
        let own = unsafe { isa::call(isa, &worker, args) };
        if status == Status::Ok {
            status = own;
        }
    }
    status
}
