//! Generation over models that are tables.

use super::*;
use crate::table::{Failed, Table, VOCABULARY};
use crate::{Extend, Logits};

/// Predicts the last token plus one, modulo the vocabulary; remembers each call.
#[derive(Default)]
struct Counter {
    logits: Vec<f32>,
    seen: Vec<Vec<u32>>,
    rows: Vec<usize>,
}

impl LanguageModel for Counter {
    type Sequence = usize;
    type Error = Failed;

    fn extend(&mut self, steps: &[Extend<'_, usize>]) -> Result<Logits<'_>, Failed> {
        self.logits.clear();
        self.rows.push(steps.iter().map(|step| step.tokens.len()).sum());
        for step in steps {
            self.seen[step.sequence].extend(step.tokens);
            for token in &step.tokens[step.tokens.len() - step.logits..] {
                let mut row = [0.0; VOCABULARY];
                row[(*token as usize + 1) % VOCABULARY] = 1.0;
                self.logits.extend(row);
            }
        }
        if self.seen.iter().any(|seen| seen.contains(&666)) { Err(Failed) } else { Ok(self.given()) }
    }

    fn together(&self, _: usize, count: usize) -> usize {
        count
    }

    fn fork(&mut self, sequence: usize) -> Result<usize, Failed> {
        self.seen.push(self.seen[sequence].clone());
        Ok(self.seen.len() - 1)
    }

    fn rewind(&mut self, sequence: usize, count: usize) -> Result<(), Failed> {
        let left = self.seen[sequence].len() - count;
        self.seen[sequence].truncate(left);
        Ok(())
    }

    fn end(&mut self, _: usize) {}
}

impl Counter {
    fn given(&self) -> Logits<'_> {
        Logits::new(&self.logits, VOCABULARY)
    }
}

fn counter(sequences: usize) -> Counter {
    Counter { seen: vec![Vec::new(); sequences], ..Counter::default() }
}

fn generator(max_tokens: usize, stop: &[u32]) -> Generator {
    Generator { sampling: Sampling::default(), stop: stop.to_vec(), max_tokens, logprobs: None }
}

fn prompts<'a>(tokens: &[&'a [u32]]) -> Vec<Prompt<'a, usize>> {
    tokens.iter().enumerate().map(|(sequence, tokens)| Prompt { sequence, tokens }).collect()
}

#[test]
fn every_token_is_taken_in_once() {
    let mut model = counter(1);
    let (results, timing) =
        generator(4, &[]).generate(&mut model, &prompts(&[&[1, 2]]), &mut |_| true).unwrap();
    assert_eq!(results, [Continuation { tokens: vec![3, 4, 5, 6], finish: Finish::Length }]);
    assert_eq!(model.seen, [[1, 2, 3, 4, 5]]);
    assert_eq!((timing.prompt_tokens, timing.step_tokens), (2, 3));
}

#[test]
fn a_stop_token_is_the_last_and_the_others_go_on() {
    let mut model = counter(2);
    let prompts = prompts(&[&[2], &[7]]);
    let mut order = Vec::new();
    let (results, _) = generator(4, &[5])
        .generate(&mut model, &prompts, &mut |token| {
            order.push((token.prompt, token.id));
            true
        })
        .unwrap();
    assert_eq!(results[0], Continuation { tokens: vec![3, 4, 5], finish: Finish::Stop });
    assert_eq!(results[1], Continuation { tokens: vec![8, 9, 0, 1], finish: Finish::Length });
    assert_eq!(order, [(0, 3), (1, 8), (0, 4), (1, 9), (0, 5), (1, 0), (1, 1)]);
    assert_eq!(model.rows, [2, 2, 2, 1]);
}

#[test]
fn callers_end_it() {
    let result = generator(8, &[]).generate(&mut counter(1), &prompts(&[&[2]]), &mut |token| token.id < 4);
    let (results, _) = result.unwrap();
    assert_eq!(results, [Continuation { tokens: vec![3, 4], finish: Finish::Cancelled }]);
}

#[test]
fn long_prompts_are_taken_in_chunks() {
    let long: Vec<u32> = (0..1200).map(|i| i % 10).collect();
    let short = [4u32; 30];
    let mut model = counter(2);
    let prompts = prompts(&[&long, &short]);
    let (results, timing) = generator(2, &[]).generate(&mut model, &prompts, &mut |_| true).unwrap();
    assert_eq!(model.rows, [512, 512, 206, 2]);
    assert_eq!(model.seen[0][..1200], long);
    assert_eq!((results[0].tokens[..].to_vec(), results[1].tokens[..].to_vec()), (vec![0, 1], vec![5, 6]));
    assert_eq!(timing.prompt_tokens, 1230);
}

#[test]
fn nothing_is_asked_of_the_model_where_no_token_is_wanted() {
    let mut model = counter(1);
    let (results, _) = generator(0, &[]).generate(&mut model, &prompts(&[&[1]]), &mut |_| true).unwrap();
    assert_eq!(results, [Continuation { tokens: vec![], finish: Finish::Length }]);
    assert!(model.rows.is_empty());
    assert!(generator(3, &[]).generate(&mut model, &[], &mut |_| true).unwrap().0.is_empty());
}

