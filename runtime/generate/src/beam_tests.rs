use super::*;
use crate::table::{Table, VOCABULARY};

fn search(beams: usize) -> BeamSearch {
    BeamSearch {
        beams,
        length_penalty: 1.0,
        early_stopping: EarlyStopping::Heuristic,
        stop: Vec::new(),
        max_tokens: 4,
        sampling: Sampling::default(),
    }
}

fn run(search: &BeamSearch, prompts: &[&[u32]]) -> Vec<Vec<Beam>> {
    let mut model = Table::new(0.1, prompts.len());
    let prompts: Vec<_> =
        prompts.iter().enumerate().map(|(sequence, tokens)| Prompt { sequence, tokens }).collect();
    search.generate(&mut model, &prompts).unwrap().0
}

/// Log-probability of an answer to a prompt.
fn sum(prompt: &[u32], answer: &[u32]) -> f32 {
    let mut model = Table::new(0.1, 1);
    let mut total = 0.0;
    for place in 0..answer.len() {
        model.seen[0].clear();
        let tokens: Vec<u32> = prompt.iter().chain(&answer[..place]).copied().collect();
        let step = Extend { sequence: 0, tokens: &tokens, logits: 1 };
        total += log_softmax(model.extend(&[step]).unwrap().values())[answer[place] as usize];
    }
    total
}

/// The best of all answers of `length` tokens, by trying them all.
fn best(prompt: &[u32], length: u32) -> (Vec<u32>, f32) {
    let count = (VOCABULARY as u32).pow(length);
    let answer = |mut code: u32| -> Vec<u32> {
        (0..length)
            .map(|_| {
                let token = code % VOCABULARY as u32;
                code /= VOCABULARY as u32;
                token
            })
            .collect()
    };
    let scored = (0..count).map(|code| (answer(code), sum(prompt, &answer(code))));
    scored.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap()
}

#[test]
fn enough_beams_find_the_best_of_all() {
    let all = BeamSearch { max_tokens: 3, ..search(VOCABULARY * VOCABULARY) };
    for prompt in [&[1u32, 2][..], &[7, 3], &[5]] {
        let (tokens, score) = best(prompt, 3);
        let found = &run(&all, &[prompt])[0][0];
        assert!((found.score - score / 3.0).abs() < 1e-5, "{found:?}, best is {tokens:?} with {score}");
        assert_eq!(found.finish, Finish::Length);
    }
}

#[test]
fn one_beam_is_greedy_and_batches_are_like_single_prompts() {
    let prompts: [&[u32]; 3] = [&[1, 2], &[7, 3, 3], &[5]];
    let together = run(&search(4), &prompts);
    for (prompt, beams) in prompts.iter().zip(&together) {
        assert_eq!(run(&search(4), &[prompt])[0], *beams);
        assert_eq!(beams.len(), 4);
        assert!(beams.windows(2).all(|pair| pair[0].score >= pair[1].score));
        for beam in beams {
            assert!((beam.score - sum(prompt, &beam.tokens) / 4.0).abs() < 1e-5);
        }
    }
    let mut model = Table::new(0.1, 1);
    let generator = crate::Generator { max_tokens: 4, ..crate::Generator::default() };
    let prompts = [Prompt { sequence: 0, tokens: &[1, 2] }];
    let greedy = generator.generate(&mut model, &prompts, &mut |_| true).unwrap().0.remove(0).tokens;
    assert_eq!(run(&search(1), &[&[1, 2]])[0][0].tokens, greedy);
}

#[test]
fn endings_compete_by_their_average() {
    let stopping = |early_stopping, length_penalty| {
        let search =
            BeamSearch { stop: vec![3], max_tokens: 12, early_stopping, length_penalty, ..search(3) };
        run(&search, &[&[1, 2], &[4, 4]])
    };
    for early in [EarlyStopping::Heuristic, EarlyStopping::Always, EarlyStopping::Never] {
        for beams in stopping(early, 1.0) {
            for beam in &beams {
                let stopped = beam.tokens.last() == Some(&3);
                assert_eq!(beam.finish == Finish::Stop, stopped);
                assert!(beam.tokens[..beam.tokens.len() - 1].iter().all(|token| *token != 3));
                assert!(stopped || beam.tokens.len() == 12);
            }
        }
    }
    let average = |found: &[Vec<Beam>]| found.iter().map(|beams| beams[0].tokens.len()).sum::<usize>();
    let (short, long) = (stopping(EarlyStopping::Never, -1.0), stopping(EarlyStopping::Never, 3.0));
    assert!(average(&short) < average(&long), "{short:?} {long:?}");
    // More patience never finds worse.
    let (always, never) = (stopping(EarlyStopping::Always, 1.0), stopping(EarlyStopping::Never, 1.0));
    always.iter().zip(&never).for_each(|(always, never)| assert!(always[0].score <= never[0].score));
}

#[test]
fn penalties_hold_for_beams_and_nothing_is_asked_where_nothing_is_wanted() {
    let bias = Sampling { logit_bias: vec![(8, 50.0)], ..Sampling::default() };
    let found = run(&BeamSearch { sampling: bias, ..search(2) }, &[&[1]]);
    assert_eq!(found[0][0].tokens, [8, 8, 8, 8]);
    assert!(run(&BeamSearch { max_tokens: 0, ..search(2) }, &[&[1]])[0].is_empty());
    let mut model = Table::new(0.0, 1);
    let empty = [Prompt { sequence: 0, tokens: &[] }];
    assert!(matches!(search(2).generate(&mut model, &empty), Err(GenerateError::EmptyPrompt { prompt: 0 })));
}
