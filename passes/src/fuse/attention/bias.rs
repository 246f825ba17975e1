//! What is added to the scores: masks become facts, ALiBi becomes slopes, the rest stays.

use lathe_ir::{Answer, Dim, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::attention::Attention;
use lathe_ops::elementwise::{Binary, Cast, Compare, Unary, Where};
use lathe_ops::shape::{Expand, Reshape, Slice, Transpose};
use lathe_tensor::{DType, Tensor};

use super::alibi::{self, Alibi};
use super::score::{Scores, Step};
use crate::mask::{
    Cell, Formula, HIDING, HIDING_BESIDE_OTHERS, Padding, Reader, UNDERFLOW, Visibility, full_up_to,
};
use crate::{Rewrite, Term};

/// Added where a key is hidden, for a bool mask that must become numbers.
const HIDDEN: f32 = f32::MIN;

/// A term that stays: a value that is added, or a bool that hides where it is false (or true).
#[derive(Clone)]
pub(super) enum Left {
    /// A float at this index of the cells' coordinates, times a factor.
    Added { value: ValueId, index: Vec<Dim>, factor: f64 },
    /// A bool.
    Hides { condition: ValueId, index: Vec<Dim>, hidden_if: bool },
    /// A float of which this is so up to a number of keys; with more it is one number a row.
    UpTo { value: ValueId, index: Vec<Dim>, limit: i64, factor: f64 },
}

/// All that is added to the scores.
#[derive(Default)]
pub(super) struct Bias {
    /// What is proven.
    pub facts: Visibility,
    /// Linear biases.
    pub alibi: Option<Alibi>,
    /// What stays as it is.
    pub left: Vec<Left>,
    /// The largest number that hides a key only beside others: what is proven rests on scores that are above it.
    pub beside: Option<f64>,
}

impl Bias {
    /// Reads the steps of a score. `place` is the index of a value of the walk at the coordinates of the reader.
    pub fn of(
        reader: &Reader<'_>,
        scores: &Scores,
        place: &dyn Fn(ValueId) -> Option<Vec<Dim>>,
    ) -> Result<Self, String> {
        let (mut terms, mut beside) = (Vec::new(), None);
        for step in &scores.steps {
            match step {
                Step::Added { result, term, factor } => {
                    let at = place(*result).ok_or("a term is not over the scores")?;
                    let sizes = score_sizes(reader, *result);
                    match reader.index_into(*term, &sizes, &at) {
                        Some(index) => addends(reader, *term, index, *factor, &mut terms),
                        None => {
                            let found = up_to(reader, *term, (&sizes, &at), scores.sinks.is_some())?;
                            terms.push(found.times(*factor));
                        }
                    }
                }
                Step::Chosen { result, condition, hidden, hidden_if, factor } => {
                    let at = place(*result).ok_or("a mask is not over the scores")?;
                    let sizes = score_sizes(reader, *result);
                    let index = reader.index_into(*condition, &sizes, &at);
                    let index = index.ok_or("a mask does not broadcast to the scores for every size")?;
                    let fill = reader.index_into(*hidden, &sizes, &at).map(|at| reader.cell(*hidden, &at));
                    let hides = fill.as_ref().and_then(|fill| fill.visible(*factor, HIDING_BESIDE_OTHERS));
                    if hides != Some(Formula::Known(false)) {
                        return Err("scores are replaced by what is not a large negative number".to_string());
                    }
                    beside = larger(beside, fill.and_then(|fill| fill.largest(*factor)));
                    let hides = Left::Hides { condition: *condition, index, hidden_if: *hidden_if };
                    terms.push(hides);
                }
            }
        }
        let bias = Self::sort(reader, terms)?;
        Ok(Self { beside: larger(bias.beside, beside), ..bias })
    }

    /// Sorts terms into facts and what is left. Small numbers that are added hide keys where each query sees itself at least.
    pub fn sort(reader: &Reader<'_>, terms: Vec<Left>) -> Result<Self, String> {
        let small = |term: &Left| term.hides_beside_others(reader);
        let beside = terms.iter().filter_map(small).reduce(f64::max);
        if beside.is_some() {
            let bias = Self::sorted(reader, terms.clone(), HIDING_BESIDE_OTHERS)?;
            if bias.facts.causal && bias.facts.rest.is_empty() {
                return Ok(Self { beside, ..bias });
            }
        }
        Self::sorted(reader, terms, HIDING)
    }

    fn sorted(reader: &Reader<'_>, terms: Vec<Left>, hiding: f64) -> Result<Self, String> {
        let mut all = Formula::Known(true);
        let mut bias = Self::default();
        let mut masks = Vec::new();
        let mut numbers = Vec::new();
        for term in terms {
            match term.visible(reader, hiding) {
                Some(formula) => {
                    all = all.and(formula.clone());
                    masks.push((term, formula));
                }
                None => numbers.push(term),
            }
        }
        let facts = Visibility::of(reader, &all);
        let proven = |facts: &Visibility| facts.rest.is_empty() && is_covered(reader, facts);
        if is_covered(reader, &facts) {
            bias.facts = facts;
        } else {
            tracing::debug!(assumed = reader.assumptions().len(), "a mask reads what may lie outside");
        }
        if !facts_text(&bias.facts).is_empty() {
            tracing::debug!(rest = facts_text(&bias.facts), "a mask is not understood as a whole");
        }
        // Facts that are proven hold even where a mask says more than they do: that mask then stays beside them.
        for (term, formula) in masks {
            if !proven(&bias.facts) && !proven(&Visibility::of(reader, &formula)) {
                bias.left.push(term);
            }
        }
        for term in numbers {
            match (&term, &bias.alibi) {
                (Left::Added { value, index, factor }, None) => {
                    match alibi::of(reader, *value, index, bias.facts.causal, None) {
                        Some(found) => bias.alibi = Some(found.times(*factor)),
                        None => bias.left.push(term),
                    }
                }
                (Left::UpTo { value, index, limit, factor }, alibi) => {
                    let found = alibi::of(reader, *value, index, bias.facts.causal, Some(*limit));
                    let found = found.filter(|_| alibi.is_none());
                    let found = found.ok_or("a term broadcasts to the scores up to a size only")?;
                    bias.alibi = Some(found.times(*factor));
                }
                _ => bias.left.push(term),
            }
        }
        Ok(bias)
    }

    /// What the facts rest on, for the report.
    pub fn assumption(&self) -> Option<String> {
        let number = self.beside?;
        Some(format!(
            "{number} in a mask hides a key where a score of another is above {}",
            number + UNDERFLOW
        ))
    }

    /// Adds the operands `mask` to `alibi_positions` to those before them, for scores of these sizes.
    pub fn emit(
        &self,
        reader: &Reader<'_>,
        rewrite: &mut Rewrite,
        dims: &[Dim],
        inputs: &mut Vec<Term>,
    ) -> Result<(), String> {
        inputs.push(self.emit_mask(reader, rewrite, dims)?);
        inputs.resize(Attention::KEY_PADDING, None);
        let padding = self.facts.padding.as_ref();
        inputs.push(padding.and_then(|padding| emit_padding(reader, rewrite, padding, &dims[3])));
        let slopes = self.alibi.as_ref().map(|alibi| slopes(rewrite, alibi, &dims[3])).transpose()?;
        inputs.push(slopes.flatten());
        inputs.push(self.alibi.as_ref().and_then(|alibi| alibi.positions).and_then(Rewrite::value));
        Ok(())
    }

    /// The operand `mask`, for scores of these sizes.
    fn emit_mask(&self, reader: &Reader<'_>, rewrite: &mut Rewrite, dims: &[Dim]) -> Result<Term, String> {
        if let [Left::Hides { condition, index, hidden_if }] = &self.left[..] {
            let mask = laid_out(reader, rewrite, *condition, index, dims)?;
            let negated = |rewrite: &mut Rewrite| rewrite.node(Op::Unary(Unary::Not), &[mask]);
            return Ok(if *hidden_if { negated(rewrite) } else { mask });
        }
        let mut sum: Term = None;
        for left in &self.left {
            let term = match left {
                Left::Added { value, index, factor } => {
                    let term = laid_out(reader, rewrite, *value, index, dims)?;
                    match *factor == 1.0 {
                        true => term,
                        false => {
                            let factor = scalar(rewrite, *factor as f32)?;
                            rewrite.node(Op::Binary(Binary::Mul), &[term, factor])
                        }
                    }
                }
                Left::UpTo { .. } => {
                    return Err("a term broadcasts to the scores up to a size only".to_string());
                }
                Left::Hides { condition, index, hidden_if } => {
                    let mask = laid_out(reader, rewrite, *condition, index, dims)?;
                    let [zero, hidden] = [0.0, HIDDEN].map(|number| scalar(rewrite, number));
                    let (seen, unseen) = if *hidden_if { (hidden?, zero?) } else { (zero?, hidden?) };
                    rewrite.node(Op::Where(Where {}), &[mask, seen, unseen])
                }
            };
            sum = match sum {
                None => term,
                sum => rewrite.node(Op::Binary(Binary::Add), &[sum, term]),
            };
        }
        Ok(sum)
    }
}

/// The larger of what hides keys beside others only.
fn larger(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b.filter(|number| *number > HIDING)).reduce(f64::max)
}

