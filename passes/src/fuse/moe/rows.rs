//! Experts one after another: each computes the tokens that chose it, and their answers are added where the tokens stand.
//!
//! `sum over e of scatter(rows where chosen_e; weight[rows] * expert_e(x[rows]))`, the rows named by the places where a mask is not zero.

use lathe_ir::{Answer, Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Compare};
use lathe_ops::gather::Reduction;

use super::choice::{Choice, Row, chosen, origin, place};
use super::expert::{self, Expert};
use super::experts::Experts;
use super::walk::{binary, flat, integers, splat};
use crate::Context;
use crate::mask::Reader;

/// Experts of one sum.
const MOST: usize = 1024;

/// A term of the sum: answers at rows.
struct Scattered {
    data: ValueId,
    index: ValueId,
    updates: ValueId,
}

/// Rows named by the places where a mask is not zero.
#[derive(Clone, Debug, PartialEq)]
struct Named {
    mask: ValueId,
    /// Which of its axes, in the order of the index.
    axes: Vec<usize>,
}

/// A term, read.
struct Term {
    expert: Expert,
    /// What the tokens are taken from: `[tokens, in]`, or with more axes before the last.
    x: ValueId,
    rows: Named,
    /// What weighs the answers, one a row.
    factor: ValueId,
}

/// `None` where the value is no sum over experts, or one that goes on.
pub(super) fn find(context: Context<'_>, output: ValueId) -> Option<Result<Experts, String>> {
    if !matches!(
        context.producer(output)?.2,
        Op::ScatterElements(_) | Op::ScatterNd(_) | Op::Binary(Binary::Add)
    ) {
        return None;
    }
    let terms = terms(context, output).filter(|terms| !terms.is_empty())?;
    if goes_on(context, output) {
        return None;
    }
    let read: Option<Vec<Result<Term, String>>> = terms.iter().map(|term| read(context, term)).collect();
    Some(read?.into_iter().collect::<Result<Vec<Term>, String>>().and_then(|terms| joined(context, &terms)))
}

/// The terms of a sum that begins with zeros.
fn terms(context: Context<'_>, output: ValueId) -> Option<Vec<Scattered>> {
    let mut found = Vec::new();
    let mut queue = vec![output];
    while let Some(value) = queue.pop() {
        if let Some((a, b)) = binary(context, value, Binary::Add) {
            queue.extend([b, a]);
        } else if let Some((data, term, adds)) = scattered(context, value) {
            match splat(context, data) == Some(0.0) {
                true => {}
                false if adds => queue.push(data),
                false => return None,
            }
            found.push(term);
        } else if splat(context, value) != Some(0.0) {
            return None;
        }
        if found.len() > MOST || queue.len() > MOST {
            return None;
        }
    }
    Some(found)
}

/// What rows are scattered to, the rows, and whether they are added.
fn scattered(context: Context<'_>, value: ValueId) -> Option<(ValueId, Scattered, bool)> {
    let (_, node, op) = context.producer(value)?;
    let [Some(data), Some(index), Some(updates)] = node.inputs[..] else { return None };
    let reduction = match op {
        Op::ScatterElements(scatter)
            if matches!(scatter.axis, 0) || scatter.axis == -(context.ty(data).rank() as i64) =>
        {
            scatter.reduction
        }
        Op::ScatterNd(scatter) => scatter.reduction,
        _ => return None,
    };
    match reduction {
        Reduction::Add => Some((data, Scattered { data, index, updates }, true)),
        Reduction::Replace => {
            // `x[rows] = x[rows] + updates`, of rows that are all different.
            let sum = binary(context, updates, Binary::Add).and_then(|(a, b)| {
                [(a, b), (b, a)].into_iter().find_map(|(old, new)| {
                    let (_, node, Op::Gather(_) | Op::GatherNd(_)) = context.producer(old)? else {
                        return None;
                    };
                    let same = node.inputs.first() == Some(&Some(data))
                        && named(context, (*node.inputs.get(1)?)?) == named(context, index);
                    (same && named(context, index).is_some()).then_some(new)
                })
            });
            match sum {
                Some(updates) => Some((data, Scattered { data, index, updates }, true)),
                None => Some((data, Scattered { data, index, updates }, false)),
            }
        }
        _ => None,
    }
}

/// Whether a sum is a part of a larger one.
fn goes_on(context: Context<'_>, output: ValueId) -> bool {
    context.body().users(output).iter().any(|user| {
        let Some(result) = context.body().node(*user).and_then(|node| node.outputs.first()) else {
            return false;
        };
        let adds = match binary(context, *result, Binary::Add) {
            Some(_) => true,
            None => scattered(context, *result).is_some_and(|(data, _, adds)| data == output && adds),
        };
        adds && terms(context, *result).is_some()
    })
}

