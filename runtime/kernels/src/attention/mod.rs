//! Attention in f32: softmax of scores that are never all in memory.

mod append;
mod block;
mod chunks;
mod exact;
mod paged;
mod pages;
mod products;
mod running;
mod score;
mod units;
mod widen;

#[cfg(test)]
mod tests;

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::args::Attention;

use self::block::{BLOCK, HEAD, KEYS, KeyTile, Keys, Memory, Row, Sizes, attend};
use self::exact::{Scale, attend_exactly};
use self::score::{Mask, Positions, Scores};
use self::units::{Split, cost, rows_of_block};
use crate::kernel::Kernel;
use crate::matmul::copy;
use crate::matmul::sizes;
use crate::matmul::tile::PANEL;
use crate::simd::Simd;

/// Keys and values by strides: those of one head of one batch.
struct Strided {
    sizes: Sizes,
    k: *const f32,
    k_row: isize,
    v: *const f32,
    v_row: isize,
}

impl Keys for Strided {
    #[inline(always)]
    unsafe fn tile<S: Simd>(
        &self,
        simd: S,
        index: usize,
        end: usize,
        space: *mut f32,
    ) -> Result<KeyTile, Status> {
        let Sizes { qk_dim, v_dim } = self.sizes;
        let (start, count) = (index * KEYS, end - index * KEYS);
        let (k, v) = (space, space.wrapping_add(KEYS * qk_dim));
        // SAFETY: keys `start..end` are readable by their strides; the space holds the panels.
        unsafe {
            for panel in 0..KEYS.div_ceil(PANEL) {
                let from = start + panel * PANEL;
                let columns = count.saturating_sub(panel * PANEL).min(PANEL);
                let to = k.add(panel * qk_dim * PANEL);
                let from = self.k.offset(from as isize * self.k_row);
                copy::right(simd, qk_dim, columns, from, (1, self.k_row), to);
            }
            for panel in 0..v_dim.div_ceil(PANEL) {
                let from = self.v.offset(start as isize * self.v_row).add(panel * PANEL);
                let columns = (v_dim - panel * PANEL).min(PANEL);
                let to = v.add(panel * KEYS * PANEL);
                copy::right(simd, count, columns, from, (self.v_row, 1), to);
            }
        }
        Ok(KeyTile { k, k_steps: (PANEL, qk_dim * PANEL), v, v_steps: (PANEL, KEYS * PANEL), next: None })
    }
}

/// The sizes of a call.
#[derive(Clone, Copy)]
struct Call {
    batch: usize,
    kv_heads: usize,
    group: usize,
    seq: usize,
    total: usize,
    sizes: Sizes,
}

impl Call {
    #[inline(always)]
    fn of(args: &Attention) -> Option<Self> {
        let [batch, heads, kv_heads, seq, total] =
            sizes([args.batch, args.heads, args.kv_heads, args.seq, args.total])?;
        let [qk_dim, v_dim] = sizes([args.qk_dim, args.v_dim])?;
        if qk_dim > HEAD || v_dim > HEAD || (heads > 0 && (kv_heads == 0 || heads % kv_heads != 0)) {
            return None;
        }
        let group = heads.checked_div(kv_heads).unwrap_or(0);
        Some(Self { batch, kv_heads, group, seq, total, sizes: Sizes { qk_dim, v_dim } })
    }

    /// Rows of one head of keys in one batch.
    #[inline(always)]
    fn rows(&self) -> usize {
        self.seq * self.group
    }
}

/// One batch of a call: what its rows see.
#[derive(Clone, Copy)]
struct Batch {
    /// Where query 0 stands.
    origin: i64,
    /// The first key that is no padding, and behind the last.
    keys: (usize, usize),
    left: i64,
    right: i64,
}

impl Batch {
    /// The keys that the query at `index` sees, and its position.
    #[inline(always)]
    fn visible(&self, index: usize) -> (usize, usize, i64) {
        let position = self.origin.saturating_add(index as i64);
        let clamp = |key: i64| usize::try_from(key).unwrap_or(0);
        let first = if self.left < 0 { 0 } else { clamp(position.saturating_sub(self.left)) };
        let end = match self.right {
            ..0 => usize::MAX,
            right => clamp(position.saturating_add(right).saturating_add(1)),
        };
        (first.max(self.keys.0), end.min(self.keys.1), position)
    }
}

/// What a call asks for.
struct Dense<'a>(&'a Attention);

impl std::ops::Deref for Dense<'_> {
    type Target = Attention;

    #[inline(always)]
    fn deref(&self) -> &Attention {
        self.0
    }
}

