//! A block of queries that share one head of keys and values: the softmax runs on while tiles of 64 keys pass by.
//!
//! What fixes the bits of a row, whatever rows share its block: keys stand in tiles of 64 from place 0 of their sequence; a
//! score is one chain of multiply-adds over the head's elements in ascending order; tiles are joined in ascending order
//! within chunks of [`CHUNK`], each of which begins anew, and chunks in ascending order; the weights' sum is kept in 16
//! lanes. A tile in which a row sees nothing leaves the row as it is.

use lathe_artifact::abi::{SCRATCH_BYTES, Status, Worker};
use lathe_artifact::layout::CHUNK_PAGES;

use super::products::{collect, score};
use super::running::{Running, decay};
use super::score::{Scores, TileFacts};
use crate::math::exp_bounded;
use crate::matmul::copy;
use crate::matmul::tile::{PANEL, ROWS};
use crate::simd::{LANES, Simd, WithSimd};

/// Keys of a tile.
pub(crate) const KEYS: usize = 64;
/// Vectors of a row of scores.
pub(crate) const VECTORS: usize = KEYS / LANES;
/// Tiles of a chunk.
pub(crate) const CHUNK: usize = CHUNK_PAGES;
/// Most rows of a block.
pub(crate) const BLOCK: usize = 32 * ROWS;
/// Most elements of a head.
pub(crate) const HEAD: usize = 576;

/// Rows of a block that scratch memory holds, in whole groups, by the sizes of a head.
const fn rows_that_fit(qk_dim: usize, v_width: usize) -> usize {
    let tiles = KEYS * (qk_dim + v_width) + 2 * KEYS;
    // What each part is rounded up by.
    let rounding = 10 * LANES;
    let row = qk_dim + KEYS + 2 * (v_width + LANES + 1);
    let fitting = (SCRATCH_BYTES / 4 - tiles - rounding) / row / ROWS * ROWS;
    if fitting < BLOCK { fitting } else { BLOCK }
}
// The memory of scores holds a group of queries, row by row.
const _: () = assert!(rows_that_fit(HEAD, HEAD) * KEYS >= ROWS * HEAD);
const _: () = assert!(rows_that_fit(256, 256) == BLOCK);

/// One query of one head.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    /// `qk_dim` elements.
    pub(crate) q: *const f32,
    /// `v_dim` elements.
    pub(crate) y: *mut f32,
    /// The keys that it may see: `first..end`.
    pub(crate) first: usize,
    /// Behind the last key that it may see.
    pub(crate) end: usize,
    /// Its head.
    pub(crate) head: usize,
    /// Where it stands.
    pub(crate) position: i64,
    /// Element of the mask for key 0.
    pub(crate) mask: isize,
}

impl Row {
    /// Sees nothing.
    pub(crate) const NONE: Row =
        Row { q: std::ptr::null(), y: std::ptr::null_mut(), first: 0, end: 0, head: 0, position: 0, mask: 0 };
}

/// Keys and values of a tile as the microkernel reads them.
#[derive(Clone, Copy)]
pub(crate) struct KeyTile {
    /// Keys: 2 panels of 32, each `[qk_dim][32]`.
    pub(crate) k: *const f32,
    /// Elements from row to row and from panel to panel of `k`.
    pub(crate) k_steps: (usize, usize),
    /// Values: panels of 32 columns, each `[64][32]`.
    pub(crate) v: *const f32,
    /// Elements from row to row and from panel to panel of `v`.
    pub(crate) v_steps: (usize, usize),
    /// Elements from `k` and from `v` to those of the tile that is read next, where they are read from where they lie.
    pub(crate) next: Option<isize>,
}

/// Where keys and values come from.
pub(crate) trait Keys {
    /// Makes tile `index` readable, its keys below `end`; `space` is memory for `KEYS * (qk_dim + v_width)` elements. Tile
    /// `index + 1` follows where there is one.
    ///
    /// # Safety
    /// `end` lies within the keys, `index` within `end`.
    unsafe fn tile<S: Simd>(
        &self,
        simd: S,
        index: usize,
        end: usize,
        space: *mut f32,
    ) -> Result<KeyTile, Status>;
}

