//! The choice of experts, token by token.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use crate::kernel::{Kernel, size};
use crate::simd::Simd;

/// The index of the largest element that is not taken, the first of equals; NaN counts as the largest.
fn largest(values: &[f32], taken: &[bool]) -> usize {
    let mut best: Option<usize> = None;
    for (index, value) in values.iter().enumerate().filter(|(index, _)| !taken[*index]) {
        let better =
            best.is_none_or(|best| *value > values[best] || (value.is_nan() && !values[best].is_nan()));
        if better {
            best = Some(index);
        }
    }
    best.unwrap_or(0)
}

/// Scores of one row of logits.
fn score(logits: &[f32], sigmoid: bool, scores: &mut [f32]) {
    if sigmoid {
        scores.iter_mut().zip(logits).for_each(|(score, logit)| *score = 1.0 / (1.0 + (-logit).exp()));
        return;
    }
    let most = logits.iter().fold(f32::NEG_INFINITY, |most, logit| most.max(*logit));
    let mut sum = 0.0;
    for (score, logit) in scores.iter_mut().zip(logits) {
        *score = (logit - most).exp();
        sum += *score;
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// Takes the experts of all but the best groups out of the choice.
fn mask_groups(select: &mut [f32], sums: &mut [f32], taken: &mut [bool], top: usize) {
    let members = (select.len() / sums.len().max(1)).max(1);
    for (sum, group) in sums.iter_mut().zip(select.chunks_exact(members)) {
        let taken = &mut taken[..members];
        taken.fill(false);
        *sum = 0.0;
        for _ in 0..members.min(2) {
            let best = largest(group, taken);
            taken[best] = true;
            *sum += group[best];
        }
    }
    let taken = &mut taken[..sums.len()];
    taken.fill(false);
    for _ in 0..top {
        taken[largest(sums, taken)] = true;
    }
    for (kept, group) in taken.iter().zip(select.chunks_exact_mut(members)) {
        if !kept {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

impl Kernel for args::MoeRoute {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _simd: S, worker: &Worker) -> Status {
        let (experts, top_k, groups) = (size(self.experts), size(self.top_k), size(self.groups));
        if top_k > experts
            || (groups != 0 && (!experts.is_multiple_of(groups) || size(self.group_top) > groups))
        {
            return Status::Internal;
        }
        let mut memory: Vec<f32> = Vec::new();
        if memory.try_reserve_exact(2 * experts + groups).is_err() {
            return Status::OutOfMemory;
        }
        memory.resize(2 * experts + groups, 0.0);
        let mut taken: Vec<bool> = Vec::new();
        if taken.try_reserve_exact(experts).is_err() {
            return Status::OutOfMemory;
        }
        taken.resize(experts, false);
        let (scores, rest) = memory.split_at_mut(experts);
        let (select, sums) = rest.split_at_mut(experts);
        for token in worker.share(size(self.tokens), 1) {
            // SAFETY: a row of logits, and `top_k` indices and weights, are the token's; the bias has one element an expert.
            let (logits, bias, indices, weights) = unsafe {
                let bias = (!self.bias.is_null())
                    .then(|| std::slice::from_raw_parts(self.bias.cast::<f32>(), experts));
                (
                    std::slice::from_raw_parts(self.logits.cast::<f32>().add(token * experts), experts),
                    bias,
                    std::slice::from_raw_parts_mut(self.indices.cast::<i64>().add(token * top_k), top_k),
                    std::slice::from_raw_parts_mut(self.weights.cast::<f32>().add(token * top_k), top_k),
                )
            };
            score(logits, self.sigmoid != 0, scores);
            if !self.scores.is_null() {
                // SAFETY: the token's row of scores, which is apart from all others.
                unsafe {
                    let row = self.scores.cast::<f32>().add(token * experts);
                    std::ptr::copy_nonoverlapping(scores.as_ptr(), row, experts);
                }
            }
            select.copy_from_slice(scores);
            if let Some(bias) = bias {
                select.iter_mut().zip(bias).for_each(|(select, bias)| *select += bias);
            }
            if groups != 0 {
                mask_groups(select, sums, &mut taken, size(self.group_top));
            }
            choose(self, scores, select, &mut taken, (indices, weights));
        }
        Status::Ok
    }
}

/// Writes the choice of one token with its weights.
fn choose(
    args: &args::MoeRoute,
    scores: &[f32],
    select: &[f32],
    taken: &mut [bool],
    (indices, weights): (&mut [i64], &mut [f32]),
) {
    let mut sum = 0.0;
    taken.fill(false);
    for (index, weight) in indices.iter_mut().zip(weights.iter_mut()) {
        let best = largest(select, taken);
        taken[best] = true;
        *index = best as i64;
        *weight = scores[best];
        sum += *weight;
    }
    sum += args.epsilon as f32;
    for weight in weights {
        if args.renormalise != 0 {
            *weight /= sum;
        }
        *weight *= args.scale as f32;
    }
}