impl Dense<'_> {
    #[inline(always)]
    fn scores(&self) -> Scores {
        let mask = match (self.mask.is_null(), self.mask_bool != 0) {
            (true, _) => None,
            (false, false) => Some(Mask::Added(self.mask.cast())),
            (false, true) => Some(Mask::Seen(self.mask)),
        };
        Scores {
            plain: false,
            softcap: self.softcap as f32,
            mask,
            mask_width: usize::try_from(self.mask_width).unwrap_or(0),
            slopes: self.alibi_slopes.cast(),
            positions: Positions::Distance,
            padding: self.key_padding,
            sinks: self.sinks.cast(),
        }
        .settled()
    }

    /// The scores and what is seen of batch `b`.
    ///
    /// # Safety
    /// `b` is a batch of the call.
    #[inline(always)]
    unsafe fn batch(&self, call: &Call, scores: &Scores, b: usize) -> (Scores, Batch) {
        let keys = b * call.total;
        let mut scores = *scores;
        if !scores.padding.is_null() {
            scores.padding = scores.padding.wrapping_add(keys);
        }
        if !self.alibi_positions.is_null() {
            scores.positions = match self.positions_i64 != 0 {
                true => Positions::Integers(self.alibi_positions.cast::<i64>().wrapping_add(keys)),
                false => Positions::Floats(self.alibi_positions.cast::<f32>().wrapping_add(keys)),
            };
        }
        // SAFETY: the padding covers all keys, the lengths all batches.
        let mut seen = unsafe { scores.unpadded(call.total) };
        let mut origin = self.origin;
        if !self.lengths.is_null() {
            // SAFETY: as above.
            let length = unsafe { self.lengths.cast::<i64>().add(b).read_unaligned() };
            origin = length.saturating_sub(self.seq);
            seen.end = seen.end.min(usize::try_from(length).unwrap_or(0));
        }
        (scores, Batch { origin, keys: (seen.start, seen.end), left: self.left, right: self.right })
    }

    /// The row of head `kv * group + r % group` and query `r / group`.
    #[inline(always)]
    fn row(&self, call: &Call, batch: &Batch, [b, kv, r]: [usize; 3]) -> Row {
        let (query, head) = (r / call.group, kv * call.group + r % call.group);
        let (first, end, position) = batch.visible(query);
        let [b, h, s] = [b as i64, head as i64, query as i64];
        let at = |steps: [i64; 3]| (b * steps[0] + h * steps[1] + s * steps[2]) as isize;
        Row {
            q: self.q.cast::<f32>().wrapping_offset(at([self.q_batch, self.q_head, self.q_row])),
            y: self.y.cast::<f32>().wrapping_offset(at([self.y_batch, self.y_head, self.y_row])),
            first,
            end,
            head,
            position,
            mask: at([self.mask_batch, self.mask_head, self.mask_row]),
        }
    }

    #[inline(always)]
    fn keys(&self, call: &Call, b: usize, kv: usize) -> Strided {
        let at = |batch: i64, head: i64| (b as i64 * batch + kv as i64 * head) as isize;
        Strided {
            sizes: call.sizes,
            k: self.k.cast::<f32>().wrapping_offset(at(self.k_batch, self.k_head)),
            k_row: self.k_row as isize,
            v: self.v.cast::<f32>().wrapping_offset(at(self.v_batch, self.v_head)),
            v_row: self.v_row as isize,
        }
    }
}

impl Kernel for Attention {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, worker: &Worker) -> Status {
        let (args, scale) = (Dense(self), self.scale as f32);
        let exact = match self.exact {
            0 => None,
            _ if !self.sinks.is_null() => return Status::Internal,
            1 => Some(Scale::Factor(scale)),
            _ => Some(Scale::Divisor(scale)),
        };
        let Some(call) = Call::of(self) else { return Status::Internal };
        let Some(memory) = Memory::new(worker, call.sizes) else { return Status::Internal };
        let scores = args.scores();
        let rows = call.rows();
        if rows == 0 || call.sizes.v_dim == 0 {
            return Status::Ok;
        }
        let units = call.batch * call.kv_heads;
        let block = rows_of_block(rows, units, worker.count as usize, memory.rows);
        // SAFETY: batches below the number of batches.
        let seen = |b: usize| unsafe { args.batch(&call, &scores, b) };
        let costs = |batch: &Batch, start: usize| {
            let last = (start + block).min(rows) - 1;
            let (first, ..) = batch.visible(start / call.group);
            let (_, end, _) = batch.visible(last / call.group);
            cost(last + 1 - start, first, end)
        };
        let mut all = 0;
        for b in 0..call.batch {
            let (_, batch) = seen(b);
            let each: u64 = (0..rows).step_by(block).map(|start| costs(&batch, start)).sum();
            all += each * call.kv_heads as u64;
        }
        let mut split = Split::new(all, worker);
        for b in 0..call.batch {
            let (scores, batch) = seen(b);
            for kv in 0..call.kv_heads {
                for start in (0..rows).step_by(block) {
                    if !split.mine(costs(&batch, start)) {
                        continue;
                    }
                    let count = (rows - start).min(block);
                    let mut block = [Row::NONE; BLOCK];
                    for (index, row) in block[..count].iter_mut().enumerate() {
                        *row = args.row(&call, &batch, [b, kv, start + index]);
                    }
                    let keys = args.keys(&call, b, kv);
                    // SAFETY: the plan's sizes and strides describe the operands.
                    let status = unsafe {
                        match exact {
                            Some(scale) => {
                                attend_exactly(simd, &memory, &block[..count], &keys, &scores, scale)
                            }
                            None => attend(simd, &memory, &block[..count], &keys, &scores, scale),
                        }
                    };
                    if status != Status::Ok {
                        return status;
                    }
                }
            }
        }
        Status::Ok
    }
}
