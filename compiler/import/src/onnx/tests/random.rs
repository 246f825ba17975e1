//! Draws follow their distributions. All draws are hashes of seeds, so that these tests have one outcome; the bounds are those of a level of 1
//! in 1000.

use lathe_proto::onnx::NodeProto;
use lathe_tensor::Tensor;

use super::build::*;

const COUNT: usize = 40_000;

/// The outputs of one node over an input of `COUNT` equal elements, as f32.
fn drawn(node: NodeProto, x: f32) -> Vec<f32> {
    let cast = with(self::node("Cast", &["y"], &["z"]), [int("to", 1)]);
    let model = model(22, &[("x", &COUNT.to_string())], vec![node, cast], &["z"]);
    run_floats(&model, &[floats(&vec![x; COUNT], &[COUNT])])
}

fn seeded(node: NodeProto, seed: f32) -> NodeProto {
    with(node, [float("seed", seed)])
}

/// The largest distance between the shares below each draw and a distribution (Kolmogorov and Smirnov).
#[track_caller]
fn follows(draws: &[f32], distribution: impl Fn(f64) -> f64) {
    let mut sorted: Vec<f64> = draws.iter().map(|&draw| f64::from(draw)).collect();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len() as f64;
    let gaps = sorted.iter().enumerate().map(|(index, &draw)| {
        let share = distribution(draw);
        (share - index as f64 / count).abs().max((share - (index + 1) as f64 / count).abs())
    });
    let (gap, bound) = (gaps.fold(0.0, f64::max), 1.95 / count.sqrt());
    assert!(gap < bound, "a gap of {gap}, above {bound}");
}

/// The distance of counts from what shares make expect, over `bound`: that of chi-square with one degree less than shares.
#[track_caller]
fn counts_fit(counts: &[usize], shares: &[f64], bound: f64) {
    let total: usize = counts.iter().sum();
    let term = |(&count, share): (&usize, &f64)| {
        let expected = share * total as f64;
        (count as f64 - expected).powi(2) / expected
    };
    let distance: f64 = counts.iter().zip(shares).map(term).sum();
    assert!(distance < bound, "{counts:?} for {shares:?}: {distance}, above {bound}");
}

fn mean_and_variance(draws: &[f32]) -> (f64, f64) {
    let count = draws.len() as f64;
    let mean = draws.iter().map(|&draw| f64::from(draw)).sum::<f64>() / count;
    (mean, draws.iter().map(|&draw| (f64::from(draw) - mean).powi(2)).sum::<f64>() / count)
}

/// The share of a standard normal distribution below `x`: the error function by its series and continued fraction.
fn normal_below(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let tail = if z < 2.5 {
        let mut term = z;
        let mut sum = z;
        for n in 1..80 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        0.5 - sum / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..60).rev().fold(z, |inner, n| z + f64::from(n) / 2.0 / inner);
        (-z * z).exp() / fraction / std::f64::consts::PI.sqrt() / 2.0
    };
    if x < 0.0 { tail } else { 1.0 - tail }
}

#[test]
fn uniform_draws_fill_their_range() {
    let range = |node| with(node, [float("low", -1.0), float("high", 3.0)]);
    for seed in [1.0, 2.5] {
        let draws = drawn(seeded(range(node("RandomUniformLike", &["x"], &["y"])), seed), 0.0);
        assert!(draws.iter().all(|draw| (-1.0..=3.0).contains(draw)));
        follows(&draws, |x| (x + 1.0) / 4.0);
        let (mean, variance) = mean_and_variance(&draws);
        assert!((mean - 1.0).abs() < 0.02 && (variance - 16.0 / 12.0).abs() < 0.03, "{mean} {variance}");
        // Neighbours do not go together.
        let pairs = draws.chunks(2).map(|pair| f64::from(pair[0] - 1.0) * f64::from(pair[1] - 1.0));
        assert!((pairs.sum::<f64>() / (COUNT / 2) as f64).abs() < 0.04);
    }
    let shaped = with(range(node("RandomUniform", &[], &["y"])), [ints("shape", &[COUNT as i64])]);
    follows(&drawn(seeded(shaped, 3.0), 0.0), |x| (x + 1.0) / 4.0);
}

