//! Operators that draw at random. A draw is a hash of the element's index and the seed: equal in every run and on every machine;
//! a node without a seed has one by its name.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Compare, Unary, Where};
use lathe_ops::reduce::ArgReduce;
use lathe_ops::shape::{ConstantOfShape, Range, ShapeOf, Size};
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::elementwise::ignore_consumed;
use crate::onnx::node::{Node, Outputs, positive};
use crate::onnx::types::dtype;

/// Dropout-1 to 22: the identity and a mask of ones, unless training is asked for, which opset 12 made an operand.
pub(crate) fn dropout(node: &mut Node<'_, '_>) -> Outputs {
    ignore_consumed(node);
    if node.opset < 12 {
        node.at_most(1)?;
        node.attributes.ignore(&["ratio", "is_test"]);
    }
    let seed = node.attributes.int_or("seed", 0)?;
    let x = node.input(0)?;
    match node.optional(2) {
        Some(training) if node.known_bool(training) != Some(false) => drop_out(node, x, training, seed),
        _ => identity(node, x),
    }
}

fn identity(node: &mut Node<'_, '_>, x: ValueId) -> Outputs {
    let mut outputs = vec![node.unary(Unary::Identity, x)?];
    if node.wanted > 1 {
        // Below opset 10 the mask has the data's dtype.
        let dtype = if node.opset < 10 { node.dtype(x) } else { DType::Bool };
        let shape = node.add(Op::Shape(ShapeOf { start: 0, end: None }), &[x])?;
        let ones =
            node.add(Op::ConstantOfShape(ConstantOfShape { dtype: DType::Bool, bits: 1 }), &[shape])?;
        outputs.push(node.cast(ones, dtype)?);
    }
    Ok(outputs)
}

/// `x * mask / (1 - ratio)` where training holds: element `i` is kept where a number in `[0, 1)` that hashes `i` and the seed is
/// at least `ratio`.
fn drop_out(node: &mut Node<'_, '_>, x: ValueId, training: ValueId, seed: i64) -> Outputs {
    let ratio = match node.optional(1) {
        Some(ratio) => node.cast(ratio, DType::F64)?,
        None => node.number(DType::F64, 0.5)?,
    };
    let drawn = uniform(node, x, seed)?;
    let kept = node.add(Op::Compare(Compare::GreaterOrEqual), &[drawn, ratio])?;
    let idle = node.unary(Unary::Not, training)?;
    let mask = node.binary(Binary::Or, kept, idle)?;
    let (zero, one) = (node.number_like(x, 0.0)?, node.number(DType::F64, 1.0)?);
    let share = node.binary(Binary::Sub, one, ratio)?;
    let scale = node.binary(Binary::Div, one, share)?;
    let scale = node.add(Op::Where(Where {}), &[training, scale, one])?;
    let scale = node.cast(scale, node.dtype(x))?;
    let left = node.add(Op::Where(Where {}), &[mask, x, zero])?;
    Ok(vec![node.binary(Binary::Mul, left, scale)?, mask])
}

