//! `conv(dequantize_linear(x), dequantize_linear(w), b) -> conv_integer {to=f32}(x, w, b)`; `matmul` likewise
//!
//! `x` has one scale, `w` one or one an output channel: then `sum((x - zx) * sx * (w - zw) * sw)` is `sx * sw` times a sum of integers, which
//! is exact, so that the result is the real number rounded twice (as an f32 sum and by the scale), where the float product rounds at every
//! addend. A constant bias, of an `add` behind the product too, joins the sums: in integers where it is dequantised by `sx * sw`, as quantisers write
//! it, else rounded to whole multiples of `sx * sw`, of which a step of the result has many. Transposes of dequantised operands are taken along.
//!
//! Refuses scales that are computed, of blocks or along another axis, integers of other sizes, three spatial axes, and a bias that is computed or
//! beyond i32. Weights alone that are dequantised are folded to floats as constants.

use lathe_ir::{Node, NodeId, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Activation, Binary};
use lathe_ops::quant::{ConvInteger, MatMulInteger};
use lathe_ops::shape::Transpose;
use lathe_tensor::{DType, Tensor};

use super::maps::Map;
use crate::rewrite::Term;
use crate::{Context, Proposal, Rewrite, Rule};

/// Largest bias in units of the sums.
const MOST_BIAS: f32 = (1_i32 << 30) as f32;
/// How far the scale of a bias may be from the product of the scales, relatively.
const BIAS_TOLERANCE: f32 = 1e-5;

pub(crate) struct IntegerProducts;

impl Rule for IntegerProducts {
    fn name(&self) -> &'static str {
        "qdq"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let Operation::Op(op) = &node.operation else { return Proposal::NoMatch };
        match op {
            Op::MatMul(_) => product(context, node, None),
            Op::Conv(conv)
                if conv.activation == Activation::None && node.inputs.get(3).is_none_or(Option::is_none) =>
            {
                product(
                    context,
                    node,
                    Some(ConvInteger {
                        strides: conv.strides.clone(),
                        dilations: conv.dilations.clone(),
                        padding: conv.padding.clone(),
                        groups: conv.groups,
                        to: DType::F32,
                    }),
                )
            }
            Op::Binary(Binary::Add) => bias(context, node),
            _ => Proposal::NoMatch,
        }
    }
}

/// A dequantised operand, perhaps behind a transpose.
struct Operand {
    map: Map,
    perm: Option<Vec<usize>>,
    /// The axis of more than one scale behind the transpose.
    axis: Option<usize>,
}

impl Operand {
    fn of(context: Context<'_>, value: ValueId) -> Option<Result<Self, String>> {
        if let Some(map) = Map::dequantized(context, value) {
            return Some(map.map(|map| Self { axis: map.axis, map, perm: None }));
        }
        let (_, node, op) = context.producer(value)?;
        let Op::Transpose(Transpose { perm }) = op else { return None };
        let map = Map::dequantized(context, (*node.inputs.first()?)?)?;
        Some(map.map(|map| {
            let axis = map.axis.and_then(|axis| perm.iter().position(|&from| from == axis));
            Self { axis, map, perm: Some(perm.clone()) }
        }))
    }

    /// The integers, transposed as the floats were.
    fn integers(&self, rewrite: &mut Rewrite) -> Term {
        let x = Rewrite::value(self.map.x);
        match &self.perm {
            Some(perm) => rewrite.node(Op::Transpose(Transpose { perm: perm.clone() }), &[x]),
            None => x,
        }
    }
}

fn product(context: Context<'_>, node: &Node, conv: Option<ConvInteger>) -> Proposal {
    let (Some(Some(x)), Some(Some(w)), [output]) =
        (node.inputs.first(), node.inputs.get(1), &node.outputs[..])
    else {
        return Proposal::NoMatch;
    };
    let (Some(x), Some(w)) = (Operand::of(context, *x), Operand::of(context, *w)) else {
        return Proposal::NoMatch;
    };
    let (x, w) = match (x, w) {
        (Ok(x), Ok(w)) => (x, w),
        (Err(reason), _) | (_, Err(reason)) => return Proposal::because(reason),
    };
    if !x.map.is_bytes() || !w.map.is_bytes() {
        return Proposal::because(format!("the integers are {} and {}", x.map.dtype, w.map.dtype));
    }
    let Some(x_scale) = x.map.one_scale() else {
        return Proposal::because("the left operand has several scales");
    };
    let channels = match (&conv, context.ty(w.map.x).rank()) {
        (Some(_), _) => 0,
        (None, 0 | 1) => return Proposal::because("the right operand is a vector"),
        (None, rank) => rank - 1,
    };
    if w.map.axis.is_some() && w.axis != Some(channels) {
        return Proposal::because("the scales of the weights are not along the channels");
    }
    let scale: Vec<f32> = w.map.scale.iter().map(|scale| x_scale * scale).collect();
    if conv.is_some() && context.ty(x.map.x).rank() > 4 {
        return Proposal::because("no integer convolution has three spatial axes");
    }
    let given = conv.as_ref().and(node.inputs.get(2).copied().flatten());
    let bias = match given.map(|bias| Bias::of(context, bias, &scale)) {
        Some(None) => return Proposal::because("the bias is computed or too large"),
        Some(Some(bias)) => Some(bias),
        None => None,
    };
    let mut rewrite = Rewrite::new(&node.name);
    let [left, right] = [x.integers(&mut rewrite), w.integers(&mut rewrite)];
    let bias = bias.and_then(|bias| bias.term(&mut rewrite));
    let zeros = [x.map.zero, w.map.zero].map(|zero| zero.and_then(Rewrite::value));
    let scale = match scale[..] {
        [one] => rewrite.constant(Tensor::scalar(one)),
        _ => Tensor::from_slice(&scale, &[scale.len()]).ok().and_then(|scale| rewrite.constant(scale)),
    };
    let op = match conv {
        Some(conv) => Op::ConvInteger(conv),
        None => Op::MatMulInteger(MatMulInteger { to: DType::F32 }),
    };
    let new = rewrite.node(op, &[left, right, zeros[0], zeros[1], bias, scale]);
    rewrite.replace(*output, new)
}

