//! Which tokens may be drawn.

use super::Sampling;

/// A token with its weight; the most likely token has weight 1.
pub(super) type Candidate = (u32, f64);

/// All tokens with a probability, in their order.
pub(super) fn candidates(logits: &[f32], temperature: f32) -> Vec<Candidate> {
    let max = logits.iter().copied().filter(|logit| !logit.is_nan()).fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| match logit == max {
        // An infinite logit takes everything.
        true => 1.0,
        false => (f64::from(logit - max) / f64::from(temperature)).exp(),
    };
    let tokens = (0u32..).zip(logits).map(|(token, &logit)| (token, weight(logit)));
    tokens.filter(|(_, weight)| *weight > 0.0).collect()
}

/// The tokens that `sampling` leaves.
pub(super) fn filtered(logits: &[f32], sampling: &Sampling) -> Vec<Candidate> {
    let mut all = candidates(logits, sampling.temperature);
    if sampling.top_k > 0 {
        keep_largest(&mut all, sampling.top_k);
    }
    if sampling.top_p < 1.0 {
        nucleus(&mut all, f64::from(sampling.top_p));
    }
    if sampling.min_p > 0.0 {
        let least = f64::from(sampling.min_p.min(1.0));
        all.retain(|(_, weight)| *weight >= least);
    }
    if sampling.typical_p < 1.0 {
        typical(&mut all, f64::from(sampling.typical_p));
    }
    all
}

fn by_weight(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Keeps the `count` largest, largest first.
pub(super) fn keep_largest(all: &mut Vec<Candidate>, count: usize) {
    if count < all.len() {
        if count > 0 {
            all.select_nth_unstable_by(count - 1, by_weight);
        }
        all.truncate(count);
    }
    all.sort_by(by_weight);
}

/// Keeps the largest until they reach the share `share` of the whole; at least one.
fn nucleus(all: &mut Vec<Candidate>, share: f64) {
    let total: f64 = all.iter().map(|(_, weight)| weight).sum();
    // Few tokens hold most of the weight: sorting them all would be the slowest part of a step.
    let mut count = 256;
    while count < all.len() {
        all.select_nth_unstable_by(count, by_weight);
        if all[..count].iter().map(|(_, weight)| weight).sum::<f64>() >= share * total {
            break;
        }
        count *= 4;
    }
    keep_largest(all, count);
    let mut reached = 0.0;
    let kept = all.iter().take_while(|(_, weight)| {
        let take = reached < share * total;
        reached += weight;
        take
    });
    let kept = kept.count().max(1);
    all.truncate(kept);
}

/// Keeps those whose surprise is nearest the entropy until they reach the share; at least one.
fn typical(all: &mut Vec<Candidate>, share: f64) {
    let total: f64 = all.iter().map(|(_, weight)| weight).sum();
    let surprise = |weight: f64| -(weight / total).ln();
    let entropy: f64 = all.iter().map(|(_, weight)| weight / total * surprise(*weight)).sum();
    let distance = |candidate: &Candidate| (surprise(candidate.1) - entropy).abs();
    all.sort_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.0.cmp(&b.0)));
    let mut reached = 0.0;
    let kept = all.iter().take_while(|(_, weight)| {
        let take = reached < share * total;
        reached += weight;
        take
    });
    let kept = kept.count().max(1);
    all.truncate(kept);
}
