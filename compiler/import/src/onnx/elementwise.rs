//! Elementwise operators.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::elementwise::{
    Binary, BitCast, Cast, Clip, Compare, Gelu, HardSigmoid, LeakyRelu, Unary, Where,
};
use lathe_ops::shape::Unsqueeze;
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs, axis};
use crate::onnx::types::dtype;

/// Functions of one operand without attributes, all opsets.
pub(crate) fn unary(node: &mut Node<'_, '_>) -> Outputs {
    let kind = match node.operator() {
        "Abs" => Unary::Abs,
        "Acos" => Unary::Acos,
        "Acosh" => Unary::Acosh,
        "Asin" => Unary::Asin,
        "Asinh" => Unary::Asinh,
        "Atan" => Unary::Atan,
        "Atanh" => Unary::Atanh,
        "BitwiseNot" => Unary::BitNot,
        "Ceil" => Unary::Ceil,
        "Cos" => Unary::Cos,
        "Cosh" => Unary::Cosh,
        "Erf" => Unary::Erf,
        "Exp" => Unary::Exp,
        "Floor" => Unary::Floor,
        "HardSwish" => Unary::HardSwish,
        "IsNaN" => Unary::IsNan,
        "Log" => Unary::Log,
        "Neg" => Unary::Neg,
        "Not" => Unary::Not,
        "Reciprocal" => Unary::Reciprocal,
        "Relu" => Unary::Relu,
        "Round" => Unary::Round,
        "Sigmoid" => node.sigmoid(),
        "Sign" => Unary::Sign,
        "Sin" => Unary::Sin,
        "Sinh" => Unary::Sinh,
        "Softplus" => Unary::Softplus,
        "Sqrt" => Unary::Sqrt,
        "Tan" => Unary::Tan,
        "Tanh" => Unary::Tanh,
        _ => Unary::Identity,
    };
    ignore_consumed(node);
    let x = node.input(0)?;
    Ok(vec![node.unary(kind, x)?])
}

/// Opsets below 6 hint which operands may be overwritten.
pub(crate) fn ignore_consumed(node: &Node<'_, '_>) {
    if node.opset < 6 {
        node.attributes.ignore(&["consumed_inputs"]);
    }
}

/// Functions and comparisons of two operands, all opsets.
pub(crate) fn binary(node: &mut Node<'_, '_>) -> Outputs {
    let op = match node.operator() {
        "Add" => Op::Binary(Binary::Add),
        "And" => Op::Binary(Binary::And),
        "BitShift" => Op::Binary(shift(node)?),
        "BitwiseAnd" => Op::Binary(Binary::BitAnd),
        "BitwiseOr" => Op::Binary(Binary::BitOr),
        "BitwiseXor" => Op::Binary(Binary::BitXor),
        "Div" => Op::Binary(Binary::Div),
        "Mod" if node.attributes.flag("fmod", false)? => Op::Binary(Binary::FMod),
        "Mod" => Op::Binary(Binary::Mod),
        "Mul" => Op::Binary(Binary::Mul),
        "Or" => Op::Binary(Binary::Or),
        "Pow" => Op::Binary(Binary::Pow),
        "Sub" => Op::Binary(Binary::Sub),
        "Xor" => Op::Binary(Binary::Xor),
        "Equal" => Op::Compare(Compare::Equal),
        "Greater" => Op::Compare(Compare::Greater),
        "GreaterOrEqual" => Op::Compare(Compare::GreaterOrEqual),
        "Less" => Op::Compare(Compare::Less),
        _ => Op::Compare(Compare::LessOrEqual),
    };
    ignore_consumed(node);
    let a = node.input(0)?;
    let b = second_operand(node, a)?;
    Ok(vec![node.add(op, &[a, b])?])
}

fn shift(node: &Node<'_, '_>) -> Result<Binary, Fault> {
    if node.attributes.string("direction")?.is_none() {
        return Err(Fault::bad("attribute `direction` is missing"));
    }
    node.attributes.choice("direction", &[("LEFT", Binary::ShiftLeft), ("RIGHT", Binary::ShiftRight)])
}

