//! Folding a contiguous row with four vectors of accumulators, whose combination is fixed by the row's length alone.

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

/// Sum of squared distances from a number.
pub(crate) struct SquaresAround(pub(crate) f32);

impl Fold for SquaresAround {
    const IDENTITY: f32 = 0.0;
    #[inline(always)]
    fn step<S: Simd>(&self, simd: S, accumulator: S::F, x: S::F) -> S::F {
        let d = simd.sub(x, simd.splat(self.0));
        simd.fma(d, d, accumulator)
    }
    #[inline(always)]
    fn combine<S: Simd>(&self, simd: S, a: S::F, b: S::F) -> S::F {
        simd.add(a, b)
    }
}

/// Sum of the elements of a row.
///
/// # Safety
/// `row` is readable for `count` elements.
#[inline(always)]
pub(crate) unsafe fn sum<S: Simd>(simd: S, row: *const f32, count: usize) -> f32 {
    // SAFETY: the caller's promise.
    simd.sum(fold(simd, &Sum, count, &mut unsafe { Memory::new(row) }))
}

/// Sum of the squared distances from `centre`.
///
/// # Safety
/// `row` is readable for `count` elements.
#[inline(always)]
pub(crate) unsafe fn squares<S: Simd>(simd: S, row: *const f32, count: usize, centre: f32) -> f32 {
    // SAFETY: the caller's promise.
    simd.sum(fold(simd, &SquaresAround(centre), count, &mut unsafe { Memory::new(row) }))
}