/// A number in `[0, 1)` for each element of `x`: two rounds of a 64-bit mix of index and seed, the top 53 bits.
fn uniform(node: &mut Node<'_, '_>, x: ValueId, seed: i64) -> Result<ValueId, Fault> {
    let count = node.add(Op::Size(Size {}), &[x])?;
    let (zero, one) = (node.number(DType::I64, 0.0)?, node.number(DType::I64, 1.0)?);
    let mut bits = node.add(Op::Range(Range {}), &[zero, count, one])?;
    // SplitMix64 on the index: products and sums wrap, the arithmetic shift's copies of the sign are masked off.
    let scalar = |node: &mut Node<'_, '_>, value: i64| {
        let value = node.ints(&[value])?;
        node.reshape(value, vec![])
    };
    let (step, start) = (scalar(node, GOLDEN)?, scalar(node, seed.wrapping_mul(MIX_A).wrapping_add(GOLDEN))?);
    bits = node.binary(Binary::Mul, bits, step)?;
    bits = node.binary(Binary::Add, bits, start)?;
    for (shift, factor) in [(30, Some(MIX_A)), (27, Some(MIX_B)), (31, None)] {
        let shifted = logical_shift(node, bits, shift)?;
        bits = node.binary(Binary::BitXor, bits, shifted)?;
        if let Some(factor) = factor {
            let factor = scalar(node, factor)?;
            bits = node.binary(Binary::Mul, bits, factor)?;
        }
    }
    let top = logical_shift(node, bits, 11)?;
    let top = node.cast(top, DType::F64)?;
    let unit = node.number(DType::F64, 2f64.powi(-53))?;
    let fraction = node.binary(Binary::Mul, top, unit)?;
    let dims = node.dims(x).to_vec();
    node.reshape(fraction, dims)
}

/// The constants of SplitMix64.
const GOLDEN: i64 = 0x9E37_79B9_7F4A_7C15_u64 as i64;
const MIX_A: i64 = 0xBF58_476D_1CE4_E5B9_u64 as i64;
const MIX_B: i64 = 0x94D0_49BB_1331_11EB_u64 as i64;

/// An i64 shifted right with zeros coming in.
fn logical_shift(node: &mut Node<'_, '_>, x: ValueId, by: i64) -> Result<ValueId, Fault> {
    let (shift, mask) = (node.ints(&[by])?, node.ints(&[i64::MAX >> (by - 1)])?);
    let shifted = node.binary(Binary::ShiftRight, x, shift)?;
    node.binary(Binary::BitAnd, shifted, mask)
}

/// The attribute `seed`, or one by the node's name.
fn seed(node: &Node<'_, '_>) -> Result<i64, Fault> {
    match node.attributes.float("seed")? {
        Some(seed) => Ok(i64::from(seed.to_bits())),
        // FNV-1a.
        None => Ok(node.name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
        }) as i64),
    }
}

/// The attribute `dtype`, or the dtype of `like`, or f32.
fn drawn_dtype(node: &Node<'_, '_>, like: Option<ValueId>) -> Result<DType, Fault> {
    match (node.attributes.int("dtype")?, like) {
        (Some(number), _) => dtype(i32::try_from(number).unwrap_or(-1)),
        (None, Some(like)) => Ok(node.dtype(like)),
        (None, None) => Ok(DType::F32),
    }
}

/// Bernoulli-15 and 22: 1 with the probability that the element holds.
pub(crate) fn bernoulli(node: &mut Node<'_, '_>) -> Outputs {
    let x = node.input(0)?;
    let (to, seed) = (drawn_dtype(node, Some(x))?, seed(node)?);
    let drawn = uniform(node, x, seed)?;
    let probability = node.cast(x, DType::F64)?;
    let hit = node.add(Op::Compare(Compare::Less), &[drawn, probability])?;
    Ok(vec![node.cast(hit, to)?])
}

/// What a draw is shaped like: the operand, or a tensor of the attribute `shape`.
fn model(node: &mut Node<'_, '_>) -> Result<(ValueId, DType), Fault> {
    if node.operator().ends_with("Like") {
        let x = node.input(0)?;
        return Ok((x, drawn_dtype(node, Some(x))?));
    }
    let to = drawn_dtype(node, None)?;
    let shape = node.attributes.required_ints("shape")?;
    let shape = node.ints(shape)?;
    let x = node.add(Op::ConstantOfShape(ConstantOfShape { dtype: DType::Bool, bits: 0 }), &[shape])?;
    Ok((x, to))
}

