//! Owned memory for arenas and scratch: aligned, zeroed on demand by the operating system, refused without a panic.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Alignment of every allocation, and of every buffer in an arena.
pub(crate) const ALIGN: usize = 64;

/// What every allocator aligns to: with more, zeroed memory is written at once, and the pages of an arena that no run
/// touches would be resident.
const PLAIN_ALIGN: usize = 16;

/// A block of memory that generated code reads and writes through its address.
#[derive(Debug)]
pub(crate) struct Memory {
    /// The first aligned byte.
    base: NonNull<u8>,
    len: usize,
    /// The allocation; `None` where there is none.
    block: Option<NonNull<u8>>,
}

// SAFETY: the block belongs to this value alone; what is written through its address is the business of one run.
unsafe impl Send for Memory {}
// SAFETY: a shared reference gives nothing but the address.
unsafe impl Sync for Memory {}

impl Memory {
    /// `len` zero bytes; `None` where the system has no more.
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        if len == 0 {
            return Some(Self { base: NonNull::<Aligned>::dangling().cast(), len, block: None });
        }
        // SAFETY: the layout is not empty.
        let block = NonNull::new(unsafe { alloc_zeroed(layout(len)?) })?;
        // SAFETY: the block is `ALIGN` bytes longer than `len`, and the next aligned byte is less than that away.
        let base = unsafe { block.add(block.align_offset(ALIGN)) };
        Some(Self { base, len, block: Some(block) })
    }

    pub(crate) fn address(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// The allocation for `len` aligned bytes.
fn layout(len: usize) -> Option<Layout> {
    Layout::from_size_align(len.checked_add(ALIGN)?, PLAIN_ALIGN).ok()
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let (Some(block), Some(layout)) = (self.block, layout(self.len)) {
            // SAFETY: allocated by `zeroed` with this very layout.
            unsafe { dealloc(block.as_ptr(), layout) };
        }
    }
}

#[repr(align(64))]
struct Aligned;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_and_refusals_are_values() {
        for len in [0, 1, 64, 100_000] {
            let memory = Memory::zeroed(len).unwrap();
            assert_eq!(memory.address() as usize % ALIGN, 0);
            assert_eq!(memory.len(), len);
        }
        assert!(Memory::zeroed(usize::MAX).is_none());
        assert!(Memory::zeroed(isize::MAX as usize - 128).is_none());
    }
}