fn facts_text(facts: &Visibility) -> String {
    facts.rest.join("; ")
}

fn scalar(rewrite: &mut Rewrite, number: f32) -> Result<Term, String> {
    let tensor = Tensor::from_slice(&[number], &[]).map_err(|error| error.to_string())?;
    Ok(rewrite.constant(tensor))
}

impl Left {
    /// With a factor outside.
    fn times(mut self, by: f64) -> Self {
        if let Left::Added { factor, .. } | Left::UpTo { factor, .. } = &mut self {
            *factor *= by;
        }
        self
    }

    /// The number that hides keys beside others only.
    fn hides_beside_others(&self, reader: &Reader<'_>) -> Option<f64> {
        let Left::Added { value, index, factor } = self else { return None };
        let cell = reader.cell(*value, index);
        if cell.visible(*factor, HIDING).is_some() {
            return None;
        }
        cell.visible(*factor, HIDING_BESIDE_OTHERS).and(cell.largest(*factor))
    }

    /// Where keys are visible, if this is a mask whose hidden keys have numbers up to `hiding`.
    fn visible(&self, reader: &Reader<'_>, hiding: f64) -> Option<Formula> {
        match self {
            Left::Added { value, index, factor } => reader.cell(*value, index).visible(*factor, hiding),
            Left::UpTo { .. } => None,
            Left::Hides { condition, index, hidden_if } => match reader.cell(*condition, index) {
                // The condition itself, and nothing that is known of it.
                Cell::Element(value, _) if value == *condition && index.len() > 2 => None,
                cell if *hidden_if => Some(cell.truth(&reader.space).negate()),
                cell => Some(cell.truth(&reader.space)),
            },
        }
    }
}

