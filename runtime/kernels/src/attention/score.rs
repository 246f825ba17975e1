//! What happens to scores between product and softmax: softcap, mask, ALiBi, padding of keys.

use std::ops::Range;

use super::block::{KEYS, Row, VECTORS};
use crate::math::tanh;
use crate::simd::{LANES, Simd};

/// A mask over `[batch, head, query, key]`; rows are found by [`Row::mask`].
#[derive(Clone, Copy)]
pub(crate) enum Mask {
    /// Added.
    Added(*const f32),
    /// A byte a key: 0 hides.
    Seen(*const u8),
}

/// What ALiBi multiplies with a head's slope.
#[derive(Clone, Copy)]
pub(crate) enum Positions {
    /// Minus the distance between query and key.
    Distance,
    /// The key's place, counted from this on.
    Keys(i64),
    /// A number for each key.
    Floats(*const f32),
    /// Likewise.
    Integers(*const i64),
}

/// What is done to scores besides their scale.
#[derive(Clone, Copy)]
pub(crate) struct Scores {
    /// Nothing is done.
    pub(crate) plain: bool,
    /// 0 leaves it out.
    pub(crate) softcap: f32,
    /// The mask.
    pub(crate) mask: Option<Mask>,
    /// Keys that the mask covers.
    pub(crate) mask_width: usize,
    /// The slopes of ALiBi by head; null where there are none.
    pub(crate) slopes: *const f32,
    /// What the slopes are multiplied with, of one batch.
    pub(crate) positions: Positions,
    /// A byte a key of one batch, 0 where it is padding; null where there is none.
    pub(crate) padding: *const u8,
    /// One more logit of each head; null where there are none.
    pub(crate) sinks: *const f32,
}

/// What holds for all rows of a tile.
pub(crate) struct TileFacts {
    /// The first key.
    pub(crate) start: usize,
    /// 64 numbers that are added to the scores: 0, or minus infinity for padding; null where there is no padding.
    padding: *const f32,
    /// 64 numbers that the slopes are multiplied with; null without slopes or with distances.
    positions: *const f32,
}

impl Scores {
    /// Whether nothing is done, by the other fields.
    #[inline(always)]
    pub(crate) fn settled(self) -> Self {
        let plain =
            self.softcap == 0.0 && self.mask.is_none() && self.slopes.is_null() && self.padding.is_null();
        Self { plain, ..self }
    }

    /// The sink of a head.
    ///
    /// # Safety
    /// The sinks have that head.
    #[inline(always)]
    pub(crate) unsafe fn sink(&self, head: usize) -> Option<f32> {
        // SAFETY: the caller's promise.
        (!self.sinks.is_null()).then(|| unsafe { *self.sinks.add(head) })
    }

    /// The keys of `0..total` from the first to the last that are no padding; empty where all are.
    ///
    /// # Safety
    /// The padding covers `total` keys.
    #[inline(always)]
    pub(crate) unsafe fn unpadded(&self, total: usize) -> Range<usize> {
        if self.padding.is_null() || total == 0 {
            return 0..total;
        }
        // SAFETY: the caller's promise.
        let seen = unsafe { std::slice::from_raw_parts(self.padding, total) };
        match (seen.iter().position(|&byte| byte != 0), seen.iter().rposition(|&byte| byte != 0)) {
            (Some(first), Some(last)) => first..last + 1,
            _ => 0..0,
        }
    }

    /// What holds for all rows of the tile at `start`; `None` where all its keys are padding. `space` has room for 2 * 64.
    ///
    /// # Safety
    /// Padding and positions cover `end` keys.
    #[inline(always)]
    pub(crate) unsafe fn facts(&self, space: *mut f32, start: usize, end: usize) -> Option<TileFacts> {
        let count = (end - start).min(KEYS);
        let mut facts = TileFacts { start, padding: std::ptr::null(), positions: std::ptr::null() };
        // SAFETY: the caller's promise.
        unsafe {
            if !self.padding.is_null() {
                let mut any = false;
                for key in 0..KEYS {
                    let seen = key < count && *self.padding.add(start + key) != 0;
                    any |= seen;
                    *space.add(key) = if seen { 0.0 } else { f32::NEG_INFINITY };
                }
                if !any {
                    return None;
                }
                facts.padding = space;
            }
            let space = space.add(KEYS);
            let number = |key: usize| match self.positions {
                Positions::Distance => 0.0,
                Positions::Keys(origin) => origin.wrapping_add((start + key) as i64) as f32,
                Positions::Floats(from) => *from.add(start + key),
                Positions::Integers(from) => from.add(start + key).read_unaligned() as f32,
            };
            if !self.slopes.is_null() && !matches!(self.positions, Positions::Distance) {
                (0..KEYS).for_each(|key| *space.add(key) = if key < count { number(key) } else { 0.0 });
                facts.positions = space;
            }
        }
        Some(facts)
    }

