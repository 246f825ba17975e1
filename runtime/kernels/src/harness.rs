//! What the kernels' tests share: workers, comparison of every instruction set and number of workers.

use lathe_artifact::abi::{Run, SCRATCH_BYTES, Service, Status, Worker};
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

/// The barrier of [`call_together`], behind its run's table.
unsafe extern "C" fn meet(worker: *const Worker) -> i32 {
    // SAFETY: `call_together` puts its barrier there.
    unsafe { (*(*(*worker).run).engine.cast::<std::sync::Barrier>()).wait() };
    Status::Ok as i32
}

/// Calls a builtin as `count` workers of a run at once, who may meet on the way; the statuses.
///
/// # Safety
/// The arguments satisfy the builtin's contract.
pub(crate) unsafe fn call_together<A: Arguments>(isa: Isa, count: usize, args: &A) -> Vec<Status> {
    /// What the workers share.
    struct Shared<'a, A>(Run, &'a A);
    // SAFETY: both are read alone; what builtins write through them the workers write apart.
    unsafe impl<A> Sync for Shared<'_, A> {}
    let mut table = vec![0_usize; Service::Barrier.index() + Service::COUNT];
    table[Service::Barrier.index()] = meet as *const () as usize;
    let barrier = std::sync::Barrier::new(count);
    let shared = Shared(
        Run {
            table: table.as_ptr(),
            slots: std::ptr::null(),
            dims: std::ptr::null_mut(),
            cancel: std::ptr::null(),
            engine: std::ptr::from_ref(&barrier).cast_mut().cast(),
            trace: 0,
        },
        args,
    );
    let work = &|index: usize| {
        let mut scratch = vec![Line([0xa5; 64]); SCRATCH_BYTES / 64];
        let shared: &Shared<'_, A> = &shared;
        let scratch = scratch.as_mut_ptr().cast();
        let worker = Worker { run: &shared.0, index: index as u64, count: count as u64, scratch };
        // SAFETY: the caller's promise; the run lives until all workers have ended.
        unsafe { isa::call(isa, &worker, shared.1) }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|index| scope.spawn(move || work(index))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// Bytes around an output that must stay as they are.
const GUARD: usize = 64;
/// What fills outputs before the call.
const BLANK: u8 = 0xa5;

/// Runs a builtin on every instruction set with 1, 2, 3 and 8 workers. `outputs` are the bytes of its outputs, whose addresses
/// `args` receives, aligned to no more than `element` bytes. All numbers of workers must give the same bits and touch nothing
/// else; the outputs of each instruction set are returned.
pub(crate) fn run<A: Arguments>(
    outputs: &[usize],
    element: usize,
    args: impl Fn(&[*mut u8]) -> A,
) -> Vec<(Isa, Vec<Vec<u8>>)> {
    let mut results = Vec::new();
    for isa in isas() {
        let mut first: Option<Vec<Vec<u8>>> = None;
        for count in [1, 2, 3, 8] {
            // Vectors of lines start at multiples of 64; the element after that is aligned to its size alone.
            let mut memory: Vec<Vec<Line>> = outputs
                .iter()
                .map(|len| vec![Line([BLANK; 64]); len.div_ceil(64) + 2 * GUARD / 64 + 1])
                .collect();
            let offset = GUARD + element;
            let addresses: Vec<*mut u8> = memory
                .iter_mut()
                .map(|memory| memory.as_mut_ptr().cast::<u8>().wrapping_add(offset))
                .collect();
            // SAFETY: the outputs have their sizes; the test makes the other arguments fit.
            let status = unsafe { call_shared(isa, count, &args(&addresses)) };
            assert_eq!(status, Status::Ok, "{} with {count} workers", isa.name());
            let bytes: Vec<Vec<u8>> =
                memory.iter().map(|m| m.iter().flat_map(|line| line.0).collect()).collect();
            for (bytes, len) in bytes.iter().zip(outputs) {
                let outside = bytes[..offset].iter().chain(&bytes[offset + len..]);
                assert!(outside.into_iter().all(|&b| b == BLANK), "{} writes outside its output", isa.name());
            }
            let inside =
                bytes.iter().zip(outputs).map(|(bytes, len)| bytes[offset..offset + len].to_vec()).collect();
            match &first {
                None => first = Some(inside),
                Some(first) => assert!(*first == inside, "{}: {count} workers give other bits", isa.name()),
            }
        }
        results.extend(first.map(|first| (isa, first)));
    }
    results
}

/// Runs a builtin with one f32 output of `len` elements and compares it with a reference: absolute difference up to
/// `tolerance * (1 + |want|)`.
pub(crate) fn check<A: Arguments>(want: &[f64], tolerance: f64, args: impl Fn(*mut u8) -> A) {
    for (isa, outputs) in run(&[want.len() * 4], 4, |outputs| args(outputs[0])) {
        compare(isa, &floats(&outputs[0]), want, tolerance);
    }
}

/// Compares a result with a reference.
pub(crate) fn compare(isa: Isa, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let same = f64::from(got) == want || (got.is_nan() && want.is_nan());
        let close = (f64::from(got) - want).abs() <= tolerance * (1.0 + want.abs());
        assert!(same || close, "{}: element {i} is {got}, not {want}", isa.name());
    }
}

/// The f32 elements of bytes.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The i64 elements of bytes.
pub(crate) fn integers(bytes: &[u8]) -> Vec<i64> {
    bytes.chunks_exact(8).map(|b| i64::from_ne_bytes(std::array::from_fn(|i| b[i]))).collect()
}

/// Numbers between -4 and 4.
pub(crate) fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..len).map(|_| (next() >> 40) as f32 / (1 << 21) as f32 - 4.0).collect()
}

/// The address of a slice, as inputs want it.
pub(crate) fn address<T>(slice: &[T]) -> *const u8 {
    slice.as_ptr().cast()
}
