//! Reading and writing by index. Negative indices count from the end; others outside are an error.

use lathe_tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::cells::{Integer, with_integer};
use crate::elementwise::binary::{maximum, minimum};
use crate::elementwise::cast::{Number, load};
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::{Around, Walk, product, strides};

/// Attributes of [`crate::Op::Gather`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gather {
    /// The axis.
    pub axis: i64,
}

/// Attributes of [`crate::Op::GatherElements`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatherElements {
    /// The axis.
    pub axis: i64,
}

/// Attributes of [`crate::Op::GatherNd`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatherNd {
    /// Leading axes that both operands share.
    pub batch_dims: usize,
}

/// Attributes of [`crate::Op::ScatterElements`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScatterElements {
    /// The axis.
    pub axis: i64,
    /// How an update meets the old value.
    pub reduction: Reduction,
}

/// Attributes of [`crate::Op::ScatterNd`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScatterNd {
    /// How an update meets the old value.
    pub reduction: Reduction,
}

/// [`crate::Op::NonZero`] has no attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NonZero {}

/// How a scattered update meets the value in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Reduction {
    Replace,
    Add,
    Mul,
    Max,
    Min,
}

/// The positions on an axis that an index tensor names.
fn positions(cx: &Context<'_>, indices: &Tensor, axis: usize, size: usize) -> Result<Vec<usize>, EvalError> {
    let named = cx.integers("indices", indices)?;
    cx.spend(named.len().saturating_mul(size_of::<usize>()))?;
    named.into_iter().map(|index| cx.position(axis, index, size)).collect()
}

impl Evaluate for Gather {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, indices) = (cx.input(0)?, cx.input(1)?);
        let axis = cx.axis(self.axis, x.rank())?;
        let around = Around::of(x.shape(), axis);
        let shape = [&x.shape()[..axis], indices.shape(), &x.shape()[axis + 1..]].concat();
        cx.count(&shape)?;
        let positions = positions(cx, indices, axis, around.size)?;
        let elements = (0..around.outer).flat_map(|outer| {
            positions.iter().flat_map(move |&position| {
                let start = (outer * around.size + position) * around.inner;
                start..start + around.inner
            })
        });
        Ok(vec![cx.rearrange(x, &shape, elements)?])
    }
}

/// For each element of `indices`, the element of `x` that has its index but on `axis`, where `positions` says.
fn element_targets<'p>(
    cx: &Context<'_>,
    x: &Tensor,
    indices: &Tensor,
    axis: usize,
    positions: &'p [usize],
) -> Result<impl Iterator<Item = usize> + 'p, EvalError> {
    let fits = |i: usize| i == axis || indices.shape()[i] <= x.shape()[i];
    if indices.rank() != x.rank() || !(0..x.rank()).all(fits) {
        return Err(cx.shape("the indices reach outside x"));
    }
    let mut x_strides = strides(x.shape());
    let step = std::mem::take(&mut x_strides[axis]) as usize;
    let walk = Walk::new(indices.shape(), [x_strides], [0]);
    Ok(walk.zip(positions).map(move |([start], position)| start + position * step))
}

impl Evaluate for GatherElements {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, indices) = (cx.input(0)?, cx.input(1)?);
        let axis = cx.axis(self.axis, x.rank())?;
        let positions = positions(cx, indices, axis, x.shape()[axis])?;
        let elements = element_targets(cx, x, indices, axis, &positions)?;
        Ok(vec![cx.rearrange(x, indices.shape(), elements)?])
    }
}

/// For each index tuple, the first element of the slice of `x` that it names; and the shape of such a slice.
fn slice_starts<'x>(
    cx: &Context<'_>,
    x: &'x Tensor,
    indices: &Tensor,
    batch_dims: usize,
) -> Result<(Vec<usize>, &'x [usize]), EvalError> {
    let Some((&depth, tuples)) = indices.shape().split_last() else {
        return Err(cx.shape("the indices are a scalar"));
    };
    let end = batch_dims.checked_add(depth).filter(|&end| end <= x.rank() && batch_dims <= tuples.len());
    let Some(end) = end.filter(|_| tuples[..batch_dims.min(tuples.len())] == x.shape()[..batch_dims]) else {
        return Err(cx.shape(format!("tuples of {depth} indices and {batch_dims} shared axes do not fit x")));
    };
    let x_strides = strides(x.shape());
    let named = cx.integers("indices", indices)?;
    let count = cx.count(tuples)?;
    let per_batch = product(&tuples[batch_dims..]).max(1);
    let batch_size = product(&x.shape()[batch_dims..]);
    let mut starts = cx.filled(count, 0usize)?;
    for (tuple, start) in starts.iter_mut().enumerate() {
        *start = tuple / per_batch * batch_size;
        for (axis, &index) in (batch_dims..end).zip(&named[tuple * depth..]) {
            cx.step()?;
            *start += cx.position(axis, index, x.shape()[axis])? * x_strides[axis] as usize;
        }
    }
    Ok((starts, &x.shape()[end..]))
}

