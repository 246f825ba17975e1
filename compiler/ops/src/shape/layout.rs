//! Ops that only rename or rearrange elements.

use lathe_tensor::{DType, Tensor};

use super::{Concat, Expand, Reshape, ShapeOf, Size, Slice, Split, Squeeze, Tile, Transpose, Unsqueeze};
use crate::EvalError;
use crate::evaluate::{Arity, Context, Evaluate};
use crate::walk::{Around, Walk, broadcast_strides, product, strides};

impl Evaluate for ShapeOf {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let shape = cx.input(0)?.shape();
        let rank = shape.len() as i64;
        let clamp =
            |axis: i64| if axis < 0 { axis.saturating_add(rank) } else { axis }.clamp(0, rank) as usize;
        let (start, end) = (clamp(self.start), clamp(self.end.unwrap_or(rank)));
        let sizes: Vec<i64> = shape[start..end.max(start)].iter().map(|&size| size as i64).collect();
        Ok(vec![cx.tensor_of(&sizes, &[sizes.len()])?])
    }
}

impl Evaluate for Size {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        Ok(vec![Tensor::scalar(cx.input(0)?.len() as i64)])
    }
}

impl Evaluate for Reshape {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let asked = cx.integer_list("shape", cx.input(1)?)?;
        let mut shape = Vec::with_capacity(asked.len());
        let mut inferred = None;
        for (axis, &size) in asked.iter().enumerate() {
            shape.push(match size {
                -1 if inferred.replace(axis).is_none() => 1,
                0 if !self.allow_zero => *x.shape().get(axis).ok_or_else(|| {
                    cx.shape(format!("shape {asked:?} copies axis {axis}, which x does not have"))
                })?,
                0.. => usize::try_from(size).map_err(|_| cx.too_large(None))?,
                _ => return Err(cx.bad(format!("shape {asked:?} has a size below -1 or two of -1"))),
            });
        }
        if let Some(axis) = inferred {
            let rest = cx.count(&shape)?;
            if rest == 0 || x.len() % rest != 0 {
                return Err(cx.shape(format!("shape {asked:?} does not divide {} elements", x.len())));
            }
            shape[axis] = x.len() / rest;
        }
        Ok(vec![cx.viewed(x, &shape)?])
    }
}

/// The axes that an attribute or input 1 names; `None` where neither does.
fn axes(cx: &Context<'_>, attribute: &Option<Vec<i64>>) -> Result<Option<Vec<i64>>, EvalError> {
    match (cx.optional(1), attribute) {
        (Some(axes), _) => cx.integer_list("axes", axes).map(Some),
        (None, attribute) => Ok(attribute.clone()),
    }
}

impl Evaluate for Squeeze {
    fn arity(&self) -> Arity {
        Arity::of(1, 2)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let removed = match axes(cx, &self.axes)? {
            Some(axes) => cx.axis_set(&axes, x.rank())?,
            None => x.shape().iter().map(|&size| size == 1).collect(),
        };
        let mut shape = Vec::with_capacity(x.rank());
        for (&size, &removed) in x.shape().iter().zip(&removed) {
            match (removed, size) {
                (true, 1) => {}
                (true, _) => return Err(cx.shape(format!("an axis of size {size} cannot be removed"))),
                (false, _) => shape.push(size),
            }
        }
        Ok(vec![cx.viewed(x, &shape)?])
    }
}

impl Evaluate for Unsqueeze {
    fn arity(&self) -> Arity {
        Arity::of(1, 2)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let Some(axes) = axes(cx, &self.axes)? else { return Err(cx.bad("no axes are given")) };
        let inserted = cx.axis_set(&axes, x.rank() + axes.len())?;
        let mut sizes = x.shape().iter().copied();
        let shape: Vec<usize> =
            inserted.iter().map(|&inserted| if inserted { 1 } else { sizes.next().unwrap_or(1) }).collect();
        Ok(vec![cx.viewed(x, &shape)?])
    }
}

