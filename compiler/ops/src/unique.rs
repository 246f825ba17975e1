//! Distinct elements or slices.

use std::cmp::Ordering;

use lathe_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::elementwise::cast::{Number, load};
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::Around;

/// Attributes of [`crate::Op::Unique`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unique {
    /// The axis whose slices are compared; the elements of the flat tensor where absent.
    pub axis: Option<i64>,
    /// In ascending order, instead of that of their first occurrence.
    pub sorted: bool,
}

/// Elements with an order.
enum Keys<'a> {
    Numbers(Vec<Number>),
    Strings(&'a [Vec<u8>]),
}

impl Keys<'_> {
    /// NaN is the largest and equal to itself.
    fn compare(&self, a: usize, b: usize) -> Ordering {
        match self {
            Keys::Strings(strings) => strings[a].cmp(&strings[b]),
            Keys::Numbers(numbers) => match (numbers[a], numbers[b]) {
                (Number::Integer(a), Number::Integer(b)) => a.cmp(&b),
                (Number::Float(a), Number::Float(b)) => {
                    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
                }
                (Number::Integer(_), Number::Float(_)) => Ordering::Less,
                (Number::Float(_), Number::Integer(_)) => Ordering::Greater,
            },
        }
    }
}

impl Evaluate for Unique {
    fn arity(&self) -> Arity {
        Arity::of(1, 1).outputs(1, 4)
    }

    /// Outputs: the distinct elements or slices, where each is first, which of them each one is, how many there are of each.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let (around, axis) = match self.axis {
            None => (Around { outer: 1, size: x.len(), inner: 1 }, None),
            Some(axis) => {
                let axis = cx.axis(axis, x.rank())?;
                (Around::of(x.shape(), axis), Some(axis))
            }
        };
        let keys = match x.dtype() {
            DType::String => Keys::Strings(x.strings().map_err(|source| cx.tensor(source))?),
            _ => {
                cx.spend(x.len().saturating_mul(size_of::<Number>()))?;
                Keys::Numbers(load(cx, x)?.collect())
            }
        };
        let order = sorted(cx, &keys, around)?;
        let mut groups: Vec<Vec<usize>> = Vec::new();
        cx.spend(order.len().saturating_mul(2 * size_of::<Vec<usize>>()))?;
        for slice in order {
            match groups.last_mut() {
                Some(group) if compare(&keys, around, group[0], slice).is_eq() => group.push(slice),
                _ => groups.push(vec![slice]),
            }
        }
        if !self.sorted {
            groups.sort_by_key(|group| group[0]);
        }
        let mut inverse = cx.filled(around.size, 0i64)?;
        for (index, group) in groups.iter().enumerate() {
            group.iter().for_each(|&slice| inverse[slice] = index as i64);
        }
        let firsts: Vec<usize> = groups.iter().map(|group| group[0]).collect();
        let mut shape = vec![firsts.len()];
        if let Some(axis) = axis {
            shape = x.shape().to_vec();
            shape[axis] = firsts.len();
        }
        let row = around.inner;
        let outer = if x.is_empty() { 0 } else { around.outer };
        let cells = (0..outer).flat_map(|outer| {
            let start = outer * around.size * row;
            firsts.iter().flat_map(move |&slice| (0..row).map(move |inner| start + slice * row + inner))
        });
        let y = cx.rearrange(x, &shape, cells)?;
        let count = groups.len();
        let first: Vec<i64> = firsts.iter().map(|&slice| slice as i64).collect();
        let counts: Vec<i64> = groups.iter().map(|group| group.len() as i64).collect();
        Ok(vec![
            y,
            cx.tensor_of(&first, &[count])?,
            cx.tensor_of(&inverse, &[around.size])?,
            cx.tensor_of(&counts, &[count])?,
        ])
    }
}

/// Slices by their elements, row by row.
fn compare(keys: &Keys<'_>, around: Around, a: usize, b: usize) -> Ordering {
    let element =
        |slice: usize, outer: usize, inner: usize| (outer * around.size + slice) * around.inner + inner;
    let outer = if around.inner == 0 { 0 } else { around.outer };
    for outer in 0..outer {
        for inner in 0..around.inner {
            let ordering = keys.compare(element(a, outer, inner), element(b, outer, inner));
            if ordering.is_ne() {
                return ordering;
            }
        }
    }
    Ordering::Equal
}

/// The slices in ascending order, equal ones by place.
fn sorted(cx: &Context<'_>, keys: &Keys<'_>, around: Around) -> Result<Vec<usize>, EvalError> {
    cx.spend(around.size.saturating_mul(2 * size_of::<usize>()))?;
    let mut failure = None;
    let mut order: Vec<usize> = (0..around.size).collect();
    order.sort_by(|&a, &b| {
        if failure.is_some() {
            return Ordering::Equal;
        }
        if let Err(error) = cx.work(around.outer.saturating_mul(around.inner).saturating_add(1)) {
            failure = Some(error);
        }
        compare(keys, around, a, b)
    });
    failure.map_or(Ok(order), Err)
}