impl Evaluate for GatherNd {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, indices) = (cx.input(0)?, cx.input(1)?);
        let (starts, slice) = slice_starts(cx, x, indices, self.batch_dims)?;
        let tuples = &indices.shape()[..indices.rank() - 1];
        let size = product(slice);
        let elements = starts.iter().flat_map(|&start| start..start + size);
        Ok(vec![cx.rearrange(x, &[tuples, slice].concat(), elements)?])
    }
}

impl Evaluate for ScatterElements {
    fn arity(&self) -> Arity {
        Arity::of(3, 3)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, indices, updates) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        let axis = cx.axis(self.axis, x.rank())?;
        if indices.shape() != updates.shape() {
            return Err(cx.shape("indices and updates differ in shape"));
        }
        let positions = positions(cx, indices, axis, x.shape()[axis])?;
        let targets = element_targets(cx, x, indices, axis, &positions)?;
        Ok(vec![self.reduction.scatter(cx, x, updates, targets)?])
    }
}

impl Evaluate for ScatterNd {
    fn arity(&self) -> Arity {
        Arity::of(3, 3)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let (x, indices, updates) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        let (starts, slice) = slice_starts(cx, x, indices, 0)?;
        let tuples = &indices.shape()[..indices.rank() - 1];
        if updates.shape() != [tuples, slice].concat() {
            return Err(cx.shape("updates does not have one slice for each index tuple"));
        }
        let size = product(slice);
        let targets = starts.iter().flat_map(|&start| start..start + size);
        Ok(vec![self.reduction.scatter(cx, x, updates, targets)?])
    }
}

impl Reduction {
    /// `x` with the elements of `updates` brought to `targets` in order. Float sums are taken in f64.
    fn scatter(
        self,
        cx: &Context<'_>,
        x: &Tensor,
        updates: &Tensor,
        targets: impl Iterator<Item = usize>,
    ) -> Result<Tensor, EvalError> {
        cx.same_dtype("updates", x, updates)?;
        // Slices without elements have no targets, though there may be many of them.
        let targets = targets.take(updates.len()).enumerate();
        #[allow(clippy::type_complexity)] // The two forms of one function.
        let (floats, integers): (fn(f64, f64) -> f64, fn(i128, i128) -> i128) = match self {
            Reduction::Replace => {
                let mut cells = cx.filled(x.len(), None)?;
                for (update, target) in targets {
                    cx.step()?;
                    cells[target] = Some((1, update));
                }
                let cells = cells.into_iter().enumerate().map(|(i, cell)| cell.or(Some((0, i))));
                return cx.pick(&[x, updates], None, x.shape(), cells);
            }
            Reduction::Add => (|a, b| a + b, i128::wrapping_add),
            Reduction::Mul => (|a, b| a * b, i128::wrapping_mul),
            Reduction::Max => (maximum, i128::max),
            Reduction::Min => (minimum, i128::min),
        };
        with_integer!(x.dtype(), T => {
            let mut cells = cx.cells::<T>(x)?.into_owned();
            let updates = cx.cells::<T>(updates)?;
            for (update, target) in targets {
                cx.step()?;
                cells[target] = <T as Integer>::wrap(integers(cells[target].wide(), updates[update].wide()));
            }
            cx.tensor_of(&cells, x.shape())
        }, _ => {
            let (mut cells, updates) = (cx.floats("x", x)?, cx.floats("updates", updates)?);
            for (update, target) in targets {
                cx.step()?;
                cells[target] = floats(cells[target], updates[update]);
            }
            cx.rounded(x.dtype(), x.shape(), &cells)
        })
    }
}

impl Evaluate for NonZero {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    /// In row-major order of the elements.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let mut found = Vec::new();
        for (element, number) in load(cx, x)?.enumerate() {
            cx.step()?;
            if number != Number::Integer(0) && number != Number::Float(0.0) {
                found.push(element);
            }
        }
        cx.spend(found.len().saturating_mul(size_of::<usize>()))?;
        let (x_strides, shape) = (strides(x.shape()), x.shape());
        let coordinate =
            |axis: usize, element: usize| (element / x_strides[axis] as usize % shape[axis]) as i64;
        let cells = (0..x.rank()).flat_map(|axis| found.iter().map(move |&element| (axis, element)));
        let result =
            cx.build(&[x.rank(), found.len()], cells.map(|(axis, element)| coordinate(axis, element)))?;
        Ok(vec![result])
    }
}
