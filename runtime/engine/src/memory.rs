//! Owned memory for arenas and scratch: aligned, zeroed on demand by the operating system, refused without a panic.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Alignment of every allocation, and of every buffer in an arena.
pub(crate) const ALIGN: usize = 64;

/// A block of memory that generated code reads and writes through its address.
#[derive(Debug)]
pub(crate) struct Memory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the block belongs to this value alone; what is written through its address is the business of one run.
unsafe impl Send for Memory {}
// SAFETY: a shared reference gives nothing but the address.
unsafe impl Sync for Memory {}

impl Memory {
    /// `len` zero bytes; `None` where the system has no more.
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        let layout = Layout::from_size_align(len, ALIGN).ok()?;
        if len == 0 {
            return Some(Self { base: NonNull::<Aligned>::dangling().cast(), len });
        }
        // SAFETY: the layout is not empty.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { base, len })
    }

    pub(crate) fn address(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let (1.., Ok(layout)) = (self.len, Layout::from_size_align(self.len, ALIGN)) {
            // SAFETY: allocated by `zeroed` with this very layout.
            unsafe { dealloc(self.base.as_ptr(), layout) };
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
