//! One symbolic element, and the arithmetic of such elements.

use std::rc::Rc;

use lathe_ir::{Dim, ValueId};
use lathe_ops::elementwise::{Binary, Compare, Unary};

use super::{Formula, Space};

/// An element of a value at the coordinates of a [`Space`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    /// An integer.
    Int(Dim),
    /// A float that is the same everywhere.
    Real(f64),
    /// A bool.
    Bool(Formula),
    /// The first where the formula holds, else the second.
    Select(Formula, Rc<Cell>, Rc<Cell>),
    /// The element of a value at an index: what the analysis does not look into.
    Element(ValueId, Vec<Dim>),
    /// An integer plus such an element, or minus it where `negated`.
    Offset {
        /// The value.
        value: ValueId,
        /// The index of its element.
        index: Vec<Dim>,
        /// Whether the element is subtracted.
        negated: bool,
        /// What it is added to.
        offset: i64,
    },
}

/// Numbers up to this are added to scores to hide a key.
pub(crate) const HIDING: f64 = -1e9;

/// Numbers up to this stand in for scores to hide a key, and are added where every query sees one: -10000 and the smallest half precision
/// number of older exports. The weight of such a key is zero in f32 where a score of a key that is seen is above them by [`UNDERFLOW`].
pub(crate) const HIDING_BESIDE_OTHERS: f64 = -1e4;

/// `exp(-x)` is zero in f32 from here on.
pub(crate) const UNDERFLOW: f64 = 104.0;

impl Cell {
    /// `if condition then a else b`.
    pub fn select(condition: Formula, a: Cell, b: Cell) -> Cell {
        match (condition, a, b) {
            (Formula::Known(true), a, _) => a,
            (Formula::Known(false), _, b) => b,
            (_, a, b) if a == b => a,
            (condition, Cell::Int(a), Cell::Int(b)) if agree_where(&condition, &a, &b) => Cell::Int(b),
            (condition, Cell::Bool(a), Cell::Bool(b)) => Cell::Bool(condition.choose(a, b)),
            // What is chosen where it is zero is zero.
            (condition, a @ Cell::Real(_), b) if b.element_truth().as_ref() == Some(&condition) => {
                Cell::select(condition, a, Cell::Real(0.0))
            }
            (condition, a, b @ Cell::Real(_))
                if a.element_truth().is_some_and(|truth| truth.negate() == condition) =>
            {
                Cell::select(condition, Cell::Real(0.0), b)
            }
            (condition, a, b) => Cell::Select(condition, a.into(), b.into()),
        }
    }

    /// Whether an element that is not looked into, perhaps with an offset, is not zero. A difference of floats is zero only where they are
    /// equal, and one of integers also where it wraps.
    fn element_truth(&self) -> Option<Formula> {
        match self {
            Cell::Element(value, index) => Some(Formula::non_zero(*value, index.clone())),
            Cell::Offset { value, index, negated, offset } => {
                let zero_at = if *negated { *offset } else { offset.checked_neg()? };
                Some(Formula::Is(*value, index.clone(), zero_at).negate())
            }
            _ => None,
        }
    }

    /// The sum of a number and an element, `None` where the number is no integer.
    fn offset(&self, negated: bool, number: f64) -> Option<Cell> {
        let Cell::Element(value, index) = self else { return None };
        // Integers of this size are floats too.
        let whole = number.fract() == 0.0 && number.abs() <= f64::from(1 << 24);
        (whole && (number != 0.0 || negated)).then(|| Cell::Offset {
            value: *value,
            index: index.clone(),
            negated,
            offset: number as i64,
        })
    }

    /// Applies a function to each alternative; `None` where it does not apply to one.
    fn map(&self, f: &dyn Fn(&Cell) -> Option<Cell>) -> Option<Cell> {
        match self {
            Cell::Select(condition, a, b) => Some(Cell::select(condition.clone(), a.map(f)?, b.map(f)?)),
            cell => f(cell),
        }
    }