/// Sizes of the heads.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// Elements of a query and a key.
    pub(crate) qk_dim: usize,
    /// Elements of a value.
    pub(crate) v_dim: usize,
}

impl Sizes {
    /// Elements of a row of sums: whole panels.
    pub(crate) const fn v_width(self) -> usize {
        self.v_dim.div_ceil(PANEL) * PANEL
    }
}

/// The memory of a block.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    pub(super) sizes: Sizes,
    /// Most rows of a block.
    pub(super) rows: usize,
    /// Room for a tile of keys and values.
    pub(super) tile: *mut f32,
    /// Two rows of 64 for what holds for all rows of a tile.
    pub(super) facts: *mut f32,
    /// Groups of 12 queries, each `[qk_dim][12]`.
    pub(super) q: *mut f32,
    /// `[rows][64]`.
    pub(super) scores: *mut f32,
    /// The running state of the chunk and that of the chunks before.
    pub(super) chunk: Running,
    pub(super) whole: Running,
}

impl Memory {
    /// Lays the memory out in a worker's scratch memory; `None` where a head is too large.
    pub(crate) fn new(worker: &Worker, sizes: Sizes) -> Option<Self> {
        if sizes.qk_dim > HEAD || sizes.v_dim > HEAD {
            return None;
        }
        let v_width = sizes.v_width();
        let rows = rows_that_fit(sizes.qk_dim, v_width);
        let mut next = worker.scratch.cast::<f32>();
        let mut take = |count: usize| {
            let taken = next;
            next = next.wrapping_add(count.next_multiple_of(LANES));
            taken
        };
        let tile = take(KEYS * (sizes.qk_dim + v_width));
        let (facts, q, scores) = (take(2 * KEYS), take(rows * sizes.qk_dim), take(rows * KEYS));
        let mut running = || Running {
            largest: take(rows),
            lanes: take(rows * LANES),
            sums: take(rows * v_width),
            v_width,
        };
        Some(Self { sizes, rows, tile, facts, q, scores, chunk: running(), whole: running() })
    }
}

/// The keys that some rows may see: from the first that any sees to behind the last.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) first: usize,
    pub(super) end: usize,
}

impl Bounds {
    const NONE: Bounds = Bounds { first: usize::MAX, end: 0 };

    #[inline(always)]
    fn join(self, other: Bounds) -> Bounds {
        Bounds { first: self.first.min(other.first), end: self.end.max(other.end) }
    }

    fn of(rows: &[Row]) -> Bounds {
        let seeing = rows.iter().filter(|row| row.first < row.end);
        seeing.fold(Bounds::NONE, |all, row| all.join(Bounds { first: row.first, end: row.end }))
    }

    /// How many keys of the tile at `start` lie below the end; `None` where none is seen.
    #[inline(always)]
    pub(super) fn count(self, start: usize) -> Option<usize> {
        (self.first < start + KEYS && self.end > start).then(|| (self.end - start).min(KEYS))
    }
}

/// The keys that each group of rows may see, and all of them.
#[inline(always)]
pub(super) fn bounds_of(rows: &[Row]) -> ([Bounds; BLOCK / ROWS], Bounds) {
    let mut groups = [Bounds::NONE; BLOCK / ROWS];
    let mut all = Bounds::NONE;
    for (bounds, group) in groups.iter_mut().zip(rows.chunks(ROWS)) {
        *bounds = Bounds::of(group);
        all = all.join(*bounds);
    }
    (groups, all)
}

