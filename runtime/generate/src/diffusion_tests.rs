use super::*;

const VOCABULARY: usize = 12;
const MASK: u32 = 11;

/// Predicts `place % 10`, more surely at later places; counts its calls.
#[derive(Default)]
struct Places {
    logits: Vec<f32>,
    calls: usize,
}

#[derive(Debug, thiserror::Error)]
#[error("failed")]
struct Failed;

impl MaskedModel for Places {
    type Error = Failed;

    fn predict(&mut self, tokens: &[u32]) -> Result<Logits<'_>, Failed> {
        self.calls += 1;
        self.logits.clear();
        for place in 0..tokens.len() {
            let row = (0..VOCABULARY)
                .map(|token| if token == place % 10 { 1.0 + place as f32 * 0.25 } else { 0.0 });
            self.logits.extend(row);
        }
        Ok(Logits::new(&self.logits, VOCABULARY))
    }
}

fn diffusion(steps: usize, block: usize) -> Diffusion {
    Diffusion { steps, block, remasking: Remasking::LowConfidence, temperature: 0.0, seed: 1, mask: MASK }
}

fn steps(diffusion: &Diffusion, count: usize) -> (Vec<Vec<u32>>, usize) {
    let mut model = Places::default();
    let mut steps = Vec::new();
    let last = diffusion
        .write(&mut model, &[5, 5], count, &mut |tokens| {
            steps.push(tokens.to_vec());
            true
        })
        .unwrap();
    assert_eq!(steps.last(), Some(&last));
    (steps, model.calls)
}

#[test]
fn the_surest_come_first_block_by_block() {
    let (steps, calls) = steps(&diffusion(4, 3), 6);
    let m = MASK;
    assert_eq!(
        steps,
        [
            [5, 5, m, 3, 4, m, m, m],
            [5, 5, 2, 3, 4, m, m, m],
            [5, 5, 2, 3, 4, m, 6, 7],
            [5, 5, 2, 3, 4, 5, 6, 7]
        ]
    );
    assert_eq!(calls, 4, "forward passes are steps");
}

#[test]
fn random_order_writes_the_same_where_predictions_do_not_change() {
    let random = Diffusion { remasking: Remasking::Random, ..diffusion(6, 0) };
    let (all, calls) = steps(&random, 6);
    assert_eq!((calls, &all[5][..]), (6, &[5, 5, 2, 3, 4, 5, 6, 7][..]));
    let masks = |tokens: &[u32]| tokens.iter().filter(|token| **token == MASK).count();
    assert_eq!(all.iter().map(|tokens| masks(tokens)).collect::<Vec<_>>(), [5, 4, 3, 2, 1, 0]);
    let orders: std::collections::HashSet<Vec<u32>> =
        (0..20).map(|seed| steps(&Diffusion { seed, ..random.clone() }, 6).0.remove(0)).collect();
    assert!(orders.len() > 3);
    assert_eq!(steps(&random, 6), steps(&random, 6));
}

#[test]
fn noise_draws_from_the_softmax() {
    let mut random = SplitMix64::new(5);
    let drawing = Diffusion { temperature: 1.0, ..diffusion(1, 0) };
    let logits = [1f32.ln(), 2f32.ln(), 5f32.ln()];
    let mut counts = [0f64; 3];
    for _ in 0..40_000 {
        let (token, confidence) = drawing.guess(&logits, &mut random).unwrap();
        counts[token as usize] += 1.0;
        assert!((confidence - [0.125, 0.25, 0.625][token as usize]).abs() < 1e-6);
    }
    // Two degrees of freedom: 13.8 is passed once in a thousand.
    let expected = [5000.0, 10_000.0, 25_000.0];
    let statistic: f64 = counts.iter().zip(expected).map(|(c, e)| (c - e) * (c - e) / e).sum();
    assert!(statistic < 13.8, "{counts:?}");
}

#[test]
fn gaps_are_filled_where_they_are() {
    let mut model = Places::default();
    let filled = diffusion(0, 0).infill(&mut model, &[9, MASK, 9, MASK, MASK], &mut |_| true).unwrap();
    assert_eq!((filled, model.calls), (vec![9, 1, 9, 3, 4], 3));
    assert_eq!(diffusion(0, 0).infill(&mut model, &[9], &mut |_| true).unwrap(), [9]);
}

#[test]
fn what_does_not_go_together_is_said() {
    let mut model = Places::default();
    for (steps, block, count) in [(4, 5, 6), (3, 3, 6), (0, 3, 6)] {
        let result = diffusion(steps, block).write(&mut model, &[1], count, &mut |_| true);
        assert!(matches!(result, Err(DiffusionError::Plan(_))), "{steps} {block} {count}");
    }
    let stopped = diffusion(6, 0).write(&mut model, &[1], 6, &mut |_| false).unwrap();
    assert_eq!(stopped.iter().filter(|token| **token == MASK).count(), 5);
    assert!(diffusion(1, 0).guess(&[f32::NAN], &mut SplitMix64::new(0)).is_none());
}