/// A bias in units of the sums.
enum Bias {
    Given(ValueId),
    Rounded(Vec<i32>),
}

impl Bias {
    fn of(context: Context<'_>, bias: ValueId, scale: &[f32]) -> Option<Self> {
        if context.ty(bias).rank() != 1 {
            return None;
        }
        if let Some(map) = Map::dequantized(context, bias) {
            return Self::integers(context, &map.ok()?, scale);
        }
        let one = scale.first().copied()?;
        let units: Vec<f32> = context
            .constant_f32(bias)?
            .iter()
            .enumerate()
            .map(|(channel, bias)| bias / scale.get(channel).copied().unwrap_or(one))
            .collect();
        let fits = scale.len() == 1 || scale.len() == units.len();
        let small = units.iter().all(|units| units.abs() <= MOST_BIAS);
        (fits && small)
            .then(|| Self::Rounded(units.iter().map(|units| units.round_ties_even() as i32).collect()))
    }

    /// The i32 values that have the scales of the sums.
    fn integers(context: Context<'_>, map: &Map, scale: &[f32]) -> Option<Self> {
        let close = |a: f32, b: f32| (a - b).abs() <= BIAS_TOLERANCE * b.abs();
        let fits = match (&map.scale[..], scale) {
            ([own], scale) => scale.iter().all(|scale| close(*own, *scale)),
            (own, [scale]) => own.iter().all(|own| close(*own, *scale)),
            (own, scale) => own.len() == scale.len() && own.iter().zip(scale).all(|(a, b)| close(*a, *b)),
        };
        let is_bias = map.dtype == DType::I32 && map.is_centered() && context.ty(map.x).rank() == 1;
        (fits && is_bias).then_some(Self::Given(map.x))
    }

    fn term(self, rewrite: &mut Rewrite) -> Term {
        match self {
            Bias::Given(value) => Rewrite::value(value),
            Bias::Rounded(units) => {
                Tensor::from_slice(&units, &[units.len()]).ok().and_then(|units| rewrite.constant(units))
            }
        }
    }
}

/// `add(matmul_integer {to=f32}, b)` for a constant bias, one a column.
fn bias(context: Context<'_>, node: &Node) -> Proposal {
    let ([Some(a), Some(b)], [output]) = (&node.inputs[..], &node.outputs[..]) else {
        return Proposal::NoMatch;
    };
    for (sums, bias) in [(a, b), (b, a)] {
        let Some((_, product, Op::MatMulInteger(op))) = context.producer(*sums) else { continue };
        let scale = product.inputs.get(5).copied().flatten().and_then(|scale| context.constant_f32(scale));
        let (Some(scale), DType::F32, None) = (scale, op.to, product.inputs.get(4).copied().flatten()) else {
            continue;
        };
        let Some(own) = Bias::of(context, *bias, &scale) else { continue };
        if context.ty(*sums).dims.last() != context.ty(*bias).dims.first() {
            return Proposal::because("the bias is repeated");
        }
        if !context.single_use(*sums) {
            return Proposal::because("the product without its bias is used elsewhere");
        }
        let mut rewrite = Rewrite::new(&product.name);
        let mut inputs: Vec<_> = product.inputs.iter().map(|input| input.and_then(Rewrite::value)).collect();
        if let Some(slot) = inputs.get_mut(4) {
            *slot = own.term(&mut rewrite);
        }
        let new = rewrite.node(Op::MatMulInteger(op.clone()), &inputs);
        return rewrite.replace(*output, new);
    }
    Proposal::NoMatch
}
