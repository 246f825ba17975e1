//! Optimisers of ai.onnx.preview.training: one step for any number of tensors, written out.

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Compare, Unary, Where};
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs};

/// The learning rate, the step count, and groups of tensors: all of the first kind, then all of the second, ...
struct Operands {
    rate: ValueId,
    step: ValueId,
    groups: Vec<Vec<ValueId>>,
}

impl Operands {
    /// `kinds` tensors for each optimised one.
    fn of(node: &Node<'_, '_>, kinds: usize) -> Result<Self, Fault> {
        let tensors = node.inputs.len().saturating_sub(2);
        if tensors == 0 || !tensors.is_multiple_of(kinds) {
            return Err(Fault::bad(format!("{tensors} tensors are not {kinds} for each optimised one")));
        }
        let count = tensors / kinds;
        let group = |index: usize| (0..kinds).map(|kind| node.input(2 + kind * count + index)).collect();
        Ok(Self {
            rate: node.input(0)?,
            step: node.input(1)?,
            groups: (0..count).map(group).collect::<Result<_, _>>()?,
        })
    }
}

/// New tensors of each group, back to the order of outputs: all of the first kind, then all of the second.
fn transposed(groups: &[Vec<ValueId>]) -> Vec<ValueId> {
    let kinds = groups.first().map_or(0, Vec::len);
    (0..kinds).flat_map(|kind| groups.iter().map(move |group| group[kind])).collect()
}

impl Node<'_, '_> {
    fn scaled(&mut self, x: ValueId, factor: f32) -> Result<ValueId, Fault> {
        let factor = self.number_like(x, f64::from(factor))?;
        self.binary(Binary::Mul, x, factor)
    }

    /// `gradient + norm * x`.
    fn regularised(&mut self, gradient: ValueId, x: ValueId, norm: f32) -> Result<ValueId, Fault> {
        let penalty = self.scaled(x, norm)?;
        self.binary(Binary::Add, gradient, penalty)
    }

    /// `keep * old + (1 - keep) * new`.
    fn average(&mut self, old: ValueId, new: ValueId, keep: f32) -> Result<ValueId, Fault> {
        let (old, new) = (self.scaled(old, keep)?, self.scaled(new, 1.0 - keep)?);
        self.binary(Binary::Add, old, new)
    }

    fn square(&mut self, x: ValueId) -> Result<ValueId, Fault> {
        self.binary(Binary::Mul, x, x)
    }
}

/// Adagrad-1: inputs `rate, step, x..., gradient..., squares...`; outputs `x..., squares...`.
pub(crate) fn adagrad(node: &mut Node<'_, '_>) -> Outputs {
    let operands = Operands::of(node, 3)?;
    let decay = node.attributes.float_or("decay_factor", 0.0)?;
    let epsilon = node.attributes.float_or("epsilon", 0.0)?;
    let norm = node.attributes.float_or("norm_coefficient", 0.0)?;
    let mut results = Vec::new();
    for group in &operands.groups {
        let &[x, gradient, squares] = &group[..] else { continue };
        // rate / (1 + step * decay)
        let step = node.cast(operands.step, node.dtype(operands.rate))?;
        let slowed = node.scaled(step, decay)?;
        let one = node.number_like(slowed, 1.0)?;
        let slowed = node.binary(Binary::Add, slowed, one)?;
        let rate = node.binary(Binary::Div, operands.rate, slowed)?;
        let rate = node.cast(rate, node.dtype(x))?;
        let gradient = node.regularised(gradient, x, norm)?;
        let square = node.square(gradient)?;
        let squares = node.binary(Binary::Add, squares, square)?;
        let root = node.unary(Unary::Sqrt, squares)?;
        let epsilon = node.number_like(x, f64::from(epsilon))?;
        let divisor = node.binary(Binary::Add, root, epsilon)?;
        let direction = node.binary(Binary::Div, gradient, divisor)?;
        let change = node.binary(Binary::Mul, rate, direction)?;
        results.push(vec![node.binary(Binary::Sub, x, change)?, squares]);
    }
    Ok(transposed(&results))
}