/// The lifted sizes of a step's result. It is weighed and multiplied with the values: its last axis is as long as they are many.
fn score_sizes(reader: &Reader<'_>, result: ValueId) -> Vec<Dim> {
    let mut sizes = reader.dims(result);
    if let Some(last) = sizes.last_mut() {
        *last = reader.space.size(3);
    }
    sizes
}

/// A term that is over all keys up to a number of them. With more it has one place for all: a number a row, which a softmax without a
/// sink does not see.
fn up_to(
    reader: &Reader<'_>,
    term: ValueId,
    (to, at): (&[Dim], &[Dim]),
    sinks: bool,
) -> Result<Left, String> {
    let refuse = || "a term does not broadcast to the scores for every size".to_string();
    let mut sizes = to.to_vec();
    let (last, dims) = (reader.space.size(3), reader.dims(term));
    let (Some(cut), Some(size)) = (dims.last(), sizes.last_mut()) else { return Err(refuse()) };
    let limit = full_up_to(cut, &last).filter(|_| !sinks).ok_or_else(refuse)?;
    // As if it were of that size for all: only what checks the limit uses the index.
    *size = cut.clone();
    let index = reader.index_into(term, &sizes, at).ok_or_else(refuse)?;
    Ok(Left::UpTo { value: term, index, limit, factor: 1.0 })
}

