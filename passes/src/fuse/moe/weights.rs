//! The weight of an expert's answer for each token, and the experts that it is sent to: sums of ones at the chosen experts, or values
//! scattered to them.

use lathe_ir::{Answer, Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Compare};
use lathe_ops::gather::Reduction;
use lathe_ops::reduce::{Reduce, ReduceKind};
use lathe_tensor::DType;

use super::choice::{Choice, Row, chosen, index_of, number, origin, place};
use super::walk::splat;
use crate::Context;
use crate::context::dims_equal;
use crate::mask::Reader;

/// Weights by choice.
#[derive(Clone, PartialEq)]
pub(super) struct Selected {
    /// Of which the place is left out.
    pub choice: Choice,
    pub weights: ValueId,
    pub slots: usize,
}

/// What a token's coordinates are: a reader at them, and the token's place in the order of all.
pub(super) struct Tokens<'a> {
    context: Context<'a>,
    dims: Vec<Dim>,
    /// Axes of the tokens.
    pub lead: usize,
}

impl<'a> Tokens<'a> {
    /// Coordinates of the tokens, then of axes of the sizes `more`.
    pub fn new(context: Context<'a>, lead: &[Dim], more: &[Dim]) -> Option<Self> {
        let dims: Vec<Dim> = lead.iter().chain(more).cloned().collect();
        // One more for the choices of a token.
        (dims.len() < 5).then_some(Self { context, dims, lead: lead.len() })
    }

