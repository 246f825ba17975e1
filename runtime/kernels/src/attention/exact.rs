//! Attention with the bits of its parts one after the other: product, scale, mask, softmax, product.
//!
//! Each score is made three times over: for the row's largest, for the sum of its exponentials, and for the weights, which are divided by
//! that sum before they meet the values. Models that quantise values by their own range were made with these bits. Memory is that of
//! the running form.

use lathe_artifact::abi::Status;

use super::block::{Bounds, KEYS, Keys, Memory, Row, VECTORS, bounds_of, hide, pack_queries};
use super::products::{collect, score};
use super::score::{Scores, TileFacts};
use crate::math::exp_bounded;
use crate::matmul::tile::ROWS;
use crate::simd::{LANES, Simd, WithSimd};

/// What is done to the products of queries and keys.
#[derive(Clone, Copy)]
pub(super) enum Scale {
    /// Multiplied.
    Factor(f32),
    /// Divided.
    Divisor(f32),
}

/// What the scores of a tile are made for.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Largest,
    Sum,
    Weights,
}

/// Attends with `rows`, at most [`Memory::rows`], and writes what they give.
///
/// # Safety
/// As [`super::block::attend`]; there are no sinks.
#[inline(always)]
pub(super) unsafe fn attend_exactly<S: Simd, K: Keys>(
    simd: S,
    memory: &Memory,
    rows: &[Row],
    keys: &K,
    scores: &Scores,
    scale: Scale,
) -> Status {
    let (groups, Bounds { first, end }) = bounds_of(rows);
    let bounds = &groups[..rows.len().div_ceil(ROWS)];
    // SAFETY: the caller's promises; the memory has room for the rows.
    unsafe {
        memory.chunk.clear(rows.len());
        if first < end {
            pack_queries(simd, memory, rows, 1.0);
            for stage in [Stage::Largest, Stage::Sum, Stage::Weights] {
                for index in first / KEYS..end.div_ceil(KEYS) {
                    let Some(facts) = scores.facts(memory.facts, index * KEYS, end) else { continue };
                    let tile = match keys.tile(simd, index, end.min((index + 1) * KEYS), memory.tile) {
                        Ok(tile) => tile,
                        Err(status) => return status,
                    };
                    score(simd, memory, (rows, bounds), &tile, facts.start);
                    for (index, (rows, bounds)) in rows.chunks(ROWS).zip(bounds).enumerate() {
                        if bounds.count(facts.start).is_some() {
                            let first = index * ROWS;
                            weigh(simd, Weigh { memory, rows, first, scores, facts: &facts, scale, stage });
                        }
                    }
                    if stage == Stage::Weights {
                        collect(simd, memory, (rows, bounds), &tile, facts.start);
                    }
                }
            }
        }
        for (index, row) in rows.iter().enumerate() {
            let sums = memory.chunk.sums.add(index * memory.chunk.v_width);
            for at in (0..memory.sizes.v_dim).step_by(LANES) {
                let count = (memory.sizes.v_dim - at).min(LANES);
                simd.store_some(row.y.add(at), count, simd.load(sums.add(at)));
            }
        }
    }
    Status::Ok
}

struct Weigh<'a> {
    memory: &'a Memory,
    rows: &'a [Row],
    /// Index of the first row in the block.
    first: usize,
    scores: &'a Scores,
    facts: &'a TileFacts,
    scale: Scale,
    stage: Stage,
}

#[inline(never)]
fn weigh<S: Simd>(simd: S, work: Weigh<'_>) {
    simd.vectorize(work);
}

impl WithSimd for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn with<S: Simd>(self, simd: S) {
        let start = self.facts.start;
        for (index, row) in self.rows.iter().enumerate() {
            // SAFETY: the rows lie in the block, whose memory has room for all of them.
            unsafe {
                let index = self.first + index;
                let line = self.memory.scores.add(index * KEYS);
                let mut values = [simd.splat(0.0); VECTORS];
                for (v, value) in values.iter_mut().enumerate() {
                    let product = simd.load(line.add(v * LANES));
                    *value = match self.scale {
                        Scale::Factor(factor) => simd.mul(product, simd.splat(factor)),
                        Scale::Divisor(divisor) => simd.div(product, simd.splat(divisor)),
                    };
                }
                if !self.scores.plain {
                    self.scores.change(simd, row, self.facts, &mut values);
                }
                if row.first > start || row.end < start + KEYS {
                    hide(simd, row, start, &mut values);
                }
                self.take(simd, index, line, values);
            }
        }
    }
}

impl Weigh<'_> {
    /// What the stage does with one row's scores of the tile.
    ///
    /// # Safety
    /// `index` is a row of the block, `line` its scores.
    #[inline(always)]
    unsafe fn take<S: Simd>(&self, simd: S, index: usize, line: *mut f32, values: [S::F; VECTORS]) {
        // SAFETY: the caller's promise.
        unsafe {
            let largest = &mut *self.memory.chunk.largest.add(index);
            let lanes = self.memory.chunk.lanes.add(index * LANES);
            if self.stage == Stage::Largest {
                let top = simd.max(simd.max(values[0], values[1]), simd.max(values[2], values[3]));
                let top = simd.largest(top);
                *largest = if top > *largest { top } else { *largest };
                return;
            }
            // A row without any score must not subtract infinities; all its weights are 0.
            let seen = *largest > f32::NEG_INFINITY;
            let base = simd.splat(if seen { *largest } else { 0.0 });
            let mut sums = simd.load(lanes);
            let factor = if seen { 1.0 / simd.sum(sums) } else { 0.0 };
            for (v, value) in values.into_iter().enumerate() {
                let weight = exp_bounded(simd, simd.sub(value, base));
                match self.stage {
                    Stage::Weights => simd.store(line.add(v * LANES), simd.mul(weight, simd.splat(factor))),
                    Stage::Largest | Stage::Sum => sums = simd.add(sums, weight),
                }
            }
            simd.store(lanes, sums);
        }
    }
}
