use serde_json::json;

use super::*;

#[test]
fn softmax_along_an_axis() {
    let x = f(&[2, 2], &[0.0, 0.0, 1000.0, f32::NEG_INFINITY]);
    check("softmax", json!({"axis": -1, "log": false}), &[&x], &[f(&[2, 2], &[0.5, 0.5, 1.0, 0.0])]);
    let log = f(&[2], &[-std::f32::consts::LN_2, -std::f32::consts::LN_2]);
    check("softmax", json!({"axis": 0, "log": true}), &[&f(&[2], &[3.0, 3.0])], &[log]);
    check("softmax", json!({"axis": 0, "log": false}), &[&f(&[0, 2], &[])], &[f(&[0, 2], &[])]);
    refuse("softmax", json!({"axis": 2, "log": false}), &[&x], "axis 2");
}

#[test]
fn layer_and_rms_norm() {
    let x = f(&[2, 2], &[1.0, 3.0, -2.0, 2.0]);
    let (scale, bias) = (f(&[2], &[1.0, 2.0]), f(&[2], &[0.0, 1.0]));
    let attributes = json!({"axis": -1, "epsilon": 0.0});
    let y = f(&[2, 2], &[-1.0, 3.0, -1.0, 3.0]);
    let statistics = [f(&[2, 1], &[2.0, 0.0]), f(&[2, 1], &[1.0, 0.5])];
    let [mean, inverse] = statistics;
    check("layer_norm", attributes.clone(), &[&x, &scale, &bias], &[y, mean, inverse]);
    let root = 5f32.sqrt();
    let y = f(&[2, 2], &[1.0 / root, 6.0 / root, -1.0, 2.0]);
    check("rms_norm", attributes.clone(), &[&x, &scale], &[y]);
    refuse("rms_norm", attributes, &[&x, &f(&[3], &[1.0; 3])], "does not broadcast");
}

#[test]
fn batch_norm_uses_or_updates_statistics() {
    let x = f(&[2, 1, 2], &[1.0, 3.0, 5.0, 7.0]);
    let (one, zero, two) = (f(&[1], &[1.0]), f(&[1], &[0.0]), f(&[1], &[2.0]));
    let inference = json!({"epsilon": 0.0, "momentum": 0.5, "training": false});
    let four = f(&[1], &[4.0]);
    let inputs = [&x, &two, &one, &two, &four];
    check("batch_norm", inference, &inputs, &[f(&[2, 1, 2], &[0.0, 2.0, 4.0, 6.0])]);
    let training = json!({"epsilon": 0.0, "momentum": 0.5, "training": true});
    let root = 5f32.sqrt();
    let y = f(&[2, 1, 2], &[-3.0 / root, -1.0 / root, 1.0 / root, 3.0 / root]);
    check("batch_norm", training, &[&x, &one, &zero, &two, &one], &[y, f(&[1], &[3.0]), f(&[1], &[3.0])]);
}

#[test]
fn instance_and_group_norm() {
    let x = f(&[1, 2, 2], &[1.0, 3.0, -2.0, 2.0]);
    let (scale, bias) = (f(&[2], &[1.0, 2.0]), f(&[2], &[0.0, 1.0]));
    let y = f(&[1, 2, 2], &[-1.0, 1.0, -1.0, 3.0]);
    check("instance_norm", json!({"epsilon": 0.0}), &[&x, &scale, &bias], std::slice::from_ref(&y));
    let groups =
        |groups: usize, per_group: bool| json!({"groups": groups, "per_group": per_group, "epsilon": 0.0});
    check("group_norm", groups(2, false), &[&x, &scale, &bias], std::slice::from_ref(&y));
    check("group_norm", groups(2, true), &[&x, &scale, &bias], &[y]);
    refuse("group_norm", groups(3, false), &[&x, &scale, &bias], "do not divide");
}
