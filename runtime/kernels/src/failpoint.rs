//! Failures on demand, for tests of what happens when a builtin fails.

use std::sync::atomic::{AtomicUsize, Ordering};

use lathe_artifact::builtin::Builtin;

static FAILING: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Makes every call of a builtin in this process return [`lathe_artifact::abi::Status::Internal`], until it is set
/// to another builtin or `None`.
pub fn set(builtin: Option<Builtin>) {
    FAILING.store(builtin.map_or(usize::MAX, |builtin| builtin as usize), Ordering::SeqCst);
}

/// Whether calls of this builtin are to fail.
#[inline(always)]
pub(crate) fn is_set(builtin: Builtin) -> bool {
    FAILING.load(Ordering::Relaxed) == builtin as usize
}
