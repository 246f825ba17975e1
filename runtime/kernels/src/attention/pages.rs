//! Pages of a cache: which page holds what, and whose rows a call has.

use lathe_artifact::abi::Status;
use lathe_artifact::builtin::StateElement;
use lathe_artifact::layout::KvPage;

use super::block::KEYS;

const _: () = assert!(KvPage::TOKENS == KEYS);

/// The block table and what the pages look like.
#[derive(Clone, Copy)]
pub(super) struct Pages {
    pub(super) page: KvPage,
    pub(super) element: StateElement,
    pub(super) elements: usize,
    /// `[sequences, pages]`.
    pub(super) table: *const u8,
    pub(super) pages: usize,
    pub(super) pool: usize,
}

impl Pages {
    #[inline(always)]
    pub(super) fn new(
        page: KvPage,
        element: StateElement,
        table: *const u8,
        [pages, pool]: [usize; 2],
    ) -> Option<Self> {
        let elements = page.elements(element.dtype())?;
        elements.checked_mul(pool)?;
        Some(Self { page, element, elements, table, pages, pool })
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
