use serde_json::json;

use super::*;

#[test]
fn transforms() {
    let dft = |inverse: bool, onesided: bool| json!({"axis": -2, "inverse": inverse, "onesided": onesided});
    let x = f(&[4, 1], &[1.0, 2.0, 3.0, 4.0]);
    let spectrum = f(&[4, 2], &[10.0, 0.0, -2.0, 2.0, -2.0, 0.0, -2.0, -2.0]);
    let half = f(&[3, 2], &[10.0, 0.0, -2.0, 2.0, -2.0, 0.0]);
    check("dft", dft(false, false), &[&x], std::slice::from_ref(&spectrum));
    check("dft", dft(false, true), &[&x], std::slice::from_ref(&half));
    let complex = f(&[4, 2], &[1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 4.0, 0.0]);
    check("dft", dft(true, false), &[&spectrum], &[complex]);
    check("dft", dft(true, true), &[&half], std::slice::from_ref(&x));
    check("dft", dft(false, true), &[&x, &i(&[], &[2])], &[f(&[2, 2], &[3.0, 0.0, -1.0, 0.0])]);
    let free = json!({"axis": null, "inverse": false, "onesided": true});
    let inputs = [Some(&x), None, Some(&i(&[], &[0]))];
    let result = evaluate_some("dft", free.clone(), &inputs, 1).expect("an axis as an operand").remove(0);
    assert_same("dft", &result, &half);
    refuse("dft", free, &[&x], "axis");
    refuse("dft", dft(false, false), &[&x, &i(&[], &[0])], "length 0");
    refuse("dft", dft(false, false), &[&x, &i(&[], &[1 << 31])], "over the limit");
    let frames = f(&[1, 2, 2, 2], &[3.0, 0.0, -1.0, 0.0, 7.0, 0.0, -1.0, 0.0]);
    let (signal, two) = (f(&[1, 4, 1], &[1.0, 2.0, 3.0, 4.0]), i(&[], &[2]));
    check("stft", json!({"onesided": true}), &[&signal, &two, &f(&[2], &[1.0, 1.0])], &[frames]);
    refuse("stft", json!({"onesided": true}), &[&signal, &i(&[], &[0])], "length 0");
}

#[test]
fn mel_filters() {
    let (bins, size, rate) = (i(&[], &[1]), i(&[], &[8]), i(&[], &[16]));
    let (low, high) = (of(&[], &[0f64]), of(&[], &[8f64]));
    let y = f(&[5, 1], &[0.0, 0.0, 1.0, 0.0, 0.0]);
    let result = evaluate("mel_weight_matrix", json!({"to": "f32"}), &[&bins, &size, &rate, &low, &high], 1);
    let result = result.expect("filters").remove(0);
    assert_eq!(result.shape(), y.shape());
    assert_eq!(result.to_slice::<f32>().expect("f32").iter().copied().fold(0.0, f32::max), 1.0);
    let beyond = of(&[], &[99f64]);
    refuse("mel_weight_matrix", json!({"to": "f32"}), &[&bins, &size, &rate, &low, &beyond], "upper edge");
}
