//! Executable memory: the one place where bytes become code.
//!
//! Memory is written first and made executable afterwards, never both at once.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use lathe_artifact::abi::Worker;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use crate::RuntimeError;

/// The program: run by every worker of a team at once.
pub(crate) type EntryFn = unsafe extern "C" fn(*const Worker) -> i32;
/// A shape function: fills its stage's entries of the dims table.
pub(crate) type ShapeFn = unsafe extern "C" fn(*mut i64) -> i32;

/// Machine code in memory that can be run and not written.
#[derive(Debug)]
pub(crate) struct CodeMemory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory is read-only after `new` and owned by this value alone.
unsafe impl Send for CodeMemory {}
// SAFETY: as above; nothing is ever written through a shared reference.
unsafe impl Sync for CodeMemory {}

impl CodeMemory {
    /// Copies `code` into fresh memory and makes it executable.
    pub(crate) fn new(code: &[u8]) -> Result<Self, RuntimeError> {
        if code.is_empty() {
            return Err(RuntimeError::Bug("no code to load".into()));
        }
        let refused = |what: &str, error: rustix::io::Errno| {
            RuntimeError::Resource(format!(
                "cannot {what} {} bytes of code memory: {error}; does a security policy forbid it?",
                code.len()
            ))
        };
        let write = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh anonymous private map; the kernel chooses the address.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), code.len(), write, MapFlags::PRIVATE) }
            .map_err(|error| refused("map", error))?;
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| RuntimeError::Bug("the kernel mapped code at address 0".into()))?;
        let memory = Self { base, len: code.len() };
        // SAFETY: the map is `code.len()` bytes, writable, and nobody else knows it.
        unsafe { ptr::copy_nonoverlapping(code.as_ptr(), base.as_ptr(), code.len()) };
        // SAFETY: the range is the map made above, which no reference points into.
        unsafe {
            mprotect(base.as_ptr().cast::<c_void>(), code.len(), MprotectFlags::READ | MprotectFlags::EXEC)
        }
        .map_err(|error| refused("make executable", error))?;
        synchronise_instructions(base.as_ptr(), code.len());
        Ok(memory)
    }

    /// The entry function at `offset`.
    ///
    /// # Safety
    /// The bytes at `offset` are a function of this signature, for a CPU like this one.
    pub(crate) unsafe fn entry(&self, offset: usize) -> Result<EntryFn, RuntimeError> {
        let address = self.address(offset)?;
        // SAFETY: by the caller's promise; the address lies in executable memory that lives as long as `self`.
        Ok(unsafe { std::mem::transmute::<*const u8, EntryFn>(address) })
    }

    /// The shape function at `offset`.
    ///
    /// # Safety
    /// The bytes at `offset` are a function of this signature, for a CPU like this one.
    pub(crate) unsafe fn shape(&self, offset: usize) -> Result<ShapeFn, RuntimeError> {
        let address = self.address(offset)?;
        // SAFETY: as in `entry`.
        Ok(unsafe { std::mem::transmute::<*const u8, ShapeFn>(address) })
    }

    fn address(&self, offset: usize) -> Result<*const u8, RuntimeError> {
        if offset >= self.len {
            return Err(RuntimeError::Bug(format!("a function at {offset} in {} bytes of code", self.len)));
        }
        Ok(self.base.as_ptr().wrapping_add(offset))
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        // SAFETY: the range is the map that `new` made; function pointers into it do not outlive their model.
        let result = unsafe { munmap(self.base.as_ptr().cast::<c_void>(), self.len) };
        debug_assert!(result.is_ok(), "munmap of own memory");
    }
}

/// Makes new instructions visible to instruction fetch. x86-64 does that itself.
#[cfg(not(target_arch = "aarch64"))]
fn synchronise_instructions(_base: *const u8, _len: usize) {}

/// Makes new instructions visible to instruction fetch: cleans the data cache and invalidates the instruction cache.
#[cfg(target_arch = "aarch64")]
fn synchronise_instructions(base: *const u8, len: usize) {
    /// The smallest line of any AArch64 cache.
    const LINE: usize = 16;
    let (start, end) = (base as usize & !(LINE - 1), base as usize + len);
    for address in (start..end).step_by(LINE) {
        // SAFETY: cache maintenance by address, of mapped memory; changes no data.
        unsafe { std::arch::asm!("dc cvau, {0}", in(reg) address) };
    }
    // SAFETY: a barrier.
    unsafe { std::arch::asm!("dsb ish") };
    for address in (start..end).step_by(LINE) {
        // SAFETY: cache maintenance by address, of mapped memory; changes no data.
        unsafe { std::arch::asm!("ic ivau, {0}", in(reg) address) };
    }
    // SAFETY: barriers.
    unsafe { std::arch::asm!("dsb ish", "isb") };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `return 42`.
    #[cfg(target_arch = "x86_64")]
    const ANSWER: &[u8] = &[0xb8, 42, 0, 0, 0, 0xc3];
    /// `return 42`.
    #[cfg(target_arch = "aarch64")]
    const ANSWER: &[u8] = &[0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6];

    #[test]
    fn code_runs_and_offsets_are_checked() {
        let memory = CodeMemory::new(ANSWER).unwrap();
        // SAFETY: the bytes are a function without arguments that returns an i32.
        let entry = unsafe { memory.entry(0) }.unwrap();
        // SAFETY: as above; it ignores its argument.
        assert_eq!(unsafe { entry(ptr::null()) }, 42);
        // SAFETY: refused before any use.
        assert!(unsafe { memory.entry(ANSWER.len()) }.is_err());
        assert!(CodeMemory::new(&[]).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn code_is_never_writable_and_executable() {
        let memory = CodeMemory::new(ANSWER).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let address = memory.base.as_ptr() as usize;
        let line = maps
            .lines()
            .find(|line| {
                let range = line.split(' ').next().unwrap();
                let (start, end) = range.split_once('-').unwrap();
                let parse = |text| usize::from_str_radix(text, 16).unwrap();
                (parse(start)..parse(end)).contains(&address)
            })
            .expect("the code is mapped");
        assert!(line.contains("r-xp"), "{line}");
    }
}
