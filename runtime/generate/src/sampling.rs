//! Choosing a token from logits.

use lathe_tensor::SplitMix64;

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the most likely token.
    pub temperature: f32,
    /// Only this many of the most likely tokens; 0 for all.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability (nucleus sampling, Holtzman et al., 2019); 1 for all.
    pub top_p: f32,
    /// The same seed and logits give the same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

/// Chooses tokens; holds the state of the random sequence.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: SplitMix64,
}

impl Sampler {
    /// A sampler at the start of its sequence.
    pub fn new(sampling: Sampling) -> Self {
        let random = SplitMix64::new(sampling.seed);
        Self { sampling, random }
    }

    /// The index of a token of `logits[vocabulary]`; `None` where there is none or all are NaN. Ties go to the lower index.
    pub fn choose(&mut self, logits: &[f32]) -> Option<usize> {
        let best = argmax(logits)?;
        // NaN and negative temperatures are greedy too.
        if self.sampling.temperature > 0.0 {
            let candidates = self.candidates(logits, logits[best]);
            return Some(self.draw(&candidates).unwrap_or(best));
        }
        Some(best)
    }

    /// Tokens that may be drawn with their weights, most likely first.
    fn candidates(&self, logits: &[f32], max: f32) -> Vec<(usize, f64)> {
        let mut weights: Vec<(usize, f64)> = logits
            .iter()
            .enumerate()
            .filter(|(_, logit)| !logit.is_nan())
            .map(|(index, logit)| {
                let weight = (f64::from(logit - max) / f64::from(self.sampling.temperature)).exp();
                // An infinite logit takes everything.
                (index, if *logit == max { 1.0 } else { weight })
            })
            .collect();
        weights.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if self.sampling.top_k > 0 {
            weights.truncate(self.sampling.top_k);
        }
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let mut reached = 0.0;
        let kept = weights.iter().take_while(|(_, weight)| {
            let take = reached < f64::from(self.sampling.top_p) * total;
            reached += weight;
            take
        });
        let kept = kept.count().max(1);
        weights.truncate(kept);
        weights
    }

    fn draw(&mut self, candidates: &[(usize, f64)]) -> Option<usize> {
        let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
        let mut point = self.random.unit() * total;
        for (index, weight) in candidates {
            point -= weight;
            if point < 0.0 {
                return Some(*index);
            }
        }
        candidates.last().map(|(index, _)| *index)
    }
}

fn argmax(logits: &[f32]) -> Option<usize> {
    let mut best: Option<usize> = None;
    for (index, logit) in logits.iter().enumerate() {
        if !logit.is_nan() && best.is_none_or(|best| *logit > logits[best]) {
            best = Some(index);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sampling: Sampling, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(sampling);
        let mut counts = vec![0; logits.len()];
        for _ in 0..draws {
            counts[sampler.choose(logits).expect("there are tokens")] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(Sampler::new(Sampling::default()).choose(&[0.0, 2.0, 2.0, f32::NAN]), Some(1));
        assert_eq!(Sampler::new(Sampling::default()).choose(&[]), None);
        assert_eq!(Sampler::new(Sampling::default()).choose(&[f32::NAN]), None);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0, 2f32.ln(), 5f32.ln()];
        let counts = counts(Sampling { temperature: 1.0, seed: 7, ..Sampling::default() }, &logits, 80_000);
        for (count, expected) in counts.iter().zip([10_000.0, 20_000.0, 50_000.0]) {
            assert!((*count as f64 - expected).abs() < 600.0, "{counts:?}");
        }
    }

    #[test]
    fn top_k_and_top_p_leave_the_tail_out() {
        let logits = [0.0, 1.0, 2.0, 3.0];
        let top_k = Sampling { temperature: 1.0, top_k: 2, ..Sampling::default() };
        assert_eq!(counts(top_k, &logits, 2000)[..2], [0, 0]);
        // The most likely token has probability 0.64, the second 0.24.
        let top_p = Sampling { temperature: 1.0, top_p: 0.6, ..Sampling::default() };
        assert_eq!(counts(top_p, &logits, 2000), [0, 0, 0, 2000]);
    }

    #[test]
    fn an_infinite_logit_is_certain_and_seeds_repeat() {
        let sampling = Sampling { temperature: 0.7, seed: 3, ..Sampling::default() };
        assert_eq!(counts(sampling.clone(), &[0.0, f32::INFINITY], 100), [0, 100]);
        let draw = || {
            (0..50)
                .scan(Sampler::new(sampling.clone()), |s, _| s.choose(&[0.1, 0.2, 0.3]))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
    }
}
