//! Random modules for property tests: bytes choose ops and operands; what inference refuses is left out.

use lathe_ops::conv::{Conv, ConvTranspose, Padding};
use lathe_ops::elementwise::{Activation, Binary, Clip, Compare, Unary};
use lathe_ops::gather::{GatherElements, GatherNd, NonZero, Reduction, ScatterElements};
use lathe_ops::pool::{AveragePool, MaxPool};
use lathe_ops::quant::{DynamicQuantizeLinear, MatMulInteger};
use lathe_ops::reduce::{ArgReduce, CumSum, ReduceKind, TopK};
use lathe_ops::resize::{AspectPolicy, Coordinates, Mode, Resize, Rounding};
use lathe_ops::shape::{ConstantOfShape, Pad, PadMode, Range, ShapeOf, Size, Slice, Split, Tile, Trilu};
use lathe_ops::{Op, shape};
use lathe_tensor::{DType, Tensor};

use crate::{Builder, Dim, Function, IrError, Module, Operation, ValueId, ValueType};

/// Chooses by the next byte.
struct Choices<'a> {
    bytes: std::slice::Iter<'a, u8>,
}

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        self.bytes.next().copied().unwrap_or(0)
    }

    /// True once in `n`.
    fn chance(&mut self, n: u8) -> bool {
        self.byte().is_multiple_of(n)
    }

    fn small(&mut self) -> i64 {
        i64::from(self.byte() % 8) - 3
    }

    fn of<T: Clone>(&mut self, items: &[T]) -> T {
        items[usize::from(self.byte()) % items.len()].clone()
    }
}

/// A module of at most `bytes.len()` nodes whose `main` takes `[batch, seq, 4]` and smaller inputs.
pub(crate) fn module(bytes: &[u8]) -> Module {
    let mut module = Module::new();
    let mut choices = Choices { bytes: bytes.iter() };
    let mut b = Builder::main(&mut module);
    let mut pool = inputs(&mut b);
    let first = pool.len();
    while choices.bytes.len() > 0 {
        if let Ok(values) = step(&mut b, &mut choices, &pool) {
            pool.extend(values);
        }
    }
    for (index, value) in pool[first..].iter().rev().take(4).enumerate() {
        b.output(&format!("out {index}"), *value);
    }
    module
}

fn inputs(b: &mut Builder<'_>) -> Vec<ValueId> {
    let dims = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a dim")).collect::<Vec<Dim>>();
    vec![
        b.input("x", ValueType::new(DType::F32, dims(&["batch", "seq", "4"]))),
        b.input("input.1", ValueType::new(DType::F32, dims(&["batch", "4"]))),
        b.input("c0", ValueType::new(DType::I64, dims(&["seq"]))),
        b.input("mask", ValueType::new(DType::Bool, dims(&["batch", "1"]))),
        b.input("two words", ValueType::new(DType::F32, dims(&["n", "seq + 1"]))),
    ]
}

type Step = Result<Vec<ValueId>, IrError>;

fn step(b: &mut Builder<'_>, choices: &mut Choices<'_>, pool: &[ValueId]) -> Step {
    // Later values are chosen more often: chains instead of stars.
    let recent = &pool[pool.len().saturating_sub(6)..];
    let x = if choices.chance(3) { choices.of(pool) } else { choices.of(recent) };
    let y = choices.of(pool);
    let z = choices.of(recent);
    match choices.byte() % 8 {
        0 => arithmetic(b, choices, x, y, z),
        1 | 2 => sizes(b, choices, x, y, z),
        3 | 4 => layout(b, choices, x, y),
        5 => indexing(b, choices, x, y, z),
        6 => windows(b, choices, x),
        _ => functions(b, choices, x, y, z),
    }
}

