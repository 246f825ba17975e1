//! The linear maps between integers and floats, as rules see them.

use lathe_ir::{Operation, ValueId};
use lathe_ops::{Limits, Op};
use lathe_tensor::{DType, Tensor};

use crate::Context;

/// Nodes between a constant and where it is read, at most.
const DEPTH: usize = 4;
/// Scales for which no product with a small integer overflows or loses bits.
const SCALES: std::ops::RangeInclusive<f32> = 1e-30..=1e30;

/// `(q - zero) * scale` or its inverse.
#[derive(Clone)]
pub(super) struct Map {
    /// What is mapped.
    pub x: ValueId,
    /// One f32, or one an index of `axis`.
    pub scale: Vec<f32>,
    /// The zero points in the dtype of the integers; none is 0.
    pub zero: Option<ValueId>,
    zeros: Option<Tensor>,
    /// The axis of more than one scale.
    pub axis: Option<usize>,
    /// The integers.
    pub dtype: DType,
}

impl Map {
    /// The map that a `dequantize_linear` to f32 by constant scales computes; the reason where it computes another.
    pub fn dequantized(context: Context<'_>, value: ValueId) -> Option<Result<Self, String>> {
        let (_, node, op) = context.producer(value)?;
        let Op::DequantizeLinear(map) = op else { return None };
        let x = (*node.inputs.first()?)?;
        let known = Self::of(context, &node.inputs, context.ty(x).dtype, (map.axis, map.block_size));
        Some(match known {
            Ok(_) if map.to != DType::F32 => Err(format!("it dequantises to {}", map.to)),
            known => known,
        })
    }

    /// The map of a `quantize_linear` of f32 by constant scales.
    pub fn quantized(
        context: Context<'_>,
        operation: &Operation,
        inputs: &[Option<ValueId>],
    ) -> Option<Result<Self, String>> {
        let Operation::Op(Op::QuantizeLinear(map)) = operation else { return None };
        let in_f32 = map.precision.is_none_or(|precision| precision == DType::F32);
        if !in_f32 || context.ty((*inputs.first()?)?).dtype != DType::F32 {
            return Some(Err("it quantises in another dtype than f32".into()));
        }
        Some(Self::of(context, inputs, map.to, (map.axis, map.block_size)))
    }

    fn of(
        context: Context<'_>,
        inputs: &[Option<ValueId>],
        dtype: DType,
        (axis, block): (i64, usize),
    ) -> Result<Self, String> {
        let operand = |index: usize| inputs.get(index).copied().flatten();
        let (Some(x), Some(scale)) = (operand(0), operand(1)) else {
            return Err("an operand is missing".into());
        };
        if block != 0 {
            return Err("its scales are of blocks".into());
        }
        let constant = known(context, scale, DEPTH).filter(|scale| scale.dtype() == DType::F32);
        let Some(scale) = constant else { return Err("its scales are no f32 constant".into()) };
        let scale: Vec<f32> = scale.to_slice::<f32>().map(|scale| scale.into_owned()).unwrap_or_default();
        if scale.is_empty() || !scale.iter().all(|scale| SCALES.contains(scale)) {
            return Err("a scale is not positive or out of bounds".into());
        }
        let rank = context.ty(x).rank() as i64;
        let axis = match scale.len() {
            1 => None,
            _ => usize::try_from(if axis < 0 { axis + rank } else { axis }).ok(),
        };
        let zero = operand(2);
        let zeros = match zero {
            None => None,
            Some(zero) => match known(context, zero, DEPTH) {
                Some(zeros) => Some(zeros),
                None => return Err("its zero points are no constant".into()),
            },
        };
        Ok(Self { x, scale, zero, zeros, axis, dtype })
    }

    /// Whether the integers are bytes.
    pub fn is_bytes(&self) -> bool {
        matches!(self.dtype, DType::U8 | DType::I8)
    }

    /// The one scale, where there is one.
    pub fn one_scale(&self) -> Option<f32> {
        if self.scale.len() == 1 { self.scale.first().copied() } else { None }
    }

    /// The zero point of a map with one.
    pub fn zero_number(&self) -> f32 {
        let Some(zeros) = &self.zeros else { return 0.0 };
        match self.dtype {
            DType::U8 => {
                zeros.to_slice::<u8>().ok().and_then(|zeros| zeros.first().map(|&zero| f32::from(zero)))
            }
            DType::I8 => {
                zeros.to_slice::<i8>().ok().and_then(|zeros| zeros.first().map(|&zero| f32::from(zero)))
            }
            _ => None,
        }
        .unwrap_or(0.0)
    }

    /// Whether all zero points are 0.
    pub fn is_centered(&self) -> bool {
        self.zeros.as_ref().is_none_or(|zeros| zeros.bytes().iter().all(|&byte| byte == 0))
    }

    /// Whether both map all integers alike, by one scale.
    pub fn is_same(&self, other: &Map) -> bool {
        self.one_scale().is_some()
            && self.scale == other.scale
            && self.dtype == other.dtype
            && self.zero_number() == other.zero_number()
    }

    /// The range of the integers.
    pub fn range(&self) -> (f32, f32) {
        if self.dtype == DType::I8 { (-128.0, 127.0) } else { (0.0, 255.0) }
    }

    /// The byte that a number becomes.
    pub fn round(&self, number: f32) -> f32 {
        let (low, high) = self.range();
        let scale = self.scale.first().copied().unwrap_or(1.0);
        ((number / scale).round_ties_even() + self.zero_number()).clamp(low, high)
    }

    /// A number in the dtype of the bytes.
    pub fn byte(&self, number: f32) -> Option<Tensor> {
        Some(if self.dtype == DType::I8 {
            Tensor::scalar(number as i8)
        } else {
            Tensor::scalar(number as u8)
        })
    }
}

/// The tensor of a constant, or of a constant under other sizes.
fn known(context: Context<'_>, value: ValueId, depth: usize) -> Option<Tensor> {
    if let Some(tensor) = context.constant(value) {
        return Some(tensor.clone());
    }
    let (_, node, op) = context.producer(value)?;
    let is_view = matches!(
        op,
        Op::Reshape(_)
            | Op::Squeeze(_)
            | Op::Unsqueeze(_)
            | Op::Unary(lathe_ops::elementwise::Unary::Identity)
    );
    if depth == 0 || !is_view {
        return None;
    }
    let mut operands = Vec::with_capacity(node.inputs.len());
    for input in &node.inputs {
        operands.push(match input {
            Some(value) => Some(known(context, *value, depth - 1)?),
            None => None,
        });
    }
    let operands: Vec<_> = operands.iter().map(Option::as_ref).collect();
    op.evaluate(&operands, 1, &Limits::default()).ok()?.into_iter().next()
}