    /// Whether the element is not zero (what a cast to bool says).
    pub fn truth(&self, space: &Space) -> Formula {
        match self {
            Cell::Int(dim) => Formula::equal(space, dim, &Dim::constant(0)).negate(),
            Cell::Real(number) => Formula::Known(*number != 0.0),
            Cell::Bool(formula) => formula.clone(),
            Cell::Select(condition, a, b) => condition.clone().choose(a.truth(space), b.truth(space)),
            Cell::Element(..) | Cell::Offset { .. } => self.element_truth().unwrap_or(Formula::Known(true)),
        }
    }

    /// The number of a bool: 1 or 0.
    pub fn number_of_bool(&self, one: Cell, zero: Cell) -> Option<Cell> {
        match self {
            Cell::Bool(formula) => Some(Cell::select(formula.clone(), one, zero)),
            _ => None,
        }
    }

    /// Whether an element is a number; with an offset, whether the sum is zero.
    fn is(&self, number: f64) -> Option<Formula> {
        match self {
            Cell::Element(value, index) => {
                let whole = number.fract() == 0.0 && number.abs() <= f64::from(1 << 24);
                whole.then(|| Formula::Is(*value, index.clone(), number as i64))
            }
            _ if number == 0.0 => self.element_truth().map(Formula::negate),
            _ => None,
        }
    }

    /// Where the key is seen, if this times the factor is what is added to a score: 0 where it is, a number that hides it where it is not.
    /// `hiding` is the largest such number.
    pub fn visible(&self, factor: f64, hiding: f64) -> Option<Formula> {
        match self {
            Cell::Real(number) if *number == 0.0 => Some(Formula::Known(true)),
            Cell::Real(number) if *number <= hiding && number * factor <= hiding => {
                Some(Formula::Known(false))
            }
            Cell::Select(condition, a, b) => {
                Some(condition.clone().choose(a.visible(factor, hiding)?, b.visible(factor, hiding)?))
            }
            _ => None,
        }
    }

    /// The largest number that it is but zero, times the factor.
    pub fn largest(&self, factor: f64) -> Option<f64> {
        match self {
            Cell::Real(number) => (*number != 0.0).then_some(number * factor),
            Cell::Select(_, a, b) => match (a.largest(factor), b.largest(factor)) {
                (Some(a), Some(b)) => Some(a.max(b)),
                (a, b) => a.or(b),
            },
            _ => None,
        }
    }

    /// An elementwise function.
    pub fn unary(&self, kind: Unary) -> Option<Cell> {
        self.map(&|cell| match (kind, cell) {
            (Unary::Identity, cell) => Some(cell.clone()),
            (Unary::Neg, Cell::Int(dim)) => Some(Cell::Int(dim.scale(-1))),
            (Unary::Abs, Cell::Int(dim)) => Some(Cell::Int(dim.max(&dim.scale(-1)))),
            (Unary::Not, Cell::Bool(formula)) => Some(Cell::Bool(formula.clone().negate())),
            (Unary::Neg, element @ Cell::Element(..)) => element.offset(true, 0.0),
            (Unary::Neg, Cell::Real(number)) => Some(Cell::Real(-number)),
            (Unary::Abs, Cell::Real(number)) => Some(Cell::Real(number.abs())),
            _ => None,
        })
    }

    /// An elementwise function of two operands.
    pub fn binary(&self, kind: Binary, other: &Cell) -> Option<Cell> {
        self.map(&|a| {
            other.map(&|b| match (a, b) {
                (Cell::Int(a), Cell::Int(b)) => integers(kind, a, b).map(Cell::Int),
                (Cell::Real(a), Cell::Real(b)) => reals(kind, *a, *b).map(Cell::Real),
                (Cell::Bool(a), Cell::Bool(b)) => bools(kind, a, b).map(Cell::Bool),
                (Cell::Element(..), _) => shifted(kind, a, b.as_number()?),
                (_, Cell::Element(..)) => match kind {
                    Binary::Add => shifted(kind, b, a.as_number()?),
                    Binary::Sub => b.offset(true, a.as_number()?),
                    _ => None,
                },
                _ => None,
            })
        })
    }