/// Below opset 7 the second operand's axes stand at `axis` of the first's: axes of size 1 are added at its end.
fn second_operand(node: &mut Node<'_, '_>, a: ValueId) -> Result<ValueId, Fault> {
    let b = node.input(1)?;
    if node.opset >= 7 {
        return Ok(b);
    }
    let broadcast = node.attributes.flag("broadcast", false)?;
    let Some(first) = node.attributes.int("axis")?.filter(|_| broadcast) else { return Ok(b) };
    let (rank, other) = (node.rank(a), node.rank(b));
    let first = axis(first, rank)?;
    let trailing = rank
        .checked_sub(first + other)
        .ok_or_else(|| Fault::bad(format!("{other} axes do not fit at axis {first} of {rank}")))?;
    if trailing == 0 {
        return Ok(b);
    }
    let axes = (other as i64..(other + trailing) as i64).collect();
    node.add(Op::Unsqueeze(Unsqueeze { axes: Some(axes) }), &[b])
}

/// Min, Max, Sum and Mean of any number of operands, as a chain.
pub(crate) fn variadic(node: &mut Node<'_, '_>) -> Outputs {
    let kind = match node.operator() {
        "Max" => Binary::Max,
        "Min" => Binary::Min,
        _ => Binary::Add,
    };
    ignore_consumed(node);
    let count = node.inputs.len();
    let mut result = node.input(0)?;
    for index in 1..count {
        let operand = node.input(index)?;
        result = node.binary(kind, result, operand)?;
    }
    if node.operator() == "Mean" && count > 1 {
        let divisor = node.number_like(result, count as f64)?;
        result = node.binary(Binary::Div, result, divisor)?;
    } else if count == 1 {
        result = node.unary(Unary::Identity, result)?;
    }
    Ok(vec![result])
}

/// Where-9 and 16.
pub(crate) fn choose(node: &mut Node<'_, '_>) -> Outputs {
    node.direct(Op::Where(Where {}))
}

/// Clip-1 and 6 have bounds as attributes, Clip-11 and later as operands.
pub(crate) fn clip(node: &mut Node<'_, '_>) -> Outputs {
    if node.opset >= 11 {
        return node.direct(Op::Clip(Clip {}));
    }
    node.at_most(1)?;
    ignore_consumed(node);
    let x = node.input(0)?;
    let (min, max) = (node.attributes.float_or("min", f32::MIN)?, node.attributes.float_or("max", f32::MAX)?);
    let min = node.number_like(x, f64::from(min))?;
    let max = node.number_like(x, f64::from(max))?;
    Ok(vec![node.add(Op::Clip(Clip {}), &[x, min, max])?])
}

/// Cast-6 to 28.
pub(crate) fn cast(node: &mut Node<'_, '_>) -> Outputs {
    let number = node.attributes.required_int("to")?;
    let to = dtype(i32::try_from(number).unwrap_or(-1))?;
    convert(node, to)
}

/// CastLike-15 to 25.
pub(crate) fn cast_like(node: &mut Node<'_, '_>) -> Outputs {
    let to = node.dtype(node.input(1)?);
    convert(node, to)
}

fn convert(node: &mut Node<'_, '_>, to: DType) -> Outputs {
    let saturate = node.attributes.flag("saturate", true)?;
    let round = node.attributes.string("round_mode")?;
    if to == DType::F8E8M0 && round.is_some_and(|mode| mode != "up") {
        return Err(Fault::unsupported("rounding other than up to f8e8m0"));
    }
    let x = node.input(0)?;
    Ok(vec![node.add(Op::Cast(Cast { to, saturate }), &[x])?])
}

/// BitCast-26.
pub(crate) fn bit_cast(node: &mut Node<'_, '_>) -> Outputs {
    let number = node.attributes.required_int("to")?;
    let to = dtype(i32::try_from(number).unwrap_or(-1))?;
    node.direct(Op::BitCast(BitCast { to }))
}

/// Gelu-20.
pub(crate) fn gelu(node: &mut Node<'_, '_>) -> Outputs {
    let tanh = node.attributes.choice("approximate", &[("none", false), ("tanh", true)])?;
    node.direct(Op::Gelu(Gelu { tanh }))
}

/// HardSigmoid-1 to 22.
pub(crate) fn hard_sigmoid(node: &mut Node<'_, '_>) -> Outputs {
    ignore_consumed(node);
    let (alpha, beta) = (node.attributes.float_or("alpha", 0.2)?, node.attributes.float_or("beta", 0.5)?);
    node.direct(Op::HardSigmoid(HardSigmoid { alpha, beta }))
}

/// LeakyRelu-1 to 16.
pub(crate) fn leaky_relu(node: &mut Node<'_, '_>) -> Outputs {
    ignore_consumed(node);
    let alpha = node.attributes.float_or("alpha", 0.01)?;
    node.direct(Op::LeakyRelu(LeakyRelu { alpha }))
}

