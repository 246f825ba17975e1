//! Einsum as transposes, matrix products, products and sums.
//!
//! Operands are folded in from the left. Of two operands, labels that nothing else needs are summed by a matrix product; labels
//! that both have and the result keeps are its batch; without a label to sum, the product is elementwise.

use lathe_ir::{Answer, Dim, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Compare, Where};
use lathe_ops::matmul::MatMul;
use lathe_ops::reduce::{Reduce, ReduceKind};
use lathe_ops::shape::{Range, Transpose};
use lathe_tensor::DType;

use crate::error::Fault;
use crate::onnx::node::{Node, Outputs};

/// An axis: a letter, or an axis of the ellipsis counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Hidden(usize),
    Letter(char),
}

/// A value with a label for each axis, none of them twice.
#[derive(Clone)]
struct Term {
    value: ValueId,
    labels: Vec<Label>,
}

/// Einsum-12.
pub(crate) fn einsum(node: &mut Node<'_, '_>) -> Outputs {
    let equation = node
        .attributes
        .string("equation")?
        .ok_or_else(|| Fault::bad("attribute `equation` is missing"))?
        .to_string();
    let count = node.inputs.len();
    let operands = (0..count).map(|index| node.input(index)).collect::<Result<Vec<_>, _>>()?;
    let ranks: Vec<_> = operands.iter().map(|operand| node.rank(*operand)).collect();
    let (inputs, output) = parse(&equation, &ranks).map_err(Fault::bad)?;
    let mut terms = Vec::new();
    for (value, labels) in operands.into_iter().zip(inputs) {
        terms.push(diagonal(node, Term { value, labels })?);
    }
    let mut rest = terms.into_iter();
    let mut result = rest.next().ok_or_else(|| Fault::bad("it has no operands"))?;
    let rest: Vec<_> = rest.collect();
    for (index, next) in rest.iter().enumerate() {
        let later = rest[index + 1..].iter().flat_map(|term| &term.labels).chain(&output);
        let needed: Vec<Label> = later.copied().collect();
        result = contract(node, result, next.clone(), &needed)?;
    }
    let result = summed(node, result, &output)?;
    Ok(vec![arranged(node, &result, &output)?])
}

/// Labels of the operands and of the result.
fn parse(equation: &str, ranks: &[usize]) -> Result<(Vec<Vec<Label>>, Vec<Label>), String> {
    let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match text.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (text.as_str(), None),
    };
    let words: Vec<_> = left.split(',').collect();
    if words.len() != ranks.len() {
        return Err(format!("`{equation}` has {} operands, the node {}", words.len(), ranks.len()));
    }
    let mut inputs = Vec::new();
    let mut widest = 0;
    for (word, &rank) in words.iter().zip(ranks) {
        let letters = word.replace("...", "").chars().count();
        let hidden = rank.checked_sub(letters).filter(|hidden| *hidden == 0 || word.contains("..."));
        let hidden = hidden.ok_or_else(|| format!("`{word}` does not fit rank {rank}"))?;
        widest = widest.max(hidden);
        inputs.push(labels(word, hidden)?);
    }
    let output = match right {
        Some(word) => labels(word, if word.contains("...") { widest } else { 0 })?,
        None => implicit(&inputs, widest),
    };
    for (index, label) in output.iter().enumerate() {
        if output[..index].contains(label) {
            return Err(format!("`{equation}` names an axis of the result twice"));
        }
        let hidden = matches!(label, Label::Hidden(_));
        if !hidden && !inputs.iter().any(|labels| labels.contains(label)) {
            return Err(format!("`{equation}` has an axis in the result that no operand has"));
        }
    }
    Ok((inputs, output))
}

/// The labels of one word; its ellipsis stands for `hidden` axes.
fn labels(word: &str, hidden: usize) -> Result<Vec<Label>, String> {
    let mut labels = Vec::new();
    let mut pieces = word.split("...");
    for piece in pieces.by_ref().take(2).enumerate() {
        if piece.0 == 1 {
            labels.extend((0..hidden).rev().map(Label::Hidden));
        }
        for letter in piece.1.chars() {
            if !letter.is_ascii_alphabetic() {
                return Err(format!("`{word}` holds `{}`", letter.escape_default()));
            }
            labels.push(Label::Letter(letter));
        }
    }
    if pieces.next().is_some() {
        return Err(format!("`{word}` has two ellipses"));
    }
    Ok(labels)
}

