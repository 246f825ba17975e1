//! Every expert computed for every token, weighed by what is zero but for the chosen ones.
//!
//! One after another: `sum over e of weight_e * expert_e(x)`; or all at once, as products of stacks of matrices:
//! `reduce over e (weight[e, t] * (act(x w_in[e]) w_out[e]))`. The weights are scattered to the chosen experts, or are sums of ones at them times
//! their weights. Zero times an answer is zero wherever the answer is finite.

use lathe_ir::{Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::Binary;
use lathe_ops::reduce::ReduceKind;

use super::choice::{Choice, origin};
use super::expert::{self, Expert};
use super::experts::{Experts, Weight};
use super::rows::tokens;
use super::stacked::{self, Stacked};
use super::walk::{binary, splat};
use super::weights::{Selected, Tokens};
use crate::Context;
use crate::context::dims_equal;
use crate::mask::Reader;

/// Experts of one sum.
const MOST: usize = 1024;

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

/// The same as a product: `weights [.., 1, experts] @ answers [.., experts, out]`, as an einsum has it.
pub(super) fn find_product(context: Context<'_>, output: ValueId) -> Option<Result<Experts, String>> {
    let (_, node, Op::MatMul(_)) = context.producer(output)? else { return None };
    let (weights, answers) = ((*node.inputs.first()?)?, (*node.inputs.get(1)?)?);
    let (a, b) = (&context.ty(weights).dims, &context.ty(answers).dims);
    let lead = a.len().checked_sub(2).filter(|lead| a.len() == b.len() && *lead > 0)?;
    (a[lead].as_constant() == Some(1) && dims_equal(&a[..lead], &b[..lead])).then_some(())?;
    let found = stacked::of_answers(context, answers)?;
    Some(found.and_then(|found| {
        let at = stack_tokens(context, &found, found.answers)?;
        let reader = at.reader(&[]);
        let (expert, column) = (reader.space.coordinate(at.lead), reader.space.coordinate(at.lead + 1));
        let place = at.place(&reader, &a[..lead]).ok_or("the answers have axes that are not understood")?;
        let index = |more: [Dim; 2]| place.iter().cloned().chain(more).collect::<Vec<Dim>>();
        let given = origin(&reader, answers, index([expert.clone(), column]));
        let weighed = (weights, index([Dim::constant(0), expert]));
        of_answers(context, found, (&at, &reader), given, weighed)
    }))
}

/// Coordinates of the tokens, of the experts, and of the columns of a value.
fn stack_tokens<'a>(context: Context<'a>, found: &Stacked, value: ValueId) -> Result<Tokens<'a>, String> {
    let lead = &context.ty(found.x).dims[..context.ty(found.x).rank() - 1];
    let columns = context.ty(value).dims.last().cloned().unwrap_or(Dim::constant(1));
    let more = [Dim::constant(found.count as i64), columns];
    Tokens::new(context, lead, &more).ok_or_else(|| "tokens of many axes".to_string())
}

/// That every expert takes the tokens, or those that it is sent by ones elsewhere zero: of which choice.
fn sent(context: Context<'_>, found: &Stacked) -> Result<Option<Choice>, String> {
    let at = stack_tokens(context, found, found.x)?;
    let reader = at.reader(&[]);
    let (expert, column) = (reader.space.coordinate(at.lead), reader.space.coordinate(at.lead + 1));
    let mut taken: Vec<Dim> = vec![expert.clone(), at.flat(&reader), column.clone()];
    let dims = &context.ty(found.operand).dims;
    taken.drain(..3 - dims.len().min(3));
    if dims.len() == 3 && dims[0].as_constant() == Some(1) {
        taken[0] = Dim::constant(0);
    }
    let mut own = at.index(&reader, at.lead).ok_or("tokens of no axis")?;
    own.push(column);
    let own = origin(&reader, found.x, own);
    let (operand, index) = origin(&reader, found.operand, taken);
    if (operand, &index) == (own.0, &own.1) {
        return Ok(None);
    }
    let other = || "the tokens are not those of every expert".to_string();
    let (a, b) = binary(context, operand, Binary::Mul).ok_or_else(other)?;
    let side = |value: ValueId| Some((value, reader.operand_index(value, operand, &index)?));
    let (a, b) = (side(a).ok_or_else(other)?, side(b).ok_or_else(other)?);
    let sent = [(&a, &b), (&b, &a)].into_iter().find_map(|(x, ones)| {
        (origin(&reader, x.0, x.1.clone()) == own).then_some(())?;
        at.ones(ones.0, ones.1.clone())
    });
    match sent.filter(|sent| sent.expert == expert) {
        Some(sent) => Ok(Some(Choice { expert: Dim::constant(0), ..sent })),
        None => Err("what the experts take is weighed: `moe` weighs answers alone".into()),
    }
}

/// The mixture of a stack whose answers at an index are weighed by another value at its own.
fn of_answers(
    context: Context<'_>,
    found: Stacked,
    (at, reader): (&Tokens<'_>, &Reader<'_>),
    given: (ValueId, Vec<Dim>),
    (weights, place): (ValueId, Vec<Dim>),
) -> Result<Experts, String> {
    let (expert, column) = (reader.space.coordinate(at.lead), reader.space.coordinate(at.lead + 1));
    if given != (found.answers, vec![expert.clone(), at.flat(reader), column]) {
        return Err("the answers are summed in another order than the tokens have".into());
    }
    let selected =
        at.selected(weights, place).ok_or("what weighs the experts is not a weight of the choice")?;
    if selected.choice.expert != expert {
        return Err("the weights are those of other experts".into());
    }
    let choice = Choice { expert: Dim::constant(0), ..selected.choice.clone() };
    if sent(context, &found)?.is_some_and(|sent| sent != choice) {
        return Err("tokens are sent to other experts than those that answer".into());
    }
    Ok(found.experts(selected.choice, selected.weights, selected.slots))
}

fn of_stack(
    context: Context<'_>,
    output: ValueId,
    (terms, axis): (ValueId, usize),
    found: Stacked,
) -> Result<Experts, String> {
    let at = stack_tokens(context, &found, found.answers)?;
    let reader = at.reader(&[]);
    let (expert, column) = (reader.space.coordinate(at.lead), reader.space.coordinate(at.lead + 1));
    let rank = context.ty(output).rank();
    let mut index = at.index(&reader, rank - 1).ok_or("the answers have axes that are not understood")?;
    index.push(column.clone());
    index.insert(axis, expert.clone());
    let (product, index) = origin(&reader, terms, index);
    let Some((a, b)) = binary(context, product, Binary::Mul) else {
        return Err("the answers are not weighed".into());
    };
    let side = |value: ValueId| {
        let at = reader.operand_index(value, product, &index)?;
        Some(origin(&reader, value, at))
    };
    let answers = |side: Option<(ValueId, Vec<Dim>)>| side.filter(|side| side.0 == found.answers);
    let (given, factor) = match (answers(side(a)), answers(side(b))) {
        (Some(given), _) => (given, b),
        (_, Some(given)) => (given, a),
        _ => return Err("the answers are summed in another order than the tokens have".into()),
    };
    let place = reader.operand_index(factor, product, &index).ok_or("the weights do not broadcast")?;
    of_answers(context, found, (&at, &reader), given, (factor, place))
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
