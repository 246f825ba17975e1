//! Signals: windows, Fourier transforms, mel filters.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::conv::{Conv, Padding};
use lathe_ops::elementwise::{Activation, Binary, Unary};
use lathe_ops::shape::{Range, Transpose, Unsqueeze};
use lathe_ops::signal::{Dft, MelWeightMatrix, Stft};
use lathe_tensor::{DType, Tensor};

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs};
use crate::onnx::types::dtype;

fn output_dtype(node: &Node<'_, '_>) -> Result<DType, Fault> {
    let number = node.attributes.int_or("output_datatype", 1)?;
    dtype(i32::try_from(number).unwrap_or(-1))
}

/// HannWindow, HammingWindow and BlackmanWindow-17: `a - b cos(2 pi n / N) + c cos(4 pi n / N)`, where `N` is the size, less one
/// unless periodic. In f64.
pub(crate) fn window(node: &mut Node<'_, '_>) -> Outputs {
    let [a, b, c] = match node.operator() {
        "HannWindow" => [0.5, 0.5, 0.0],
        "HammingWindow" => [25.0 / 46.0, 21.0 / 46.0, 0.0],
        _ => [0.42, 0.5, 0.08],
    };
    let periodic = node.attributes.flag("periodic", true)?;
    let to = output_dtype(node)?;
    let size = node.input(0)?;
    let size = node.as_i64(size)?;
    let size = node.not_negative(size, "a window")?;
    let (zero, one) = (node.number(DType::I64, 0.0)?, node.number(DType::I64, 1.0)?);
    let size = node.reshape(size, vec![])?;
    let places = node.add(Op::Range(Range {}), &[zero, size, one])?;
    let places = node.cast(places, DType::F64)?;
    let mut period = size;
    if !periodic {
        let less = node.binary(Binary::Sub, size, one)?;
        // A window of one cell has no period.
        period = node.binary(Binary::Max, less, one)?;
    }
    let period = node.cast(period, DType::F64)?;
    let turn = node.number(DType::F64, std::f64::consts::TAU)?;
    let angle = node.binary(Binary::Mul, places, turn)?;
    let angle = node.binary(Binary::Div, angle, period)?;
    let wave = |node: &mut Node<'_, '_>, times: f64, height: f64| -> Result<ValueId, Fault> {
        let (times, height) = (node.number(DType::F64, times)?, node.number(DType::F64, height)?);
        let angle = node.binary(Binary::Mul, angle, times)?;
        let cosine = node.unary(Unary::Cos, angle)?;
        node.binary(Binary::Mul, cosine, height)
    };
    let (first, offset) = (wave(node, 1.0, b)?, node.number(DType::F64, a)?);
    let mut result = node.binary(Binary::Sub, offset, first)?;
    if c != 0.0 {
        let second = wave(node, 2.0, c)?;
        result = node.binary(Binary::Add, result, second)?;
    }
    Ok(vec![node.cast(result, to)?])
}

/// DFT-17 has the axis as an attribute, DFT-20 as an operand.
pub(crate) fn dft(node: &mut Node<'_, '_>) -> Outputs {
    let x = node.input(0)?;
    let axis = match (node.opset < 20, node.optional(2)) {
        (true, _) => {
            node.at_most(2)?;
            Ok(node.attributes.int_or("axis", 1)?)
        }
        (false, None) => Ok(-2),
        (false, Some(axis)) => match node.known_ints(axis).as_deref() {
            Some([axis]) => Ok(*axis),
            _ => Err(node.as_i64(axis)?),
        },
    };
    let op = Dft {
        axis: axis.ok(),
        inverse: node.attributes.flag("inverse", false)?,
        onesided: node.attributes.flag("onesided", false)?,
        exact: node.importer.quantises_by_range,
    };
    let mut inputs = vec![Some(x)];
    if let Some(length) = node.optional(1) {
        inputs.push(Some(node.as_i64(length)?));
    }
    if let Err(axis) = axis {
        inputs.resize(2, None);
        inputs.push(Some(axis));
    }
    node.add_all(Op::Dft(op), &inputs, 1)
}

