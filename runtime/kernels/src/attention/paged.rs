//! A paged cache: rows of several sequences write their keys and values, and attend to all of their sequence.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::StateElement;
use lathe_artifact::builtin::args::{KvAppend, PagedAttention};
use lathe_artifact::layout::KvPage;

use super::block::{BLOCK, HEAD, KEYS, KeyTile, Keys, Memory, Row, Sizes, attend};
use super::score::{Mask, Positions, Scores};
use super::units::{Split, cost, rows_of_block};
use crate::kernel::Kernel;
use crate::matmul::copy;
use crate::matmul::sizes;
use crate::matmul::tile::PANEL;
use crate::simd::{LANES, Simd};

const _: () = assert!(KvPage::TOKENS == KEYS);

/// The block table and what the pages look like.
#[derive(Clone, Copy)]
struct Pages {
    page: KvPage,
    elements: usize,
    /// `[sequences, pages]`.
    table: *const u8,
    pages: usize,
    pool: usize,
}

impl Pages {
    #[inline(always)]
    fn new(page: KvPage, table: *const u8, [pages, pool]: [usize; 2]) -> Option<Self> {
        let elements = page.elements()?;
        elements.checked_mul(pool)?;
        Some(Self { page, elements, table, pages, pool })
    }

    /// First element of the page that holds block `index` of a sequence.
    ///
    /// # Safety
    /// The table has that entry.
    #[inline(always)]
    unsafe fn page(&self, sequence: usize, index: usize) -> Result<usize, Status> {
        // SAFETY: the caller's promise.
        let entry = unsafe { number(self.table, sequence * self.pages + index) };
        match usize::try_from(entry) {
            Ok(page) if page < self.pool => Ok(page * self.elements),
            _ => Err(Status::IndexOutOfRange),
        }
    }
}

/// Number `index` of an i64 operand.
///
/// # Safety
/// It is there.
#[inline(always)]
unsafe fn number(from: *const u8, index: usize) -> i64 {
    // SAFETY: the caller's promise.
    unsafe { from.cast::<i64>().add(index).read_unaligned() }
}

/// Which rows belong to which sequence.
struct Sequences {
    starts: *const u8,
    count: usize,
}

impl Sequences {
    /// Checks that the sequences divide `rows` rows.
    ///
    /// # Safety
    /// `starts` has `count + 1` elements, as long as the value lives.
    #[inline(always)]
    unsafe fn new(starts: *const u8, count: usize, rows: usize) -> Result<Self, Status> {
        let mut before = 0;
        for index in 0..=count {
            // SAFETY: the caller's promise.
            let start = unsafe { number(starts, index) };
            if start < before || (index == 0 && start != 0) {
                return Err(Status::BadShape);
            }
            before = start;
        }
        if usize::try_from(before) == Ok(rows) { Ok(Self { starts, count }) } else { Err(Status::BadShape) }
    }

    /// Each sequence with its first row and the row behind its last.
    #[inline(always)]
    fn each(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        // SAFETY: `new` was promised the elements and found them in range.
        let start = |index: usize| unsafe { number(self.starts, index) } as usize;
        (0..self.count).map(move |sequence| (sequence, start(sequence), start(sequence + 1)))
    }
}

/// Writes `count` numbers into a state from element `at` on, `step` apart.
///
/// # Safety
/// Both sides are valid for these elements.
#[inline(always)]
unsafe fn put(element: StateElement, state: *mut u8, at: usize, step: usize, from: *const f32, count: usize) {
    for index in 0..count {
        let to = at + index * step;
        // SAFETY: the caller's promise.
        unsafe {
            let x = *from.add(index);
            match element {
                StateElement::F32 => *state.cast::<f32>().add(to) = x,
                StateElement::F16 => *state.cast::<u16>().add(to) = half::f16::from_f32(x).to_bits(),
                StateElement::BF16 => *state.cast::<u16>().add(to) = half::bf16::from_f32(x).to_bits(),
            }
        }
    }
}

/// Reads `count` numbers of 16 bits.
///
/// # Safety
/// `from` is readable and `to` writable for so many.
#[inline(always)]
unsafe fn widen<S: Simd>(simd: S, element: StateElement, from: *const u16, to: *mut f32, count: usize) {
    for at in (0..count).step_by(LANES) {
        // SAFETY: the caller's promise; a part of a vector is read from a copy.
        unsafe {
            let (from, count) = (from.add(at), (count - at).min(LANES));
            let mut part = [0; LANES];
            let from = if count == LANES {
                from
            } else {
                from.copy_to_nonoverlapping(part.as_mut_ptr(), count);
                part.as_ptr()
            };
            let wide = match element {
                StateElement::BF16 => simd.load_bf16(from),
                _ => simd.load_f16(from),
            };
            simd.store_some(to.add(at), count, wide);
        }
    }
}

