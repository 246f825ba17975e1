//! What each expert gets: for reports.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use crate::kernel::{Kernel, size};
use crate::simd::Simd;

impl Kernel for args::MoeCount {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        if worker.index != 0 {
            return Status::Ok;
        }
        let (tokens, experts, top_k) = (size(self.tokens), size(self.experts), size(self.top_k));
        let width = size(self.mask_bytes);
        // SAFETY: `counts` has two elements an expert and two more, `sums` one an expert; nobody else uses them.
        let (counts, sums) = unsafe {
            let counts = std::slice::from_raw_parts_mut(self.counts.cast::<i64>(), 2 * experts + 2);
            (counts, std::slice::from_raw_parts_mut(self.sums.cast::<f64>(), experts))
        };
        counts.fill(0);
        sums.fill(0.0);
        let (load, rest) = counts.split_at_mut(experts);
        let (assigned, totals) = rest.split_at_mut(experts);
        for token in 0..tokens {
            // SAFETY: the mask has `width` bytes a token, the scores a row, indices and places `top_k` elements.
            let (padding, scores, indices, places) = unsafe {
                let mask = self.mask.wrapping_add(token * width);
                let padding = !self.mask.is_null() && (0..width).all(|byte| *mask.add(byte) == 0);
                let indices = self.indices.cast::<i64>().add(token * top_k);
                let places = self.places.cast::<i64>().add(token * top_k);
                (
                    padding,
                    std::slice::from_raw_parts(self.scores.cast::<f32>().add(token * experts), experts),
                    std::slice::from_raw_parts(indices, top_k),
                    std::slice::from_raw_parts(places, top_k),
                )
            };
            if padding {
                continue;
            }
            totals[1] += 1;
            sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += f64::from(*score));
            for (&expert, &place) in indices.iter().zip(places) {
                let expert = usize::try_from(expert).unwrap_or(usize::MAX);
                let (Some(load), Some(assigned)) = (load.get_mut(expert), assigned.get_mut(expert)) else {
                    return Status::IndexOutOfRange;
                };
                *assigned += 1;
                *load += i64::from(place >= 0);
                totals[0] += i64::from(place < 0);
            }
        }
        // SAFETY: the optional results have one element an expert, one, and one; nobody else uses them.
        unsafe { report(self, load, assigned, totals, sums) };
        Status::Ok
    }
}

/// Writes what the graph asks for besides the counts.
///
/// # Safety
/// `load` is null or has one element an expert, `dropped` and `balance` are null or have one; nobody else uses them.
unsafe fn report(to: &args::MoeCount, load: &[i64], assigned: &[i64], totals: &[i64], sums: &[f64]) {
    let tokens = (totals[1] as f64).max(1.0);
    let shares = assigned.iter().zip(sums).map(|(count, sum)| (*count as f64 / tokens) * (sum / tokens));
    let balance = shares.sum::<f64>() * assigned.len() as f64;
    // SAFETY: by the contract of this function.
    unsafe {
        if !to.load.is_null() {
            std::slice::from_raw_parts_mut(to.load.cast::<i64>(), load.len()).copy_from_slice(load);
        }
        if !to.dropped.is_null() {
            to.dropped.cast::<i64>().write(totals[0]);
        }
        if !to.balance.is_null() {
            to.balance.cast::<f32>().write(balance as f32);
        }
    }
}
