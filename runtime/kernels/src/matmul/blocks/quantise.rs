//! Rows of the left operand in 8-bit integers.
//!
//! An element is `scale * (128 * high + low)`: one plane of 8 bits would lose more than quantised weights already have lost, as
//! a few elements of a group are often much larger than the others.

use lathe_artifact::layout::BlockKind;

use super::GROUP;
use crate::simd::{LANES, Simd, WithSimd};

/// Planes of 8-bit integers of an element.
pub(super) const PLANES: usize = 2;
/// The largest integer: 127 in the high plane, 0 in the low one.
pub(super) const LARGEST: f32 = 127.0 * 128.0;

/// Rows of 8-bit integers with what each group and run of them needs.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// The integers, row by row; of each group the high plane, then the low one.
    pub(super) elements: *const i8,
    /// The scale of each group, row by row.
    pub(super) scales: *const f32,
    /// Minus the weights' zero times the sum of each run, row by row: what its sum of products starts from.
    pub(super) starts: *const i32,
    /// Scale times sum of each run, row by row: what the weights' minimum is multiplied with.
    pub(super) sums: *const f32,
    /// Number of rows.
    pub(super) count: usize,
    /// Groups of a row.
    pub(super) groups: usize,
    /// Runs of a group.
    runs: usize,
    /// The weights' zero.
    zero: i32,
}

impl Rows {
    /// Elements of 4 bytes that a row takes.
    pub(super) fn row_len(k: usize, kind: BlockKind) -> usize {
        k * PLANES / 4 + k / GROUP * (1 + 2 * kind.runs())
    }

    /// `count` rows in a buffer.
    ///
    /// # Safety
    /// The buffer holds `count` times [`row_len`](Self::row_len) elements.
    #[inline(always)]
    pub(super) unsafe fn new(buffer: *mut f32, count: usize, k: usize, kind: BlockKind) -> Self {
        let (groups, runs) = (k / GROUP, kind.runs());
        // SAFETY: the parts of the buffer.
        unsafe {
            let scales = buffer.add(count * k * PLANES / 4);
            let starts = scales.add(count * groups);
            let sums = starts.add(count * groups * runs);
            Self {
                elements: buffer.cast_const().cast(),
                scales,
                starts: starts.cast_const().cast(),
                sums,
                count,
                groups,
                runs,
                zero: i32::from(kind.zero),
            }
        }
    }

    /// Quantises the rows of `a`, which are `stride` elements apart.
    ///
    /// # Safety
    /// They are readable, and the buffer is writable.
    #[inline(always)]
    pub(super) unsafe fn fill<S: Simd>(self, simd: S, a: *const f32, stride: isize) {
        simd.vectorize(Fill { rows: self, a, stride });
    }

    /// Quantises group `group` of a row.
    ///
    /// # Safety
    /// `a` is readable for 32 elements and the buffer writable.
    #[inline(always)]
    unsafe fn group<S: Simd>(self, simd: S, a: *const f32, row: usize, group: usize) {
        let at = row * self.groups + group;
        // SAFETY: the group lies in the row.
        unsafe {
            let values = [simd.load(a), simd.load(a.add(LANES))];
            let largest = simd.largest(simd.max(simd.abs(values[0]), simd.abs(values[1])));
            let broken = simd.any(simd.is_nan(values[0])) || simd.any(simd.is_nan(values[1]));
            let scale = if broken { f32::NAN } else { largest / LARGEST };
            let inverse = simd.splat(if largest > 0.0 { LARGEST / largest } else { 0.0 });
            let (low, high) = (simd.splat(-LARGEST), simd.splat(LARGEST));
            let elements = self.elements.cast_mut().add(at * PLANES * GROUP);
            let mut sums = [0i32; 2];
            for (half, value) in values.into_iter().enumerate() {
                let rounded = simd.round(simd.mul(value, inverse));
                let integers = simd.to_int(simd.min(simd.max(rounded, low), high));
                let mut lanes = [0i32; LANES];
                simd.store(lanes.as_mut_ptr().cast(), simd.from_bits(integers));
                for (lane, integer) in lanes.into_iter().enumerate() {
                    let high = (integer + 64) >> 7;
                    let element = elements.add(half * LANES + lane);
                    element.write(high as i8);
                    element.add(GROUP).write((integer - (high << 7)) as i8);
                    sums[half] += integer;
                }
            }
            self.scales.cast_mut().add(at).write(scale);
            if self.runs == 1 {
                sums[0] += sums[1];
            }
            for (run, &sum) in sums[..self.runs].iter().enumerate() {
                self.starts.cast_mut().add(at * self.runs + run).write(-self.zero * sum);
                self.sums.cast_mut().add(at * self.runs + run).write(scale * sum as f32);
            }
        }
    }
}

/// [`Rows::fill`]. Made only there, under its conditions.
struct Fill {
    rows: Rows,
    a: *const f32,
    stride: isize,
}

impl WithSimd for Fill {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        for row in 0..self.rows.count {
            for group in 0..self.rows.groups {
                // SAFETY: whoever made this vouches for the rows.
                unsafe {
                    let a = self.a.offset(row as isize * self.stride).add(group * GROUP);
                    self.rows.group(simd, a, row, group);
                }
            }
        }
    }
}
