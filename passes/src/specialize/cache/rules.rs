//! Which ops keep rows apart: the result's row depends on the operands' same row only. What is not listed refuses.

use lathe_ir::{Dim, Node, ValueId};
use lathe_ops::Op;

use super::build::Decode;
use super::mapped::{Mapped, Refusal, Rows};
use super::positions::axis_of;

/// An operand in `decode`, with the axis of its rows where it has some.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand {
    pub value: ValueId,
    pub axis: Option<usize>,
}

/// A rule's answer.
type Checked = Result<(), String>;

fn fail(reason: impl Into<String>) -> Checked {
    Err(reason.into())
}

impl Decode<'_> {
    /// Applies a node of `main` to what its operands are in `decode`.
    pub fn row_wise(&mut self, node: &Node, op: &Op) -> Result<Vec<Mapped>, Refusal> {
        let mut operands = Vec::with_capacity(node.inputs.len());
        for (index, input) in node.inputs.iter().enumerate() {
            operands.push(match input {
                None => None,
                Some(input) => Some(self.operand(node, op, index, *input)?),
            });
        }
        let values: Vec<_> = operands.iter().map(|operand| operand.map(|operand| operand.value)).collect();
        let any = operands.iter().flatten().any(|operand| operand.axis.is_some());
        let refuse = |reason: String| Refusal::new(&node.name, reason);
        if any {
            self.check_operands(node, op, &operands).map_err(refuse)?;
        }
        let made = self.emit(&node.name, in_steps(op), &values, node.outputs.len())?;
        self.learn(node, &made);
        let mut results = Vec::with_capacity(made.len());
        for value in made {
            let axis = self.row_axis(&self.ty(value).dims.clone()).map_err(refuse)?;
            if any {
                self.check_result(op, &operands, value, axis).map_err(refuse)?;
            }
            results.push(match axis {
                Some(axis) => Mapped::Rows(Rows { value, axis }),
                None => Mapped::Fixed(value),
            });
        }
        Ok(results)
    }

    /// An operand of a row-wise op as a value of `decode`.
    fn operand(&mut self, node: &Node, op: &Op, index: usize, input: ValueId) -> Result<Operand, Refusal> {
        let refuse = |reason: &str| Err(Refusal::new(&node.name, reason));
        match self.lookup(input) {
            Mapped::Fixed(value) => Ok(Operand { value, axis: None }),
            Mapped::Rows(rows) => Ok(Operand { value: rows.value, axis: Some(rows.axis) }),
            Mapped::Refused(refusal) => Err(refusal),
            Mapped::Places(places) => {
                let rows = self.counted(&node.name, input, &places)?;
                Ok(Operand { value: rows.value, axis: Some(rows.axis) })
            }
            Mapped::Uniform(element) => {
                // A scalar does where another operand has the result's sizes already.
                let result = self.main.ty(node.outputs[0]).dims.clone();
                let others = node.inputs.iter().flatten().any(|&other| {
                    other != input
                        && self.main.ty(other).dims == result
                        && !matches!(self.lookup(other), Mapped::Uniform(_))
                });
                if lathe_ir::Operation::Op(op.clone()).is_elementwise() && others {
                    return Ok(Operand { value: self.constant(element), axis: None });
                }
                let value = self.materialise(&node.name, input, &element)?;
                let axis = self.row_axis(&self.ty(value).dims.clone());
                Ok(Operand { value, axis: axis.map_err(|reason| Refusal::new(&node.name, reason))? })
            }
            Mapped::Sizes(elements) => self.size_operand(node, op, index, input, &elements),
            Mapped::Length(_) | Mapped::Lengths(_) => refuse("it computes with the total length"),
            Mapped::Keyed(_) => refuse("it relates tokens to tokens, and is no attention"),
            Mapped::Source => refuse(
                "it reads the encoder's output or pictures in another way than an attention or a choice of rows",
            ),
            Mapped::Count(_) => refuse("it counts tokens, and does not pick rows of pictures"),
            Mapped::Joined(..) | Mapped::Room(_) => {
                refuse("past keys or values are used other than by an attention")
            }
        }
    }

    fn size_operand(
        &mut self,
        node: &Node,
        op: &Op,
        index: usize,
        input: ValueId,
        elements: &[Dim],
    ) -> Result<Operand, Refusal> {
        let Some(sizes) = elements.iter().map(|dim| self.size(dim)).collect::<Option<Vec<_>>>() else {
            return Err(Refusal::new(&node.name, "it computes with the length of the past"));
        };
        let constant = sizes.iter().all(|size| size.as_constant().is_some());
        if !constant && !is_shape(op, index) {
            return Err(Refusal::new(&node.name, "it computes with the number of tokens"));
        }
        let ty = self.main.ty(input).clone();
        let mut value = self.dims(&node.name, &sizes, ty.rank() == 0)?;
        if ty.dtype != lathe_tensor::DType::I64 {
            let cast = lathe_ops::elementwise::Cast { to: ty.dtype, saturate: true };
            value = self.emit_one(&node.name, Op::Cast(cast), &[value])?;
        }
        Ok(Operand { value, axis: None })
    }

    fn rank(&self, operand: &Operand) -> usize {
        self.ty(operand.value).rank()
    }

    /// The axis of the rows counted from the last.
    fn place_from_right(&self, operand: &Operand) -> Option<usize> {
        operand.axis.map(|axis| self.rank(operand) - axis)
    }

    fn check_operands(&self, node: &Node, op: &Op, operands: &[Option<Operand>]) -> Checked {
        let operand = |index: usize| operands.get(index).copied().flatten();
        let Some(x) = operand(0) else { return fail("no operand") };
        let only_first = || match operands.iter().skip(1).flatten().any(|other| other.axis.is_some()) {
            true => fail("another operand than the first depends on the tokens"),
            false => Ok(()),
        };
        let apart = |axis: i64, what: &str| match (axis_of(axis, self.rank(&x)), x.axis) {
            (Some(axis), Some(rows)) if axis == rows => fail(format!("{what} over the tokens")),
            (Some(_), _) => Ok(()),
            (None, _) => fail("an axis out of range"),
        };
        match op {
            op if lathe_ir::Operation::Op(op.clone()).is_elementwise() => self.aligned(operands),
            Op::MatMul(_) => self.product(&x, &operand(1).ok_or("no operand")?),
            Op::Linear(_) => self.linear(operands),
            Op::LayerNorm(norm) => only_first().and(self.norm(&x, norm.axis)),
            Op::RmsNorm(norm) => only_first().and(self.norm(&x, norm.axis)),
            Op::Softmax(softmax) => apart(softmax.axis, "a softmax"),
            Op::ArgReduce(reduce) => apart(reduce.axis, "an extreme"),
            Op::TopK(top_k) => only_first().and(apart(top_k.axis, "the largest")),
            Op::Reduce(reduce) => {
                let axes = reduce.axes.clone().or_else(|| self.integers(node, 1));
                match axes {
                    Some(axes) if !axes.is_empty() => {
                        axes.iter().try_for_each(|&axis| apart(axis, "a reduction"))
                    }
                    Some(_) if reduce.noop_with_empty_axes => Ok(()),
                    _ => fail("a reduction over the tokens"),
                }
            }
            Op::CumSum(_) => match self.integers(node, 1).as_deref() {
                Some(&[axis]) => apart(axis, "a running sum"),
                _ => fail("a running sum along an unknown axis"),
            },
            Op::Gather(gather) if x.axis.is_some() => only_first().and(apart(gather.axis, "a choice")),
            Op::Gather(_) => Ok(()),
            // A whole index stands in the last axis.
            Op::GatherNd(gather) if gather.batch_dims == 0 && x.axis.is_none() => match operand(1) {
                Some(indices) if self.place_from_right(&indices) != Some(1) => Ok(()),
                _ => fail("an index that runs over the tokens"),
            },
            Op::ScatterNd(_) => self.scattered(operands),
            Op::GatherElements(gather) => self.alike(operands).and(apart(gather.axis, "a choice")),
            Op::ScatterElements(scatter) => self.alike(operands).and(apart(scatter.axis, "a choice")),
            Op::Concat(concat) => self.alike(operands).and(apart(concat.axis, "a concatenation")),
            Op::Tile(_) => only_first(),
            Op::Split(split) => only_first().and(apart(split.axis, "a split")),
            // As many tokens as before are the same tokens, unless a step turns them round.
            Op::Slice(_) => match self.integers(node, 4) {
                Some(steps) if steps.iter().all(|&step| step > 0) => only_first(),
                _ => fail("a slice with a negative or unknown step"),
            },
            Op::Transpose(_) | Op::Reshape(_) | Op::Squeeze(_) | Op::Unsqueeze(_) | Op::Expand(_) => {
                only_first()
            }
            Op::RotaryEmbedding(_) => self.rotary(operands),
            Op::Moe(_) => self.experts(operands),
            _ => fail(format!("`{}` is not known to keep tokens apart", op.name())),
        }
    }

    /// What the result's sizes must say beside that.
    fn check_result(
        &self,
        op: &Op,
        operands: &[Option<Operand>],
        value: ValueId,
        axis: Option<usize>,
    ) -> Checked {
        let Some(axis) = axis else { return fail("it mixes the tokens") };
        let Some(x) = operands.first().copied().flatten() else { return Ok(()) };
        let dims = &self.ty(value).dims;
        let before = &self.ty(x.value).dims;
        let product = |dims: &[Dim]| dims.iter().fold(Dim::constant(1), |product, dim| product.mul(dim));
        match (op, x.axis) {
            (Op::Reshape(_) | Op::Squeeze(_) | Op::Unsqueeze(_), Some(rows)) => {
                let kept = product(&dims[..axis]) == product(&before[..rows])
                    && product(&dims[axis + 1..]) == product(&before[rows + 1..]);
                if kept { Ok(()) } else { fail("a reshape that cuts the tokens in another way") }
            }
            (Op::Expand(_), Some(rows)) if dims.len() - axis != before.len() - rows => {
                fail("an expansion that moves the tokens")
            }
            (Op::Slice(_) | Op::Tile(_), Some(rows)) if axis != rows => fail("it moves the tokens"),
            _ => Ok(()),
        }
    }

    /// Broadcast operands: all rows at one place from the right, everything else the same for each row.
    fn aligned(&self, operands: &[Option<Operand>]) -> Checked {
        let mut place = None;
        for operand in operands.iter().flatten() {
            if let Some(right) = self.place_from_right(operand)
                && *place.get_or_insert(right) != right
            {
                return fail("it relates tokens to tokens, and is no attention");
            }
        }
        let Some(place) = place else { return Ok(()) };
        for operand in operands.iter().flatten().filter(|operand| operand.axis.is_none()) {
            let dims = &self.ty(operand.value).dims;
            let size = dims.len().checked_sub(place).and_then(|axis| dims.get(axis));
            if size.is_some_and(|size| size.as_constant() != Some(1)) {
                return fail("a table with one element a token is used without positions");
            }
        }
        Ok(())
    }

    /// All operands are rows along one axis.
    fn alike(&self, operands: &[Option<Operand>]) -> Checked {
        let mut axes = operands.iter().flatten().map(|operand| operand.axis);
        let first = axes.next().flatten();
        match first.is_some() && axes.all(|axis| axis == first) {
            true => Ok(()),
            false => fail("it joins what depends on the tokens with what does not"),
        }
    }

    fn product(&self, a: &Operand, b: &Operand) -> Checked {
        if self.rank(a) < 2 || self.rank(b) < 2 {
            return fail("a product of vectors");
        }
        match (self.place_from_right(a), self.place_from_right(b)) {
            (Some(1), _) | (_, Some(2)) => fail("a product that sums over the tokens"),
            (Some(2), None) | (None, Some(1)) => Ok(()),
            _ => self.aligned(&[Some(*a), Some(*b)]),
        }
    }

    fn linear(&self, operands: &[Option<Operand>]) -> Checked {
        let [Some(x), Some(w), rest @ ..] = operands else { return fail("no operand") };
        let bias = rest.first().copied().flatten();
        if w.axis.is_some() || bias.is_some_and(|bias| bias.axis.is_some()) {
            return fail("weights that depend on the tokens");
        }
        if self.place_from_right(x) == Some(1) || x.axis.is_none() {
            return fail("a product that sums over the tokens");
        }
        match rest.get(1).copied().flatten() {
            Some(residual) => self.aligned(&[Some(*x), Some(residual)]),
            None => Ok(()),
        }
    }

    fn norm(&self, x: &Operand, axis: i64) -> Checked {
        match (axis_of(axis, self.rank(x)), x.axis) {
            (Some(first), Some(rows)) if rows < first => Ok(()),
            _ => fail("a norm over the tokens"),
        }
    }

    /// Slices at constant places of axes before that of the tokens are replaced by slices of the same tokens.
    fn scattered(&self, operands: &[Option<Operand>]) -> Checked {
        let [Some(x), Some(indices), Some(updates)] = operands else { return fail("no operand") };
        let depth = self.ty(indices.value).dims.last().and_then(Dim::as_constant);
        let depth = depth.and_then(|depth| usize::try_from(depth).ok());
        let places = self.rank(indices).checked_sub(1);
        let (Some(depth), Some(places), None, Some(axis)) = (depth, places, indices.axis, x.axis) else {
            return fail("what is replaced depends on the tokens");
        };
        match axis.checked_sub(depth) {
            Some(rest) if updates.axis == Some(places + rest) => Ok(()),
            _ => fail("tokens are replaced by others"),
        }
    }

    /// Each token is routed on its own.
    fn experts(&self, operands: &[Option<Operand>]) -> Checked {
        let [x, logits, weights @ ..] = operands else { return fail("no operand") };
        if weights.iter().flatten().any(|operand| operand.axis.is_some()) {
            return fail("experts that depend on the tokens");
        }
        match x.filter(|x| self.place_from_right(x) != Some(1)) {
            Some(_) => self.alike(&[*x, *logits]),
            None => fail("a product that sums over the tokens"),
        }
    }

    /// `x`, its tables and the positions are of the same rows.
    fn rotary(&self, operands: &[Option<Operand>]) -> Checked {
        let [Some(x), Some(cos), Some(sin), rest @ ..] = operands else { return fail("no operand") };
        let rows = self.rank(x).checked_sub(2);
        let x_rows = x.axis.is_some() && (x.axis == rows || self.rank(x) == 3 && x.axis == Some(1));
        let positions = rest.first().copied().flatten();
        let tables = [cos.axis, sin.axis];
        let fits = match positions {
            Some(positions) => positions.axis == Some(1) && tables == [None, None],
            None => tables == [Some(1), Some(1)],
        };
        if x_rows && fits { Ok(()) } else { fail("a rotation whose tables do not follow the tokens") }
    }

    /// The elements of an operand that are the same whatever the sizes.
    fn integers(&self, node: &Node, index: usize) -> Option<Vec<i64>> {
        let operand = node.inputs.get(index).copied().flatten()?;
        self.known(operand)?.iter().map(Dim::as_constant).collect()
    }
}

/// An op as it is applied to one token a step: tokens compete for the capacity of experts within a step alone, as they do in the
/// cached generation of transformers, and the only token of a step always finds room. So a token's answer does not depend on what else
/// is computed with it.
fn in_steps(op: &Op) -> Op {
    match op {
        Op::Moe(moe) => Op::Moe(lathe_ops::moe::Moe { capacity: None, ..moe.clone() }),
        op => op.clone(),
    }
}

/// Whether an operand of an op is a shape, or begins and ends: what may name the number of rows.
fn is_shape(op: &Op, index: usize) -> bool {
    match op {
        Op::Reshape(_) | Op::Expand(_) | Op::Split(_) | Op::Tile(_) => index == 1,
        Op::Slice(_) => (1..=4).contains(&index),
        Op::ConstantOfShape(_) => index == 0,
        _ => false,
    }
}