/// STFT-17. Where all but the signal is known, a convolution with waves. A signal `[batch, length]` is real: onnxruntime takes these too,
/// and exporters write them.
pub(crate) fn stft(node: &mut Node<'_, '_>) -> Outputs {
    let onesided = node.attributes.flag("onesided", true)?;
    let (mut x, step) = (node.input(0)?, node.input(1)?);
    if node.dims(x).len() == 2 {
        x = node.add(Op::Unsqueeze(Unsqueeze { axes: Some(vec![2]) }), &[x])?;
    }
    let exact = node.importer.quantises_by_range;
    if let Some(frames) = Frames::of(node, x, step, onesided)?.filter(|_| !exact) {
        return Ok(vec![frames.convolved(node, x)?]);
    }
    let mut inputs = vec![Some(x), Some(node.as_i64(step)?)];
    if let Some(window) = node.optional(2) {
        inputs.push(Some(window));
    }
    if let Some(length) = node.optional(3) {
        inputs.resize(3, None);
        inputs.push(Some(node.as_i64(length)?));
    }
    node.add_all(Op::Stft(Stft { onesided, exact }), &inputs, 1)
}

/// The most elements that the waves of a short transform may take.
const MOST_WAVES: usize = 1 << 22;

/// The frames of a real f32 signal, whose sizes are known.
struct Frames {
    step: usize,
    /// A weight a sample.
    window: Vec<f32>,
    /// Frequencies that are kept.
    kept: usize,
}

impl Frames {
    fn of(node: &Node<'_, '_>, x: ValueId, step: ValueId, onesided: bool) -> Result<Option<Self>, Fault> {
        let [_, length, parts] = node.dims(x) else { return Ok(None) };
        let (length, parts) = (length.as_constant(), parts.as_constant());
        let one = |value: Option<ValueId>| match node.known_ints(value?).as_deref() {
            Some(&[number]) => usize::try_from(number).ok().filter(|number| *number > 0),
            _ => None,
        };
        let given = node.optional(2).map(|window| node.constant_floats(window));
        let Some(step) = one(Some(step)).filter(|_| parts == Some(1) && node.dtype(x) == DType::F32) else {
            return Ok(None);
        };
        let window = match (given, node.optional(3)) {
            (Some(Some(window)), None) => window,
            (Some(Some(window)), length) => match one(length) {
                Some(length) if length == window.len() => window,
                _ => return Ok(None),
            },
            (None, length @ Some(_)) => match one(length).filter(|length| *length <= MOST_WAVES) {
                Some(length) => vec![1.0; length],
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        let count = window.len();
        let kept = if onesided { count / 2 + 1 } else { count };
        let small = count > 0 && count.saturating_mul(2 * kept) <= MOST_WAVES;
        // A signal shorter than a frame is refused in the words of the transform.
        let long = length.is_none_or(|length| usize::try_from(length).is_ok_and(|length| length >= count));
        Ok((small && long).then_some(Self { step, window, kept }))
    }

    /// `[batch, frames, frequencies, 2]`.
    fn convolved(&self, node: &mut Node<'_, '_>, x: ValueId) -> Result<ValueId, Fault> {
        let count = self.window.len();
        let mut waves = Vec::with_capacity(2 * self.kept * count);
        for part in 0..2 * self.kept {
            for (place, weight) in self.window.iter().enumerate() {
                let turn = std::f64::consts::TAU * ((part / 2 * place) % count) as f64 / count as f64;
                let wave = if part % 2 == 0 { turn.cos() } else { -turn.sin() };
                waves.push((wave * f64::from(*weight)) as f32);
            }
        }
        let waves = Tensor::from_slice(&waves, &[2 * self.kept, 1, count])?;
        let waves = node.constant(waves);
        let dims = node.dims(x).to_vec();
        let signal = node.reshape(x, vec![dims[0].clone(), Dim::constant(1), dims[1].clone()])?;
        let conv = Conv {
            strides: vec![self.step],
            dilations: vec![1],
            padding: Padding::Explicit { begins: vec![0], ends: vec![0] },
            groups: 1,
            activation: Activation::None,
        };
        let parts = node.add(Op::Conv(conv), &[signal, waves])?;
        let frames = node.dims(parts)[2].clone();
        let parts = node.add(Op::Transpose(Transpose { perm: vec![0, 2, 1] }), &[parts])?;
        let kept = Dim::constant(self.kept as i64);
        node.reshape(parts, vec![dims[0].clone(), frames, kept, Dim::constant(2)])
    }
}

/// MelWeightMatrix-17.
pub(crate) fn mel_weight_matrix(node: &mut Node<'_, '_>) -> Outputs {
    let to = output_dtype(node)?;
    let mut inputs = Vec::with_capacity(5);
    for index in 0..5 {
        let input = node.input(index)?;
        inputs.push(if index < 3 { node.as_i64(input)? } else { node.cast(input, DType::F64)? });
    }
    Ok(vec![node.add(Op::MelWeightMatrix(MelWeightMatrix { to }), &inputs)?])
}
