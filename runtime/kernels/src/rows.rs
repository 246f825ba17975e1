//! Folding a contiguous row with four vectors of accumulators, whose combination is fixed by the row's length alone.

use std::ops::Range;

use crate::simd::{LANES, Simd};

/// How the elements of a row meet.
pub(crate) trait Fold {
    /// What lanes without an element hold.
    const IDENTITY: f32;
    /// Meets an accumulator with the vector of elements `x`.
    fn step<S: Simd>(&self, simd: S, accumulator: S::F, x: S::F) -> S::F;
    /// Combines two accumulators.
    fn combine<S: Simd>(&self, simd: S, a: S::F, b: S::F) -> S::F;
}

/// Folds the `count` vectors that `read(i, lanes)` gives: whole ones of 16 lanes, then the rest of the row with the number of
/// its lanes.
///
/// The accumulator of element `i` is lane `i % 16` of vector `i / 16 % 4`.
#[inline(always)]
pub(crate) fn fold<S: Simd, T: Fold, R: Row<S>>(simd: S, fold: &T, count: usize, row: &mut R) -> S::F {
    let identity = simd.splat(T::IDENTITY);
    let mut acc = [identity; 4];
    let mut i = 0;
    while i + 4 * LANES <= count {
        acc[0] = fold.step(simd, acc[0], row.whole(simd, i));
        acc[1] = fold.step(simd, acc[1], row.whole(simd, i + LANES));
        acc[2] = fold.step(simd, acc[2], row.whole(simd, i + 2 * LANES));
        acc[3] = fold.step(simd, acc[3], row.whole(simd, i + 3 * LANES));
        i += 4 * LANES;
    }
    while i + LANES <= count {
        acc[0] = fold.step(simd, acc[0], row.whole(simd, i));
        i += LANES;
        acc = [acc[1], acc[2], acc[3], acc[0]];
    }
    if i < count {
        let rest = count - i;
        let next = fold.step(simd, acc[0], row.part(simd, i, rest));
        acc[0] = simd.select(simd.first(rest), next, acc[0]);
    }
    fold.combine(simd, fold.combine(simd, acc[0], acc[1]), fold.combine(simd, acc[2], acc[3]))
}

/// The elements that are folded.
pub(crate) trait Row<S: Simd> {
    /// The 16 elements from `i`.
    fn whole(&mut self, simd: S, i: usize) -> S::F;
    /// The `count < 16` elements from `i`; the other lanes do not matter.
    fn part(&mut self, simd: S, i: usize, count: usize) -> S::F;
}

/// A row in memory.
pub(crate) struct Memory(*const f32);

impl Memory {
    /// The row that starts here.
    ///
    /// # Safety
    /// It is readable for as many elements as are folded.
    pub(crate) unsafe fn new(start: *const f32) -> Self {
        Self(start)
    }
}

impl<S: Simd> Row<S> for Memory {
    #[inline(always)]
    fn whole(&mut self, simd: S, i: usize) -> S::F {
        // SAFETY: `fold` asks for elements below its count, which `new` promised.
        unsafe { simd.load(self.0.add(i)) }
    }
    #[inline(always)]
    fn part(&mut self, simd: S, i: usize, count: usize) -> S::F {
        // SAFETY: as above.
        unsafe { simd.load_first(self.0.add(i), count) }
    }
}

/// Combines the lanes of an accumulator 8, 4, 2 and 1 apart.
#[inline(always)]
pub(crate) fn across<S: Simd, T: Fold>(simd: S, fold: &T, accumulator: S::F) -> f32 {
    let mut lanes = simd.to_array(accumulator);
    for half in [8, 4, 2, 1] {
        let mut shifted = [0.0; LANES];
        shifted[..half].copy_from_slice(&lanes[half..2 * half]);
        lanes = simd.to_array(fold.combine(simd, simd.from_array(lanes), simd.from_array(shifted)));
    }
    lanes[0]
}

/// Sum of elements.
pub(crate) struct Sum;

