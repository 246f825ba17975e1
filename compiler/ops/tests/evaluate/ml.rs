use serde_json::json;

use super::*;

/// Two trees over two features: `x0 <= 1 ? (x1 in {2, 5} ? leaf 0 : leaf 1) : leaf 2`, and leaf 3 alone.
fn trees<T: Element>(x: &Tensor, to: impl Fn(f32) -> T) -> Vec<Tensor> {
    let floats = |list: &[f32]| of(&[list.len()], &list.iter().map(|&value| to(value)).collect::<Vec<T>>());
    vec![
        x.clone(),
        i(&[2], &[0, 1]),
        i(&[2], &[0, 6]),
        floats(&[1.0, 0.0]),
        i(&[2, 2], &[1, -3, -1, -2]),
        b(&[2], &[true, false]),
        floats(&[2.0, 5.0]),
        i(&[2], &[0, 2]),
        i(&[2], &[0, -4]),
        i(&[4], &[2, 3, 4, 5]),
        i(&[5], &[0, 1, 1, 0, 1]),
        floats(&[0.5, 1.0, 2.0, -1.0, 0.25]),
    ]
}

#[test]
fn trees_vote() {
    let nan = f32::NAN;
    let x = f(&[5, 2], &[1.0, 5.0, 0.0, 3.0, 2.0, 0.0, nan, 2.0, nan, nan]);
    let inputs = trees(&x, |value| value);
    let inputs: Vec<&Tensor> = inputs.iter().collect();
    let ensemble = |aggregate: &str| json!({"targets": 2, "aggregate": aggregate});
    let sums = [0.5, 1.25, 0.0, 2.25, -1.0, 0.25, 0.5, 1.25, 0.0, 2.25];
    check("tree_ensemble", ensemble("sum"), &inputs, &[f(&[5, 2], &sums)]);
    check("tree_ensemble", ensemble("average"), &inputs, &[f(&[5, 2], &sums.map(|sum| sum / 2.0))]);
    let least = [0.5, 0.25, 0.0, 0.25, -1.0, 0.25, 0.5, 0.25, 0.0, 0.25];
    check("tree_ensemble", ensemble("min"), &inputs, &[f(&[5, 2], &least)]);
    let most = [0.5, 1.0, 0.0, 2.0, -1.0, 0.25, 0.5, 1.0, 0.0, 2.0];
    check("tree_ensemble", ensemble("max"), &inputs, &[f(&[5, 2], &most)]);
    let wide = of(&[1, 2], &[1.0f64, 5.0]);
    let inputs = trees(&wide, f64::from);
    check(
        "tree_ensemble",
        ensemble("sum"),
        &inputs.iter().collect::<Vec<_>>(),
        &[of(&[1, 2], &[0.5f64, 1.25])],
    );
}

#[test]
fn comparisons_are_those_of_their_numbers() {
    let x = f(&[3, 1], &[1.0, 2.0, 3.0]);
    let holds = [[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1], [0, 1, 0], [1, 0, 1]];
    for (mode, expected) in holds.into_iter().enumerate() {
        let tables = [
            i(&[1], &[0]),
            i(&[1], &[mode as i64]),
            f(&[1], &[2.0]),
            i(&[1, 2], &[-1, -2]),
            b(&[1], &[false]),
            f(&[0], &[]),
            i(&[1], &[0]),
            i(&[1], &[0]),
            i(&[2], &[1, 2]),
            i(&[2], &[0, 0]),
            f(&[2], &[1.0, 0.0]),
        ];
        let inputs: Vec<&Tensor> = [&x].into_iter().chain(&tables).collect();
        let expected = f(&[3, 1], &expected.map(|bit| bit as f32));
        check("tree_ensemble", json!({"targets": 1, "aggregate": "sum"}), &inputs, &[expected]);
    }
}

#[test]
fn broken_trees_are_refused() {
    let x = f(&[1, 2], &[0.0, 0.0]);
    let whole = trees(&x, |value| value);
    let refuse_with = |place: usize, tensor: Tensor, part: &str| {
        let mut inputs = whole.clone();
        inputs[place] = tensor;
        refuse(
            "tree_ensemble",
            json!({"targets": 2, "aggregate": "sum"}),
            &inputs.iter().collect::<Vec<_>>(),
            part,
        );
    };
    refuse_with(1, i(&[2], &[0, 2]), "not there");
    refuse_with(2, i(&[2], &[0, 7]), "not there");
    refuse_with(4, i(&[2, 2], &[1, -3, -1, i64::MIN]), "not there");
    refuse_with(4, i(&[2, 2], &[1, -3, 0, 0]), "cycle");
    refuse_with(7, i(&[2], &[2, 0]), "not there");
    refuse_with(8, i(&[1], &[2]), "not there");
    refuse_with(9, i(&[4], &[2, 3, 4, 6]), "not there");
    refuse_with(10, i(&[5], &[0, 1, 1, 0, 2]), "not there");
    refuse_with(5, b(&[1], &[true]), "lengths");
    refuse_with(11, of(&[5], &[0.0f64; 5]), "f64");
}

#[test]
fn pairs_become_classes() {
    let couple = |classes: usize| json!({"classes": classes});
    check("couple_probabilities", couple(2), &[&f(&[1, 1], &[0.5])], &[f(&[1, 2], &[0.5, 0.5])]);
    check("couple_probabilities", couple(3), &[&f(&[1, 3], &[0.5; 3])], &[f(&[1, 3], &[1.0 / 3.0; 3])]);
    // Pairs that agree with the shares 0.2, 0.3 and 0.5 give them back, to the tolerance of the rounds.
    let pairs = f(&[1, 3], &[0.4, 2.0 / 7.0, 0.375]);
    let shares = evaluate("couple_probabilities", couple(3), &[&pairs], 1).expect("shares");
    for (share, expected) in shares[0].to_slice::<f32>().expect("f32").iter().zip([0.2, 0.3, 0.5]) {
        assert!((share - expected).abs() < 0.01, "{share} is not {expected}");
    }
    refuse("couple_probabilities", couple(4), &[&pairs], "pairs");
}
