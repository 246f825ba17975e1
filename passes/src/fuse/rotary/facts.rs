//! `rotary_embedding(x, cos, sin) -> rotary_embedding {base, scaling}(x, cos, sin)`
//!
//! Names for reports what the tables hold: the frequencies are read behind cosine and positions, or from a row of constant tables, and
//! fitted. Nothing is computed from these attributes. Refuses, which leaves them out, where no frequencies are found or no formula fits.
//! Sources: Peng et al., "YaRN", 2023; Ding et al., "LongRoPE", 2024; Llama 3.1's model card.

use lathe_ir::{NodeId, Operation, ValueId};
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Unary};
use lathe_ops::position::{RotaryEmbedding, RotaryScaling};

use super::fit::{fit, fit_by_length};
use crate::rewrite::Term;
use crate::{Context, Proposal, Rewrite, Rule};

pub(crate) struct RotaryFacts;

impl Rule for RotaryFacts {
    fn name(&self) -> &'static str {
        "rotary_facts"
    }

    fn propose(&self, context: Context<'_>, id: NodeId) -> Proposal {
        let Some(node) = context.body().node(id) else { return Proposal::NoMatch };
        let (Operation::Op(Op::RotaryEmbedding(op)), [output], [_, Some(cos), Some(sin), ..]) =
            (&node.operation, &node.outputs[..], &node.inputs[..])
        else {
            return Proposal::NoMatch;
        };
        if op.scaling.is_some() {
            return Proposal::NoMatch;
        }
        let Some(tables) = tables(context, *cos, *sin) else {
            return Proposal::because("the frequencies of the tables are not known");
        };
        let named = match &tables.frequencies {
            Frequencies::Fixed(frequencies) => fit(frequencies, tables.attention),
            Frequencies::ByLength(a, b) => Some((fit_by_length(a, b), RotaryScaling::Longrope)),
            Frequencies::Computed => Some((None, RotaryScaling::Dynamic)),
        };
        let Some((base, scaling)) = named else {
            return Proposal::because("no formula gives the frequencies of the tables");
        };
        let op = RotaryEmbedding { base, scaling: Some(scaling), ..op.clone() };
        let mut rewrite = Rewrite::new(&node.name);
        let inputs: Vec<Term> = node.inputs.iter().map(|input| input.and_then(Rewrite::value)).collect();
        let new = rewrite.node(Op::RotaryEmbedding(op), &inputs);
        rewrite.replace(*output, new)
    }
}

enum Frequencies {
    Fixed(Vec<f64>),
    ByLength(Vec<f64>, Vec<f64>),
    Computed,
}

struct Tables {
    frequencies: Frequencies,
    /// Factor of cosines and sines.
    attention: f64,
}

/// Nodes deep that a table is followed.
const DEPTH: usize = 32;

/// The operand that a node passes on with other axes.
fn passed_on(context: Context<'_>, value: ValueId) -> Option<ValueId> {
    let (_, node, op) = context.producer(value)?;
    let passes = matches!(
        op,
        Op::Unsqueeze(_)
            | Op::Squeeze(_)
            | Op::Reshape(_)
            | Op::Expand(_)
            | Op::Cast(_)
            | Op::Slice(_)
            | Op::Transpose(_)
            | Op::Unary(Unary::Identity)
    );
    if let (Op::Concat(_), [Some(a), Some(b)]) = (op, &node.inputs[..]) {
        return (a == b).then_some(*a);
    }
    if passes { *node.inputs.first()? } else { None }
}

/// Follows tables down to their angles or to constant tables.
fn tables(context: Context<'_>, cos: ValueId, sin: ValueId) -> Option<Tables> {
    let (mut value, mut attention) = (cos, 1.0);
    for _ in 0..DEPTH {
        if let Some(inner) = passed_on(context, value) {
            value = inner;
            continue;
        }
        if context.constant(value).is_some() {
            return constant_tables(context, value, sin);
        }
        let (_, node, op) = context.producer(value)?;
        match (op, &node.inputs[..]) {
            (Op::Gather(_), [Some(table), _]) => return constant_tables(context, *table, sin),
            (Op::Unary(Unary::Cos), [Some(angles)]) => {
                return Some(Tables { frequencies: frequencies(context, *angles)?, attention });
            }
            (Op::Binary(Binary::Mul), [Some(a), Some(b)]) => {
                let (inner, factor) = match (context.scalar(*a), context.scalar(*b)) {
                    (_, Some(factor)) => (*a, factor),
                    (Some(factor), _) => (*b, factor),
                    _ => return None,
                };
                (value, attention) = (inner, attention * factor);
            }
            _ => return None,
        }
    }
    None
}