    /// Changes the scores of one row; those of keys that it does not see are unspecified.
    ///
    /// # Safety
    /// The row's mask covers its keys; the slopes have its head.
    #[inline(always)]
    pub(crate) unsafe fn change<S: Simd>(
        &self,
        simd: S,
        row: &Row,
        facts: &TileFacts,
        values: &mut [S::F; VECTORS],
    ) {
        let start = facts.start;
        if self.softcap > 0.0 {
            let cap = simd.splat(self.softcap);
            for value in values.iter_mut() {
                *value = simd.mul(cap, tanh(simd, simd.div(*value, cap)));
            }
        }
        // SAFETY: the caller's promise.
        unsafe {
            match self.mask {
                // The row sees all keys of the tile, and its mask has them.
                Some(Mask::Added(mask)) if start + KEYS <= self.mask_width.min(row.end) => {
                    let line = mask.offset(row.mask + start as isize);
                    for (v, value) in values.iter_mut().enumerate() {
                        *value = simd.add(*value, simd.load(line.add(v * LANES)));
                    }
                }
                Some(mask) => {
                    for (v, value) in values.iter_mut().enumerate() {
                        *value = self.masked(simd, mask, row, start + v * LANES, *value);
                    }
                }
                None => {}
            }
            if !self.slopes.is_null() {
                self.tilt(simd, row, facts, values);
            }
            if !facts.padding.is_null() {
                for (v, value) in values.iter_mut().enumerate() {
                    *value = simd.add(*value, simd.load(facts.padding.add(v * LANES)));
                }
            }
        }
    }

    /// Adds the slope's products with positions or distances.
    ///
    /// # Safety
    /// As [`change`](Self::change), with slopes.
    #[inline(always)]
    unsafe fn tilt<S: Simd>(&self, simd: S, row: &Row, facts: &TileFacts, values: &mut [S::F; VECTORS]) {
        // SAFETY: the slopes have the row's head; the facts have 64 positions.
        unsafe {
            let slope = *self.slopes.add(row.head);
            for (v, value) in values.iter_mut().enumerate() {
                *value = if facts.positions.is_null() {
                    let first = facts.start + v * LANES;
                    let mut keys = [0.0; LANES];
                    for (lane, key) in keys.iter_mut().enumerate() {
                        *key = (row.position - (first + lane) as i64) as f32;
                    }
                    let distance = simd.abs(simd.from_array(keys));
                    simd.fma(simd.splat(-slope), distance, *value)
                } else {
                    let numbers = simd.load(facts.positions.add(v * LANES));
                    simd.fma(simd.splat(slope), numbers, *value)
                };
            }
        }
    }

    /// One vector with its mask; keys beyond the mask are hidden.
    ///
    /// # Safety
    /// As [`change`](Self::change).
    #[inline(always)]
    unsafe fn masked<S: Simd>(&self, simd: S, mask: Mask, row: &Row, start: usize, value: S::F) -> S::F {
        let count = self.mask_width.min(row.end).saturating_sub(start).min(LANES);
        let hidden = simd.splat(f32::NEG_INFINITY);
        let at = row.mask + start as isize;
        // SAFETY: elements of keys below the row's end and the mask's width are readable.
        let masked = unsafe {
            match mask {
                _ if count == 0 => hidden,
                Mask::Added(mask) => simd.add(value, simd.load_some(mask.offset(at), count)),
                Mask::Seen(mask) => {
                    let mut bias = [0.0; LANES];
                    for (lane, bias) in bias[..count].iter_mut().enumerate() {
                        if *mask.offset(at + lane as isize) == 0 {
                            *bias = f32::NEG_INFINITY;
                        }
                    }
                    simd.add(value, simd.from_array(bias))
                }
            }
        };
        simd.select(simd.first(count), masked, hidden)
    }
}
