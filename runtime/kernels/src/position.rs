//! Rotary position embedding.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args;

use crate::kernel::{Kernel, size};
use crate::simd::{LANES, Simd};

/// Elements that are worth a share of their own.
const GRAIN: usize = 2048;

/// Rotates pairs that lie `half` apart. Products are rounded before they are added, as in the formula.
///
/// # Safety
/// `x` and `y` are valid for `2 * half` elements, the tables for `half`.
#[inline(always)]
unsafe fn rotate_halves<S: Simd>(
    simd: S,
    (x, y): (*const f32, *mut f32),
    (cos, sin): (*const f32, *const f32),
    half: usize,
) {
    let mut i = 0;
    while i < half {
        let n = (half - i).min(LANES);
        // SAFETY: `i + n <= half`.
        unsafe {
            let (re, im) = (simd.load_some(x.add(i), n), simd.load_some(x.add(half + i), n));
            let (c, s) = (simd.load_some(cos.add(i), n), simd.load_some(sin.add(i), n));
            simd.store_some(y.add(i), n, simd.sub(simd.mul(re, c), simd.mul(im, s)));
            simd.store_some(y.add(half + i), n, simd.add(simd.mul(im, c), simd.mul(re, s)));
        }
        i += LANES;
    }
}

/// Rotates neighbours.
///
/// # Safety
/// As [`rotate_halves`].
#[inline(always)]
unsafe fn rotate_neighbours(
    (x, y): (*const f32, *mut f32),
    (cos, sin): (*const f32, *const f32),
    half: usize,
) {
    for i in 0..half {
        // SAFETY: `2 * i + 1 < 2 * half`.
        unsafe {
            let (re, im, c, s) = (*x.add(2 * i), *x.add(2 * i + 1), *cos.add(i), *sin.add(i));
            *y.add(2 * i) = re * c - im * s;
            *y.add(2 * i + 1) = im * c + re * s;
        }
    }
}

/// The row of the tables for a place, counted over batches.
///
/// # Safety
/// `positions` is null or holds more than `place` integers.
#[inline(always)]
unsafe fn named_row(positions: *const u8, place: usize, rows: i64) -> Option<usize> {
    // SAFETY: the caller's promise.
    let position = unsafe { positions.cast::<i64>().add(place).read_unaligned() };
    let row = if position < 0 { position.checked_add(rows)? } else { position };
    (0..rows).contains(&row).then_some(row as usize)
}

impl Kernel for args::RotaryEmbedding {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let (heads, seq, head_dim) = (size(self.heads), size(self.seq), size(self.head_dim));
        let rotary = size(self.rotary_dim);
        let half = rotary / 2;
        if heads == 0 || seq == 0 || rotary > head_dim || !rotary.is_multiple_of(2) {
            return if heads == 0 || seq == 0 { Status::Ok } else { Status::Internal };
        }
        // Heads of one position follow each other: they share a row of the tables.
        let share = worker.share(size(self.batch) * seq * heads, (GRAIN / head_dim.max(1)).max(1));
        for item in share {
            let (place, head) = (item / heads, item % heads);
            let (batch, position) = (place / seq, place % seq);
            let table = if self.positions.is_null() {
                batch as isize * self.table_batch as isize + (position * half) as isize
            } else {
                // SAFETY: the row's contract: `positions` holds `batch * seq` integers.
                match unsafe { named_row(self.positions, place, self.table_rows) } {
                    Some(row) => (row * half) as isize,
                    None => return Status::IndexOutOfRange,
                }
            };
            let offset = |strides: [i64; 3]| {
                strides
                    .iter()
                    .zip([batch, head, position])
                    .map(|(stride, i)| *stride as isize * i as isize)
                    .sum()
            };
            let (from, to): (isize, isize) = (
                offset([self.x_batch, self.x_head, self.x_seq]),
                offset([self.y_batch, self.y_head, self.y_seq]),
            );
            // SAFETY: the row's contract: every row of `x` and `y` holds `head_dim` elements, every row of the tables `half`.
            unsafe {
                let (x, y) = (self.x.cast::<f32>().offset(from), self.y.cast::<f32>().offset(to));
                let tables = (self.cos.cast::<f32>().offset(table), self.sin.cast::<f32>().offset(table));
                if self.interleaved != 0 {
                    rotate_neighbours((x, y), tables, half);
                } else {
                    rotate_halves(simd, (x, y), tables, half);
                }
                std::ptr::copy_nonoverlapping(x.add(rotary), y.add(rotary), head_dim - rotary);
            }
        }
        Status::Ok
    }
}
