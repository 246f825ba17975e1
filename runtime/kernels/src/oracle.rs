//! The plain references of the tests against `lathe-ops`: what a builtin is compared with is what its op means.

use lathe_ops::{Limits, Op};
use lathe_tensor::{DType, Element, Tensor};

/// A tensor of these elements.
pub(crate) fn tensor<T: Element>(data: &[T], shape: &[usize]) -> Tensor {
    Tensor::from_slice(data, shape).expect("as many elements as the shape says")
}

/// The first `outputs` outputs of an op.
pub(crate) fn evaluate(op: impl Into<Op>, inputs: &[Option<&Tensor>], outputs: usize) -> Vec<Tensor> {
    op.into().evaluate(inputs, outputs, &Limits::default()).expect("the case is one that the op takes")
}

/// Checks that a reference is what the op gives: differences up to `tolerance * (1 + |want|)`.
pub(crate) fn agrees(want: &[f64], op: impl Into<Op>, inputs: &[Option<&Tensor>], tolerance: f64) {
    is_close(want, &evaluate(op, inputs, 1)[0], tolerance);
}

/// Checks that a reference is close to an output of an op.
pub(crate) fn is_close(want: &[f64], found: &Tensor, tolerance: f64) {
    let found: Vec<f64> = match found.dtype() {
        DType::I64 => found.to_slice::<i64>().expect("i64").iter().map(|&v| v as f64).collect(),
        _ => found.to_slice::<f32>().expect("f32").iter().map(|&v| f64::from(v)).collect(),
    };
    assert_eq!(found.len(), want.len());
    for (i, (&found, &want)) in found.iter().zip(want).enumerate() {
        let same = found == want || (found.is_nan() && want.is_nan());
        let close = (found - want).abs() <= tolerance * (1.0 + want.abs());
        assert!(same || close, "element {i} of the op is {found}, of the reference {want}");
    }
}