/// The operand `alibi_slopes`: all 0 where there are more keys than the limit.
fn slopes(rewrite: &mut Rewrite, alibi: &Alibi, total: &Dim) -> Result<Term, String> {
    let slopes = numbers(rewrite, &alibi.slopes)?;
    let Some(limit) = alibi.limit else { return Ok(slopes) };
    let limit = Tensor::from_slice(&[limit], &[]).map_err(|error| error.to_string())?;
    let limit = rewrite.constant(limit);
    let total = rewrite.node(Operation::Dims { elements: vec![total.clone()], scalar: true }, &[]);
    let longer = rewrite.node(Op::Compare(Compare::Greater), &[total, limit]);
    let none = scalar(rewrite, 0.0)?;
    Ok(rewrite.node(Op::Where(Where {}), &[longer, none, slopes]))
}

/// The terms of a sum, each times the factor.
pub(super) fn addends(
    reader: &Reader<'_>,
    value: ValueId,
    index: Vec<Dim>,
    factor: f64,
    into: &mut Vec<Left>,
) {
    if let Some((_, node, Op::Binary(Binary::Add))) = reader.context.producer(value)
        && let [Some(a), Some(b)] = node.inputs[..]
        && let (Some(at_a), Some(at_b)) =
            (reader.operand_index(a, value, &index), reader.operand_index(b, value, &index))
        && into.len() < 8
    {
        addends(reader, a, at_a, factor, into);
        addends(reader, b, at_b, factor, into);
        return;
    }
    into.push(Left::Added { value, index, factor });
}

/// Whether every assumption of the reading is one that the op checks: that the padding covers the keys.
fn is_covered(reader: &Reader<'_>, facts: &Visibility) -> bool {
    reader.assumptions().iter().all(|(index, size)| {
        *index == reader.space.coordinate(3)
            && facts
                .padding
                .as_ref()
                .is_some_and(|padding| reader.dim(padding.value, padding.key_axis) == *size)
    })
}

/// The value as an operand that broadcasts to scores of these sizes.
fn laid_out(
    reader: &Reader<'_>,
    rewrite: &mut Rewrite,
    value: ValueId,
    index: &[Dim],
    dims: &[Dim],
) -> Result<Term, String> {
    let coordinates = reader.space.index();
    let rank = index.len();
    let term = Rewrite::value(value);
    let aligned = rank <= 4
        && index
            .iter()
            .zip(&coordinates[4 - rank..])
            .all(|(at, own)| at == own || at.as_constant() == Some(0));
    if aligned && rank >= 2 {
        return Ok(term);
    }
    // Batch and heads, or batches and windows, in axes of their own: spread over all of them, then counted as the scores count.
    if rank < 2 {
        return Err("a bias of one axis".to_string());
    }
    let matrix = index.iter().skip(rank - 2).zip(&coordinates[2..]);
    if !matrix.clone().all(|(at, own)| at == own || at.as_constant() == Some(0)) {
        return Err("a bias is not over queries and keys".to_string());
    }
    let (rows, columns) =
        (&reader.context.ty(value).dims[rank - 2], &reader.context.ty(value).dims[rank - 1]);
    match &index[..rank - 2] {
        // [batch * heads, ...]
        [_] => {
            let shape = rewrite.dims(&[dims[0].clone(), dims[1].clone(), rows.clone(), columns.clone()]);
            Ok(rewrite.node(Op::Reshape(Reshape { allow_zero: true }), &[term, shape]))
        }
        // [batches, windows, heads, ...]
        [_, window, head] if head.as_constant() == Some(0) || *head == coordinates[1] => {
            let types = &reader.context.ty(value).dims;
            let windows = types[1].as_constant().filter(|windows| *windows > 0);
            let count = windows.ok_or("a bias over windows of unknown number")?;
            if *window != coordinates[0].modulo(&Dim::constant(count)) {
                return Err("a bias over windows in another order".to_string());
            }
            let batches = dims[0].floor_div(&Dim::constant(count));
            let mut wide = types.clone();
            wide[0] = batches;
            let wide = rewrite.dims(&wide);
            let spread = rewrite.node(Op::Expand(Expand {}), &[term, wide]);
            let shape = rewrite.dims(&[dims[0].clone(), types[2].clone(), rows.clone(), columns.clone()]);
            Ok(rewrite.node(Op::Reshape(Reshape { allow_zero: true }), &[spread, shape]))
        }
        _ => Err("a bias with axes that are not understood".to_string()),
    }
}