impl Evaluate for Transpose {
    fn arity(&self) -> Arity {
        Arity::of(1, 1)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..x.rank()) {
            return Err(cx.shape(format!("{:?} is not a permutation of the axes", self.perm)));
        }
        let from = strides(x.shape());
        let shape: Vec<usize> = self.perm.iter().map(|&axis| x.shape()[axis]).collect();
        let steps = self.perm.iter().map(|&axis| from[axis]).collect();
        let elements = Walk::new(&shape, [steps], [0]).map(|[element]| element);
        Ok(vec![cx.rearrange(x, &shape, elements)?])
    }
}

impl Evaluate for Concat {
    fn arity(&self) -> Arity {
        Arity::of(1, usize::MAX)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let inputs = (0..cx.input_count()).map(|index| cx.input(index)).collect::<Result<Vec<_>, _>>()?;
        let first = inputs[0];
        let axis = cx.axis(self.axis, first.rank())?;
        let mut shape = first.shape().to_vec();
        shape[axis] = 0;
        for input in &inputs {
            let fits = |i: usize| i == axis || input.shape()[i] == first.shape()[i];
            if input.rank() != first.rank() || !(0..first.rank()).all(fits) {
                return Err(cx.shape(format!("the inputs differ beside axis {axis}")));
            }
            shape[axis] = shape[axis].checked_add(input.shape()[axis]).ok_or_else(|| cx.too_large(None))?;
        }
        cx.count(&shape)?;
        let outer = product(&shape[..axis]);
        let runs: Vec<usize> = inputs.iter().map(|input| product(&input.shape()[axis..])).collect();
        let cells = (0..outer).flat_map(|outer| {
            let starts = runs.iter().enumerate();
            starts.flat_map(move |(source, &run)| {
                (outer * run..(outer + 1) * run).map(move |i| Some((source, i)))
            })
        });
        Ok(vec![cx.pick(&inputs, None, &shape, cells)?])
    }
}

impl Evaluate for Split {
    fn arity(&self) -> Arity {
        Arity::of(1, 2).outputs(self.outputs, self.outputs)
    }

    /// Without sizes the pieces are equal, but for a smaller last one where the axis does not divide.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let axis = cx.axis(self.axis, x.rank())?;
        let around = Around::of(x.shape(), axis);
        let sizes = match cx.optional(1) {
            Some(sizes) => {
                let sizes = cx.integer_list("sizes", sizes)?;
                let sum = sizes.iter().map(|&size| i128::from(size)).sum::<i128>();
                if sizes.len() != self.outputs || sum != around.size as i128 || sizes.iter().any(|&s| s < 0) {
                    return Err(
                        cx.shape(format!("sizes {sizes:?} do not divide axis {axis} in {}", self.outputs))
                    );
                }
                sizes.into_iter().map(|size| size as usize).collect()
            }
            None => {
                let piece = around.size.div_ceil(self.outputs.max(1));
                let size = |index: usize| around.size.saturating_sub(index.saturating_mul(piece)).min(piece);
                (0..cx.wanted()).map(size).collect::<Vec<usize>>()
            }
        };
        let mut pieces = Vec::with_capacity(cx.wanted());
        let mut begin = 0;
        for size in sizes.into_iter().take(cx.wanted()) {
            let mut shape = x.shape().to_vec();
            shape[axis] = size;
            let start = begin * around.inner;
            let elements = Walk::new(&shape, [strides(x.shape())], [start]).map(|[element]| element);
            pieces.push(cx.rearrange(x, &shape, elements)?);
            begin += size;
        }
        Ok(pieces)
    }
}

