//! From coefficients to samples: the accurate integer form of the inverse cosine transform, after Loeffler, Ligtenberg and
//! Moschytz (1989): 11 multiplications an axis, with 13 bits of fraction, rounded to 2 bits after the first.

use super::frame::Component;

/// Cells of a block.
pub(super) const BLOCK: usize = 64;

/// The place of each coefficient as it is stored.
pub(super) const ZIGZAG: [usize; BLOCK] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Bits of fraction of the factors.
const FRACTION: u32 = 13;
/// Bits of fraction between the axes.
const BETWEEN: u32 = 2;

/// A factor with its bits of fraction.
const fn fixed(factor: f64) -> i32 {
    (factor * (1 << FRACTION) as f64 + 0.5) as i32
}

/// The samples of a component, in rows of whole blocks.
pub(super) fn samples(component: &Component, quantisation: &[u16; BLOCK]) -> Vec<u8> {
    let stride = component.blocks_across * 8;
    let mut samples = vec![0; component.coefficients.len()];
    for (index, block) in component.coefficients.chunks_exact(BLOCK).enumerate() {
        let (row, column) = (index / component.blocks_across, index % component.blocks_across);
        let start = row * 8 * stride + column * 8;
        let mut cells = [0; BLOCK];
        for ((cell, &coefficient), &step) in cells.iter_mut().zip(block).zip(quantisation) {
            *cell = i32::from(coefficient).wrapping_mul(i32::from(step));
        }
        for x in 0..8 {
            transform(&mut cells, x, 8, FRACTION - BETWEEN);
        }
        for y in 0..8 {
            transform(&mut cells, y * 8, 1, FRACTION + BETWEEN + 3);
            let to = &mut samples[start + y * stride..][..8];
            for (sample, &cell) in to.iter_mut().zip(&cells[y * 8..]) {
                *sample = cell.wrapping_add(128).clamp(0, 255) as u8;
            }
        }
    }
    samples
}

/// Transforms eight cells; the result has `shift` bits fewer, rounded. Cells that no encoder makes may wrap.
fn transform(cells: &mut [i32; BLOCK], start: usize, stride: usize, shift: u32) {
    let at = |index: usize| cells[start + index * stride];
    let times = |cell: i32, factor: f64| cell.wrapping_mul(fixed(factor));
    let (add, sub) = (i32::wrapping_add, i32::wrapping_sub);
    // The even half.
    let shared = times(add(at(2), at(6)), 0.541196100);
    let low = sub(shared, times(at(6), 1.847759065));
    let high = add(shared, times(at(2), 0.765366865));
    let sum = add(at(0), at(4)).wrapping_shl(FRACTION);
    let difference = sub(at(0), at(4)).wrapping_shl(FRACTION);
    let even = [add(sum, high), add(difference, low), sub(difference, low), sub(sum, high)];
    // The odd half.
    let (a, b, c, d) = (at(7), at(5), at(3), at(1));
    let all = times(add(add(a, c), add(b, d)), 1.175875602);
    let (outer, inner) = (times(add(a, d), 0.899976223), times(add(b, c), 2.562915447));
    let left = sub(all, times(add(a, c), 1.961570560));
    let right = sub(all, times(add(b, d), 0.390180644));
    let odd = [
        add(sub(times(d, 1.501321110), outer), right),
        add(sub(times(c, 3.072711026), inner), left),
        add(sub(times(b, 2.053119869), inner), right),
        add(sub(times(a, 0.298631336), outer), left),
    ];
    let rounded = |value: i32| add(value, 1 << (shift - 1)) >> shift;
    for (index, (even, odd)) in even.into_iter().zip(odd).enumerate() {
        cells[start + index * stride] = rounded(add(even, odd));
        cells[start + (7 - index) * stride] = rounded(sub(even, odd));
    }
}