impl Fold for Sum {
    const IDENTITY: f32 = 0.0;
    #[inline(always)]
    fn step<S: Simd>(&self, simd: S, accumulator: S::F, x: S::F) -> S::F {
        simd.add(accumulator, x)
    }
    #[inline(always)]
    fn combine<S: Simd>(&self, simd: S, a: S::F, b: S::F) -> S::F {
        simd.add(a, b)
    }
}

/// Sum of `count` elements of which the one at `lead < 4` is the first at a multiple of four.
///
/// The order is that of Eigen's vectors of four, in which onnxruntime adds up: eight sums, one an element of each eight from `lead` on,
/// meet 4 apart; a last four joins; lanes meet 2 apart and 1 apart; the elements before `lead` and the last few follow one by
/// one. Norms and means thus have the bits that the codes of dynamically quantised models were made with.
#[inline(always)]
pub(crate) fn sum<S: Simd, R: Row<S>>(simd: S, count: usize, lead: usize, row: &mut R) -> f32 {
    let lead = lead.min(count);
    let fours = (count - lead) / 4;
    if fours == 0 {
        return one_by_one(simd, 0.0, 0..count, row);
    }
    let eights = lead + fours / 2 * 8;
    let (mut sums, mut i) = (simd.splat(0.0), lead);
    while i + LANES <= eights {
        sums = simd.add_halves(sums, row.whole(simd, i));
        i += LANES;
    }
    let mut sums = simd.to_array(sums);
    if i < eights {
        let eight = simd.to_array(row.part(simd, i, 8));
        (0..8).for_each(|lane| sums[lane] += eight[lane]);
        i = eights;
    }
    (0..4).for_each(|lane| sums[lane] += sums[lane + 4]);
    if !fours.is_multiple_of(2) {
        let four = simd.to_array(row.part(simd, i, 4));
        (0..4).for_each(|lane| sums[lane] += four[lane]);
        i += 4;
    }
    let sum = (sums[0] + sums[2]) + (sums[1] + sums[3]);
    let sum = one_by_one(simd, sum, 0..lead, row);
    one_by_one(simd, sum, i..count, row)
}

/// `sum` and fewer than eight elements.
#[inline(always)]
fn one_by_one<S: Simd, R: Row<S>>(simd: S, sum: f32, places: Range<usize>, row: &mut R) -> f32 {
    if places.is_empty() {
        return sum;
    }
    let elements = simd.to_array(row.part(simd, places.start, places.len()));
    elements[..places.len()].iter().fold(sum, |sum, x| sum + x)
}

/// Sum of `count` elements in 16 lanes of one vector.
#[inline(always)]
pub(crate) fn sum_in_lanes<S: Simd, R: Row<S>>(simd: S, count: usize, row: &mut R) -> f32 {
    let mut sums = simd.splat(0.0);
    let mut i = 0;
    while i + LANES <= count {
        sums = simd.add(sums, row.whole(simd, i));
        i += LANES;
    }
    if i < count {
        let next = simd.add(sums, row.part(simd, i, count - i));
        sums = simd.select(simd.first(count - i), next, sums);
    }
    simd.sum(sums)
}

/// How many elements of row `index` of `count` elements stand before the first at a multiple of four of the whole.
#[inline(always)]
pub(crate) fn lead(index: usize, count: usize) -> usize {
    (index * count).wrapping_neg() % 4
}

/// The squares of a row's distances from a number.
pub(crate) struct SquaresAround<S: Simd>(pub(crate) Memory, pub(crate) S::F);

impl<S: Simd> Row<S> for SquaresAround<S> {
    #[inline(always)]
    fn whole(&mut self, simd: S, i: usize) -> S::F {
        let d = simd.sub(self.0.whole(simd, i), self.1);
        simd.mul(d, d)
    }
    #[inline(always)]
    fn part(&mut self, simd: S, i: usize, count: usize) -> S::F {
        let d = simd.sub(self.0.part(simd, i, count), self.1);
        simd.mul(d, d)
    }
}