fn read(context: Context<'_>, term: &Scattered) -> Option<Result<Term, String>> {
    let updates = unexpanded(context, term);
    let (a, b) = binary(context, updates, Binary::Mul)?;
    let (found, answer, factor) = match (expert::find(context, a), expert::find(context, b)) {
        (Some(found), _) => (found, a, b),
        (None, Some(found)) => (found, b, a),
        (None, None) => return None,
    };
    let checked = || -> Result<Term, String> {
        let expert = found?;
        let factor_dims = &context.ty(factor).dims;
        let one_each = factor_dims.len() == context.ty(answer).rank()
            && factor_dims.last().and_then(Dim::as_constant) == Some(1)
            && context.ty(answer).rank() == 2;
        if !one_each {
            return Err("the answers are not scaled by one weight each".into());
        }
        let (x, rows) =
            taken(context, expert.x).ok_or("the tokens of an expert are not gathered by a mask")?;
        if named(context, term.index).as_ref() != Some(&rows) {
            return Err("answers are added to other rows than their tokens".into());
        }
        Ok(Term { expert, x, rows, factor })
    };
    Some(checked())
}

/// The updates before an expand that repeats nothing: its other sizes are their own, or 1 where there is a row to write to.
fn unexpanded(context: Context<'_>, term: &Scattered) -> ValueId {
    let value = term.updates;
    let Some((_, node, Op::Expand(_))) = context.producer(value) else { return value };
    let [Some(x), Some(shape)] = node.inputs[..] else { return value };
    let (Some(known), dims) = (&context.body().value(shape).known, &context.ty(x).dims) else { return value };
    let rows = context.ty(term.data).dims.first();
    let one = Dim::constant(1);
    let keeps =
        |(to, from): (&Dim, &Dim)| to == from || *to == one || rows.is_some_and(|rows| *to == rows.min(&one));
    let same = known.len() == dims.len() && known.iter().zip(dims).all(keeps);
    if same { x } else { value }
}

/// What rows are taken from, and which.
fn taken(context: Context<'_>, value: ValueId) -> Option<(ValueId, Named)> {
    let value = flat(context, value);
    let (_, node, op) = context.producer(value)?;
    let (data, index) = ((*node.inputs.first()?)?, (*node.inputs.get(1)?)?);
    let (dims, rows) = (&context.ty(data).dims, named(context, index)?);
    let tokens = match op {
        Op::Gather(gather) => {
            let axis = if gather.axis < 0 { gather.axis + dims.len() as i64 } else { gather.axis };
            let before = dims.iter().take(usize::try_from(axis).ok()?);
            (axis + 2 == dims.len() as i64
                && before.clone().all(|dim| dim.as_constant() == Some(1))
                && rows.axes.len() == 1)
                .then_some(data)?
        }
        Op::GatherNd(gather) if gather.batch_dims == 0 && rows.axes.len() + 1 == dims.len() => data,
        _ => return None,
    };
    Some((tokens, rows))
}

/// The mask whose places an index names.
fn named(context: Context<'_>, index: ValueId) -> Option<Named> {
    if let Some((mask, axis)) = column(context, index) {
        return Some(Named { mask, axes: vec![axis] });
    }
    let index = unwrapped(context, index);
    let (_, node, op) = context.producer(index)?;
    match op {
        Op::Transpose(_) => {
            let mask = all_places(context, index, 1)?;
            Some(Named { mask, axes: (0..context.ty(mask).rank()).collect() })
        }
        Op::Concat(concat) if concat.axis == -1 || concat.axis == 1 => {
            let columns: Vec<(ValueId, usize)> =
                node.inputs.iter().map(|input| column(context, (*input)?)).collect::<Option<_>>()?;
            let mask = columns.first()?.0;
            let axes = columns.iter().map(|(_, axis)| *axis).collect();
            let fits = columns.iter().all(|column| column.0 == mask) && context.ty(index).rank() == 2;
            fits.then_some(Named { mask, axes })
        }
        _ => None,
    }
}