/// Attends with `rows`, at most [`Memory::rows`], and writes what they give.
///
/// # Safety
/// As [`accumulate`].
#[inline(always)]
pub(crate) unsafe fn attend<S: Simd, K: Keys>(
    simd: S,
    memory: &Memory,
    rows: &[Row],
    keys: &K,
    scores: &Scores,
    scale: f32,
) -> Status {
    // SAFETY: the caller's promises.
    unsafe {
        let status = accumulate(simd, memory, rows, keys, scores, scale);
        if status == Status::Ok {
            for (index, row) in rows.iter().enumerate() {
                memory.whole.row(index).finish(simd, row, memory.sizes.v_dim, scores);
            }
        }
        status
    }
}

/// Takes the keys that `rows`, at most [`Memory::rows`], see into their running state.
///
/// # Safety
/// The rows' pointers are valid for their heads, and their `end` lies within `keys`; the mask and the facts of `scores` cover
/// all keys of all rows.
#[inline(always)]
pub(super) unsafe fn accumulate<S: Simd, K: Keys>(
    simd: S,
    memory: &Memory,
    rows: &[Row],
    keys: &K,
    scores: &Scores,
    scale: f32,
) -> Status {
    let (groups, Bounds { first, end }) = bounds_of(rows);
    let groups = &groups[..rows.len().div_ceil(ROWS)];
    // SAFETY: the caller's promises; the memory has room for the rows.
    unsafe {
        memory.whole.clear(rows.len());
        if first < end {
            pack_queries(simd, memory, rows, scale);
            memory.chunk.clear(rows.len());
            let mut chunk = first / KEYS / CHUNK;
            for index in first / KEYS..end.div_ceil(KEYS) {
                if index / CHUNK != chunk {
                    join(simd, memory, rows.len());
                    memory.chunk.clear(rows.len());
                    chunk = index / CHUNK;
                }
                let Some(facts) = scores.facts(memory.facts, index * KEYS, end) else { continue };
                match keys.tile(simd, index, end.min((index + 1) * KEYS), memory.tile) {
                    Ok(tile) => pass(simd, memory, (rows, groups), &tile, scores, &facts),
                    Err(status) => return status,
                }
            }
            join(simd, memory, rows.len());
        }
    }
    Status::Ok
}

/// Queries in groups of 12, times the scale of the scores.
///
/// # Safety
/// As [`attend`].
#[inline(always)]
pub(super) unsafe fn pack_queries<S: Simd>(simd: S, memory: &Memory, rows: &[Row], scale: f32) {
    let qk_dim = memory.sizes.qk_dim;
    let scale = simd.splat(scale);
    // There are no scores yet: their memory holds a group row by row.
    let lines = memory.scores;
    const { assert!(ROWS == 12) };
    for (index, group) in rows.chunks(ROWS).enumerate() {
        // SAFETY: a row has `qk_dim` elements; there is room for a group of them on both sides.
        unsafe {
            for (r, row) in group.iter().enumerate() {
                for d in (0..qk_dim).step_by(LANES) {
                    let count = (qk_dim - d).min(LANES);
                    let scaled = simd.mul(simd.load_some(row.q.add(d), count), scale);
                    simd.store_some(lines.add(r * qk_dim + d), count, scaled);
                }
            }
            let to = memory.q.add(index * ROWS * qk_dim);
            let transpose = |first: usize, rows: usize| {
                let from = lines.add(first * qk_dim);
                copy::transpose(simd, rows, qk_dim, from, qk_dim as isize, to.add(first), ROWS);
            };
            if group.len() == ROWS {
                // Eight rows are transposed at a time: the two parts share four.
                transpose(0, 8);
                transpose(4, 8);
            } else {
                transpose(0, group.len());
            }
        }
    }
}

/// Takes one tile of keys into the running state of all rows that see some of it.
///
/// # Safety
/// As [`attend`].
#[inline(always)]
unsafe fn pass<S: Simd>(
    simd: S,
    memory: &Memory,
    (rows, bounds): (&[Row], &[Bounds]),
    tile: &KeyTile,
    scores: &Scores,
    facts: &TileFacts,
) {
    // SAFETY: the caller's promises.
    unsafe { score(simd, memory, (rows, bounds), tile, facts.start) };
    for (index, (group, bounds)) in rows.chunks(ROWS).zip(bounds).enumerate() {
        if bounds.count(facts.start).is_some() {
            weigh(simd, Weigh { memory, rows: group, first: index * ROWS, scores, facts });
        }
    }
    // SAFETY: the caller's promises.
    unsafe { collect(simd, memory, (rows, bounds), tile, facts.start) };
}

