//! Short transforms with known frames.

use lathe_ops::signal::Stft;
use lathe_ops::{Limits, Op};
use lathe_proto::onnx::ModelProto;
use lathe_tensor::Tensor;

use super::build::{constant, floats, import, int, model, node, refusal, run_floats, with};

/// STFT of `x: f32[2, samples, parts]` with steps of 3 and frames of 8.
fn transform(dims: &str, onesided: i64) -> ModelProto {
    let stft = with(node("STFT", &["x", "step", "", "frame"], &["y"]), [int("onesided", onesided)]);
    let mut model = model(17, &[("x", dims)], vec![stft], &["y"]);
    let constants = [constant("step", &[], &[3]), constant("frame", &[], &[8])];
    model.graph.as_mut().expect("a graph").initializer.extend(constants);
    model
}

#[test]
fn frames_are_convolved_with_waves() {
    let x: Vec<f32> = (0..40).map(|i| (i as f32 * 0.7).sin() + (i % 3) as f32).collect();
    let x = floats(&x, &[2, 20, 1]);
    for (onesided, dims) in [(0, "2,20,1"), (1, "2,20,1"), (1, "2,samples,1"), (1, "2,20")] {
        let model = transform(dims, onesided);
        let module = import(&model).expect("a model");
        let text = module.to_string();
        assert!(text.contains("= conv ") && !text.contains("= stft "), "{text}");
        let (step, frame) = (Tensor::scalar(3i64), Tensor::scalar(8i64));
        let op = Op::Stft(Stft { onesided: onesided == 1, exact: false });
        let want = op.evaluate(&[Some(&x), Some(&step), None, Some(&frame)], 1, &Limits::default());
        let want = want.expect("a transform")[0].to_slice::<f32>().expect("f32").to_vec();
        let given = if dims == "2,20" { x.reshape(&[2, 20]).expect("fits") } else { x.clone() };
        let found = run_floats(&model, &[given]);
        assert_eq!(found.len(), want.len());
        assert!(found.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}, not {want:?}");
    }
}

#[test]
fn others_stay_transforms() {
    let module = import(&transform("2,20,2", 0)).expect("a complex signal");
    assert!(module.to_string().contains("= stft "), "{module}");
    let reason = refusal(&transform("2,5,1", 1));
    assert!(reason.contains("holds a frame"), "{reason}");
}