/// The frequencies that angles are products of.
fn frequencies(context: Context<'_>, angles: ValueId) -> Option<Frequencies> {
    let mut value = angles;
    for _ in 0..DEPTH {
        if let Some(inner) = passed_on(context, value) {
            value = inner;
            continue;
        }
        let (_, node, op) = context.producer(value)?;
        let (Op::Binary(Binary::Mul) | Op::MatMul(_) | Op::Linear(_), [Some(a), Some(b), ..]) =
            (op, &node.inputs[..])
        else {
            return None;
        };
        return [*b, *a].into_iter().find_map(|factor| factor_frequencies(context, factor));
    }
    None
}

/// Frequencies that are constant, chosen from two constants, or computed as a reciprocal of powers.
fn factor_frequencies(context: Context<'_>, factor: ValueId) -> Option<Frequencies> {
    let mut value = factor;
    for _ in 0..DEPTH {
        if let Some(list) = list(context, value) {
            return Some(Frequencies::Fixed(list));
        }
        if let Some(inner) = passed_on(context, value) {
            value = inner;
            continue;
        }
        let (_, node, op) = context.producer(value)?;
        return match (op, &node.inputs[..]) {
            (Op::Where(_), [Some(condition), Some(a), Some(b)])
                if context.ty(*condition).dims.iter().all(is_one) =>
            {
                Some(Frequencies::ByLength(list(context, *a)?, list(context, *b)?))
            }
            (Op::Unary(Unary::Reciprocal), [Some(powers)])
            | (Op::Binary(Binary::Div), [Some(_), Some(powers)]) => {
                is_power(context, *powers).then_some(Frequencies::Computed)
            }
            (Op::Binary(Binary::Pow), _) => Some(Frequencies::Computed),
            _ => None,
        };
    }
    None
}

fn is_one(dim: &lathe_ir::Dim) -> bool {
    dim.as_constant() == Some(1)
}

fn is_power(context: Context<'_>, value: ValueId) -> bool {
    matches!(context.producer(value), Some((_, _, Op::Binary(Binary::Pow))))
}

/// The elements of a constant whose axes are all of size 1 but one.
fn list(context: Context<'_>, value: ValueId) -> Option<Vec<f64>> {
    let tensor = context.constant(value)?;
    let long = tensor.shape().iter().filter(|size| **size != 1).count();
    let elements = context.constant_f32(value)?;
    (long <= 1 && tensor.rank() > 0).then(|| elements.into_iter().map(f64::from).collect())
}

/// Frequencies from the rows of position 1 of constant tables: the angles of their cosines and sines.
fn constant_tables(context: Context<'_>, cos: ValueId, sin: ValueId) -> Option<Tables> {
    let mut sines = sin;
    for _ in 0..DEPTH {
        if context.constant(sines).is_some() {
            break;
        }
        sines = match (passed_on(context, sines), context.producer(sines)) {
            (Some(inner), _) => inner,
            (None, Some((_, node, Op::Gather(_)))) => (*node.inputs.first()?)?,
            _ => return None,
        };
    }
    let (cos, sin) = (row_of_position_one(context, cos)?, row_of_position_one(context, sines)?);
    if cos.len() != sin.len() || cos.is_empty() {
        return None;
    }
    let lengths = cos.iter().zip(&sin).map(|(c, s)| c.hypot(*s));
    let attention = lengths.sum::<f64>() / cos.len() as f64;
    let angles: Vec<f64> = cos.iter().zip(&sin).map(|(c, s)| s.atan2(*c)).collect();
    Some(Tables { frequencies: Frequencies::Fixed(angles), attention })
}

/// Row 1 of `[.., positions, width]`.
fn row_of_position_one(context: Context<'_>, table: ValueId) -> Option<Vec<f64>> {
    let shape = context.constant(table)?.shape();
    let [leading @ .., positions, width] = shape else { return None };
    let elements = context.constant_f32(table)?;
    let plain = *positions >= 2 && leading.iter().all(|size| *size == 1);
    plain.then(|| elements.get(*width..2 * width))?.map(|row| row.iter().copied().map(f64::from).collect())
}
