//! The running state of rows: the largest score so far, the weights' sum and the weighted values, relative to it.

use super::block::Row;
use super::score::Scores;
use crate::math::exp_bounded;
use crate::simd::{LANES, Simd};

/// Running state of the rows.
#[derive(Clone, Copy)]
pub(super) struct Running {
    /// The largest score of each row.
    pub(super) largest: *mut f32,
    /// The weights' sum of each row in 16 lanes.
    pub(super) lanes: *mut f32,
    /// The weighted values of each row, [`Sizes::v_width`] apart.
    pub(super) sums: *mut f32,
    pub(super) v_width: usize,
}

impl Running {
    /// # Safety
    /// The memory holds `rows` rows.
    #[inline(always)]
    pub(super) unsafe fn clear(self, rows: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            (0..rows).for_each(|row| *self.largest.add(row) = f32::NEG_INFINITY);
            self.lanes.write_bytes(0, rows * LANES);
            self.sums.write_bytes(0, rows * self.v_width);
        }
    }

    /// The state of one row.
    #[inline(always)]
    pub(super) fn row(self, index: usize) -> RowState {
        RowState {
            largest: self.largest.wrapping_add(index),
            lanes: self.lanes.wrapping_add(index * LANES),
            sums: self.sums.wrapping_add(index * self.v_width),
            v_width: self.v_width,
        }
    }
}

/// What weights relative to the score `from` are to be multiplied with to be relative to `to`.
#[inline(always)]
pub(super) fn decay<S: Simd>(simd: S, from: f32, to: f32) -> S::F {
    exp_bounded(simd, simd.splat(from - to))
}

/// The running state of one row.
#[derive(Clone, Copy)]
pub(super) struct RowState {
    largest: *mut f32,
    lanes: *mut f32,
    sums: *mut f32,
    v_width: usize,
}

impl RowState {
    /// The state kept at `from`, of [`lathe_artifact::layout::chunk_state_len`] elements.
    pub(super) fn kept(from: *mut f32, v_width: usize) -> Self {
        let lanes = from.wrapping_add(LANES);
        Self { largest: from, lanes, sums: lanes.wrapping_add(LANES), v_width }
    }

    /// Makes this the state of a row that saw nothing.
    ///
    /// # Safety
    /// The state is writable.
    #[inline(always)]
    pub(super) unsafe fn clear(self) {
        // SAFETY: the caller's promise.
        unsafe {
            *self.largest = f32::NEG_INFINITY;
            self.lanes.write_bytes(0, LANES);
            self.sums.write_bytes(0, self.v_width);
        }
    }

    /// Makes this a copy of another state.
    ///
    /// # Safety
    /// This state is writable, the other readable.
    #[inline(always)]
    pub(super) unsafe fn copy(self, from: RowState) {
        // SAFETY: the caller's promise.
        unsafe {
            *self.largest = *from.largest;
            from.lanes.copy_to_nonoverlapping(self.lanes, LANES);
            from.sums.copy_to_nonoverlapping(self.sums, self.v_width);
        }
    }

    /// Adds the state of later keys.
    ///
    /// # Safety
    /// This state is writable, the later one readable.
    #[inline(always)]
    pub(super) unsafe fn join<S: Simd>(self, simd: S, later: RowState) {
        // SAFETY: the caller's promise.
        unsafe {
            let (old, new) = (*self.largest, *later.largest);
            if new == f32::NEG_INFINITY {
                return;
            }
            let largest = if old > new { old } else { new };
            let factors = [decay(simd, old, largest), decay(simd, new, largest)];
            *self.largest = largest;
            join_vector(simd, factors, self.lanes, later.lanes);
            for at in (0..self.v_width).step_by(LANES) {
                join_vector(simd, factors, self.sums.add(at), later.sums.add(at));
            }
        }
    }

    /// Divides by the weights' sum and writes the result.
    ///
    /// # Safety
    /// The state is readable; the `y` of the row has `v_dim` elements; the sinks have its head.
    #[inline(always)]
    pub(super) unsafe fn finish<S: Simd>(self, simd: S, row: &Row, v_dim: usize, scores: &Scores) {
        // SAFETY: the caller's promise.
        unsafe {
            let largest = *self.largest;
            let sum = simd.sum(simd.load(self.lanes));
            let factor = if largest == f32::NEG_INFINITY {
                0.0
            } else {
                match scores.sink(row.head) {
                    None => 1.0 / sum,
                    Some(sink) => {
                        let top = if sink > largest { sink } else { largest };
                        let own = simd.to_array(decay(simd, largest, top))[0];
                        let other = simd.to_array(decay(simd, sink, top))[0];
                        own / (sum * own + other)
                    }
                }
            };
            let (factor, zero) = (simd.splat(factor), simd.splat(0.0));
            for at in (0..v_dim).step_by(LANES) {
                // Adding 0 makes -0 and 0 one.
                let y = simd.fma(simd.load(self.sums.add(at)), factor, zero);
                simd.store_some(row.y.add(at), (v_dim - at).min(LANES), y);
            }
        }
    }
}

/// `to = to * before + from * now`.
///
/// # Safety
/// Both sides hold a vector.
#[inline(always)]
unsafe fn join_vector<S: Simd>(simd: S, [before, now]: [S::F; 2], to: *mut f32, from: *const f32) {
    // SAFETY: the caller's promise.
    unsafe { simd.store(to, simd.fma(simd.load(to), before, simd.mul(simd.load(from), now))) };
}