/// Without an arrow: the ellipsis, then the letters that occur once, in alphabetical order.
fn implicit(inputs: &[Vec<Label>], hidden: usize) -> Vec<Label> {
    let all: Vec<Label> = inputs.iter().flatten().copied().collect();
    let mut once: Vec<Label> = all
        .iter()
        .filter(|label| matches!(label, Label::Letter(_)))
        .filter(|label| all.iter().filter(|other| other == label).count() == 1)
        .copied()
        .collect();
    once.sort_unstable();
    (0..hidden).rev().map(Label::Hidden).chain(once).collect()
}

/// Axes of one label become one: elements off the diagonal are set to zero and the second axis is summed.
fn diagonal(node: &mut Node<'_, '_>, mut term: Term) -> Result<Term, Fault> {
    while let Some((first, second)) = repeated(&term.labels) {
        let size = node.dims(term.value)[second].clone();
        let rank = term.labels.len();
        let (rows, columns) = (counted(node, &size, first, rank)?, counted(node, &size, second, rank)?);
        let on = node.add(Op::Compare(Compare::Equal), &[rows, columns])?;
        let zero = node.number_like(term.value, 0.0)?;
        let masked = node.add(Op::Where(Where {}), &[on, term.value, zero])?;
        term.value = sum(node, masked, &[second])?;
        term.labels.remove(second);
    }
    Ok(term)
}

fn repeated(labels: &[Label]) -> Option<(usize, usize)> {
    (0..labels.len()).find_map(|second| {
        labels[..second].iter().position(|label| *label == labels[second]).map(|first| (first, second))
    })
}

/// `0, 1, ...` along one axis of `rank`.
fn counted(node: &mut Node<'_, '_>, size: &Dim, axis: usize, rank: usize) -> Result<ValueId, Fault> {
    let limit = node.sizes(vec![size.clone()])?;
    let limit = node.reshape(limit, vec![])?;
    let (zero, one) = (node.number(DType::I64, 0.0)?, node.number(DType::I64, 1.0)?);
    let count = node.add(Op::Range(Range {}), &[zero, limit, one])?;
    let dims = (0..rank).map(|at| if at == axis { size.clone() } else { 1.into() }).collect();
    node.reshape(count, dims)
}

fn sum(node: &mut Node<'_, '_>, x: ValueId, axes: &[usize]) -> Result<ValueId, Fault> {
    let axes = axes.iter().map(|axis| *axis as i64).collect();
    let reduce =
        Reduce { kind: ReduceKind::Sum, axes: Some(axes), keep_dims: false, noop_with_empty_axes: true };
    node.add(Op::Reduce(reduce), &[x])
}

/// Sums the axes that nobody needs.
fn summed(node: &mut Node<'_, '_>, term: Term, needed: &[Label]) -> Result<Term, Fault> {
    let axes: Vec<usize> = (0..term.labels.len()).filter(|at| !needed.contains(&term.labels[*at])).collect();
    if axes.is_empty() {
        return Ok(term);
    }
    let value = sum(node, term.value, &axes)?;
    let labels = term.labels.into_iter().filter(|label| needed.contains(label)).collect();
    Ok(Term { value, labels })
}

/// The term's axes in the order of `labels`; those that it lacks have size 1.
fn arranged(node: &mut Node<'_, '_>, term: &Term, labels: &[Label]) -> Result<ValueId, Fault> {
    let present: Vec<usize> =
        labels.iter().filter_map(|label| term.labels.iter().position(|own| own == label)).collect();
    let mut value = term.value;
    if present.iter().enumerate().any(|(at, from)| at != *from) {
        value = node.add(Op::Transpose(Transpose { perm: present.clone() }), &[value])?;
    }
    if present.len() == labels.len() {
        return Ok(value);
    }
    let sizes = node.dims(term.value).to_vec();
    let dims = labels
        .iter()
        .map(|label| match term.labels.iter().position(|own| own == label) {
            Some(at) => sizes[at].clone(),
            None => 1.into(),
        })
        .collect();
    node.reshape(value, dims)
}