/// The operand `key_padding`: bool `[batch, total]`.
fn emit_padding(reader: &Reader<'_>, rewrite: &mut Rewrite, padding: &Padding, total: &Dim) -> Term {
    let ty = reader.context.ty(padding.value);
    let mut term = Rewrite::value(padding.value);
    let keys = &ty.dims[padding.key_axis];
    let one = Dim::constant(1);
    let batch = padding.batch_axis.map_or(&one, |axis| &ty.dims[axis]);
    let turned = padding.batch_axis.is_some_and(|axis| axis > padding.key_axis);
    if ty.dims.len() != 2 {
        let sizes = if turned { [keys, batch] } else { [batch, keys] };
        let shape = rewrite.dims(&sizes.map(Clone::clone));
        term = rewrite.node(Op::Reshape(Reshape { allow_zero: true }), &[term, shape]);
    }
    if turned {
        term = rewrite.node(Op::Transpose(Transpose { perm: vec![1, 0] }), &[term]);
    }
    term = emit_seen(rewrite, padding, ty.dtype, term);
    let longer = reader.space.lift(keys).equals(&reader.space.lift(total)) != Answer::Yes;
    if longer {
        // What lies behind the keys says nothing of them.
        let sizes: Vec<Term> = [Dim::constant(0), total.clone(), Dim::constant(1), Dim::constant(1)]
            .into_iter()
            .map(|dim| rewrite.dims(&[dim]))
            .collect();
        term = rewrite.node(Op::Slice(Slice {}), &[&[term], &sizes[..]].concat());
    }
    term
}

/// Where the elements say that a key is seen, as bools.
fn emit_seen(rewrite: &mut Rewrite, padding: &Padding, dtype: DType, mut term: Term) -> Term {
    let mut seen = padding.seen;
    if padding.number == 0 {
        if dtype != DType::Bool {
            term = rewrite.node(Op::Cast(Cast { to: DType::Bool, saturate: true }), &[term]);
        }
        seen = !seen;
    } else {
        let number = Tensor::from_slice(&[padding.number], &[]).ok();
        let number = number.and_then(|number| rewrite.constant(number));
        let number = match dtype {
            DType::I64 => number,
            _ => rewrite.node(Op::Cast(Cast { to: dtype, saturate: true }), &[number]),
        };
        term = rewrite.node(Op::Compare(Compare::Equal), &[term, number]);
    }
    if seen { term } else { rewrite.node(Op::Unary(Unary::Not), &[term]) }
}

/// A constant of one axis.
pub(super) fn numbers(rewrite: &mut Rewrite, numbers: &[f32]) -> Result<Term, String> {
    let tensor = Tensor::from_slice(numbers, &[numbers.len()]).map_err(|error| error.to_string())?;
    Ok(rewrite.constant(tensor))
}
