//! Mean and standard deviation of rows, in the orders of sums that [`lathe_artifact::builtin::NormRounding`] names.

use super::TOGETHER;
use crate::rows::{self, Memory, SquaresAround};
use crate::simd::{LANES, Simd};

/// Mean (0 where `rms` leaves it out) and standard deviation, as the operators take them.
///
/// # Safety
/// `v` is readable for `count` elements.
#[inline(always)]
pub(super) unsafe fn by_rows<S: Simd>(
    simd: S,
    v: *const f32,
    count: usize,
    rms: bool,
    epsilon: f32,
) -> (f32, f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let mean = if rms { 0.0 } else { wide_mean(simd, v, count) };
        let variance = fused_squares(simd, v, count, mean) / count as f32;
        (mean, (variance + epsilon).sqrt())
    }
}

/// The mean from a sum in f64.
///
/// # Safety
/// `v` is readable for `count` elements.
#[inline(always)]
unsafe fn wide_mean<S: Simd>(simd: S, v: *const f32, count: usize) -> f32 {
    let mut sums = [0.0_f64; LANES];
    let mut i = 0;
    while i < count {
        let n = (count - i).min(LANES);
        // SAFETY: `i + n <= count`.
        let lanes = simd.to_array(unsafe { simd.load_some(v.add(i), n) });
        // The lanes behind the last element are 0.
        for lane in 0..LANES {
            sums[lane] += f64::from(lanes[lane]);
        }
        i += LANES;
    }
    (sums.iter().sum::<f64>() / count as f64) as f32
}

/// The sum of squared distances from `centre`: eight sums of fused products, which meet 4, 2 and 1 apart, and the last few one by
/// one, as compilers cut such a loop.
///
/// # Safety
/// `v` is readable for `count` elements.
#[inline(always)]
unsafe fn fused_squares<S: Simd>(simd: S, v: *const f32, count: usize, centre: f32) -> f32 {
    let middle = simd.splat(centre);
    let mut sums = simd.splat(0.0);
    let mut i = 0;
    while i + LANES <= count {
        // SAFETY: `i + 16 <= count`.
        let d = simd.sub(unsafe { simd.load(v.add(i)) }, middle);
        sums = simd.square_halves(sums, d);
        i += LANES;
    }
    let mut sums = simd.to_array(sums);
    // SAFETY: the rest of the elements.
    let rest = simd.to_array(simd.sub(unsafe { simd.load_first(v.add(i), count - i) }, middle));
    let rest = &rest[..count - i];
    let (eight, last) = rest.split_at(rest.len() / 8 * 8);
    for (sum, d) in sums.iter_mut().zip(eight) {
        *sum = if S::FUSED { d.mul_add(*d, *sum) } else { d * d + *sum };
    }
    for half in [4, 2, 1] {
        (0..half).for_each(|lane| sums[lane] += sums[lane + half]);
    }
    // Four of the rest are rounded apart, fewer are fused.
    let (four, last) = last.split_at(last.len() / 4 * 4);
    let sum = four.iter().fold(sums[0], |sum, d| sum + d * d);
    last.iter().fold(sum, |sum, d| if S::FUSED { d.mul_add(*d, sum) } else { sum + d * d })
}

/// The same as means and elementwise operators take them, of row `index`.
///
/// # Safety
/// `v` is readable for `count` elements.
#[inline(always)]
pub(super) unsafe fn by_fours<S: Simd>(
    simd: S,
    (v, index): (*const f32, usize),
    count: usize,
    rms: bool,
    epsilon: f32,
) -> (f32, f32) {
    let lead = rows::lead(index, count);
    // SAFETY: the caller's promise.
    let memory = || unsafe { Memory::new(v) };
    let mean = if rms { 0.0 } else { rows::sum(simd, count, lead, &mut memory()) / count as f32 };
    let mut squares = SquaresAround::<S>(memory(), simd.splat(mean));
    let variance = rows::sum(simd, count, lead, &mut squares) / count as f32;
    (mean, (variance + epsilon).sqrt())
}

/// The same element by element, of several rows: Welford's running moments, or sums of squares.
///
/// # Safety
/// Each row is readable for `count` elements.
#[inline(always)]
pub(super) unsafe fn ascending(
    v: [*const f32; TOGETHER],
    count: usize,
    rms: bool,
    epsilon: f32,
) -> [(f32, f32); TOGETHER] {
    let (mut means, mut squares) = ([0.0_f32; TOGETHER], [0.0_f32; TOGETHER]);
    for i in 0..count {
        let so_far = (i + 1) as f32;
        for row in 0..TOGETHER {
            // SAFETY: the caller's promise.
            let x = unsafe { *v[row].add(i) };
            if rms {
                squares[row] += x * x;
            } else {
                let d = x - means[row];
                means[row] += d / so_far;
                squares[row] += d * (x - means[row]);
            }
        }
    }
    std::array::from_fn(|row| (means[row], (squares[row] / count as f32 + epsilon).sqrt()))
}
