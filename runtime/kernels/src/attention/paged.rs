//! Rows of several sequences attend to the pages of theirs.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::StateElement;
use lathe_artifact::builtin::args::PagedAttention;
use lathe_artifact::layout::KvPage;

use super::block::{BLOCK, HEAD, KEYS, Memory, Row, Sizes, attend};
use super::pages::{Pages, Sequences, number};
use super::score::{Mask, Positions, Scores};
use super::units::{Split, cost, rows_of_block};
use super::widen::Paged;
use crate::kernel::Kernel;
use crate::matmul::sizes;
use crate::simd::Simd;

/// The sizes of a call.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) rows: usize,
    pub(super) group: usize,
    pub(super) pages: Pages,
    /// Elements of an answer; with `latent` those of the keys that are values.
    pub(super) v_dim: usize,
    pub(super) latent: bool,
    pub(super) capacity: usize,
}

/// What all phases need of a call.
pub(super) struct Prepared {
    pub(super) call: Call,
    pub(super) memory: Memory,
    pub(super) scores: Scores,
    pub(super) whole: Sequences,
    pub(super) sequences: usize,
}

/// What a call asks for.
pub(super) struct Attend<'a>(&'a PagedAttention);

impl std::ops::Deref for Attend<'_> {
    type Target = PagedAttention;

    #[inline(always)]
    fn deref(&self) -> &PagedAttention {
        self.0
    }
}