fn arithmetic(b: &mut Builder<'_>, choices: &mut Choices<'_>, x: ValueId, y: ValueId, z: ValueId) -> Step {
    let constant = match b.ty(x).dtype {
        DType::F32 => b.scalar(f32::from(choices.byte()) / 8.0),
        _ => {
            let value = choices.small();
            b.scalar(value)
        }
    };
    let y = if choices.chance(2) { y } else { constant };
    Ok(vec![match choices.byte() % 8 {
        0 | 1 => b.op(Op::Binary(choices.of(Binary::ALL)), &[x, y])?,
        2 => b.op(Op::Unary(choices.of(Unary::ALL)), &[x])?,
        3 => b.op(Op::Compare(choices.of(Compare::ALL)), &[x, y])?,
        4 => b.select(x, y, z)?,
        5 => {
            let to = choices.of(&[DType::F32, DType::I64, DType::I32, DType::Bool, DType::U8]);
            b.cast(x, to)?
        }
        6 => b.apply(Op::Clip(Clip {}), &[Some(x), Some(y), None])?,
        _ => b.matmul(x, z)?,
    }])
}

/// Shapes as values, and ops that take them.
fn sizes(b: &mut Builder<'_>, choices: &mut Choices<'_>, x: ValueId, y: ValueId, z: ValueId) -> Step {
    let rank = b.ty(x).rank() as i64;
    let small: Vec<i64> = (0..rank).map(|_| choices.small()).collect();
    Ok(vec![match choices.byte() % 12 {
        0 => b.op(Op::Shape(ShapeOf { start: choices.small(), end: None }), &[x])?,
        1 => b.op(Op::Size(Size {}), &[x])?,
        2 => b.reshape(x, z)?,
        3 => {
            let axis = usize::from(choices.byte()) % small.len().max(1);
            let mut target = vec![0i64; small.len()];
            if let Some(size) = target.get_mut(axis) {
                *size = -1;
            }
            let target = b.list(&target)?;
            b.reshape(x, target)?
        }
        4 => {
            let target =
                b.list(choices.of(&[&[-1][..], &[-1, 4], &[4, -1], &[2, -1, 2], &[0, -1], &[-1, 1]]))?;
            b.reshape(x, target)?
        }
        5 => b.expand(x, z)?,
        6 => {
            let repeats: Vec<_> = small.iter().map(|value| value.rem_euclid(3)).collect();
            let repeats = b.list(&repeats)?;
            b.op(Op::Tile(Tile {}), &[x, repeats])?
        }
        7 => b.op(Op::ConstantOfShape(ConstantOfShape { dtype: DType::I64, bits: 3 }), &[x])?,
        8 => {
            let (start, delta) = (b.scalar(choices.small()), b.scalar(choices.small()));
            b.op(Op::Range(Range {}), &[start, y, delta])?
        }
        9 => {
            // Sizes of `x`: those that no input has are bound by the operand where they stand alone.
            let known = |dim: &Dim| dim.as_symbol().is_some() || dim.as_constant().is_some();
            let elements: Vec<_> = b.ty(x).dims.iter().filter(|dim| known(dim)).cloned().collect();
            b.apply(Operation::Dims { elements, scalar: false }, &[Some(x)])?
        }
        10 => {
            let kind = choices.of(&[ReduceKind::Prod, ReduceKind::Max, ReduceKind::Sum, ReduceKind::Min]);
            b.reduce(kind, x, &[choices.small()], choices.chance(2))?
        }
        _ => {
            let steps = choices.of(&[1, 1, 1, 2, -1, -2]);
            let far = choices.of(&[0, 0, i64::MAX, i64::MIN, i64::from(i32::MAX)]);
            let end = if far == 0 { choices.small() } else { far };
            let mut operands = vec![x];
            for value in [choices.small(), end, choices.of(&[0, -1]), steps] {
                operands.push(b.list(&[value])?);
            }
            b.op(Op::Slice(Slice {}), &operands)?
        }
    }])
}

fn layout(b: &mut Builder<'_>, choices: &mut Choices<'_>, x: ValueId, y: ValueId) -> Step {
    let rank = b.ty(x).rank();
    Ok(vec![match choices.byte() % 9 {
        0 => b.unsqueeze(x, &[choices.small()])?,
        1 => b.squeeze(x, &[choices.small()])?,
        2 => {
            let turn = usize::from(choices.byte()) % rank.max(1);
            let perm: Vec<_> = (0..rank).map(|axis| (axis + turn) % rank).collect();
            b.transpose(x, &perm)?
        }
        3 => b.concat(&[x, y], choices.small())?,
        4 => b.concat(&[x, x], 0)?,
        5 => {
            let outputs = 1 + usize::from(choices.byte() % 3);
            let split = Op::Split(Split { axis: choices.of(&[0, -1]), outputs });
            return b.apply_many(split, &[Some(x)], outputs);
        }
        6 => {
            let pads: Vec<_> = (0..2 * rank).map(|_| choices.small().max(-1)).collect();
            let pads = b.list(&pads)?;
            b.op(Op::Pad(Pad { mode: PadMode::Constant }), &[x, pads])?
        }
        7 => b.op(Op::Trilu(Trilu { upper: choices.chance(2) }), &[x])?,
        _ => b.op(Op::Reshape(shape::Reshape { allow_zero: true }), &[x, y])?,
    }])
}

