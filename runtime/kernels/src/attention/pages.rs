//! Pages of a cache: which page holds what, and how the microkernel reads it.

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::StateElement;
use lathe_artifact::layout::KvPage;

use super::block::{KEYS, KeyTile, Keys};
use crate::matmul::copy;
use crate::matmul::tile::PANEL;
use crate::simd::{LANES, Simd};

const _: () = assert!(KvPage::TOKENS == KEYS);

/// The block table and what the pages look like.
#[derive(Clone, Copy)]
pub(super) struct Pages {
    pub(super) page: KvPage,
    pub(super) elements: usize,
    /// `[sequences, pages]`.
    pub(super) table: *const u8,
    pub(super) pages: usize,
    pub(super) pool: usize,
}

impl Pages {
    #[inline(always)]
    pub(super) fn new(page: KvPage, table: *const u8, [pages, pool]: [usize; 2]) -> Option<Self> {
        let elements = page.elements()?;
        elements.checked_mul(pool)?;
        Some(Self { page, elements, table, pages, pool })
    }

    /// First element of the page that holds block `index` of a sequence.
    ///
    /// # Safety
    /// The table has that entry.
    #[inline(always)]
    pub(super) unsafe fn page(&self, sequence: usize, index: usize) -> Result<usize, Status> {
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
pub(super) unsafe fn number(from: *const u8, index: usize) -> i64 {
    // SAFETY: the caller's promise.
    unsafe { from.cast::<i64>().add(index).read_unaligned() }
}

/// Which rows belong to which sequence.
pub(super) struct Sequences {
    starts: *const u8,
    count: usize,
}

impl Sequences {
    /// Checks that the sequences divide `rows` rows.
    ///
    /// # Safety
    /// `starts` has `count + 1` elements, as long as the value lives.
    #[inline(always)]
    pub(super) unsafe fn new(starts: *const u8, count: usize, rows: usize) -> Result<Self, Status> {
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
    pub(super) fn each(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        // SAFETY: `new` was promised the elements and found them in range.
        let start = |index: usize| unsafe { number(self.starts, index) } as usize;
        (0..self.count).map(move |sequence| (sequence, start(sequence), start(sequence + 1)))
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

/// Keys and values of one head of one sequence.
pub(super) struct Paged {
    pub(super) pages: Pages,
    pub(super) state: *const u8,
    pub(super) element: StateElement,
    pub(super) sequence: usize,
    pub(super) head: usize,
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