    pub fn reader(&self, more: &[Dim]) -> Reader<'a> {
        Reader::new(self.context, &self.dims.iter().chain(more).cloned().collect::<Vec<_>>())
    }

    /// The place of the token in their order.
    pub fn flat(&self, reader: &Reader<'_>) -> Dim {
        let space = &reader.space;
        (0..self.lead)
            .fold(Dim::constant(0), |flat, axis| flat.mul(&space.size(axis)).add(&space.coordinate(axis)))
    }

    /// The index of the token along the leading axes of a value, which are those of the tokens, or one for all.
    pub fn index(&self, reader: &Reader<'_>, axes: usize) -> Option<Vec<Dim>> {
        match axes {
            axes if axes == self.lead => Some((0..axes).map(|axis| reader.space.coordinate(axis)).collect()),
            1 => Some(vec![self.flat(reader)]),
            _ => None,
        }
    }

    /// The index of the token along the leading axes of a value of these sizes, which are those of the tokens, or one for all and others of
    /// one place.
    pub fn place(&self, reader: &Reader<'_>, sizes: &[Dim]) -> Option<Vec<Dim>> {
        if dims_equal(sizes, &self.dims[..self.lead]) {
            return self.index(reader, self.lead);
        }
        let (first, rest) = sizes.split_first()?;
        let alone = rest.iter().all(|size| size.as_constant() == Some(1));
        let all = Dim::product(&self.dims[..self.lead]);
        (alone && first.equals(&all) == Answer::Yes).then_some(())?;
        Some(std::iter::once(self.flat(reader)).chain(rest.iter().map(|_| Dim::constant(0))).collect())
    }

    /// The choice whose experts have a one at an index, whatever stands at others.
    pub fn ones(&self, value: ValueId, index: Vec<Dim>) -> Option<Choice> {
        let reader = self.reader(&[]);
        let (value, index) = origin(&reader, value, index);
        let (_, node, op) = self.context.producer(value)?;
        let input = |at: usize| node.inputs.get(at).copied().flatten();
        let follow = |x: ValueId| reader.operand_index(x, value, &index).map(|at| (x, at));
        match op {
            Op::Cast(_) => {
                let (x, at) = follow(input(0)?)?;
                self.ones(x, at.clone()).or_else(|| {
                    // What a weight is that is not zero.
                    let truth = self.context.ty(value).dtype == DType::Bool;
                    self.selected(x, at).filter(|_| truth).map(|found| found.choice)
                })
            }
            Op::Compare(Compare::Greater) if number(&reader, follow(input(1)?)?)? == 0.0 => {
                let (x, at) = follow(input(0)?)?;
                self.selected(x, at).map(|found| found.choice)
            }
            Op::ScatterElements(_) => {
                let one = splat(self.context, input(2)?)? == 1.0;
                let ones = self.selected(value, index).filter(|_| one)?;
                Some(ones.choice)
            }
            Op::Reduce(reduce) if matches!(reduce.kind, ReduceKind::Sum | ReduceKind::Max) => {
                let x = input(0)?;
                let (deeper, at, slots) = self.deeper(x, index, reduce)?;
                let choice = chosen(&deeper, x, &at, None, usize::MAX)?;
                let slots = usize::try_from(slots.as_constant()?).ok()?;
                (choice.at == self.slot(&deeper, slots)).then(|| Choice { at: Dim::constant(0), ..choice })
            }
            _ => None,
        }
    }

    /// The place of a token's choice at the last coordinate among all choices.
    fn slot(&self, reader: &Reader<'_>, slots: usize) -> Dim {
        self.flat(reader).scale(slots as i64).add(&reader.space.coordinate(self.dims.len()))
    }

    /// The operand of a reduction over the choices of a token: a reader with a coordinate for them, its index, and how many they are.
    fn deeper(&self, x: ValueId, index: Vec<Dim>, reduce: &Reduce) -> Option<(Reader<'a>, Vec<Dim>, Dim)> {
        let &[axis] = reduce.axes.as_deref()? else { return None };
        let dims = &self.context.ty(x).dims;
        let axis = usize::try_from(if axis < 0 { axis + dims.len() as i64 } else { axis }).ok()?;
        let slots = dims.get(axis)?;
        let deeper = self.reader(std::slice::from_ref(slots));
        let slot = deeper.space.coordinate(self.dims.len());
        let mut at = index;
        match reduce.keep_dims {
            true => *at.get_mut(axis)? = slot,
            false => at.insert(axis, slot),
        }
        Some((deeper, at, slots.clone()))
    }

    /// The choice behind a weight at an index.
    pub fn selected(&self, value: ValueId, index: Vec<Dim>) -> Option<Selected> {
        let reader = self.reader(&[]);
        let (value, index) = origin(&reader, value, index);
        let (_, node, op) = self.context.producer(value)?;
        let input = |at: usize| node.inputs.get(at).copied().flatten();
        let sizes = &self.context.ty(value).dims;
        match op {
            Op::ScatterElements(scatter) => {
                let (zeros, indices, updates) = (input(0)?, input(1)?, input(2)?);
                let last = sizes.len() - 1;
                let along = scatter.axis == -1 || scatter.axis == last as i64;
                let written = matches!(scatter.reduction, Reduction::Replace | Reduction::Add);
                (along && written && splat(self.context, zeros)? == 0.0).then_some(())?;
                // Rows of the indices are those of the result, all of them.
                let dims = &self.context.ty(indices).dims;
                dims_equal(&dims[..dims.len().checked_sub(1)?], &sizes[..last]).then_some(())?;
                let slots = dims.last()?;
                let deeper = self.reader(std::slice::from_ref(slots));
                let slot = deeper.space.coordinate(self.dims.len());
                let at = [&index[..last], std::slice::from_ref(&slot)].concat();
                let (indices, place_of) = index_of(&deeper, indices, at.clone(), 8)?;
                let expert = index.last()?.clone();
                let choice = Choice { indices, at: place_of, expert, capacity: None };
                self.ordered(&deeper, choice, (updates, at), slots)
            }
            Op::Reduce(reduce) if reduce.kind == ReduceKind::Sum => {
                let (deeper, at, slots) = self.deeper(input(0)?, index, reduce)?;
                self.product(&deeper, input(0)?, at, &slots)
            }
            _ => {
                let one = Dim::constant(1);
                let deeper = self.reader(std::slice::from_ref(&one));
                self.product(&deeper, value, index, &one)
            }
        }
    }

    /// `ones * weight`, or the weight where a choice is that of the expert.
    fn product(&self, reader: &Reader<'_>, value: ValueId, index: Vec<Dim>, slots: &Dim) -> Option<Selected> {
        let (value, index) = origin(reader, value, index);
        let (_, node, op) = self.context.producer(value)?;
        let operand = |at: usize| -> Option<(ValueId, Vec<Dim>)> {
            let x = node.inputs.get(at).copied().flatten()?;
            Some((x, reader.operand_index(x, value, &index)?))
        };
        let row: Option<Row> =
            self.lead.checked_sub(1).map(|axis| (reader.space.coordinate(axis), reader.space.size(axis)));
        let pairs = match op {
            Op::Binary(Binary::Mul) => {
                vec![(operand(0)?, operand(1)?), (operand(1)?, operand(0)?)]
            }
            Op::Where(_) if number(reader, operand(2)?)? == 0.0 => vec![(operand(0)?, operand(1)?)],
            _ => return None,
        };
        pairs.into_iter().find_map(|(ones, weight)| {
            let choice = chosen(reader, ones.0, &ones.1, row.as_ref(), usize::MAX)?;
            self.ordered(reader, choice, weight, slots)
        })
    }

    /// Checks that choice and weight stand where the token and its choice say.
    fn ordered(
        &self,
        reader: &Reader<'_>,
        choice: Choice,
        (weight, at): (ValueId, Vec<Dim>),
        slots: &Dim,
    ) -> Option<Selected> {
        let slots = usize::try_from(slots.as_constant()?).ok()?;
        let wanted = self.slot(reader, slots);
        let (weights, at) = origin(reader, weight, at);
        (choice.at == wanted && place(reader, weights, &at) == wanted).then_some(Selected {
            choice: Choice { at: Dim::constant(0), ..choice },
            weights,
            slots,
        })
    }
}