impl Evaluate for Slice {
    fn arity(&self) -> Arity {
        Arity::of(3, 5)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let list = |index: usize, name: &str| {
            cx.optional(index).map(|input| cx.integer_list(name, input)).transpose()
        };
        let starts = cx.integer_list("starts", cx.input(1)?)?;
        let ends = cx.integer_list("ends", cx.input(2)?)?;
        let axes = list(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = list(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
        if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
            return Err(cx.shape("starts, ends, axes and steps differ in length"));
        }
        cx.axis_set(&axes, x.rank())?;
        let (mut shape, mut moves, mut first) = (x.shape().to_vec(), strides(x.shape()), 0usize);
        for (((&start, &end), &axis), &step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
            let axis = cx.axis(axis, x.rank())?;
            if step == 0 {
                return Err(cx.bad(format!("the step of axis {axis} is 0")));
            }
            let (begin, count) = range(start, end, step, shape[axis]);
            shape[axis] = count;
            if count > 0 {
                first += begin * moves[axis] as usize;
            }
            moves[axis] = moves[axis].wrapping_mul(step as isize);
        }
        let elements = Walk::new(&shape, [moves], [first]).map(|[element]| element);
        Ok(vec![cx.rearrange(x, &shape, elements)?])
    }
}

/// First position and number of positions of `start:end:step` on an axis of `size`.
fn range(start: i64, end: i64, step: i64, size: usize) -> (usize, usize) {
    let size = size as i128;
    let absolute = |index: i64| i128::from(index) + if index < 0 { size } else { 0 };
    let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
    let (start, end, step) =
        (absolute(start).clamp(low, high), absolute(end).clamp(low, high), i128::from(step));
    let distance = if step > 0 { end - start } else { start - end };
    let count = (distance + step.abs() - 1).max(0) / step.abs();
    (start.max(0) as usize, count as usize)
}

impl Evaluate for Expand {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    /// Broadcasting is mutual: a 1 in the shape keeps the size of `x`.
    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let asked = sizes(cx, "shape", cx.input(1)?)?;
        let shape = cx.broadcast(&[x.shape(), &asked])?;
        cx.count(&shape)?;
        let elements =
            Walk::new(&shape, [broadcast_strides(x.shape(), &shape)], [0]).map(|[element]| element);
        Ok(vec![cx.rearrange(x, &shape, elements)?])
    }
}

/// The sizes that an input holds; none may be negative.
pub(super) fn sizes(cx: &Context<'_>, name: &str, input: &Tensor) -> Result<Vec<usize>, EvalError> {
    let sizes = cx.integer_list(name, input)?;
    let size =
        |&size: &i64| usize::try_from(size).map_err(|_| cx.bad(format!("{name} has a negative {size}")));
    sizes.iter().map(size).collect()
}

impl Evaluate for Tile {
    fn arity(&self) -> Arity {
        Arity::of(2, 2)
    }

    fn evaluate(&self, cx: &Context<'_>) -> Result<Vec<Tensor>, EvalError> {
        let x = cx.input(0)?;
        let repeats = sizes(cx, "repeats", cx.input(1)?)?;
        if repeats.len() != x.rank() {
            return Err(cx.shape(format!("{} repeats are given for {} axes", repeats.len(), x.rank())));
        }
        let product = |(&size, &repeat): (&usize, &usize)| size.checked_mul(repeat);
        let shape: Option<Vec<usize>> = x.shape().iter().zip(&repeats).map(product).collect();
        let shape = shape.ok_or_else(|| cx.too_large(None))?;
        if x.dtype() != DType::String && cx.count(&shape)? == 0 {
            return Ok(vec![cx.zeros(x.dtype(), &shape)?]);
        }
        // Each axis is walked as two: the repeats, which do not move, and the elements.
        let split: Vec<usize> = repeats.iter().zip(x.shape()).flat_map(|(&r, &d)| [r, d]).collect();
        cx.count(&split)?;
        let moves = strides(x.shape()).into_iter().flat_map(|stride| [0, stride]).collect();
        let elements = Walk::new(&split, [moves], [0]).map(|[element]| element);
        Ok(vec![cx.rearrange(x, &shape, elements)?])
    }
}