/// RandomUniform and RandomUniformLike, 1 and 22: `low + (high - low) * u`.
pub(crate) fn random_uniform(node: &mut Node<'_, '_>) -> Outputs {
    let (low, high) = (node.attributes.float_or("low", 0.0)?, node.attributes.float_or("high", 1.0)?);
    let ((x, to), seed) = (model(node)?, seed(node)?);
    let drawn = uniform(node, x, seed)?;
    let scale = node.number(DType::F64, f64::from(high) - f64::from(low))?;
    let low = node.number(DType::F64, f64::from(low))?;
    let scaled = node.binary(Binary::Mul, drawn, scale)?;
    let moved = node.binary(Binary::Add, scaled, low)?;
    Ok(vec![node.cast(moved, to)?])
}

/// RandomNormal and RandomNormalLike, 1 and 22, by Box and Muller: `mean + scale * sqrt(-2 ln u) * cos(2 pi v)`.
pub(crate) fn random_normal(node: &mut Node<'_, '_>) -> Outputs {
    let (mean, scale) = (node.attributes.float_or("mean", 0.0)?, node.attributes.float_or("scale", 1.0)?);
    let ((x, to), seed) = (model(node)?, seed(node)?);
    let (u, v) = (uniform(node, x, seed)?, uniform(node, x, seed ^ MIX_B)?);
    // 1 - u lies in (0, 1].
    let one = node.number(DType::F64, 1.0)?;
    let u = node.binary(Binary::Sub, one, u)?;
    let log = node.unary(Unary::Log, u)?;
    let minus_two = node.number(DType::F64, -2.0)?;
    let square = node.binary(Binary::Mul, log, minus_two)?;
    let radius = node.unary(Unary::Sqrt, square)?;
    let turn = node.number(DType::F64, std::f64::consts::TAU)?;
    let angle = node.binary(Binary::Mul, v, turn)?;
    let cosine = node.unary(Unary::Cos, angle)?;
    let normal = node.binary(Binary::Mul, radius, cosine)?;
    let (scale, mean) =
        (node.number(DType::F64, f64::from(scale))?, node.number(DType::F64, f64::from(mean))?);
    let scaled = node.binary(Binary::Mul, normal, scale)?;
    let moved = node.binary(Binary::Add, scaled, mean)?;
    Ok(vec![node.cast(moved, to)?])
}

/// Multinomial-7 and 22: classes drawn by unnormalised log-probabilities `[batch, classes]`, as the largest of each with
/// noise of Gumbel's distribution `-ln(-ln u)` added.
pub(crate) fn multinomial(node: &mut Node<'_, '_>) -> Outputs {
    let samples = positive("sample_size", node.attributes.int_or("sample_size", 1)?)?;
    let to = match node.attributes.int("dtype")? {
        None => DType::I32,
        Some(number) => dtype(i32::try_from(number).unwrap_or(-1))?,
    };
    let seed = seed(node)?;
    let x = node.input(0)?;
    let [batch, classes] = &node.dims(x).to_vec()[..] else {
        return Err(Fault::bad(format!("its input has {} axes, not 2", node.rank(x))));
    };
    let shape = node.sizes(vec![batch.clone(), (samples as i64).into(), classes.clone()])?;
    let all = node.add(Op::ConstantOfShape(ConstantOfShape { dtype: DType::Bool, bits: 0 }), &[shape])?;
    let drawn = uniform(node, all, seed)?;
    let tiny = node.number(DType::F64, 2f64.powi(-54))?;
    let inside = node.binary(Binary::Add, drawn, tiny)?;
    let log = node.unary(Unary::Log, inside)?;
    let log = node.unary(Unary::Neg, log)?;
    let log = node.unary(Unary::Log, log)?;
    let scores = node.cast(x, DType::F64)?;
    let scores = node.reshape(scores, vec![batch.clone(), 1.into(), classes.clone()])?;
    let noisy = node.binary(Binary::Sub, scores, log)?;
    let largest = ArgReduce { min: false, axis: 2, keep_dims: false, select_last: false };
    let chosen = node.add(Op::ArgReduce(largest), &[noisy])?;
    Ok(vec![node.cast(chosen, to)?])
}