#[test]
fn normal_draws_have_their_mean_and_spread() {
    let bell = |node| with(node, [float("mean", 2.0), float("scale", 0.5)]);
    let like = seeded(bell(node("RandomNormalLike", &["x"], &["y"])), 4.0);
    let shaped = with(bell(node("RandomNormal", &[], &["y"])), [ints("shape", &[COUNT as i64])]);
    for node in [like, seeded(shaped, 5.0)] {
        let draws = drawn(node, 0.0);
        follows(&draws, |x| normal_below((x - 2.0) / 0.5));
        let (mean, variance) = mean_and_variance(&draws);
        assert!((mean - 2.0).abs() < 0.01 && (variance - 0.25).abs() < 0.007, "{mean} {variance}");
    }
}

#[test]
fn coins_fall_as_often_as_they_should() {
    for (probability, seed) in [(0.3f32, 6.0), (0.5, 7.0), (0.99, 8.0)] {
        let draws = drawn(seeded(node("Bernoulli", &["x"], &["y"]), seed), probability);
        let ones = draws.iter().filter(|draw| **draw == 1.0).count();
        assert!(draws.iter().all(|draw| *draw == 0.0 || *draw == 1.0));
        let probability = f64::from(probability);
        counts_fit(&[ones, COUNT - ones], &[probability, 1.0 - probability], 10.83);
    }
    let never = drawn(seeded(node("Bernoulli", &["x"], &["y"]), 9.0), 0.0);
    let always = drawn(seeded(node("Bernoulli", &["x"], &["y"]), 9.0), 1.0);
    assert!(never.iter().all(|draw| *draw == 0.0) && always.iter().all(|draw| *draw == 1.0));
}

#[test]
fn classes_are_drawn_by_their_shares() {
    let shares = [0.1f64, 0.2, 0.3, 0.4];
    let sample =
        with(node("Multinomial", &["x"], &["y"]), [int("sample_size", COUNT as i64), float("seed", 10.0)]);
    let cast = with(node("Cast", &["y"], &["z"]), [int("to", 1)]);
    let model = model(22, &[("x", "2,4")], vec![sample, cast], &["z"]);
    // Log-probabilities need not be normalised.
    let logs: Vec<f32> = shares.iter().chain(&shares).map(|share| (share.ln() + 3.0) as f32).collect();
    let draws = run_floats(&model, &[floats(&logs, &[2, 4])]);
    for row in draws.chunks(COUNT) {
        let mut counts = [0; 4];
        row.iter().for_each(|draw| counts[*draw as usize] += 1);
        counts_fit(&counts, &shares, 16.27);
    }
    assert_ne!(draws[..COUNT], draws[COUNT..], "rows of equal shares are drawn apart");
}

#[test]
fn dropped_elements_are_made_up_for() {
    let scalar = |name: &str, tensor: Tensor| (name.to_string(), tensor);
    let constants = [
        scalar("r", Tensor::scalar(0.25f32)),
        scalar("t", Tensor::from_bools(&[true], &[]).expect("a bool")),
    ];
    let node = with(node("Dropout", &["x", "r", "t"], &["y", "m"]), [int("seed", 11)]);
    let mut model = model(22, &[("x", &COUNT.to_string())], vec![node], &["y"]);
    let graph = model.graph.get_or_insert_default();
    for (name, tensor) in &constants {
        graph.initializer.push(crate::onnx::file::tensor_proto(name, tensor));
    }
    let draws = run_floats(&model, &[floats(&vec![3.0; COUNT], &[COUNT])]);
    let kept = draws.iter().filter(|draw| **draw != 0.0).count();
    assert!(draws.iter().all(|draw| *draw == 0.0 || *draw == 4.0));
    counts_fit(&[kept, COUNT - kept], &[0.75, 0.25], 10.83);
    let (mean, _) = mean_and_variance(&draws);
    assert!((mean - 3.0).abs() < 0.04, "{mean}");
}

#[test]
fn seeds_repeat_and_differ() {
    let draw = |seed: f32| drawn(seeded(node("RandomUniformLike", &["x"], &["y"]), seed), 0.0);
    assert_eq!(draw(1.0), draw(1.0));
    assert_ne!(draw(1.0), draw(2.0));
    // Without a seed the node's name is one.
    let named = |name: &str| {
        let mut node = node("RandomUniformLike", &["x"], &["y"]);
        node.name = Some(name.into());
        drawn(node, 0.0)
    };
    assert_eq!(named("a"), named("a"));
    assert_ne!(named("a"), named("b"));
}
