//! Answers of a model with quantised weights, with 8-bit activations beside those with f32 activations.

use std::path::Path;

use lathe::{LoadOptions, Session, Tensor};
use lathe_compiler::Activations;

/// A text in the tokens of SmolLM2: a piece of a licence and a paragraph about astronomy.
#[rustfmt::skip]
const TEXT: &[i64] = &[
    272, 24989, 28, 28219, 28, 10963, 17692, 28, 355, 550, 13090, 3914, 1880, 28, 347, 253, 2444, 28, 354, 2798,
    746, 282, 23467, 30, 1068, 260, 5132, 3914, 282, 451, 6966, 28, 16612, 44916, 7891, 3786, 441, 1453, 1806, 338,
    2612, 3914, 2633, 515, 429, 28, 355, 7475, 2795, 365, 270, 11330, 411, 1462, 25, 288, 260, 16224, 282, 28, 3914,
    260, 5917, 284, 16612, 44916, 7891, 22410, 30, 28577, 476, 5121, 2865, 18, 3786, 1441, 750, 746, 282, 23467, 28,
    1285, 3914, 260, 2798, 3586, 282, 260, 5917, 284, 750, 13090, 355, 23066, 3914, 288, 338, 5917, 355, 16612,
    44916, 7891, 22410, 28, 338, 314, 18772, 3914, 10536, 288, 16621, 5275, 327, 10318, 281, 260, 5917, 411, 260,
    8822, 7615, 3914, 355, 411, 354, 1212, 355, 14835, 41566, 16280, 288, 8901, 335, 13369, 282, 3914, 260, 8822,
    7615, 30, 1068, 260, 5132, 282, 451, 5278, 28, 476, 4103, 4046, 18, 3914, 1530, 750, 910, 282, 6318, 28, 12472,
    28, 355, 2855, 2908, 2362, 3914, 288, 260, 16621, 5275, 355, 624, 11384, 28, 1285, 564, 441, 3435, 288, 3914,
    2908, 335, 6318, 34916, 8639, 28, 2257, 2909, 1533, 1734, 28, 3914, 284, 2843, 9524, 1734, 338, 359, 6240, 411,
    28, 355, 335, 13369, 282, 28, 260, 3914, 16621, 5275, 327, 260, 3446, 282, 7653, 284, 5418, 260, 5917, 28, 564,
    3914, 26827, 2908, 338, 314, 14053, 286, 378, 1463, 282, 16508, 5634, 351, 260, 6826, 282, 3201, 7881, 28, 617,
    12635, 260, 2388, 28, 260, 6783, 284, 260, 9244, 1485, 1699, 260, 6376, 284, 804, 732, 502, 3680, 288, 1446,
    36229, 30, 4963, 15820, 5433, 2859, 281, 527, 260, 3103, 9318, 418, 260, 8560, 43, 1916, 28, 44212, 4294, 260,
    2388, 665, 28, 284, 27084, 4342, 338, 260, 9244, 1485, 1683, 17642, 2259, 266, 30, 27406, 9073, 253, 13776, 418,
    14713, 284, 983, 1876, 22995, 30, 15903, 5192, 511, 282, 623, 19975, 351, 253, 2244, 1525, 282, 26809, 2511, 28,
    527, 2496, 338, 897, 2389, 25756, 897, 550, 2389, 351, 253, 3075, 338, 8227, 767, 351, 260, 5222, 282, 260,
    4052, 826, 601, 30, 533, 260, 12249, 2070, 28, 26576, 1135, 357, 1636, 288, 835, 732, 5703, 359, 1135, 282, 28,
    284, 281, 260, 13257, 357, 436, 3658, 338, 13102, 3070, 653, 1038, 359, 31553, 2025, 429, 468, 28, 588, 338,
    260, 6128, 314, 9283, 30,
];

/// The logits behind each token of the text, `[tokens, vocabulary]`.
fn logits(model: &Path, activations: Activations) -> Vec<Vec<f32>> {
    let mut options = LoadOptions::default();
    options.compile.activations = activations;
    let model = lathe::load(model, &options).expect("the model loads");
    let mut session = Session::new(&model).expect("a session");
    let count = TEXT.len();
    let tensor = |values: &[i64]| Tensor::from_slice(values, &[1, count]).expect("a tensor");
    let positions: Vec<i64> = (0..count as i64).collect();
    let (ids, mask, positions) = (tensor(TEXT), tensor(&vec![1; count]), tensor(&positions));
    let inputs = [("input_ids", &ids), ("attention_mask", &mask), ("position_ids", &positions)];
    let outputs = session.run(&inputs).expect("a run");
    let all = outputs.tensors()[0].to_slice::<f32>().expect("floats").into_owned();
    all.chunks_exact(all.len() / count).map(<[f32]>::to_vec).collect()
}

/// The likeliest token, and by how much.
fn best(row: &[f32]) -> (usize, f32) {
    let first = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("a vocabulary");
    let second = (0..row.len()).filter(|&id| id != first).map(|id| row[id]).fold(f32::MIN, f32::max);
    (first, row[first] - second)
}

fn perplexity(rows: &[Vec<f32>]) -> f64 {
    let losses = rows.iter().zip(&TEXT[1..]).map(|(row, &next)| {
        let most = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
        let sum: f64 = row.iter().map(|&x| (f64::from(x) - most).exp()).sum();
        sum.ln() + most - f64::from(row[next as usize])
    });
    (losses.sum::<f64>() / (rows.len() - 1) as f64).exp()
}

#[test]
fn eight_bit_activations_answer_as_floats_do() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/models/smollm2");
    let model = folder.join("model.gguf");
    if !model.is_file() {
        eprintln!("LEFT OUT: SmolLM2 is not there; python3 fixtures/fetch_models.py smollm2");
        return;
    }
    let (exact, fast) = (logits(&model, Activations::F32), logits(&model, Activations::Int8));
    let mut same = 0;
    for (exact, fast) in exact.iter().zip(&fast) {
        let ((wanted, margin), (found, _)) = (best(exact), best(fast));
        same += usize::from(wanted == found);
        assert!(wanted == found || margin < 0.1, "{found} instead of {wanted}, which leads by {margin}");
    }
    let agreement = same as f64 / TEXT.len() as f64;
    assert!(agreement >= 0.97, "{agreement}");
    let change = perplexity(&fast) / perplexity(&exact) - 1.0;
    assert!(change.abs() <= 0.01, "the perplexity changes by {change}");
}