/// Adam-1: inputs `rate, step, x..., gradient..., mean..., squares...`; outputs `x..., mean..., squares...`.
pub(crate) fn adam(node: &mut Node<'_, '_>) -> Outputs {
    let operands = Operands::of(node, 4)?;
    let (alpha, beta) = (node.attributes.float_or("alpha", 0.9)?, node.attributes.float_or("beta", 0.999)?);
    let epsilon = node.attributes.float_or("epsilon", 0.0)?;
    let norm = node.attributes.float_or("norm_coefficient", 0.0)?;
    let norm_post = node.attributes.float_or("norm_coefficient_post", 0.0)?;
    let mut results = Vec::new();
    for group in &operands.groups {
        let &[x, gradient, mean, squares] = &group[..] else { continue };
        let gradient = node.regularised(gradient, x, norm)?;
        let mean = node.average(mean, gradient, alpha)?;
        let square = node.square(gradient)?;
        let squares = node.average(squares, square, beta)?;
        let root = node.unary(Unary::Sqrt, squares)?;
        let epsilon = node.number_like(x, f64::from(epsilon))?;
        let divisor = node.binary(Binary::Add, root, epsilon)?;
        let rate = adjusted_rate(node, &operands, alpha, beta)?;
        let rate = node.cast(rate, node.dtype(x))?;
        let change = node.binary(Binary::Mul, rate, mean)?;
        let change = node.binary(Binary::Div, change, divisor)?;
        let moved = node.binary(Binary::Sub, x, change)?;
        results.push(vec![node.scaled(moved, 1.0 - norm_post)?, mean, squares]);
    }
    Ok(transposed(&results))
}

/// `rate * sqrt(1 - beta^step) / (1 - alpha^step)` from the first step on, the plain rate at step 0.
fn adjusted_rate(
    node: &mut Node<'_, '_>,
    operands: &Operands,
    alpha: f32,
    beta: f32,
) -> Result<ValueId, Fault> {
    let (rate, step) = (node.cast(operands.rate, DType::F64)?, node.cast(operands.step, DType::F64)?);
    let one = node.number(DType::F64, 1.0)?;
    let lost = |node: &mut Node<'_, '_>, base: f32| {
        let base = node.number(DType::F64, f64::from(base))?;
        let power = node.binary(Binary::Pow, base, step)?;
        node.binary(Binary::Sub, one, power)
    };
    let variance = lost(node, beta)?;
    let (deviation, mean) = (node.unary(Unary::Sqrt, variance)?, lost(node, alpha)?);
    let adjusted = node.binary(Binary::Mul, rate, deviation)?;
    let adjusted = node.binary(Binary::Div, adjusted, mean)?;
    let zero = node.number(DType::F64, 0.0)?;
    let started = node.add(Op::Compare(Compare::Greater), &[step, zero])?;
    node.add(Op::Where(Where {}), &[started, adjusted, rate])
}

/// Momentum-1: inputs `rate, step, x..., gradient..., momentum...`; outputs `x..., momentum...`.
pub(crate) fn momentum(node: &mut Node<'_, '_>) -> Outputs {
    let operands = Operands::of(node, 3)?;
    let required = |name: &str| {
        node.attributes.float(name)?.ok_or_else(|| Fault::bad(format!("attribute `{name}` is missing")))
    };
    let (alpha, beta, norm) = (required("alpha")?, required("beta")?, required("norm_coefficient")?);
    let nesterov = node.attributes.choice("mode", &[("standard", false), ("nesterov", true)])?;
    let mut results = Vec::new();
    for group in &operands.groups {
        let &[x, gradient, momentum] = &group[..] else { continue };
        let gradient = node.regularised(gradient, x, norm)?;
        // The first step takes the gradient whole.
        let zero = node.number_like(operands.step, 0.0)?;
        let started = node.add(Op::Compare(Compare::Greater), &[operands.step, zero])?;
        let (later, first) = (node.number_like(x, f64::from(beta))?, node.number_like(x, 1.0)?);
        let share = node.add(Op::Where(Where {}), &[started, later, first])?;
        let new = node.binary(Binary::Mul, gradient, share)?;
        let old = node.scaled(momentum, alpha)?;
        let momentum = node.binary(Binary::Add, old, new)?;
        let direction = match nesterov {
            false => momentum,
            true => {
                let ahead = node.scaled(momentum, alpha)?;
                node.binary(Binary::Add, gradient, ahead)?
            }
        };
        let rate = node.cast(operands.rate, node.dtype(x))?;
        let change = node.binary(Binary::Mul, rate, direction)?;
        results.push(vec![node.binary(Binary::Sub, x, change)?, momentum]);
    }
    Ok(transposed(&results))
}
