//! Generation over models that are tables.

use super::*;
use crate::{Extend, Logits};

/// Predicts the last token plus one, modulo the vocabulary; remembers each call.
#[derive(Default)]
struct Counter {
    logits: Vec<f32>,
    seen: Vec<Vec<u32>>,
    rows: Vec<usize>,
}

const VOCABULARY: usize = 10;

#[derive(Debug, thiserror::Error)]
#[error("the model failed")]
struct Failed;

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

    fn fork(&mut self, sequence: usize) -> Result<usize, Failed> {
        self.seen.push(self.seen[sequence].clone());
        Ok(self.seen.len() - 1)
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
    Generator { sampling: Sampling::default(), stop: stop.to_vec(), max_tokens }
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