/// IsInf-10 and 20: of either sign, or of one.
pub(crate) fn is_inf(node: &mut Node<'_, '_>) -> Outputs {
    let (negative, positive) =
        (node.attributes.flag("detect_negative", true)?, node.attributes.flag("detect_positive", true)?);
    let x = node.input(0)?;
    let mut result = node.unary(Unary::IsInf, x)?;
    if !(negative && positive) {
        let zero = node.number_like(x, 0.0)?;
        // Neither sign: nothing is both below and not below zero.
        let sign = if positive { Compare::Greater } else { Compare::Less };
        let mut wanted = node.add(Op::Compare(sign), &[x, zero])?;
        if !negative && !positive {
            let other = node.unary(Unary::Not, wanted)?;
            wanted = node.binary(Binary::And, wanted, other)?;
        }
        result = node.binary(Binary::And, result, wanted)?;
    }
    Ok(vec![result])
}

/// Swish-24: `x * sigmoid(alpha * x)`.
pub(crate) fn swish(node: &mut Node<'_, '_>) -> Outputs {
    let alpha = node.attributes.float_or("alpha", 1.0)?;
    let x = node.input(0)?;
    if alpha == 1.0 {
        return Ok(vec![node.unary(Unary::Silu, x)?]);
    }
    let factor = node.number_like(x, f64::from(alpha))?;
    let scaled = node.binary(Binary::Mul, x, factor)?;
    let gate = node.unary(node.sigmoid(), scaled)?;
    Ok(vec![node.binary(Binary::Mul, x, gate)?])
}

/// Mish-18 and 22: `x * tanh(softplus(x))`.
pub(crate) fn mish(node: &mut Node<'_, '_>) -> Outputs {
    let x = node.input(0)?;
    let softplus = node.unary(Unary::Softplus, x)?;
    let gate = node.unary(Unary::Tanh, softplus)?;
    Ok(vec![node.binary(Binary::Mul, x, gate)?])
}

/// Softsign-1 and 22: `x / (1 + |x|)`.
pub(crate) fn softsign(node: &mut Node<'_, '_>) -> Outputs {
    let x = node.input(0)?;
    Ok(vec![node.soft_sign(x)?])
}

/// Elu-1 to 22, `x < 0 ? alpha * (exp(x) - 1) : x`; Selu-6 and 22 with the result times `gamma`.
pub(crate) fn elu(node: &mut Node<'_, '_>) -> Outputs {
    ignore_consumed(node);
    let selu = node.operator() == "Selu";
    let default = if selu { 1.673_263_2 } else { 1.0 };
    let alpha = node.attributes.float_or("alpha", default)?;
    let gamma = if selu { node.attributes.float_or("gamma", 1.050_701)? } else { 1.0 };
    let (given, x) = widened(node)?;
    let result = node.exponential_step(x, alpha, gamma)?;
    Ok(vec![node.cast(result, given)?])
}

/// Celu-12 and 28: `max(0, x) + min(0, alpha * (exp(x / alpha) - 1))`.
pub(crate) fn celu(node: &mut Node<'_, '_>) -> Outputs {
    let alpha = node.attributes.float_or("alpha", 1.0)?;
    let (given, x) = widened(node)?;
    let (zero, one) = (node.number_like(x, 0.0)?, node.number_like(x, 1.0)?);
    let alpha = node.number_like(x, f64::from(alpha))?;
    let scaled = node.binary(Binary::Div, x, alpha)?;
    let exp = node.unary(Unary::Exp, scaled)?;
    let shifted = node.binary(Binary::Sub, exp, one)?;
    let below = node.binary(Binary::Mul, alpha, shifted)?;
    let (above, below) = (node.binary(Binary::Max, zero, x)?, node.binary(Binary::Min, zero, below)?);
    let result = node.binary(Binary::Add, above, below)?;
    Ok(vec![node.cast(result, given)?])
}

/// The operand's dtype, and the operand in f32 where it is narrower, so that several steps round once.
fn widened(node: &mut Node<'_, '_>) -> Result<(DType, ValueId), Fault> {
    let x = node.input(0)?;
    let given = node.dtype(x);
    let wide = if matches!(given, DType::F16 | DType::BF16) { DType::F32 } else { given };
    Ok((given, node.cast(x, wide)?))
}

/// ThresholdedRelu-10 and 22: `x > alpha ? x : 0`.
pub(crate) fn thresholded_relu(node: &mut Node<'_, '_>) -> Outputs {
    let alpha = node.attributes.float_or("alpha", 1.0)?;
    let x = node.input(0)?;
    Ok(vec![node.thresholded(x, alpha)?])
}

