//! What this machine can do at best: the yardstick of `doctor` and `bench`.
//!
//! Each number is the best of several short windows, as other work on the machine only ever makes a window slower.

use std::hint::black_box;
use std::time::Instant;

use crate::isa::Isa;
use crate::simd::{LANES, Portable, Simd, WithSimd};

/// Independent chains of multiply-adds: enough to hide their latency.
const CHAINS: usize = 12;
/// Windows that are timed.
const WINDOWS: usize = 25;
/// Bytes that the bandwidth test reads: more than any cache.
const STREAM_BYTES: usize = 256 << 20;

/// f32 multiply-adds a second of `threads` threads at once, in GFLOP/s (two a multiply-add).
pub fn peak_gflops(isa: Isa, threads: usize) -> f64 {
    let rounds = 20_000u32;
    let flops = f64::from(rounds) * (CHAINS * LANES * 2) as f64;
    best_of_threads(threads, |_| _ = black_box(dispatch(isa, MultiplyAdds { rounds }))) * flops / 1e9
}

/// Bytes a second that `threads` threads read from memory, in GB/s.
pub fn read_bandwidth(isa: Isa, threads: usize) -> f64 {
    let threads = threads.max(1);
    let data = vec![1f32; STREAM_BYTES / size_of::<f32>()];
    let share = data.len() / threads;
    let read = |index: usize| {
        let part = data.get(index * share..(index + 1) * share).unwrap_or_default();
        _ = black_box(dispatch(isa, Sum { data: part }));
    };
    let per_thread = (share * size_of::<f32>()) as f64;
    (0..3).map(|_| once(threads, &read) * per_thread / 1e9).fold(0.0, f64::max)
}

/// Calls a second, summed over the threads, in the best window.
fn best_of_threads(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    (0..WINDOWS).map(|_| once(threads.max(1), &work)).fold(0.0, f64::max)
}

/// Calls a second of one call on each thread, all starting together.
fn once(threads: usize, work: &(impl Fn(usize) + Sync)) -> f64 {
    let barrier = std::sync::Barrier::new(threads);
    std::thread::scope(|scope| {
        let started: Vec<_> = (0..threads)
            .map(|index| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let start = Instant::now();
                    work(index);
                    1.0 / start.elapsed().as_secs_f64().max(1e-9)
                })
            })
            .collect();
        started.into_iter().map(|thread| thread.join().unwrap_or(0.0)).sum()
    })
}

fn dispatch<W: WithSimd>(isa: Isa, work: W) -> W::Output {
    match isa {
        // SAFETY: the CPU has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if isa.supported() => unsafe { crate::simd::Avx512::new() }.vectorize(work),
        // SAFETY: the CPU has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if isa.supported() => unsafe { crate::simd::Avx2::new() }.vectorize(work),
        // SAFETY: every CPU has what the portable set uses.
        _ => unsafe { Portable::new() }.vectorize(work),
    }
}

struct MultiplyAdds {
    rounds: u32,
}

impl WithSimd for MultiplyAdds {
    type Output = f32;

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) -> f32 {
        let factor = simd.splat(black_box(0.999));
        let mut chains = [simd.splat(1.0); CHAINS];
        for _ in 0..self.rounds {
            for chain in &mut chains {
                *chain = simd.fma(*chain, factor, factor);
            }
        }
        total(simd, &chains)
    }
}

struct Sum<'a> {
    data: &'a [f32],
}

impl WithSimd for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) -> f32 {
        let mut sums = [simd.splat(0.0); 4];
        for chunk in self.data.chunks_exact(4 * LANES) {
            for (index, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the chunk holds four vectors.
                let vector = unsafe { simd.load(chunk.as_ptr().add(index * LANES)) };
                *sum = simd.add(*sum, vector);
            }
        }
        total(simd, &sums)
    }
}

#[inline(always)]
fn total<S: Simd>(simd: S, vectors: &[S::F]) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut sum = 0.0;
    for vector in vectors {
        // SAFETY: the array holds one vector.
        unsafe { simd.store(lanes.as_mut_ptr(), *vector) };
        sum += lanes.iter().sum::<f32>();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wider_instructions_are_not_slower() {
        let portable = peak_gflops(Isa::Portable, 1);
        assert!(portable > 0.1, "{portable} GFLOP/s");
        assert!(peak_gflops(Isa::detect(), 1) > 0.5 * portable);
    }
}