fn indexing(b: &mut Builder<'_>, choices: &mut Choices<'_>, x: ValueId, y: ValueId, z: ValueId) -> Step {
    let axis = choices.of(&[0, -1, 1]);
    let index = b.scalar(choices.of(&[0i64, 0, -1, 1]));
    Ok(vec![match choices.byte() % 9 {
        0 => b.gather(x, index, axis)?,
        1 => b.gather(x, y, axis)?,
        2 => b.op(Op::GatherElements(GatherElements { axis }), &[x, y])?,
        3 => b.op(Op::GatherNd(GatherNd { batch_dims: 0 }), &[x, y])?,
        4 => {
            b.op(Op::ScatterElements(ScatterElements { axis, reduction: Reduction::Replace }), &[x, y, z])?
        }
        5 => b.op(Op::NonZero(NonZero {}), &[x])?,
        6 => {
            let k = b.list(&[choices.small().max(0)])?;
            return b.apply_many(
                Op::TopK(TopK { axis, largest: true, sorted: true }),
                &[Some(x), Some(k)],
                2,
            );
        }
        7 => {
            b.op(Op::ArgReduce(ArgReduce { min: false, axis, keep_dims: true, select_last: false }), &[x])?
        }
        _ => b.op(Op::CumSum(CumSum { exclusive: false, reverse: false }), &[x, index])?,
    }])
}

fn windows(b: &mut Builder<'_>, choices: &mut Choices<'_>, x: ValueId) -> Step {
    let axes = b.ty(x).rank().saturating_sub(2);
    let mut sizes = |low: usize| (0..axes).map(|_| low + usize::from(choices.byte() % 3)).collect::<Vec<_>>();
    let (kernel, strides, dilations) = (sizes(1), sizes(1), sizes(1));
    let pads: Vec<i64> = kernel.iter().map(|&size| choices.small().clamp(0, size as i64 - 1)).collect();
    let padding = match choices.byte() % 4 {
        0 => Padding::SameUpper,
        1 => Padding::SameLower,
        _ => Padding::Explicit { begins: pads.clone(), ends: pads },
    };
    let ceil_mode = choices.chance(2);
    let weight = |b: &mut Builder<'_>, leading: [usize; 2]| {
        let shape = [&leading[..], &kernel[..]].concat();
        b.constant(Tensor::zeros(DType::F32, &shape).expect("small"))
    };
    Ok(vec![match choices.byte() % 6 {
        0 => {
            let pool = MaxPool { kernel, strides, dilations, padding, ceil_mode, column_major: false };
            b.op(Op::MaxPool(pool), &[x])?
        }
        1 => {
            let pool =
                AveragePool { kernel, strides, dilations, padding, ceil_mode, count_include_pad: true };
            b.op(Op::AveragePool(pool), &[x])?
        }
        2 => {
            let channels = b.ty(x).dims.get(1).and_then(Dim::as_constant).unwrap_or(3);
            let w = weight(b, [2, usize::try_from(channels).unwrap_or(1).min(9)]);
            let conv = Conv { strides, dilations, padding, groups: 1, activation: Activation::None };
            b.op(Op::Conv(conv), &[x, w])?
        }
        3 => {
            let channels = b.ty(x).dims.get(1).and_then(Dim::as_constant).unwrap_or(3);
            let w = weight(b, [usize::try_from(channels).unwrap_or(1).min(9), 2]);
            let conv = ConvTranspose {
                output_padding: vec![0; axes],
                output_shape: None,
                strides,
                dilations,
                padding,
                groups: 1,
                activation: Activation::None,
                exact: false,
            };
            b.op(Op::ConvTranspose(conv), &[x, w])?
        }
        4 => {
            let scale = choices.of(&[2.0f32, 0.5, 0.25, 1.5, 0.3]);
            let scales: Vec<f32> = (0..axes + 2).map(|axis| if axis < 2 { 1.0 } else { scale }).collect();
            let scales = b.constant(Tensor::from_slice(&scales, &[scales.len()]).expect("small"));
            let resize = Resize {
                mode: Mode::Nearest,
                coordinates: Coordinates::Asymmetric,
                rounding: Rounding::Floor,
                cubic_coefficient: -0.75,
                exclude_outside: false,
                extrapolation_value: 0.0,
                antialias: false,
                axes: None,
                policy: AspectPolicy::Stretch,
                exact: false,
            };
            b.apply(Op::Resize(resize), &[Some(x), None, Some(scales)])?
        }
        _ => {
            let shape = b.shape_of(x)?;
            let (head, tail) = (b.slice(shape, 0, 0, 2)?, b.slice(shape, 0, 2, i64::MAX)?);
            let tail = b.mul(tail, tail)?;
            let target = b.concat(&[head, tail], 0)?;
            b.expand(x, target)?
        }
    }])
}

