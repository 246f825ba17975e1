use super::*;

fn counts(sampling: Sampling, logits: &[f32], draws: usize) -> Vec<usize> {
    let mut sampler = Sampler::new(sampling, &[]);
    let mut counts = vec![0; logits.len()];
    for _ in 0..draws {
        let token = sampler.choose(logits).expect("there are tokens");
        sampler.take(token);
        counts[token as usize] += 1;
    }
    counts
}

fn sampled() -> Sampling {
    Sampling { temperature: 1.0, seed: 7, ..Sampling::default() }
}

/// Pearson's statistic over the tokens that can be drawn.
fn chi_square(counts: &[usize], probabilities: &[f64]) -> f64 {
    let draws: usize = counts.iter().sum();
    let cell = |(count, probability): (&usize, &f64)| match *probability > 0.0 {
        true => (*count as f64 - probability * draws as f64).powi(2) / (probability * draws as f64),
        false => {
            if *count > 0 {
                f64::INFINITY
            } else {
                0.0
            }
        }
    };
    counts.iter().zip(probabilities).map(cell).sum()
}

fn softmax(logits: &[f32], keep: impl Fn(usize) -> bool) -> Vec<f64> {
    let weights = logits.iter().enumerate();
    let weights = weights.map(|(i, logit)| if keep(i) { f64::from(*logit).exp() } else { 0.0 });
    let weights: Vec<f64> = weights.collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

const LOGITS: [f32; 8] = [0.3, -1.0, 2.0, 0.0, 1.1, 1.9, -2.5, 0.7];

#[test]
fn greedy_takes_the_first_of_the_largest() {
    let choose = |logits: &[f32]| Sampler::new(Sampling::default(), &[]).choose(logits);
    assert_eq!(choose(&[0.0, 2.0, 2.0, f32::NAN]), Some(1));
    assert_eq!(choose(&[]), None);
    assert_eq!(choose(&[f32::NAN]), None);
}

#[test]
fn frequencies_follow_the_softmax() {
    // 7 degrees of freedom: 24.3 is passed once in a thousand.
    let counts = counts(sampled(), &LOGITS, 80_000);
    assert!(chi_square(&counts, &softmax(&LOGITS, |_| true)) < 24.3, "{counts:?}");
    assert!(chi_square(&counts, &softmax(&[0.0; 8], |_| true)) > 1000.0);
}

#[test]
fn filters_leave_the_tail_out_and_the_rest_as_it_was() {
    // Probabilities in order: token 2 0.34, 5 0.31, 4 0.14, 7 0.09, 0 0.06, 3 0.05, 1 0.02, 6 0.004.
    let cases: [(Sampling, &[usize]); 5] = [
        (Sampling { top_k: 3, ..sampled() }, &[2, 5, 4]),
        (Sampling { top_p: 0.7, ..sampled() }, &[2, 5, 4]),
        (Sampling { top_p: 0.0, ..sampled() }, &[2]),
        (Sampling { min_p: 0.25, ..sampled() }, &[2, 5, 4, 7]),
        (Sampling { top_k: 6, top_p: 0.6, ..sampled() }, &[2, 5]),
    ];
    for (sampling, kept) in cases {
        let counts = counts(sampling.clone(), &LOGITS, 40_000);
        let statistic = chi_square(&counts, &softmax(&LOGITS, |token| kept.contains(&token)));
        assert!(statistic < 20.0, "{sampling:?}: {counts:?}: {statistic}");
    }
}

#[test]
fn typical_tokens_are_those_of_average_surprise() {
    // One token has 0.43 of the probability, twelve share the rest. The entropy is 2.1: a surprise of 3.0 is nearer than 0.85.
    let mut logits = vec![0.0f32; 13];
    logits[0] = 9f32.ln();
    let counts = counts(Sampling { typical_p: 0.4, ..sampled() }, &logits, 4000);
    assert_eq!(counts[0], 0, "{counts:?}");
    assert_eq!(counts.iter().filter(|count| **count > 0).count(), 9);
}

#[test]
fn a_long_tail_does_not_hide_the_nucleus() {
    let mut logits = vec![0.0f32; 5000];
    (logits[4000], logits[17]) = (12.0, 11.0);
    let counts = counts(Sampling { top_p: 0.9, ..sampled() }, &logits, 2000);
    assert_eq!(counts[4000] + counts[17], 2000);
    // Nothing stands out: half of the tokens are needed.
    let flat = filter::filtered(&[1.0; 5000], &Sampling { top_p: 0.5, ..sampled() });
    assert_eq!(flat.len(), 2500);
}

#[test]
fn an_infinite_logit_is_certain_and_seeds_repeat() {
    let sampling = Sampling { temperature: 0.7, seed: 3, ..Sampling::default() };
    assert_eq!(counts(sampling.clone(), &[0.0, f32::INFINITY], 100), [0, 100]);
    let draw = |seed| {
        let mut sampler = Sampler::new(Sampling { seed, ..sampling.clone() }, &[]);
        let mut draw = || {
            let token = sampler.choose(&LOGITS).unwrap();
            sampler.take(token);
            token
        };
        (0..50).map(|_| draw()).collect::<Vec<_>>()
    };
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
}

#[test]
fn penalties_and_biases_change_logits() {
    let choose = |sampling: Sampling, prompt: &[u32], answer: &[u32]| {
        let mut sampler = Sampler::new(sampling, prompt);
        answer.iter().for_each(|token| sampler.take(*token));
        sampler.choose(&[2.0, 1.5, -1.0])
    };
    let repetition = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
    assert_eq!(choose(repetition.clone(), &[0], &[]), Some(1), "2 becomes 1");
    assert_eq!(choose(repetition, &[0, 1], &[]), Some(0), "1.5 becomes 0.75");
    let presence = Sampling { presence_penalty: 0.6, ..Sampling::default() };
    assert_eq!(choose(presence.clone(), &[0], &[]), Some(0), "a prompt is no answer");
    assert_eq!(choose(presence.clone(), &[], &[0]), Some(1));
    let frequency = Sampling { frequency_penalty: 0.3, ..Sampling::default() };
    assert_eq!(choose(frequency.clone(), &[], &[0]), Some(0));
    assert_eq!(choose(frequency, &[], &[0, 0]), Some(1));
    let bias = Sampling { logit_bias: vec![(2, 4.0), (9, 1.0)], ..Sampling::default() };
    assert_eq!(choose(bias, &[], &[]), Some(2));
}

#[test]
fn logprobs_are_logarithms_of_the_softmax() {
    let logprobs = Logprobs::of(&[1f32.ln(), 3f32.ln(), 4f32.ln(), f32::NAN], 0, 2);
    let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{logprobs:?}");
    close(logprobs.token, 0.125f32.ln());
    assert_eq!(logprobs.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [2, 1]);
    close(logprobs.top[0].1, 0.5f32.ln());
}