/// The scores of a tile become weights.
struct Weigh<'a> {
    memory: &'a Memory,
    rows: &'a [Row],
    /// Index of the first row in the block.
    first: usize,
    scores: &'a Scores,
    facts: &'a TileFacts,
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
                    *value = simd.load(line.add(v * LANES));
                }
                if !self.scores.plain {
                    self.scores.change(simd, row, self.facts, &mut values);
                }
                if row.first > start || row.end < start + KEYS {
                    hide(simd, row, start, &mut values);
                }
                self.update(simd, index, line, values);
            }
        }
    }
}

/// The lanes of a vector from place `begin` on that lie below `bound`.
#[inline(always)]
fn below<S: Simd>(simd: S, bound: usize, begin: usize) -> S::M {
    simd.first(bound.saturating_sub(begin).min(LANES))
}

/// Takes away what a row does not see of a tile.
#[inline(always)]
pub(super) fn hide<S: Simd>(simd: S, row: &Row, start: usize, values: &mut [S::F; VECTORS]) {
    let hidden = simd.splat(f32::NEG_INFINITY);
    for (v, value) in values.iter_mut().enumerate() {
        let begin = start + v * LANES;
        let kept = simd.select(below(simd, row.end, begin), *value, hidden);
        *value = simd.select(below(simd, row.first, begin), hidden, kept);
    }
}

impl Weigh<'_> {
    /// Takes one row's scores into its running state and stores its weights.
    ///
    /// # Safety
    /// `index` is a row of the block, `line` its scores.
    #[inline(always)]
    unsafe fn update<S: Simd>(&self, simd: S, index: usize, line: *mut f32, values: [S::F; VECTORS]) {
        let chunk = self.memory.chunk;
        // SAFETY: the caller's promise.
        unsafe {
            let largest = &mut *chunk.largest.add(index);
            let lanes = chunk.lanes.add(index * LANES);
            let top = simd.max(simd.max(values[0], values[1]), simd.max(values[2], values[3]));
            let mut sum = simd.load(lanes);
            if simd.any(simd.less(simd.splat(*largest), top)) {
                let higher = simd.largest(top);
                // A row without any score yet has empty sums.
                if *largest > f32::NEG_INFINITY {
                    let factor = decay(simd, *largest, higher);
                    sum = simd.mul(sum, factor);
                    let sums = chunk.sums.add(index * chunk.v_width);
                    for at in (0..chunk.v_width).step_by(LANES) {
                        simd.store(sums.add(at), simd.mul(simd.load(sums.add(at)), factor));
                    }
                }
                *largest = higher;
            }
            // A row without any score yet must not subtract infinities.
            let base = simd.splat(if *largest == f32::NEG_INFINITY { 0.0 } else { *largest });
            let mut weights = values;
            for (v, weight) in weights.iter_mut().enumerate() {
                *weight = exp_bounded(simd, simd.sub(*weight, base));
                simd.store(line.add(v * LANES), *weight);
            }
            let halves = (simd.add(weights[0], weights[1]), simd.add(weights[2], weights[3]));
            simd.store(lanes, simd.add(sum, simd.add(halves.0, halves.1)));
        }
    }
}

/// Joins the chunk's state to that of the chunks before it.
///
/// # Safety
/// The memory holds `rows` rows.
#[inline(always)]
unsafe fn join<S: Simd>(simd: S, memory: &Memory, rows: usize) {
    for row in 0..rows {
        // SAFETY: the caller's promise.
        unsafe { memory.whole.row(row).join(simd, memory.chunk.row(row)) };
    }
}