fn functions(b: &mut Builder<'_>, choices: &mut Choices<'_>, x: ValueId, y: ValueId, z: ValueId) -> Step {
    Ok(vec![match choices.byte() % 7 {
        0 => b.softmax(x, choices.small())?,
        1 => {
            let scale = b.constant(Tensor::from_slice(&[0.5f32; 4], &[4]).expect("small"));
            b.layer_norm(x, scale, None, -1, 1e-5)?
        }
        2 => {
            let q = b.apply_many(Op::DynamicQuantizeLinear(DynamicQuantizeLinear {}), &[Some(x)], 3)?;
            b.op(Op::MatMulInteger(MatMulInteger::default()), &[q[0], q[0]])?
        }
        3 | 4 => {
            let types = [b.ty(x).clone(), b.ty(y).clone()];
            let main = b.id();
            let mut body = Builder::function(b.module(), "body");
            let operands = types.map(|ty| ty);
            let p = body.input("p", operands[0].clone());
            let q = body.input("q", operands[1].clone());
            let sum = body.mul(p, q)?;
            let sum = body.abs(sum)?;
            body.output("r", sum);
            let body = body.id();
            let mut b = Builder::new(b.module(), main);
            b.apply(Operation::Region { body }, &[Some(x), Some(y)])?
        }
        5 => {
            let ty = b.ty(x).clone();
            let trips = b.scalar(2i64);
            let main = b.id();
            let mut body = Builder::function(b.module(), "body");
            body.input("i", ValueType::new(DType::I64, []));
            let more = body.input("more", ValueType::new(DType::Bool, []));
            let [p, q] = ["p", "q"].map(|name| body.input(name, ty.clone()));
            let sum = body.mul(p, q)?;
            for (name, value) in [("more", more), ("p", sum), ("row", p)] {
                body.output(name, value);
            }
            let body = body.id();
            let mut b = Builder::new(b.module(), main);
            let operands = [Some(trips), None, Some(x), Some(x)];
            return b.apply_many(Operation::Loop { body, carried: 1 }, &operands, 2);
        }
        _ => {
            let condition = b.reduce(ReduceKind::Max, z, &[], false)?;
            let condition = b.cast(condition, DType::Bool)?;
            let all: Vec<i64> = (0..b.ty(condition).rank() as i64).collect();
            let condition = b.squeeze(condition, &all)?;
            let ty = b.ty(x).clone();
            let branches = ["yes", "no"].map(|name| {
                let mut function = Function::new(name);
                let p = function.add_input("p", ty.clone());
                function.add_output("r", p);
                b.module().add_function(function)
            });
            let mut no = Builder::new(b.module(), branches[1]);
            let p = no.module().function(branches[1]).inputs()[0];
            let longer = no.concat(&[p, p], 0)?;
            no.output("longer", longer);
            let yes = b.module().function_mut(branches[0]);
            let p = yes.inputs()[0];
            yes.add_output("longer", p);
            let [then_branch, else_branch] = branches;
            return b.apply_many(Operation::If { then_branch, else_branch }, &[Some(condition), Some(x)], 2);
        }
    }])
}