/// The mask and its axis whose coordinates a list holds.
fn column(context: Context<'_>, value: ValueId) -> Option<(ValueId, usize)> {
    let value = unwrapped(context, value);
    // One axis is a list, with axes of one place around it; a whole table of places is none.
    let others = context.ty(value).dims.iter().filter(|dim| dim.as_constant() != Some(1)).count();
    (others <= 1).then_some(())?;
    let value = stripped(context, value);
    let (_, node, op) = context.producer(value)?;
    let x = (*node.inputs.first()?)?;
    let axis_of =
        |axis: i64| usize::try_from(if axis < 0 { axis + context.ty(x).rank() as i64 } else { axis }).ok();
    let (axis, at) = match op {
        Op::NonZero(_) => return (context.ty(x).rank() == 1).then_some((x, 0)),
        Op::Transpose(_) => {
            let mask = all_places(context, value, 1)?;
            return (context.ty(mask).rank() == 1).then_some((mask, 0));
        }
        Op::Split(split) => {
            let axis = axis_of(split.axis)?;
            let single =
                |output: &ValueId| context.ty(*output).dims.get(axis).and_then(Dim::as_constant) == Some(1);
            node.outputs.iter().all(single).then_some(())?;
            (axis, node.outputs.iter().position(|output| *output == value)? as i64)
        }
        Op::Gather(gather) => {
            let &[at] = &integers(context, (*node.inputs.get(1)?)?)?[..] else { return None };
            (axis_of(gather.axis)?, at)
        }
        Op::Slice(_) => {
            let list = |place: usize| integers(context, (*node.inputs.get(place)?)?);
            let (&[start], &[axis], &[1]) = (&list(1)?[..], &list(3)?[..], &list(4)?[..]) else {
                return None;
            };
            let axis = axis_of(axis)?;
            (context.ty(value).dims.get(axis)?.as_constant() == Some(1)).then_some(())?;
            (axis, start)
        }
        _ => return None,
    };
    let mask = all_places(context, x, axis)?;
    let rank = context.ty(mask).rank();
    let at = if at < 0 { at + rank as i64 } else { at };
    usize::try_from(at).ok().filter(|at| *at < rank).map(|at| (mask, at))
}

/// The mask whose places a table holds, their coordinates along `axis`.
fn all_places(context: Context<'_>, value: ValueId, axis: usize) -> Option<ValueId> {
    let (_, node, op) = context.producer(value)?;
    let x = (*node.inputs.first()?)?;
    match (op, axis) {
        (Op::NonZero(_), 0) => Some(x),
        (Op::Transpose(transpose), 1) if transpose.perm == [1, 0] => all_places(context, x, 0),
        _ => None,
    }
}

/// Behind what keeps the elements: other shapes, columns that repeat them, integers of another width.
fn stripped(context: Context<'_>, mut value: ValueId) -> ValueId {
    loop {
        let before = value;
        value = unwrapped(context, flat(context, value));
        if value == before {
            return value;
        }
    }
}

/// Behind what an exporter does to an index: repeats it for each column, casts it, counts from the end what is never negative.
fn unwrapped(context: Context<'_>, value: ValueId) -> ValueId {
    let Some((_, node, op)) = context.producer(value) else { return value };
    let operand = |at: usize| node.inputs.get(at).copied().flatten();
    let inner = match op {
        Op::Cast(cast) if !cast.to.is_float() => operand(0),
        Op::Expand(_) => operand(0).filter(|x| {
            let dims = &context.ty(*x).dims;
            dims.len() == 2 && dims[1].as_constant() == Some(1) && context.ty(value).rank() == 2
        }),
        Op::Where(_) => operand(2).filter(|x| {
            let below = operand(0).and_then(|below| context.producer(below));
            let Some((_, below, Op::Compare(Compare::Less))) = below else { return false };
            below.inputs.first() == Some(&Some(*x))
                && below.inputs.get(1).copied().flatten().and_then(|zero| context.scalar(zero)) == Some(0.0)
        }),
        _ => None,
    };
    inner.map_or(value, |inner| unwrapped(context, inner))
}

/// All terms as one mixture.
fn joined(context: Context<'_>, terms: &[Term]) -> Result<Experts, String> {
    let first = terms.first().ok_or("there are no experts")?;
    let mut placed: Vec<(i64, &Expert)> = Vec::new();
    let mut common: Option<(Choice, ValueId, usize)> = None;
    for term in terms {
        if term.x != first.x {
            return Err("the experts take different tokens".into());
        }
        let (choice, weights, slots) = routed(context, term)?;
        let expert = choice.expert.as_constant().ok_or("an expert's number is not a constant")?;
        let choice = Choice { expert: Dim::constant(0), ..choice };
        match &common {
            Some(common) if *common != (choice.clone(), weights, slots) => {
                return Err("the experts are chosen or weighed differently".into());
            }
            _ => common = Some((choice, weights, slots)),
        }
        placed.push((expert, &term.expert));
    }
    Experts::in_order(context, tokens(context, first.x), placed, common)
}

/// The tokens with as many axes as they had before they were put in one.
pub(super) fn tokens(context: Context<'_>, mut value: ValueId) -> ValueId {
    let width = context.ty(value).dims.last().cloned();
    while let Some((_, node, Op::Reshape(_) | Op::Squeeze(_) | Op::Unsqueeze(_))) = context.producer(value) {
        match node.inputs.first() {
            Some(Some(x)) if context.ty(*x).rank() > 1 && context.ty(*x).dims.last() == width.as_ref() => {
                value = *x
            }
            _ => break,
        }
    }
    value
}

