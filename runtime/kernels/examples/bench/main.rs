//! Prints what matrix products, convolutions and attention reach on one core, beside its multiply-add peak.
//!
//! `cargo run --release -p lathe-kernels --example bench [matmul|blocks|conv|attention] [isa]`

mod attention;
mod blocks;
mod conv;
mod matmul;

use std::hint::black_box;
use std::ptr::null;
use std::time::Instant;

use lathe_artifact::abi::{SCRATCH_BYTES, Status, Worker};
use lathe_artifact::builtin::Arguments;
use lathe_kernels::isa::{Isa, call};
use lathe_kernels::measure::peak_gflops;

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|index| ((index * 7919 % 1000) as f32 - 500.0) / 500.0).collect()
}

/// Best time of a call in seconds, by one worker.
///
/// # Safety
/// The arguments satisfy the builtin's contract.
unsafe fn best<A: Arguments>(isa: Isa, args: &A) -> f64 {
    #[repr(align(64))]
    #[derive(Clone, Copy)]
    struct Line([u8; 64]);
    let mut scratch = vec![Line([0; 64]); SCRATCH_BYTES / 64];
    let scratch = (&raw mut scratch[0].0).cast();
    let worker = Worker { run: null(), index: 0, count: 1, scratch };
    let began = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while runs < 5 || (runs < 1000 && began.elapsed().as_millis() < 150) {
        let start = Instant::now();
        // SAFETY: the caller vouches for the arguments.
        let status = unsafe { call(isa, &worker, black_box(args)) };
        best = best.min(start.elapsed().as_secs_f64());
        assert_eq!(status, Status::Ok);
        runs += 1;
    }
    best
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let isa = arguments.iter().find_map(|name| Isa::from_name(name)).unwrap_or_else(Isa::detect);
    let wants = |name: &str| arguments.iter().all(|given| given == name || Isa::from_name(given).is_some());
    println!("{}: GFLOP/s of one worker; peak {:.1}", isa.name(), peak_gflops(isa, 1));
    if wants("matmul") {
        matmul::run(isa);
    }
    if wants("blocks") {
        blocks::run(isa);
    }
    if wants("conv") {
        conv::run(isa);
    }
    if wants("attention") {
        attention::run(isa);
    }
}
