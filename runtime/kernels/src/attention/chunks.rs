//! Few rows over long sequences: workers share the chunks of keys, then join them in the order in which one worker would.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::layout::{SHARED_ROWS, chunk_state_len};

use super::block::{BLOCK, CHUNK, KEYS, Row, accumulate};
use super::paged::{Attend, Prepared};
use super::running::RowState;
use super::units::{Split, cost};
use crate::simd::Simd;

/// Keys of a chunk.
const CHUNK_KEYS: usize = CHUNK * KEYS;

impl Attend<'_> {
    /// Whether workers share the keys of this call.
    #[inline(always)]
    pub(super) fn in_chunks(&self, prepared: &Prepared) -> bool {
        let rows = prepared.call.rows;
        !self.partial.is_null() && rows <= SHARED_ROWS && rows * prepared.call.group <= prepared.memory.rows
    }

    /// The state of a row's chunk, kept between the phases.
    #[inline(always)]
    fn kept(&self, prepared: &Prepared, [row, head, chunk]: [usize; 3]) -> RowState {
        let call = &prepared.call;
        let (chunks, heads) = (call.capacity.div_ceil(CHUNK_KEYS), call.group * call.pages.page.kv_heads);
        let sizes = prepared.memory.sizes;
        let at = (row * heads + head) * chunks + chunk;
        let state = self.partial.cast::<f32>().wrapping_add(at * chunk_state_len(sizes.v_dim));
        RowState::kept(state, sizes.v_width())
    }

    /// The keys that any of the rows `start..end` of a sequence sees.
    ///
    /// # Safety
    /// The rows are the sequence's.
    #[inline(always)]
    unsafe fn extent(
        &self,
        prepared: &Prepared,
        [sequence, start, end]: [usize; 3],
    ) -> Result<(usize, usize), Status> {
        let mut extent = (usize::MAX, 0);
        for r in 0..end - start {
            // SAFETY: the caller's promise.
            let row = unsafe {
                let at = [start, 0, r * prepared.call.group];
                self.row(&prepared.call, at, self.length(sequence))?
            };
            extent = (extent.0.min(row.first), extent.1.max(row.end));
        }
        Ok(extent)
    }

    /// The first phase: each chunk of keys by itself.
    ///
    /// # Safety
    /// As [`crate::kernel::Kernel::run`].
    #[inline(always)]
    pub(super) unsafe fn chunks<S: Simd>(
        &self,
        simd: S,
        worker: &Worker,
        prepared: &Prepared,
    ) -> Result<(), Status> {
        let Prepared { call, memory, scores, .. } = prepared;
        let mut all = 0;
        for (sequence, start, end) in prepared.whole.each() {
            // SAFETY: the sequence's rows.
            let extent = unsafe { self.extent(prepared, [sequence, start, end])? };
            for chunk in chunks_of(extent) {
                let (first, last) = clipped(extent, chunk);
                all += cost((end - start) * call.group, first, last) * call.pages.page.kv_heads as u64;
            }
        }
        let mut split = Split::new(all, worker);
        for (sequence, start, end) in prepared.whole.each() {
            // SAFETY: as above.
            let extent = unsafe { self.extent(prepared, [sequence, start, end])? };
            let count = (end - start) * call.group;
            for kv in 0..call.pages.page.kv_heads {
                for chunk in chunks_of(extent) {
                    let (first, last) = clipped(extent, chunk);
                    if !split.mine(cost(count, first, last)) {
                        continue;
                    }
                    let mut block = [Row::NONE; BLOCK];
                    for (r, to) in block[..count].iter_mut().enumerate() {
                        // SAFETY: a row of the sequence.
                        let row = unsafe { self.row(call, [start, kv, r], self.length(sequence))? };
                        let (first, end) = clipped((row.first, row.end), chunk);
                        *to = Row { first, end, ..row };
                    }
                    let (rows, keys) = (&block[..count], self.keys(prepared, sequence, kv));
                    // SAFETY: rows end within the table; the plan's strides describe the operands.
                    let status = unsafe { accumulate(simd, memory, rows, &keys, scores, self.scale as f32) };
                    if status != Status::Ok {
                        return Err(status);
                    }
                    for (r, row) in rows.iter().enumerate() {
                        let kept = self.kept(prepared, [start + r / call.group, row.head, chunk]);
                        // SAFETY: the plan made room for each row's chunks; no other worker has this one.
                        unsafe { kept.copy(memory.whole.row(r)) };
                    }
                }
            }
        }
        Ok(())
    }

    /// The second phase: the chunks of each row in ascending order.
    ///
    /// # Safety
    /// As [`crate::kernel::Kernel::run`], after all workers' first phase.
    #[inline(always)]
    pub(super) unsafe fn join<S: Simd>(
        &self,
        simd: S,
        worker: &Worker,
        prepared: &Prepared,
    ) -> Result<(), Status> {
        let Prepared { call, memory, scores, .. } = prepared;
        let heads = call.group * call.pages.page.kv_heads;
        let mine = worker.share(call.rows * heads, 1);
        for (sequence, start, end) in prepared.whole.each() {
            for item in mine.start.max(start * heads)..mine.end.min(end * heads) {
                let (index, head) = (item / heads, item % heads);
                let at = [start, head / call.group, (index - start) * call.group + head % call.group];
                // SAFETY: a row of the sequence; its chunks were kept by the first phase.
                unsafe {
                    let row = self.row(call, at, self.length(sequence))?;
                    let state = memory.whole.row(0);
                    state.clear();
                    for chunk in chunks_of((row.first, row.end)) {
                        state.join(simd, self.kept(prepared, [index, head, chunk]));
                    }
                    state.finish(simd, &row, memory.sizes.v_dim, scores);
                }
            }
        }
        Ok(())
    }
}

/// The chunks that keys `first..end` touch.
#[inline(always)]
fn chunks_of((first, end): (usize, usize)) -> std::ops::Range<usize> {
    if first < end { first / CHUNK_KEYS..end.div_ceil(CHUNK_KEYS) } else { 0..0 }
}

/// The part of keys `first..end` in a chunk.
#[inline(always)]
fn clipped((first, end): (usize, usize), chunk: usize) -> (usize, usize) {
    (first.max(chunk * CHUNK_KEYS), end.min((chunk + 1) * CHUNK_KEYS))
}
