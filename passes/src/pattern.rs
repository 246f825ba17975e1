//! Patterns written as the formula that they match: `x.clone() * sigmoid(x)`.
//!
//! Commutative operators match in both orders. A name matches one value: the second time it must be the same value.

use std::ops::{Add, Div, Mul, Sub};
use std::rc::Rc;

use lathe_ir::ValueId;
use lathe_ops::Op;
use lathe_ops::elementwise::{Binary, Unary};

use crate::Context;

/// A formula over values.
#[derive(Clone)]
pub struct Pattern(Rc<Kind>);

enum Kind {
    Any(&'static str),
    Scalar(f64),
    ScalarVariable(&'static str),
    Constant(&'static str),
    Unary(Unary, Pattern),
    Binary(Binary, Pattern, Pattern),
    Op(fn(&Op) -> bool, Vec<Pattern>),
}

/// Any value, under a name.
pub fn any(name: &'static str) -> Pattern {
    Pattern(Rc::new(Kind::Any(name)))
}

/// A constant of one element close to `value` (relative error below 1e-5).
pub fn scalar(value: f64) -> Pattern {
    Pattern(Rc::new(Kind::Scalar(value)))
}

/// Any constant of one element, under a name.
pub fn any_scalar(name: &'static str) -> Pattern {
    Pattern(Rc::new(Kind::ScalarVariable(name)))
}

/// Any constant, under a name.
pub fn constant(name: &'static str) -> Pattern {
    Pattern(Rc::new(Kind::Constant(name)))
}

/// An elementwise function.
pub fn unary(kind: Unary, x: Pattern) -> Pattern {
    Pattern(Rc::new(Kind::Unary(kind, x)))
}

/// An elementwise function of two operands.
pub fn binary(kind: Binary, a: Pattern, b: Pattern) -> Pattern {
    Pattern(Rc::new(Kind::Binary(kind, a, b)))
}

/// An op that the predicate accepts, with exactly these operands.
pub fn op(accepts: fn(&Op) -> bool, operands: Vec<Pattern>) -> Pattern {
    Pattern(Rc::new(Kind::Op(accepts, operands)))
}

macro_rules! operators {
    ($($trait:ident $method:ident $kind:ident,)*) => { $(
        impl $trait for Pattern {
            type Output = Pattern;
            fn $method(self, other: Pattern) -> Pattern {
                binary(Binary::$kind, self, other)
            }
        }

        impl $trait<f64> for Pattern {
            type Output = Pattern;
            fn $method(self, other: f64) -> Pattern {
                binary(Binary::$kind, self, scalar(other))
            }
        }
    )* };
}

operators! { Add add Add, Sub sub Sub, Mul mul Mul, Div div Div, }

/// What a formula matched.
#[derive(Clone, Debug, Default)]
pub struct Match {
    names: Vec<(&'static str, ValueId)>,
    /// Results of the matched operators, the root first.
    pub interior: Vec<ValueId>,
}

impl Match {
    /// The value that a name matched.
    pub fn get(&self, name: &str) -> Option<ValueId> {
        self.names.iter().find(|(bound, _)| *bound == name).map(|(_, value)| *value)
    }

    /// Whether no value inside the formula, the root apart, is used outside it.
    pub fn is_closed(&self, context: Context<'_>) -> bool {
        let body = context.body();
        let inside: Vec<_> =
            self.interior.iter().filter_map(|value| Some(body.producer(*value)?.0)).collect();
        self.interior.iter().skip(1).all(|value| {
            !body.is_output(*value) && body.users(*value).iter().all(|user| inside.contains(user))
        })
    }
}

/// Matches one of several forms of a formula at a value.
pub fn first_match(context: Context<'_>, forms: &[Pattern], value: ValueId) -> Option<Match> {
    forms.iter().find_map(|form| form.matches(context, value))
}

impl Pattern {
    /// Matches the formula at a value.
    pub fn matches(&self, context: Context<'_>, value: ValueId) -> Option<Match> {
        self.extend(context, value, Match::default())
    }

    fn extend(&self, context: Context<'_>, value: ValueId, mut found: Match) -> Option<Match> {
        match &*self.0 {
            Kind::Any(name) => bind(found, name, value),
            Kind::Scalar(expected) => {
                let actual = context.scalar(value)?;
                ((actual - expected).abs() <= 1e-5 * expected.abs()).then_some(found)
            }
            Kind::ScalarVariable(name) => {
                context.scalar(value)?;
                bind(found, name, value)
            }
            Kind::Constant(name) => {
                context.constant(value)?;
                bind(found, name, value)
            }
            Kind::Unary(kind, x) => {
                let (_, node, op) = context.producer(value)?;
                (*op == Op::Unary(*kind)).then_some(())?;
                found.interior.push(value);
                x.extend(context, (*node.inputs.first()?)?, found)
            }
            Kind::Binary(kind, a, b) => {
                let (_, node, op) = context.producer(value)?;
                (*op == Op::Binary(*kind)).then_some(())?;
                let (left, right) = ((*node.inputs.first()?)?, (*node.inputs.get(1)?)?);
                found.interior.push(value);
                let straight =
                    a.extend(context, left, found.clone()).and_then(|found| b.extend(context, right, found));
                let commutes = matches!(kind, Binary::Add | Binary::Mul | Binary::Min | Binary::Max);
                match straight {
                    None if commutes => {
                        a.extend(context, right, found).and_then(|found| b.extend(context, left, found))
                    }
                    straight => straight,
                }
            }
            Kind::Op(accepts, operands) => {
                let (_, node, op) = context.producer(value)?;
                let given = node.inputs.iter().flatten().count();
                (accepts(op) && given == operands.len()).then_some(())?;
                found.interior.push(value);
                operands
                    .iter()
                    .zip(node.inputs.iter().flatten())
                    .try_fold(found, |found, (operand, value)| operand.extend(context, *value, found))
            }
        }
    }
}

fn bind(mut found: Match, name: &'static str, value: ValueId) -> Option<Match> {
    match found.get(name) {
        Some(bound) => (bound == value).then_some(found),
        None => {
            found.names.push((name, value));
            Some(found)
        }
    }
}
