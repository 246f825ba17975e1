//! What is known of masks by the places of rows and keys: `main` may compare counts that only `decode` knows to be the places of its
//! rows (GroupQueryAttention counts from the sum of its mask; a static cache is told its positions).

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Compare, Unary};
use lathe_tensor::{DType, Tensor};

use super::build::Decode;
use super::mapped::{Fact, Mapped, Span};
use super::positions::integer;
use crate::mask::HIDING;

/// An operand: `rows * p + keys * j + offset`, or another thing that facts are made of.
#[derive(Clone, Copy)]
enum Term {
    Linear { rows: i64, keys: i64, offset: i64 },
    Sees(Span),
    Hides(Span),
    Truth(bool),
    Number(f64),
}

/// A scalar bool.
pub(super) fn truth(holds: bool) -> Tensor {
    let bytes = Tensor::from_bools(&[holds], &[]);
    bytes.unwrap_or_else(|_| Tensor::scalar(i64::from(holds)))
}

impl Span {
    /// Where both hold.
    fn and(self, other: Span) -> Span {
        let tighter = |a: Option<i64>, b: Option<i64>, pick: fn(i64, i64) -> i64| match (a, b) {
            (Some(a), Some(b)) => Some(pick(a, b)),
            (a, b) => a.or(b),
        };
        Span {
            least: tighter(self.least, other.least, i64::max),
            most: tighter(self.most, other.most, i64::min),
        }
    }

    /// Where this one does not hold, if that is a span too.
    fn negate(self) -> Option<Span> {
        match self {
            Span { least: Some(least), most: None } => Some(Span { least: None, most: least.checked_sub(1) }),
            Span { least: None, most: Some(most) } => Some(Span { least: most.checked_add(1), most: None }),
            _ => None,
        }
    }

    /// `sign * (p - j) + offset >= 0`.
    fn at_least(sign: i64, offset: i64) -> Span {
        match sign {
            1 => Span { least: Some(-offset), most: None },
            _ => Span { least: None, most: Some(offset) },
        }
    }
}

impl Decode<'_> {
    /// What the elements of an elementwise op over rows (so many axes from the last) and keys are.
    pub fn fact(&mut self, op: &Op, operands: &[ValueId], sides: (usize, usize)) -> Option<Fact> {
        let terms: Vec<Term> =
            operands.iter().map(|&operand| self.term(operand, sides)).collect::<Option<_>>()?;
        let term = match (op, &terms[..]) {
            (Op::Cast(cast), [Term::Linear { .. }])
                if matches!(cast.to, DType::I32 | DType::I64 | DType::F32 | DType::F64) =>
            {
                terms[0]
            }
            (Op::Cast(cast), [Term::Sees(_)]) if cast.to == DType::Bool => terms[0],
            (Op::Unary(Unary::Identity), [term]) => *term,
            (Op::Unary(Unary::Neg), [term]) => sum(Term::Number(0.0), *term, -1)?,
            (Op::Unary(Unary::Not), [Term::Sees(span)]) => Term::Sees(span.negate()?),
            (Op::Binary(Binary::Add), [a, b]) => sum(*a, *b, 1)?,
            (Op::Binary(Binary::Sub), [a, b]) => sum(*a, *b, -1)?,
            (Op::Binary(Binary::And), [a, b]) => both(*a, *b)?,
            (Op::Binary(Binary::Or), [Term::Sees(span), Term::Truth(false)])
            | (Op::Binary(Binary::Or), [Term::Truth(false), Term::Sees(span)]) => Term::Sees(*span),
            (Op::Compare(kind), [a, b]) => compared(*kind, *a, *b)?,
            (Op::Where(_), [Term::Sees(span), Term::Number(seen), Term::Number(unseen)]) => {
                match (*seen, *unseen) {
                    (0.0, hidden) if hidden <= HIDING => Term::Hides(*span),
                    (hidden, 0.0) if hidden <= HIDING => Term::Hides(span.negate()?),
                    _ => return None,
                }
            }
            _ => return None,
        };
        match term {
            Term::Linear { rows, keys, offset } => distance(rows, keys, offset),
            Term::Sees(span) => Some(Fact::Sees(span)),
            Term::Hides(span) => Some(Fact::Hides(span)),
            Term::Truth(_) | Term::Number(_) => None,
        }
    }

    fn term(&mut self, operand: ValueId, sides: (usize, usize)) -> Option<Term> {
        if let Some(element) = self.uniform(operand) {
            return number(&element);
        }
        let rank = self.main.ty(operand).rank();
        match self.lookup(operand) {
            Mapped::Places(places) => {
                let side = rank - places.axis;
                // Rows count from their place in the sequence, keys from the first.
                let (rows, offset) = match side {
                    side if side == sides.0 && places.new => (1, places.offset.sub(&self.past())),
                    side if side == sides.1 => (0, places.offset),
                    _ => return None,
                };
                Some(Term::Linear { rows, keys: 1 - rows, offset: offset.as_constant()? })
            }
            Mapped::Keyed(keyed) => Some(match keyed.fact? {
                Fact::Distance { sign, offset } => Term::Linear { rows: sign, keys: -sign, offset },
                Fact::Sees(span) => Term::Sees(span),
                Fact::Hides(span) => Term::Hides(span),
            }),
            _ => None,
        }
    }

    /// The keys that a mask or a bias lets a row see, where it says nothing else.
    pub fn span(&mut self, mask: ValueId) -> Option<Span> {
        match self.lookup(mask) {
            Mapped::Keyed(keyed) => match keyed.fact? {
                Fact::Sees(span) | Fact::Hides(span) => Some(span),
                Fact::Distance { .. } => None,
            },
            _ => None,
        }
    }
}