impl Node<'_, '_> {
    /// `gamma * (x < 0 ? alpha * (exp(x) - 1) : x)`.
    pub(crate) fn exponential_step(&mut self, x: ValueId, alpha: f32, gamma: f32) -> Result<ValueId, Fault> {
        let (zero, one) = (self.number_like(x, 0.0)?, self.number_like(x, 1.0)?);
        let exp = self.unary(Unary::Exp, x)?;
        let shifted = self.binary(Binary::Sub, exp, one)?;
        let alpha = self.number_like(x, f64::from(alpha))?;
        let below = self.binary(Binary::Mul, shifted, alpha)?;
        let negative = self.add(Op::Compare(Compare::Less), &[x, zero])?;
        let result = self.add(Op::Where(Where {}), &[negative, below, x])?;
        if gamma == 1.0 {
            return Ok(result);
        }
        let gamma = self.number_like(x, f64::from(gamma))?;
        self.binary(Binary::Mul, result, gamma)
    }

    /// `x / (1 + |x|)`.
    pub(crate) fn soft_sign(&mut self, x: ValueId) -> Result<ValueId, Fault> {
        let one = self.number_like(x, 1.0)?;
        let size = self.unary(Unary::Abs, x)?;
        let divisor = self.binary(Binary::Add, one, size)?;
        self.binary(Binary::Div, x, divisor)
    }

    /// `x > alpha ? x : 0`.
    pub(crate) fn thresholded(&mut self, x: ValueId, alpha: f32) -> Result<ValueId, Fault> {
        let (zero, alpha) = (self.number_like(x, 0.0)?, self.number_like(x, f64::from(alpha))?);
        let above = self.add(Op::Compare(Compare::Greater), &[x, alpha])?;
        self.add(Op::Where(Where {}), &[above, x, zero])
    }
}

/// Shrink-9: `x < -lambd ? x + bias : x > lambd ? x - bias : 0`.
pub(crate) fn shrink(node: &mut Node<'_, '_>) -> Outputs {
    let (lambda, bias) = (node.attributes.float_or("lambd", 0.5)?, node.attributes.float_or("bias", 0.0)?);
    let x = node.input(0)?;
    // In f64: the bounds of an integer need not be integers.
    let wide = node.cast(x, DType::F64)?;
    let (high, low) =
        (node.number(DType::F64, f64::from(lambda))?, node.number(DType::F64, -f64::from(lambda))?);
    let (zero, bias) = (node.number(DType::F64, 0.0)?, node.number(DType::F64, f64::from(bias))?);
    let (above, below) = (
        node.add(Op::Compare(Compare::Greater), &[wide, high])?,
        node.add(Op::Compare(Compare::Less), &[wide, low])?,
    );
    let (less, more) = (node.binary(Binary::Sub, wide, bias)?, node.binary(Binary::Add, wide, bias)?);
    let result = node.add(Op::Where(Where {}), &[above, less, zero])?;
    let result = node.add(Op::Where(Where {}), &[below, more, result])?;
    Ok(vec![node.cast(result, node.dtype(x))?])
}

/// SwiGLU-28: `a * sigmoid(alpha * a) * b`, both of one shape.
pub(crate) fn swiglu(node: &mut Node<'_, '_>) -> Outputs {
    let (a, b) = (node.input(0)?, node.input(1)?);
    if node.rank(a) != node.rank(b) {
        return Err(Fault::bad(format!("its inputs have {} and {} axes", node.rank(a), node.rank(b))));
    }
    let [gate] = swish(node)?[..] else { return Err(Fault::bad("it has no gate")) };
    Ok(vec![node.binary(Binary::Mul, gate, b)?])
}

/// PRelu-1 to 16: `x < 0 ? slope * x : x`, the slope broadcast to `x`; below opset 7 a slope of rank 1 is one a channel.
pub(crate) fn prelu(node: &mut Node<'_, '_>) -> Outputs {
    ignore_consumed(node);
    let (x, mut slope) = (node.input(0)?, node.input(1)?);
    let trailing = node.rank(x).saturating_sub(2);
    if node.opset < 7 && node.rank(slope) == 1 && trailing > 0 {
        let axes = (1..=trailing as i64).collect();
        slope = node.add(Op::Unsqueeze(Unsqueeze { axes: Some(axes) }), &[slope])?;
    }
    let zero = node.number_like(x, 0.0)?;
    let negative = node.add(Op::Compare(Compare::Less), &[x, zero])?;
    let below = node.binary(Binary::Mul, x, slope)?;
    Ok(vec![node.add(Op::Where(Where {}), &[negative, below, x])?])
}