impl Kernel for KvAppend {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, _: S, worker: &Worker) -> Status {
        // SAFETY: the caller's promise.
        match unsafe { Append(self).append(worker) } {
            Ok(()) => Status::Ok,
            Err(status) => status,
        }
    }
}

/// What a call asks for.
struct Append<'a>(&'a KvAppend);

impl std::ops::Deref for Append<'_> {
    type Target = KvAppend;

    #[inline(always)]
    fn deref(&self) -> &KvAppend {
        self.0
    }
}

impl Append<'_> {
    /// # Safety
    /// As [`Kernel::run`].
    #[inline(always)]
    unsafe fn append(&self, worker: &Worker) -> Result<(), Status> {
        let numbers = [self.kv_heads, self.rows, self.qk_dim, self.v_dim, self.sequences];
        let [kv_heads, rows, qk_head_dim, v_head_dim, sequences] = sizes(numbers).ok_or(Status::Internal)?;
        let pool = sizes([self.pages, self.pool]).ok_or(Status::Internal)?;
        let page = KvPage { kv_heads, qk_head_dim, v_head_dim };
        let pages = Pages::new(page, self.block_table, pool).ok_or(Status::Internal)?;
        // SAFETY: the plan's sizes describe the operands: there is one start more than sequences.
        let whole = unsafe { Sequences::new(self.seq_start, sequences, rows)? };
        let element = StateElement::from_code(self.element).ok_or(Status::Internal)?;
        let items = worker.share(kv_heads * rows, 1);
        for (sequence, start, end) in whole.each() {
            for head in 0..kv_heads {
                let from = items.start.max(head * rows + start);
                for item in from..items.end.min(head * rows + end) {
                    let row = item - head * rows;
                    // SAFETY: there is a position for each row.
                    let position = unsafe { number(self.position, row) };
                    let place = usize::try_from(position).map_err(|_| Status::IndexOutOfRange)?;
                    if place / KvPage::TOKENS >= pages.pages {
                        return Err(Status::IndexOutOfRange);
                    }
                    let at = [self.k_head, self.k_row, self.v_head, self.v_row].map(|step| step as isize);
                    let (h, r) = (head as isize, row as isize);
                    // SAFETY: the entry lies in the table, the page in the state; rows have their elements.
                    unsafe {
                        let start = pages.page(sequence, place / KvPage::TOKENS)?;
                        let place = place % KvPage::TOKENS;
                        let k = self.k.cast::<f32>().offset(h * at[0] + r * at[1]);
                        let to = start + page.key(head, 0, place);
                        put(element, self.state, to, KvPage::TOKENS, k, qk_head_dim);
                        let v = self.v.cast::<f32>().offset(h * at[2] + r * at[3]);
                        put(element, self.state, start + page.value(head, place, 0), 1, v, v_head_dim);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Keys and values of one head of one sequence.
struct Paged {
    pages: Pages,
    state: *const u8,
    element: StateElement,
    sequence: usize,
    head: usize,
}

impl Keys for Paged {
    #[inline(always)]
    unsafe fn tile<S: Simd>(
        &self,
        simd: S,
        index: usize,
        end: usize,
        space: *mut f32,
    ) -> Result<KeyTile, Status> {
        let page = self.pages.page;
        let v_dim = page.v_head_dim;
        // SAFETY: rows end within the table; the page lies in the state; the space holds the panels.
        unsafe {
            let start = self.pages.page(self.sequence, index)?;
            let count = end - index * KEYS;
            if self.element != StateElement::F32 {
                return Ok(self.widened(simd, start, count, space));
            }
            let start = self.state.cast::<f32>().add(start);
            let k = start.add(page.key(self.head, 0, 0));
            let v = start.add(page.value(self.head, 0, 0));
            let k_steps = (KEYS, PANEL);
            if v_dim.is_multiple_of(PANEL) {
                return Ok(KeyTile { k, k_steps, v, v_steps: (v_dim, PANEL) });
            }
            for panel in 0..v_dim.div_ceil(PANEL) {
                let columns = (v_dim - panel * PANEL).min(PANEL);
                let to = space.add(panel * KEYS * PANEL);
                copy::right(simd, count, columns, v.add(panel * PANEL), (v_dim as isize, 1), to);
            }
            Ok(KeyTile { k, k_steps, v: space, v_steps: (PANEL, KEYS * PANEL) })
        }
    }
}

impl Paged {
    /// A tile of 16-bit elements as f32, its values in panels.
    ///
    /// # Safety
    /// The page begins at element `start` of the state; `space` holds the panels.
    #[inline(always)]
    unsafe fn widened<S: Simd>(&self, simd: S, start: usize, count: usize, space: *mut f32) -> KeyTile {
        let page = self.pages.page;
        let (k, v) = (space, space.wrapping_add(KEYS * page.qk_head_dim));
        // SAFETY: the caller's promise.
        unsafe {
            let state = self.state.cast::<u16>().add(start);
            let keys = state.add(page.key(self.head, 0, 0));
            widen(simd, self.element, keys, k, KEYS * page.qk_head_dim);
            for panel in 0..page.v_head_dim.div_ceil(PANEL) {
                let columns = (page.v_head_dim - panel * PANEL).min(PANEL);
                for place in 0..count {
                    let from = state.add(page.value(self.head, place, panel * PANEL));
                    widen(simd, self.element, from, v.add((panel * KEYS + place) * PANEL), columns);
                }
            }
        }
        KeyTile { k, k_steps: (KEYS, PANEL), v, v_steps: (PANEL, KEYS * PANEL) }
    }
}

/// The sizes of a call.
#[derive(Clone, Copy)]
struct Call {
    rows: usize,
    group: usize,
    pages: Pages,
    capacity: usize,
}

/// What a call asks for.
struct Attend<'a>(&'a PagedAttention);

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
        let [qk_head_dim, v_head_dim, sequences] = sizes([self.qk_dim, self.v_dim, self.sequences])?;
        if qk_head_dim > HEAD || v_head_dim > HEAD || kv_heads == 0 || heads % kv_heads != 0 {
            return None;
        }
        let page = KvPage { kv_heads, qk_head_dim, v_head_dim };
        let pool = sizes([self.pages, self.pool])?;
        let capacity = pool[0].checked_mul(KEYS)?;
        let pages = Pages::new(page, self.block_table, pool)?;
        Some((Call { rows, group: heads / kv_heads, pages, capacity }, sequences))
    }

    #[inline(always)]
    fn scores(&self) -> Scores {
        Scores {
            plain: false,
            softcap: self.softcap as f32,
            mask: (!self.bias.is_null()).then_some(Mask::Added(self.bias.cast())),
            mask_width: usize::try_from(self.bias_width).unwrap_or(0),
            slopes: self.alibi_slopes.cast(),
            positions: Positions::Distance,
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
    unsafe fn row(&self, call: &Call, [start, kv, r]: [usize; 3], length: i64) -> Result<Row, Status> {
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

    /// # Safety
    /// As [`Kernel::run`].
    #[inline(always)]
    unsafe fn attend<S: Simd>(&self, simd: S, worker: &Worker) -> Result<(), Status> {
        let (call, sequences) = self.call().ok_or(Status::Internal)?;
        let page = call.pages.page;
        let dims = Sizes { qk_dim: page.qk_head_dim, v_dim: page.v_head_dim };
        let memory = Memory::new(worker, dims).ok_or(Status::Internal)?;
        // SAFETY: the plan's sizes describe the operands.
        let whole = unsafe { Sequences::new(self.seq_start, sequences, call.rows)? };
        // SAFETY: there is a length for each sequence.
        let length = |sequence: usize| unsafe { number(self.context_len, sequence) };
        let element = StateElement::from_code(self.element).ok_or(Status::Internal)?;
        let scores = self.scores();
        let units = sequences * page.kv_heads;
        // SAFETY: rows of the call.
        let row = |at: [usize; 3], length: i64| unsafe { self.row(&call, at, length) };
        let block_of = |count: usize| rows_of_block(count * call.group, units, worker.count as usize);
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
                    let state = self.state;
                    let keys = Paged { pages: call.pages, state, element, sequence, head: kv };
                    // SAFETY: rows end within the table; the plan's strides describe the operands.
                    let status =
                        unsafe { attend(simd, &memory, &block[..count], &keys, &scores, self.scale as f32) };
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
        // SAFETY: the caller's promise.
        match unsafe { Attend(self).attend(simd, worker) } {
            Ok(()) => Status::Ok,
            Err(status) => status,
        }
    }
}