fn number(element: &Tensor) -> Option<Term> {
    match element.dtype() {
        DType::Bool => Some(Term::Truth(element.bytes().first() != Some(&0))),
        DType::F32 => Some(Term::Number(f64::from(*element.to_slice::<f32>().ok()?.first()?))),
        _ => Some(Term::Number(integer(element)? as f64)),
    }
}

fn distance(rows: i64, keys: i64, offset: i64) -> Option<Fact> {
    let apart = rows.abs() == 1 && rows == -keys;
    apart.then_some(Fact::Distance { sign: rows, offset })
}

/// `a + sign * b`.
fn sum(a: Term, b: Term, sign: i64) -> Option<Term> {
    let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 1e9).then_some(number as i64);
    let linear = |term: Term| match term {
        Term::Linear { rows, keys, offset } => Some((rows, keys, offset)),
        Term::Number(number) => Some((0, 0, whole(number)?)),
        _ => None,
    };
    match (a, b) {
        (Term::Hides(span), Term::Number(0.0)) => Some(Term::Hides(span)),
        (Term::Number(0.0), Term::Hides(span)) if sign == 1 => Some(Term::Hides(span)),
        (Term::Hides(a), Term::Hides(b)) if sign == 1 => Some(Term::Hides(a.and(b))),
        (a, b) => {
            let ((rows, keys, offset), b) = (linear(a)?, linear(b)?);
            Some(Term::Linear {
                rows: rows + sign * b.0,
                keys: keys + sign * b.1,
                offset: offset.checked_add(sign * b.2)?,
            })
        }
    }
}

fn both(a: Term, b: Term) -> Option<Term> {
    match (a, b) {
        (Term::Sees(a), Term::Sees(b)) => Some(Term::Sees(a.and(b))),
        (Term::Sees(span), Term::Truth(true)) | (Term::Truth(true), Term::Sees(span)) => {
            Some(Term::Sees(span))
        }
        _ => None,
    }
}

fn compared(kind: Compare, a: Term, b: Term) -> Option<Term> {
    let Term::Linear { rows, keys, offset } = sum(a, b, -1)? else { return None };
    let Fact::Distance { sign, offset } = distance(rows, keys, offset)? else { return None };
    let span = match kind {
        Compare::GreaterOrEqual => Span::at_least(sign, offset),
        Compare::Greater => Span::at_least(sign, offset.checked_sub(1)?),
        Compare::LessOrEqual => Span::at_least(-sign, -offset),
        Compare::Less => Span::at_least(-sign, (-offset).checked_sub(1)?),
        Compare::Equal => Span::at_least(sign, offset).and(Span::at_least(-sign, -offset)),
    };
    Some(Term::Sees(span))
}
