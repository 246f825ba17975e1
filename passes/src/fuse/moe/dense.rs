//! Every expert computed for every token, weighed by what is zero but for the chosen ones.
//!
//! One after another: `sum over e of weight_e * expert_e(x)`; or all at once, as products of stacks of matrices:
//! `reduce over e (weight[e, t] * (act(x w_in[e]) w_out[e]))`. The weights are scattered to the chosen experts, or are sums of ones at them times
//! their weights. Zero times an answer is zero wherever the answer is finite.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Binary;
use lathe_ops::gather::Reduction;
use lathe_ops::reduce::ReduceKind;

use super::choice::{Choice, Row, chosen, index_of, number, origin, place};
use super::expert::{self, Expert};
use super::experts::{Experts, Weight};
use super::rows::tokens;
use super::stacked::{self, Stacked};
use super::walk::{binary, splat};
use crate::Context;
use crate::context::dims_equal;
use crate::mask::Reader;

/// Experts of one sum.
const MOST: usize = 1024;

/// Weights by choice.
#[derive(Clone, PartialEq)]
struct Selected {
    choice: Choice,
    weights: ValueId,
    slots: usize,
}

/// What a token's coordinates are: a reader at them, and the token's place in the order of all.
struct Tokens<'a> {
    context: Context<'a>,
    dims: Vec<Dim>,
    lead: usize,
}

impl<'a> Tokens<'a> {
    /// Coordinates of the tokens, then of axes of the sizes `more`.
    fn new(context: Context<'a>, lead: &[Dim], more: &[Dim]) -> Option<Self> {
        let dims: Vec<Dim> = lead.iter().chain(more).cloned().collect();
        // One more for the choices of a token.
        (dims.len() < 5).then_some(Self { context, dims, lead: lead.len() })
    }

    fn reader(&self, more: &[Dim]) -> Reader<'a> {
        Reader::new(self.context, &self.dims.iter().chain(more).cloned().collect::<Vec<_>>())
    }

    /// The place of the token in their order.
    fn flat(&self, reader: &Reader<'_>) -> Dim {
        let space = &reader.space;
        (0..self.lead)
            .fold(Dim::constant(0), |flat, axis| flat.mul(&space.size(axis)).add(&space.coordinate(axis)))
    }

    /// The index of the token along the leading axes of a value, which are those of the tokens, or one for all.
    fn index(&self, reader: &Reader<'_>, axes: usize) -> Option<Vec<Dim>> {
        match axes {
            axes if axes == self.lead => Some((0..axes).map(|axis| reader.space.coordinate(axis)).collect()),
            1 => Some(vec![self.flat(reader)]),
            _ => None,
        }
    }

    /// The choice behind a weight at an index.
    fn selected(&self, value: ValueId, index: Vec<Dim>) -> Option<Selected> {
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
                let x = input(0)?;
                let &[axis] = reduce.axes.as_deref()? else { return None };
                let dims = &self.context.ty(x).dims;
                let axis = usize::try_from(if axis < 0 { axis + dims.len() as i64 } else { axis }).ok()?;
                let deeper = self.reader(std::slice::from_ref(dims.get(axis)?));
                let slot = deeper.space.coordinate(self.dims.len());
                let mut at = index;
                match reduce.keep_dims {
                    true => *at.get_mut(axis)? = slot,
                    false => at.insert(axis, slot),
                }
                self.product(&deeper, x, at, &dims[axis])
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
        let wanted = self.flat(reader).scale(slots as i64).add(&reader.space.coordinate(self.dims.len()));
        let (weights, at) = origin(reader, weight, at);
        (choice.at == wanted && place(reader, weights, &at) == wanted).then_some(Selected {
            choice: Choice { at: Dim::constant(0), ..choice },
            weights,
            slots,
        })
    }
}

/// `None` where a sum is not one of weighed experts.
pub(super) fn find_sum(context: Context<'_>, output: ValueId) -> Option<Result<Experts, String>> {
    binary(context, output, Binary::Add)?;
    let terms = terms(context, output)?;
    let goes_on = context.body().users(output).iter().any(|user| {
        let result = context.body().node(*user).and_then(|node| node.outputs.first());
        result.is_some_and(|result| {
            binary(context, *result, Binary::Add).is_some() && self::terms(context, *result).is_some()
        })
    });
    if goes_on {
        return None;
    }
    Some(joined(context, terms))
}

/// An expert, its answer, and what weighs it.
type Weighed = (Expert, ValueId, ValueId);

fn terms(context: Context<'_>, output: ValueId) -> Option<Vec<Weighed>> {
    let (mut found, mut queue) = (Vec::new(), vec![output]);
    while let Some(value) = queue.pop() {
        if let Some((a, b)) = binary(context, value, Binary::Add) {
            queue.extend([b, a]);
        } else if splat(context, value) != Some(0.0) {
            found.push(weighed(context, value)?);
        }
        if found.len() > MOST || queue.len() > MOST {
            return None;
        }
    }
    (found.len() > 1).then_some(found)
}

fn weighed(context: Context<'_>, value: ValueId) -> Option<Weighed> {
    let (a, b) = binary(context, value, Binary::Mul)?;
    [(a, b), (b, a)].into_iter().find_map(|(answer, factor)| {
        let found = expert::find(context, answer)?.ok()?;
        let (wide, narrow) = (&context.ty(answer).dims, &context.ty(factor).dims);
        let one_each = wide.len() == narrow.len() && narrow.last()?.as_constant() == Some(1);
        one_each.then_some((found, answer, factor))
    })
}