#[test]
fn errors_end_the_stream() {
    let mut model = counter(2);
    let empty = prompts(&[&[1], &[]]);
    let result = generator(1, &[]).generate(&mut model, &empty, &mut |_| true);
    assert!(matches!(result, Err(GenerateError::EmptyPrompt { prompt: 1 })));
    let generator = generator(5, &[]);
    let mut stream = generator.stream(&mut model, &prompts(&[&[666]]));
    assert!(matches!(stream.next(), Some(Err(GenerateError::Model(Failed)))));
    assert!(stream.next().is_none());
}

fn table_run(sampling: &Sampling, draft: Option<usize>) -> (Vec<Vec<u32>>, usize, Option<crate::Speculated>) {
    let mut model = Table::new(0.0, 2);
    let generator = Generator { sampling: sampling.clone(), stop: vec![9], max_tokens: 40, logprobs: None };
    let prompts: [&[u32]; 2] = [&[1, 2, 3, 1, 2], &[4]];
    let prompts = self::prompts(&prompts);
    let mut stream = generator.stream(&mut model, &prompts);
    if let Some(count) = draft {
        stream.speculate(crate::ModelDraft::new(Table::new(0.15, 2), vec![0, 1]), count);
    }
    let mut tokens = vec![Vec::new(); 2];
    for token in stream.by_ref() {
        let token = token.unwrap();
        tokens[token.prompt].push(token.id);
    }
    let report = stream.speculated();
    drop(stream);
    for (seen, (prompt, new)) in model.seen.iter().zip(prompts.iter().zip(&tokens)) {
        let all: Vec<u32> = prompt.tokens.iter().chain(new).copied().collect();
        assert_eq!(*seen, all[..all.len() - 1], "the model forgets guesses that were wrong");
    }
    (tokens, model.calls, report)
}

#[test]
fn guesses_change_no_token() {
    for temperature in [0.0, 0.8, 2.0] {
        for seed in 0..20 {
            let sampling = Sampling { temperature, seed, repetition_penalty: 1.1, ..Sampling::default() };
            let (plain, ..) = table_run(&sampling, None);
            for count in [1, 3, 7] {
                let (guessed, _, report) = table_run(&sampling, Some(count));
                assert_eq!(plain, guessed, "{temperature} {seed} {count}");
                assert!(report.unwrap().accepted <= report.unwrap().proposed);
            }
        }
    }
}

#[test]
fn sampled_tokens_keep_their_distribution_with_guesses() {
    // The second token after a prompt, over many seeds, against the exact probabilities: 9 degrees of freedom.
    let (mut counts, draws) = ([0f64; VOCABULARY], 20_000);
    let mut accepted = 0;
    for seed in 0..draws {
        let mut model = Table::new(0.0, 1);
        let sampling = Sampling { temperature: 1.0, seed: seed * 7919, ..Sampling::default() };
        let generator = Generator { sampling, max_tokens: 5, ..Generator::default() };
        let prompts = [Prompt { sequence: 0, tokens: &[5, 6] }];
        let mut stream = generator.stream(&mut model, &prompts);
        stream.speculate(crate::ModelDraft::new(Table::new(0.3, 1), vec![0]), 2);
        let tokens: Vec<u32> = stream.by_ref().map(|token| token.unwrap().id).collect();
        accepted += stream.speculated().unwrap().accepted;
        counts[tokens[4] as usize] += 1.0;
    }
    assert!(accepted > draws as usize / 2, "{accepted}");
    let next = |before: u32, token: u32| {
        let mut model = Table::new(0.0, 1);
        model.seen[0].push(before);
        let step = Extend { sequence: 0, tokens: &[token], logits: 1 };
        let row: Vec<f64> =
            model.extend(&[step]).unwrap().values().iter().map(|l| f64::from(*l).exp()).collect();
        let total: f64 = row.iter().sum();
        row.into_iter().map(move |weight| weight / total)
    };
    // Probabilities of the last two tokens, five steps on.
    let mut pairs = vec![vec![0.0; VOCABULARY]; VOCABULARY];
    pairs[5][6] = 1.0;
    for _ in 0..5 {
        let mut after = vec![vec![0.0; VOCABULARY]; VOCABULARY];
        for (before, row) in pairs.iter().enumerate() {
            for (token, probability) in row.iter().enumerate().filter(|(_, probability)| **probability > 0.0)
            {
                for (following, share) in next(before as u32, token as u32).enumerate() {
                    after[token][following] += probability * share;
                }
            }
        }
        pairs = after;
    }
    let expected = |token: usize| pairs.iter().map(|row| row[token]).sum::<f64>() * draws as f64;
    let statistic: f64 =
        (0..VOCABULARY).map(|token| (counts[token] - expected(token)).powi(2) / expected(token)).sum();
    assert!(statistic < 27.9, "{statistic}: {counts:?}");
}

#[test]
fn a_sequence_can_be_ended_and_its_tokens_explained() {
    let mut model = counter(2);
    let generator = Generator { max_tokens: 5, logprobs: Some(2), ..Generator::default() };
    let prompts = prompts(&[&[1], &[4]]);
    let mut stream = generator.stream(&mut model, &prompts);
    let first = stream.next().unwrap().unwrap();
    assert_eq!((first.prompt, first.id), (0, 2));
    let logprobs = first.logprobs.unwrap();
    assert_eq!(logprobs.top[0], (2, logprobs.token));
    stream.end(0);
    assert!(stream.all(|token| token.unwrap().prompt == 1));
}