fn contract(node: &mut Node<'_, '_>, a: Term, b: Term, needed: &[Label]) -> Result<Term, Fault> {
    let (own, other) = (a.labels.clone(), b.labels.clone());
    let keep = |others: &[Label]| [others, needed].concat();
    let (a, b) = (summed(node, a, &keep(&other))?, summed(node, b, &keep(&own))?);
    let shared: Vec<Label> = a.labels.iter().filter(|label| b.labels.contains(label)).copied().collect();
    let (batch, inner): (Vec<Label>, Vec<Label>) = shared.iter().partition(|label| needed.contains(label));
    let rows: Vec<Label> = a.labels.iter().filter(|label| !shared.contains(label)).copied().collect();
    let columns: Vec<Label> = b.labels.iter().filter(|label| !shared.contains(label)).copied().collect();
    let all = [&batch[..], &rows[..], &columns[..]].concat();
    let float = node.dtype(a.value).is_float();
    if inner.is_empty() || !float || broadcasts(node, &a, &b, &inner) {
        let axes = [&all[..], &inner[..]].concat();
        let (x, y) = (arranged(node, &a, &axes)?, arranged(node, &b, &axes)?);
        let product = node.binary(Binary::Mul, x, y)?;
        return summed(node, Term { value: product, labels: axes }, &all);
    }
    let sizes = |node: &Node<'_, '_>, term: &Term, labels: &[Label]| -> Vec<Dim> {
        let dims = node.dims(term.value);
        let of = |label| term.labels.iter().position(|own| own == label).map(|at| dims[at].clone());
        labels.iter().filter_map(of).collect()
    };
    let (row_sizes, column_sizes) = (sizes(node, &a, &rows), sizes(node, &b, &columns));
    let x = arranged(node, &a, &[&batch[..], &rows[..], &inner[..]].concat())?;
    let batch_sizes = sizes(node, &a, &batch);
    let inner_sizes = sizes(node, &a, &inner);
    let x = grouped(node, x, &batch_sizes, &row_sizes, &inner_sizes)?;
    let y = arranged(node, &b, &[&batch[..], &inner[..], &columns[..]].concat())?;
    let (batch_sizes, inner_sizes) = (sizes(node, &b, &batch), sizes(node, &b, &inner));
    let y = grouped(node, y, &batch_sizes, &inner_sizes, &column_sizes)?;
    let mut value = node.add(Op::MatMul(MatMul::default()), &[x, y])?;
    if (rows.len(), columns.len()) != (1, 1) {
        let batch_sizes = node.dims(value)[..batch.len()].to_vec();
        value = node.reshape(value, [batch_sizes, row_sizes, column_sizes].concat())?;
    }
    Ok(Term { value, labels: all })
}

/// Whether an axis to sum may have size 1 in one operand alone: a matrix product cannot broadcast it.
fn broadcasts(node: &Node<'_, '_>, a: &Term, b: &Term, labels: &[Label]) -> bool {
    let size = |term: &Term, label: &Label| {
        term.labels.iter().position(|own| own == label).map(|at| node.dims(term.value)[at].clone())
    };
    labels.iter().any(|label| match (size(a, label), size(b, label)) {
        (Some(x), Some(y)) => match label {
            Label::Hidden(_) => x.equals(&y) != Answer::Yes,
            Label::Letter(_) => x.equals(&y) == Answer::No,
        },
        _ => false,
    })
}

/// `[batch..., product of rows, product of columns]`.
fn grouped(
    node: &mut Node<'_, '_>,
    x: ValueId,
    batch: &[Dim],
    rows: &[Dim],
    columns: &[Dim],
) -> Result<ValueId, Fault> {
    if (rows.len(), columns.len()) == (1, 1) {
        return Ok(x);
    }
    node.reshape(x, [batch, &[Dim::product(rows), Dim::product(columns)]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_are_read() {
        let (inputs, output) = parse("...ij, jk", &[4, 2]).expect("parses");
        assert_eq!(inputs[0].len(), 4);
        assert_eq!(output.len(), 4);
        assert_eq!(output[2..], [Label::Letter('i'), Label::Letter('k')]);
    }

    #[test]
    fn wrong_equations_are_refused() {
        for (equation, ranks) in
            [("ij->ii", vec![2]), ("ij->k", vec![2]), ("ij", vec![3]), ("i......", vec![2]), ("i1", vec![2])]
        {
            assert!(parse(equation, &ranks).is_err(), "{equation}");
        }
        assert!(parse("ij,jk", &[2]).is_err());
    }
}
