//! Walking over index space: strides, broadcasting, axes.

use lathe_tensor::{broadcast_shapes, row_major_strides};

use crate::EvalError;
use crate::evaluate::Context;

/// Visits every index of a shape in row-major order and yields the flat offset of that index in `N` operands.
pub(crate) struct Walk<const N: usize> {
    shape: Vec<usize>,
    strides: [Vec<isize>; N],
    index: Vec<usize>,
    offsets: [isize; N],
    left: usize,
}

impl<const N: usize> Walk<N> {
    /// Over `shape`, whose element count must not overflow; operand `n` starts at `starts[n]` and moves by
    /// `strides[n][axis]` along each axis.
    pub fn new(shape: &[usize], strides: [Vec<isize>; N], starts: [usize; N]) -> Self {
        let left = shape.iter().fold(1usize, |product, &dim| product.saturating_mul(dim));
        let offsets = starts.map(|start| start as isize);
        Self { shape: shape.to_vec(), strides, index: vec![0; shape.len()], offsets, left }
    }
}

impl<const N: usize> Iterator for Walk<N> {
    type Item = [usize; N];

    fn next(&mut self) -> Option<[usize; N]> {
        self.left = self.left.checked_sub(1)?;
        let current = self.offsets.map(|offset| offset as usize);
        for axis in (0..self.shape.len()).rev() {
            self.index[axis] += 1;
            let wraps = self.index[axis] == self.shape[axis];
            // Past the last index the offsets leave the operand for a moment, hence the wrapping sums.
            let steps = if wraps { 1 - self.shape[axis] as isize } else { 1 };
            for (offset, strides) in self.offsets.iter_mut().zip(&self.strides) {
                *offset = offset.wrapping_add(strides[axis].wrapping_mul(steps));
            }
            if !wraps {
                break;
            }
            self.index[axis] = 0;
        }
        Some(current)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

/// Row-major strides.
pub(crate) fn strides(shape: &[usize]) -> Vec<isize> {
    row_major_strides(shape).into_iter().map(|stride| stride as isize).collect()
}

/// Strides that walk an operand of `shape` over the indices of `over`, which it broadcasts to.
pub(crate) fn broadcast_strides(shape: &[usize], over: &[usize]) -> Vec<isize> {
    let own = strides(shape);
    let missing = over.len().saturating_sub(shape.len());
    let along = |axis: usize| match axis.checked_sub(missing) {
        Some(axis) if shape[axis] != 1 => own[axis],
        _ => 0,
    };
    (0..over.len()).map(along).collect()
}

/// The product of sizes; cannot overflow for a part of a tensor's shape.
pub(crate) fn product(shape: &[usize]) -> usize {
    shape.iter().fold(1, |product, &dim| product.saturating_mul(dim))
}

/// A shape seen from one axis: `[outer, size, inner]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around {
    /// Product of the sizes before the axis.
    pub outer: usize,
    /// Size of the axis.
    pub size: usize,
    /// Product of the sizes after the axis.
    pub inner: usize,
}

impl Around {
    /// The view of `shape` from `axis`, which must be in it.
    pub fn of(shape: &[usize], axis: usize) -> Self {
        Self { outer: product(&shape[..axis]), size: shape[axis], inner: product(&shape[axis + 1..]) }
    }

    /// Start of each line along the axis: elements stand `inner` apart from there on. None where there is nothing
    /// to visit.
    pub fn lines(self) -> impl Iterator<Item = usize> {
        let lines = if self.size == 0 { 0 } else { self.outer.saturating_mul(self.inner) };
        (0..lines).map(move |line| line / self.inner * self.size * self.inner + line % self.inner)
    }
}

impl Context<'_> {
    /// The shape that all of `shapes` broadcast to.
    pub fn broadcast(&self, shapes: &[&[usize]]) -> Result<Vec<usize>, EvalError> {
        shapes.iter().try_fold(Vec::new(), |over, shape| {
            broadcast_shapes(&over, shape).map_err(|_| self.shape("the shapes do not broadcast"))
        })
    }

    /// That `shape` broadcasts to `over` without changing it.
    pub fn broadcasts_to(&self, operand: &str, shape: &[usize], over: &[usize]) -> Result<(), EvalError> {
        match broadcast_shapes(shape, over) {
            Ok(result) if result == over => Ok(()),
            _ => Err(self.shape(format!("{operand} {shape:?} does not broadcast to {over:?}"))),
        }
    }

    /// The axis that `axis` names in `rank` axes; negative counts from the end.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, EvalError> {
        let resolved = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
        match resolved.and_then(|axis| usize::try_from(axis).ok()) {
            Some(axis) if axis < rank => Ok(axis),
            _ => Err(self.shape(format!("axis {axis} is not among {rank} axes"))),
        }
    }

    /// Which of `rank` axes are named in `axes`; naming one twice is an error.
    pub fn axis_set(&self, axes: &[i64], rank: usize) -> Result<Vec<bool>, EvalError> {
        let mut named = vec![false; rank];
        for &axis in axes {
            let resolved = self.axis(axis, rank)?;
            if std::mem::replace(&mut named[resolved], true) {
                return Err(self.bad(format!("axis {axis} is named twice")));
            }
        }
        Ok(named)
    }

    /// The position that `index` names on an axis; negative counts from the end.
    pub fn position(&self, axis: usize, index: i64, size: usize) -> Result<usize, EvalError> {
        let resolved = if index < 0 { index.checked_add(size as i64) } else { Some(index) };
        match resolved.and_then(|index| usize::try_from(index).ok()) {
            Some(position) if position < size => Ok(position),
            _ => Err(self.index(axis, index, size)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_broadcast_and_strided_operands() {
        let over = [2, 3];
        let strides = [strides(&over), broadcast_strides(&[2, 1], &over), vec![0, -1]];
        let offsets: Vec<_> = Walk::new(&over, strides, [0, 0, 2]).collect();
        assert_eq!(offsets, [[0, 0, 2], [1, 0, 1], [2, 0, 0], [3, 1, 2], [4, 1, 1], [5, 1, 0]]);
        assert_eq!(Walk::new(&[], [vec![]], [7]).collect::<Vec<_>>(), [[7]]);
        assert_eq!(Walk::new(&[3, 0, 2], [vec![0; 3]], [0]).count(), 0);
    }

    #[test]
    fn lines_start_where_an_axis_starts() {
        assert_eq!(Around::of(&[2, 3, 2], 1).lines().collect::<Vec<_>>(), [0, 1, 6, 7]);
        assert_eq!(Around::of(&[2, 0, 2], 1).lines().count(), 0);
        assert_eq!(Around::of(&[2, 3, 0], 1).lines().count(), 0);
    }
}