impl Attend<'_> {
    #[inline(always)]
    fn call(&self) -> Option<(Call, usize)> {
        let [heads, kv_heads, rows] = sizes([self.heads, self.kv_heads, self.rows])?;
        let [qk_head_dim, v_dim, sequences] = sizes([self.qk_dim, self.v_dim, self.sequences])?;
        let latent = self.latent != 0;
        if qk_head_dim > HEAD || v_dim > HEAD || kv_heads == 0 || heads % kv_heads != 0 {
            return None;
        }
        if latent && v_dim > qk_head_dim {
            return None;
        }
        let page = KvPage { kv_heads, qk_head_dim, v_head_dim: if latent { 0 } else { v_dim } };
        let pool = sizes([self.pages, self.pool])?;
        let capacity = pool[0].checked_mul(KEYS)?;
        let pages = Pages::new(page, StateElement::from_code(self.element)?, self.block_table, pool)?;
        Some((Call { rows, group: heads / kv_heads, pages, v_dim, latent, capacity }, sequences))
    }

    #[inline(always)]
    fn scores(&self) -> Scores {
        Scores {
            plain: false,
            softcap: self.softcap as f32,
            mask: (!self.bias.is_null()).then_some(Mask::Added(self.bias.cast())),
            mask_width: usize::try_from(self.bias_width).unwrap_or(0),
            slopes: self.alibi_slopes.cast(),
            positions: match self.alibi_by_key {
                0 => Positions::Distance,
                _ => Positions::Keys(self.alibi_origin),
            },
            padding: std::ptr::null(),
            sinks: self.sinks.cast(),
        }
        .settled()
    }

    /// Row `r` of a sequence whose rows begin at `start`, of head `kv`.
    ///
    /// # Safety
    /// The row is one of the call's.
    #[inline(always)]
    pub(super) unsafe fn row(
        &self,
        call: &Call,
        [start, kv, r]: [usize; 3],
        length: i64,
    ) -> Result<Row, Status> {
        let (row, head) = (start + r / call.group, kv * call.group + r % call.group);
        // SAFETY: the caller's promise.
        let position = unsafe { number(self.position, row) };
        let end = match usize::try_from(position) {
            Ok(place) if place < call.capacity && position < length => place + 1,
            _ => return Err(Status::IndexOutOfRange),
        };
        if !self.bias.is_null() && end as i64 > self.bias_width {
            return Err(Status::BadShape);
        }
        let first = match usize::try_from(self.window) {
            Ok(window) => end.saturating_sub(window),
            Err(_) => 0,
        };
        let at = |steps: [i64; 2]| (head as i64 * steps[0] + row as i64 * steps[1]) as isize;
        Ok(Row {
            q: self.q.cast::<f32>().wrapping_offset(at([self.q_head, self.q_row])),
            y: self.y.cast::<f32>().wrapping_offset(at([self.y_head, self.y_row])),
            first,
            end,
            head,
            position,
            mask: at([self.bias_head, self.bias_row]),
        })
    }

    /// What all phases need of a call.
    ///
    /// # Safety
    /// As [`Kernel::run`].
    #[inline(always)]
    unsafe fn prepare(&self, worker: &Worker) -> Result<Prepared, Status> {
        let (call, sequences) = self.call().ok_or(Status::Internal)?;
        let dims = Sizes { qk_dim: call.pages.page.qk_head_dim, v_dim: call.v_dim };
        // SAFETY: the plan's sizes describe the operands.
        let whole = unsafe { Sequences::new(self.seq_start, sequences, call.rows)? };
        Ok(Prepared {
            call,
            memory: Memory::new(worker, dims).ok_or(Status::Internal)?,
            scores: self.scores(),
            whole,
            sequences,
        })
    }

    /// Length of a sequence.
    ///
    /// # Safety
    /// It is one of the call's.
    #[inline(always)]
    pub(super) unsafe fn length(&self, sequence: usize) -> i64 {
        // SAFETY: the caller's promise.
        unsafe { number(self.context_len, sequence) }
    }

    #[inline(always)]
    pub(super) fn keys(&self, prepared: &Prepared, sequence: usize, head: usize) -> Paged {
        let Call { pages, v_dim, latent, .. } = prepared.call;
        Paged { pages, state: self.state, sequence, head, v_dim, latent }
    }

    /// Whole rows.
    ///
    /// # Safety
    /// As [`Kernel::run`].
    #[inline(always)]
    unsafe fn attend<S: Simd>(&self, simd: S, worker: &Worker, prepared: &Prepared) -> Result<(), Status> {
        let Prepared { call, memory, scores, whole, sequences, .. } = prepared;
        let page = call.pages.page;
        let units = sequences * page.kv_heads;
        // SAFETY: there is a length for each sequence.
        let length = |sequence: usize| unsafe { self.length(sequence) };
        // SAFETY: rows of the call.
        let row = |at: [usize; 3], length: i64| unsafe { self.row(call, at, length) };
        let block_of =
            |count: usize| rows_of_block(count * call.group, units, worker.count as usize, memory.rows);
        // The last row of a block stands at its end.
        let cost_of = |start: usize, r: usize, count: usize, length: i64| -> Result<u64, Status> {
            let (first, last) = (row([start, 0, r], length)?, row([start, 0, r + count - 1], length)?);
            Ok(cost(count, first.first, last.end))
        };
        let blocks = |count: usize| {
            let block = block_of(count);
            (0..count * call.group).step_by(block).map(move |r| (r, (count * call.group - r).min(block)))
        };
        let mut all = 0;
        for (sequence, start, end) in whole.each() {
            for (r, count) in blocks(end - start) {
                all += cost_of(start, r, count, length(sequence))? * page.kv_heads as u64;
            }
        }
        let mut split = Split::new(all, worker);
        for (sequence, start, end) in whole.each() {
            for kv in 0..page.kv_heads {
                for (r, count) in blocks(end - start) {
                    if !split.mine(cost_of(start, r, count, length(sequence))?) {
                        continue;
                    }
                    let mut block = [Row::NONE; BLOCK];
                    for (index, to) in block[..count].iter_mut().enumerate() {
                        *to = row([start, kv, r + index], length(sequence))?;
                    }
                    let keys = self.keys(prepared, sequence, kv);
                    // SAFETY: rows end within the table; the plan's strides describe the operands.
                    let status =
                        unsafe { attend(simd, memory, &block[..count], &keys, scores, self.scale as f32) };
                    if status != Status::Ok {
                        return Err(status);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Kernel for PagedAttention {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        // No closure stands here: what it calls would be compiled without the instruction set.
        let attend = Attend(self);
        // SAFETY: the caller's promise.
        let prepared = match unsafe { attend.prepare(worker) } {
            Ok(prepared) => prepared,
            Err(status) => return status,
        };
        // SAFETY: as above.
        let result = unsafe {
            match (attend.in_chunks(&prepared), self.phase) {
                (true, 0) => attend.chunks(simd, worker, &prepared),
                (true, _) => attend.join(simd, worker, &prepared),
                (false, 0) => attend.attend(simd, worker, &prepared),
                (false, _) => Ok(()),
            }
        };
        match result {
            Ok(()) => Status::Ok,
            Err(status) => status,
        }
    }
}