/// By which choice and by which weights a term takes its rows, and how many a token has.
fn routed(context: Context<'_>, term: &Term) -> Result<(Choice, ValueId, usize), String> {
    let mask = &context.ty(term.rows.mask).dims;
    let slot_axis = (0..mask.len()).find(|axis| !term.rows.axes.contains(axis));
    if mask.len() > term.rows.axes.len() + 1 {
        return Err("a mask of rows has more axes than tokens and their choices".into());
    }
    let slots = slot_axis.map_or(Some(1), |axis| mask[axis].as_constant());
    let slots = slots.and_then(|slots| usize::try_from(slots).ok()).ok_or("an unknown number of choices")?;
    let x = tokens(context, term.x);
    let lead = &context.ty(x).dims[..context.ty(x).rank() - 1];
    let dims: Vec<Dim> = lead.iter().cloned().chain([Dim::constant(slots as i64)]).collect();
    if dims.len() > 5 {
        return Err("tokens with more than four axes".into());
    }
    let reader = Reader::new(context, &dims);
    let space = &reader.space;
    let (coordinate, slot) = (|axis: usize| space.coordinate(axis), space.coordinate(lead.len()));
    let token = (0..lead.len())
        .fold(Dim::constant(0), |flat, axis| flat.mul(&space.size(axis)).add(&coordinate(axis)));
    let along = |axis: usize| match term.rows.axes.iter().position(|named| *named == axis) {
        None => slot.clone(),
        Some(_) if term.rows.axes.len() == 1 => token.clone(),
        Some(named) => coordinate(named),
    };
    if term.rows.axes.len() > 1 && term.rows.axes.len() != lead.len() {
        return Err("rows are named by other axes than the tokens have".into());
    }
    let at: Vec<Dim> = (0..mask.len()).map(along).collect();
    let row: Option<Row> = lead.len().checked_sub(1).map(|axis| (coordinate(axis), space.size(axis)));
    let choice = chosen(&reader, term.rows.mask, &at, row.as_ref(), usize::MAX);
    let choice = choice.ok_or("the rows of an expert are not those that chose it")?;
    let wanted = token.scale(slots as i64).add(&slot);
    if choice.at != wanted {
        return Err("the choices are not in the order of the tokens".into());
    }
    let weights = weighed(&reader, term, &along, &wanted);
    let weights = weights.ok_or("the weights of an expert's answers are not those of the choice")?;
    let all = Dim::product(lead).scale(slots as i64);
    if [weights, choice.indices]
        .iter()
        .any(|value| Dim::product(&context.ty(*value).dims).equals(&all) != Answer::Yes)
    {
        return Err("there are not as many weights as choices".into());
    }
    Ok((choice, weights, slots))
}

/// The weights whose element at a token and a choice is the factor of an answer.
fn weighed(reader: &Reader<'_>, term: &Term, along: &dyn Fn(usize) -> Dim, wanted: &Dim) -> Option<ValueId> {
    let context = reader.context;
    let factor = flat(context, term.factor);
    let (_, node, op) = context.producer(factor)?;
    let (data, index) = ((*node.inputs.first()?)?, (*node.inputs.get(1)?)?);
    let rank = context.ty(data).rank();
    let mut at = match op {
        Op::Gather(gather) if gather.axis == 0 => vec![place_of(context, index, &term.rows.mask, along)?],
        Op::GatherNd(gather) if gather.batch_dims == 0 => {
            let rows = named(context, index).filter(|rows| rows.mask == term.rows.mask)?;
            rows.axes.iter().map(|axis| along(*axis)).collect()
        }
        _ => return None,
    };
    let rest = context.ty(data).dims.get(at.len()..)?;
    rest.iter().all(|dim| dim.as_constant() == Some(1)).then_some(())?;
    at.resize(rank, Dim::constant(0));
    let (weights, at) = origin(reader, data, at);
    (place(reader, weights, &at) == *wanted).then_some(weights)
}

/// The place that a sum of coordinates, each times a constant, counts to.
fn place_of(
    context: Context<'_>,
    index: ValueId,
    mask: &ValueId,
    along: &dyn Fn(usize) -> Dim,
) -> Option<Dim> {
    let index = stripped(context, index);
    if let Some((of, axis)) = column(context, index) {
        return (of == *mask).then(|| along(axis));
    }
    if let Some((a, b)) = binary(context, index, Binary::Add) {
        return Some(place_of(context, a, mask, along)?.add(&place_of(context, b, mask, along)?));
    }
    let (a, b) = binary(context, index, Binary::Mul)?;
    [(a, b), (b, a)].into_iter().find_map(|(x, by)| {
        let &[by] = &integers(context, by)?[..] else { return None };
        Some(place_of(context, x, mask, along)?.scale(by))
    })
}