    /// A number that is the same everywhere.
    fn as_number(&self) -> Option<f64> {
        match self {
            Cell::Real(number) => Some(*number),
            Cell::Int(dim) => dim.as_constant().map(|number| number as f64),
            _ => None,
        }
    }

    /// A comparison.
    pub fn compare(&self, space: &Space, kind: Compare, other: &Cell) -> Option<Cell> {
        self.map(&|a| {
            other.map(&|b| {
                let formula = match (a, b) {
                    (Cell::Int(a), Cell::Int(b)) => {
                        let one = Dim::constant(1);
                        match kind {
                            Compare::Equal => Formula::equal(space, a, b),
                            Compare::Less => Formula::at_least(space, &b.sub(a).sub(&one)),
                            Compare::LessOrEqual => Formula::at_least(space, &b.sub(a)),
                            Compare::Greater => Formula::at_least(space, &a.sub(b).sub(&one)),
                            Compare::GreaterOrEqual => Formula::at_least(space, &a.sub(b)),
                        }
                    }
                    (Cell::Real(a), Cell::Real(b)) => Formula::Known(match kind {
                        Compare::Equal => a == b,
                        Compare::Less => a < b,
                        Compare::LessOrEqual => a <= b,
                        Compare::Greater => a > b,
                        Compare::GreaterOrEqual => a >= b,
                    }),
                    (Cell::Bool(a), Cell::Bool(b)) if kind == Compare::Equal => {
                        a.clone().choose(b.clone(), b.clone().negate())
                    }
                    (element @ (Cell::Element(..) | Cell::Offset { .. }), number)
                    | (number, element @ (Cell::Element(..) | Cell::Offset { .. }))
                        if kind == Compare::Equal =>
                    {
                        element.is(number.as_number()?)?
                    }
                    _ => return None,
                };
                Some(Cell::Bool(formula))
            })
        })
    }
}

/// An element plus or minus a number.
fn shifted(kind: Binary, element: &Cell, number: f64) -> Option<Cell> {
    match kind {
        Binary::Add | Binary::Sub if number == 0.0 => Some(element.clone()),
        Binary::Add => element.offset(false, number),
        Binary::Sub => element.offset(false, -number),
        _ => None,
    }
}

/// Whether both are the same where the condition holds, because it holds at the first place of an axis alone: `-i >= 0`.
fn agree_where(condition: &Formula, a: &Dim, b: &Dim) -> bool {
    let Formula::AtLeast(bound) = condition else { return false };
    let negated = bound.scale(-1);
    let Some(first) = negated.as_symbol() else { return false };
    let at_first = |dim: &Dim| dim.substitute(&|symbol| (symbol == first).then(|| Dim::constant(0)));
    at_first(a) == at_first(b)
}

fn integers(kind: Binary, a: &Dim, b: &Dim) -> Option<Dim> {
    let positive = || b.as_constant().is_some_and(|b| b > 0);
    let whole = || a.at_least(0) == lathe_ir::Answer::Yes;
    let result = match kind {
        Binary::Add => a.add(b),
        Binary::Sub => a.sub(b),
        Binary::Mul => a.mul(b),
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        // Integer division rounds towards zero: the floor where nothing is negative.
        Binary::Div if positive() && whole() => a.floor_div(b),
        Binary::Mod if positive() => a.modulo(b),
        _ => return None,
    };
    (!result.is_overflow()).then_some(result)
}

fn reals(kind: Binary, a: f64, b: f64) -> Option<f64> {
    let result = match kind {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        _ => return None,
    };
    (!result.is_nan()).then_some(result)
}

fn bools(kind: Binary, a: &Formula, b: &Formula) -> Option<Formula> {
    Some(match kind {
        Binary::And => a.clone().and(b.clone()),
        Binary::Or => a.clone().or(b.clone()),
        Binary::Xor => a.clone().choose(b.clone().negate(), b.clone()),
        _ => return None,
    })
}
