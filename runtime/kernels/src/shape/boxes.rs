//! Boxes of strided elements: the simplest equal description, and walking one.

/// Most axes of a box.
pub(super) const MAX_RANK: usize = 16;

/// An axis of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    /// Number of elements.
    pub size: usize,
    /// Distance of neighbours in the source.
    pub from: isize,
    /// Distance of neighbours in the destination.
    pub to: isize,
}

/// A copy of a box. Axes go from the outermost in the destination to the innermost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    axes: [Axis; MAX_RANK],
    rank: usize,
}

impl Copy {
    /// The simplest copy with these axes: none of size 1, neighbours that are one run merged, the destination walked in order.
    /// `None` where there is nothing to copy.
    pub(super) fn new(given: impl Iterator<Item = Axis>) -> Option<Self> {
        let blank = Axis { size: 1, from: 0, to: 0 };
        let mut copy = Self { axes: [blank; MAX_RANK], rank: 0 };
        for axis in given {
            if axis.size == 0 {
                return None;
            }
            if axis.size > 1 && copy.rank < MAX_RANK {
                copy.axes[copy.rank] = axis;
                copy.rank += 1;
            }
        }
        copy.axes[..copy.rank].sort_by_key(|axis| std::cmp::Reverse(axis.to.unsigned_abs()));
        let mut merged = 0;
        for i in 0..copy.rank {
            let axis = copy.axes[i];
            let last = copy.axes[merged.max(1) - 1];
            let size = axis.size as isize;
            if merged > 0 && last.from == axis.from * size && last.to == axis.to * size {
                copy.axes[merged - 1] = Axis { size: last.size * axis.size, ..axis };
            } else {
                copy.axes[merged] = axis;
                merged += 1;
            }
        }
        if merged == 0 {
            // A single element is a run of one.
            copy.axes[0] = Axis { size: 1, from: 1, to: 1 };
            merged = 1;
        }
        copy.rank = merged;
        Some(copy)
    }

    /// The axes, at least one.
    pub(super) fn axes(&self) -> &[Axis] {
        &self.axes[..self.rank]
    }

    /// Takes the axis at `index` out.
    pub(super) fn remove(&mut self, index: usize) -> Axis {
        let axis = self.axes[index];
        self.axes.copy_within(index + 1..self.rank, index);
        self.rank -= 1;
        axis
    }

    /// Number of elements.
    pub(super) fn count(&self) -> usize {
        self.axes().iter().map(|axis| axis.size).product()
    }

    /// The elements from number `start` on, in order.
    pub(super) fn walk(&self, start: usize) -> Walk {
        let mut walk = Walk { copy: *self, index: [0; MAX_RANK], from: 0, to: 0 };
        let mut rest = start;
        for (index, axis) in walk.index.iter_mut().zip(self.axes()).rev() {
            *index = rest % axis.size;
            rest /= axis.size;
            walk.from += *index as isize * axis.from;
            walk.to += *index as isize * axis.to;
        }
        walk
    }
}

/// A position in a box.
pub(super) struct Walk {
    copy: Copy,
    index: [usize; MAX_RANK],
    /// Offset in the source.
    pub from: isize,
    /// Offset in the destination.
    pub to: isize,
}

impl Walk {
    /// Goes to the next element; from the last to the first.
    #[inline]
    pub(super) fn advance(&mut self) {
        for (index, axis) in self.index.iter_mut().zip(self.copy.axes()).rev() {
            *index += 1;
            self.from += axis.from;
            self.to += axis.to;
            if *index < axis.size {
                return;
            }
            self.from -= axis.size as isize * axis.from;
            self.to -= axis.size as isize * axis.to;
            *index = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axes(list: &[(usize, isize, isize)]) -> Copy {
        Copy::new(list.iter().map(|&(size, from, to)| Axis { size, from, to })).unwrap()
    }

    #[test]
    fn runs_merge_and_units_vanish() {
        assert_eq!(
            axes(&[(2, 12, 12), (1, 7, 9), (3, 4, 4), (4, 1, 1)]).axes(),
            [Axis { size: 24, from: 1, to: 1 }]
        );
        let transposed = axes(&[(2, 1, 3), (3, 2, 1)]);
        assert_eq!(transposed.axes().len(), 2);
        assert_eq!(axes(&[(1, 5, 5)]).axes(), [Axis { size: 1, from: 1, to: 1 }]);
        assert!(Copy::new([Axis { size: 0, from: 1, to: 1 }].into_iter()).is_none());
    }

    #[test]
    fn a_walk_starts_anywhere() {
        let copy = axes(&[(2, 1, 15), (3, 2, 5), (5, 6, 1)]);
        let mut walk = copy.walk(0);
        for start in 0..copy.count() {
            let other = copy.walk(start);
            assert_eq!((walk.from, walk.to), (other.from, other.to));
            assert_eq!(walk.to, start as isize);
            walk.advance();
        }
        assert_eq!((walk.from, walk.to), (0, 0));
    }
}
