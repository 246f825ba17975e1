//! Where a value lies: a buffer, an offset, sizes and strides. Views are arithmetic on these.

use lathe_tensor::DType;

use crate::size::{Size, Sizes};

/// A buffer of the plan in the making.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub(crate) u32);

/// Where a value lies. Offset and strides are in elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Location {
    /// The memory.
    pub buffer: BufferId,
    /// Elements before the first.
    pub offset: Size,
    /// Type of the elements.
    pub dtype: DType,
    /// Sizes of the axes.
    pub dims: Vec<Size>,
    /// Elements to step, one an axis.
    pub strides: Vec<Size>,
    /// Pieces of joined tensors that it lies in: two locations with another index of one join do not overlap.
    pub parts: Vec<(u32, u32)>,
}

impl Location {
    /// A row-major tensor at the start of a buffer.
    pub fn dense(sizes: &mut Sizes, buffer: BufferId, dtype: DType, dims: &[Size]) -> Self {
        Self {
            buffer,
            offset: Size::ZERO,
            dtype,
            dims: dims.to_vec(),
            strides: row_major(sizes, dims),
            parts: Vec::new(),
        }
    }

    /// The same, this many elements from the start of the buffer.
    pub fn at(self, offset: Size) -> Self {
        Self { offset, ..self }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Whether the elements are row-major without gaps.
    pub fn is_dense(&self, sizes: &mut Sizes) -> bool {
        self.is_dense_from(sizes, 0)
    }

    /// Whether the axes from `axis` on are row-major without gaps among themselves.
    pub fn is_dense_from(&self, sizes: &mut Sizes, axis: usize) -> bool {
        let mut expected = Size::ONE;
        for axis in (axis..self.rank()).rev() {
            if self.dims[axis] == Size::ONE {
                continue;
            }
            if self.strides[axis] != expected {
                return false;
            }
            expected = sizes.mul(expected, self.dims[axis]);
        }
        true
    }

    /// The stride of the axes `range` walked as one axis, where they merge: 1 where all sizes are 1.
    pub fn merged_stride(&self, sizes: &mut Sizes, range: std::ops::Range<usize>) -> Option<Size> {
        let mut merged = None;
        for axis in range.rev() {
            if self.dims[axis] == Size::ONE {
                continue;
            }
            merged = Some(match merged {
                None => (self.strides[axis], sizes.mul(self.strides[axis], self.dims[axis])),
                Some((first, next)) if next == self.strides[axis] => {
                    (first, sizes.mul(next, self.dims[axis]))
                }
                Some(_) => return None,
            });
        }
        Some(merged.map_or(Size::ONE, |(first, _)| first))
    }

    /// Axis `i` of the result is axis `perm[i]`.
    pub fn transposed(&self, perm: &[usize]) -> Option<Self> {
        if perm.len() != self.rank() {
            return None;
        }
        let pick =
            |from: &[Size]| perm.iter().map(|&axis| from.get(axis).copied()).collect::<Option<Vec<_>>>();
        Some(Self { dims: pick(&self.dims)?, strides: pick(&self.strides)?, ..self.clone() })
    }

    /// The same elements in row-major order under other sizes, where strides can express it. The number of
    /// elements is equal by the rules of the op.
    pub fn reshaped(&self, sizes: &mut Sizes, dims: &[Size]) -> Option<Self> {
        if self.is_dense(sizes) {
            return Some(Self { dims: dims.to_vec(), strides: row_major(sizes, dims), ..self.clone() });
        }
        let strides = regroup(sizes, self, dims)?;
        Some(Self { dims: dims.to_vec(), strides, ..self.clone() })
    }

    /// The view of `dims` to which it broadcasts: stride 0 along repeated axes.
    pub fn broadcast(&self, sizes: &mut Sizes, dims: &[Size]) -> Option<Self> {
        let missing = dims.len().checked_sub(self.rank())?;
        let mut strides = vec![Size::ZERO; missing];
        for (axis, &extent) in dims.iter().enumerate().skip(missing) {
            let (size, stride) = (self.dims[axis - missing], self.strides[axis - missing]);
            let stride = if extent == Size::ONE && size == Size::ONE {
                stride
            } else {
                sizes.broadcast_stride(size, stride, extent)
            };
            strides.push(stride);
        }
        Some(Self { dims: dims.to_vec(), strides, ..self.clone() })
    }

    /// The box of `length` elements of `axis` from `start` on, `step` apart.
    pub fn sliced(&self, sizes: &mut Sizes, axis: usize, start: Size, length: Size, step: i64) -> Self {
        let mut view = self.clone();
        let skipped = sizes.mul(start, self.strides[axis]);
        view.offset = sizes.add(self.offset, skipped);
        view.dims[axis] = length;
        view.strides[axis] = sizes.mul_constant(self.strides[axis], step);
        view
    }

    /// Adds an axis of size 1 before `axis`.
    pub fn with_unit_axis(&self, axis: usize) -> Self {
        let mut view = self.clone();
        let stride = view.strides.get(axis).copied().unwrap_or(Size::ONE);
        view.dims.insert(axis, Size::ONE);
        view.strides.insert(axis, stride);
        view
    }
}

/// Whether two positions in joined tensors exclude one another.
pub(crate) fn parts_apart(a: &[(u32, u32)], b: &[(u32, u32)]) -> bool {
    a.iter().any(|(join, index)| b.iter().any(|(other, other_index)| join == other && index != other_index))
}

/// Row-major strides.
pub fn row_major(sizes: &mut Sizes, dims: &[Size]) -> Vec<Size> {
    let mut strides = vec![Size::ONE; dims.len()];
    let mut stride = Size::ONE;
    for axis in (0..dims.len()).rev() {
        strides[axis] = stride;
        stride = sizes.mul(stride, dims[axis]);
    }
    strides
}

/// Strides of `dims` over the elements of `from`: both lists are cut into groups of equal products; a group of the old axes
/// must merge into one axis, which the new ones split.
fn regroup(sizes: &mut Sizes, from: &Location, dims: &[Size]) -> Option<Vec<Size>> {
    let old: Vec<usize> = (0..from.rank()).filter(|&axis| from.dims[axis] != Size::ONE).collect();
    let new: Vec<usize> = (0..dims.len()).filter(|&axis| dims[axis] != Size::ONE).collect();
    let mut strides = vec![Size::ONE; dims.len()];
    let (mut i, mut j) = (0, 0);
    while i < old.len() && j < new.len() {
        let (first_old, first_new) = (i, j);
        let (mut left, mut right) = (from.dims[old[i]], dims[new[j]]);
        (i, j) = (i + 1, j + 1);
        while left != right {
            // Grow the side that divides the other; symbolic sides grow in turn, bounded by the axes.
            let grow_old = match (sizes.as_constant(left), sizes.as_constant(right)) {
                (Some(a), Some(b)) => a < b,
                _ => divides(sizes, left, right) || j >= new.len(),
            };
            if grow_old && i < old.len() {
                left = sizes.mul(left, from.dims[old[i]]);
                i += 1;
            } else if !grow_old && j < new.len() {
                right = sizes.mul(right, dims[new[j]]);
                j += 1;
            } else {
                return None;
            }
        }
        let inner = from.merged_stride(sizes, old[first_old]..old[i - 1] + 1)?;
        let mut stride = inner;
        for &axis in new[first_new..j].iter().rev() {
            strides[axis] = stride;
            stride = sizes.mul(stride, dims[axis]);
        }
    }
    (i == old.len() && j == new.len()).then_some(strides)
}

/// Whether every term of `b` has all factors of the single-term `a`.
fn divides(sizes: &Sizes, a: Size, b: Size) -> bool {
    let (a, b) = (sizes.get(a), sizes.get(b));
    let Some((factors, &coefficient)) = a.terms.iter().next() else {
        return a.constant != 0
            && b.constant % a.constant == 0
            && b.terms.values().all(|other| other % a.constant == 0);
    };
    a.constant == 0
        && a.terms.len() == 1
        && b.constant == 0
        && b.terms.iter().all(|(others, other)| {
            let mut rest = others.clone();
            other % coefficient == 0
                && factors.iter().all(|factor| match rest.iter().position(|candidate| candidate == factor) {
                    Some(position) => {
                        rest.remove(position);
                        true
                    }
                    None => false,
                })
        })
}

/// Merges neighbouring loop axes that every operand walks without a jump and drops axes of size 1. Each operand is its list
/// of strides. At least one axis remains.
pub fn merge_axes(sizes: &mut Sizes, dims: &mut Vec<Size>, operands: &mut [Vec<Size>]) {
    let mut merged: Vec<Size> = Vec::new();
    let mut strides: Vec<Vec<Size>> = vec![Vec::new(); operands.len()];
    for axis in 0..dims.len() {
        if dims[axis] == Size::ONE {
            continue;
        }
        let joins = !merged.is_empty()
            && operands.iter().zip(&strides).all(|(operand, done)| {
                let walked = sizes.mul(operand[axis], dims[axis]);
                done.last() == Some(&walked)
            });
        match (joins, merged.last_mut()) {
            (true, Some(last)) => *last = sizes.mul(*last, dims[axis]),
            _ => {
                merged.push(dims[axis]);
                strides.iter_mut().for_each(|done| done.push(Size::ZERO));
            }
        }
        for (operand, done) in operands.iter().zip(&mut strides) {
            if let Some(last) = done.last_mut() {
                *last = operand[axis];
            }
        }
    }
    if merged.is_empty() {
        merged.push(Size::ONE);
        strides.iter_mut().for_each(|done| done.push(Size::ONE));
    }
    *dims = merged;
    for (operand, done) in operands.iter_mut().zip(strides) {
        *operand = done;
    }
}