fn joined(context: Context<'_>, terms: Vec<Weighed>) -> Result<Experts, String> {
    let (first, answer, _) = terms.first().ok_or("there are no experts")?;
    let (x, axes) = (first.x, context.ty(*answer).rank() - 1);
    let fine = tokens(context, x);
    let lead = &context.ty(fine).dims[..context.ty(fine).rank() - 1];
    let at = Tokens::new(context, lead, &[]).ok_or("tokens with more than four axes")?;
    let mut placed: Vec<(i64, &Expert)> = Vec::new();
    let mut common: Option<Selected> = None;
    for (expert, answer, factor) in &terms {
        let rows = |value: ValueId| &context.ty(value).dims[..context.ty(value).rank() - 1];
        if expert.x != x || !dims_equal(rows(*answer), rows(x)) {
            return Err("the experts take different tokens".into());
        }
        let mut index =
            at.index(&at.reader(&[]), axes).ok_or("the tokens have axes that are not understood")?;
        index.push(Dim::constant(0));
        let found =
            at.selected(*factor, index).ok_or("what weighs an expert is not a weight of the choice")?;
        let number = found.choice.expert.as_constant().ok_or("an expert's number is not a constant")?;
        let found = Selected { choice: Choice { expert: Dim::constant(0), ..found.choice }, ..found };
        if common.as_ref().is_some_and(|common| *common != found) {
            return Err("the experts are chosen or weighed differently".into());
        }
        common = Some(found);
        placed.push((number, expert));
    }
    let common = common.map(|common| (common.choice, common.weights, common.slots));
    Experts::in_order(context, fine, placed, common)
}

/// `None` where a sum is not over a stack of experts.
pub(super) fn find_stack(context: Context<'_>, output: ValueId) -> Option<Result<Experts, String>> {
    let (_, node, Op::Reduce(reduce)) = context.producer(output)? else { return None };
    let (x, &[axis]) = ((*node.inputs.first()?)?, reduce.axes.as_deref()?) else { return None };
    let axis = usize::try_from(if axis < 0 { axis + context.ty(x).rank() as i64 } else { axis }).ok()?;
    if reduce.kind != ReduceKind::Sum || reduce.keep_dims || axis + 1 >= context.ty(x).rank() {
        return None;
    }
    let found = stacked::find(context, x)?;
    Some(found.and_then(|found| of_stack(context, output, (x, axis), found)))
}

fn of_stack(
    context: Context<'_>,
    output: ValueId,
    (terms, axis): (ValueId, usize),
    found: Stacked,
) -> Result<Experts, String> {
    let width = |value: ValueId| context.ty(value).dims.last().cloned().unwrap_or(Dim::constant(1));
    let lead = &context.ty(found.x).dims[..context.ty(found.x).rank() - 1];
    let count = Dim::constant(found.count as i64);
    let of =
        |columns: Dim| Tokens::new(context, lead, &[count.clone(), columns]).ok_or("tokens of many axes");
    // The tokens themselves, and then the answers, stand where the sum takes them.
    let at = of(width(found.x))?;
    let reader = at.reader(&[]);
    let (expert, column) = (reader.space.coordinate(at.lead), reader.space.coordinate(at.lead + 1));
    let flat = at.flat(&reader);
    let mut taken: Vec<Dim> = vec![expert.clone(), flat.clone(), column.clone()];
    let dims = &context.ty(found.operand).dims;
    taken.drain(..3 - dims.len().min(3));
    if dims.len() == 3 && dims[0].as_constant() == Some(1) {
        taken[0] = Dim::constant(0);
    }
    let mut own = at.index(&reader, at.lead).ok_or("tokens of no axis")?;
    own.push(column);
    if origin(&reader, found.operand, taken) != origin(&reader, found.x, own) {
        return Err("the tokens are not those of every expert".into());
    }
    let at = of(width(found.answers))?;
    let reader = at.reader(&[]);
    let column = reader.space.coordinate(at.lead + 1);
    let rank = context.ty(output).rank();
    let mut index = at.index(&reader, rank - 1).ok_or("the answers have axes that are not understood")?;
    index.push(column.clone());
    index.insert(axis, expert.clone());
    let (product, index) = origin(&reader, terms, index);
    let (Some((a, b)), Some(answer)) = (binary(context, product, Binary::Mul), Some(found.answers)) else {
        return Err("the answers are not weighed".into());
    };
    let side = |value: ValueId| {
        let at = reader.operand_index(value, product, &index)?;
        Some(origin(&reader, value, at))
    };
    let wanted = (answer, vec![expert.clone(), flat, column]);
    let factor = match (side(a), side(b)) {
        (Some(found), _) if found == wanted => b,
        (_, Some(found)) if found == wanted => a,
        _ => return Err("the answers are summed in another order than the tokens have".into()),
    };
    let place = reader.operand_index(factor, product, &index).ok_or("the weights do not broadcast")?;
    let selected =
        at.selected(factor, place).ok_or("what weighs the experts is not a weight of the choice")?;
    if selected.choice.expert != expert {
        return Err("the weights are those of other experts".into());
    }
    Ok(found.experts(selected.choice, selected.weights, selected.slots))
}

impl Stacked {
    fn experts(self, choice: Choice, weights: ValueId, slots: usize) -> Experts {
        Experts {
            x: self.x,
            w_in: self.w_in,
            w_out: Weight::Value(self.w_out),
            b_in: self.b_in,
            b_out: self.b_out,
            activation: self.activation,
            gate: self.gate,
            clamped: self.clamped,
            transposed: false,
            count: self.count,
            top_k: slots,
            capacity: choice.capacity,
            indices: choice.indices,
            weights,
            inner: self.products,
        }
    }
}
