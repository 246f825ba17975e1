//! Stopping a run from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// Stops runs from another thread. Clones stop the same runs.
#[derive(Clone, Debug, Default)]
pub struct CancelToken {
    flag: Arc<AtomicU32>,
}

impl CancelToken {
    /// A token that stops nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the runs with this token to stop, and those to come.
    pub fn cancel(&self) {
        self.flag.store(1, Ordering::Relaxed);
    }

    /// Lets runs with this token start again.
    pub fn reset(&self) {
        self.flag.store(0, Ordering::Relaxed);
    }

    /// Whether it asks to stop.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::Relaxed) != 0
    }
}

/// When a run must stop.
#[derive(Debug)]
pub(crate) struct Stop<'a> {
    pub(crate) token: &'a CancelToken,
    pub(crate) deadline: Option<Instant>,
}

impl Stop<'_> {
    /// The flag that generated code polls.
    pub(crate) fn flag(&self) -> *const u32 {
        self.token.flag.as_ptr()
    }

    /// Why the run must stop now.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        if self.token.is_cancelled() {
            return Some("it was cancelled");
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Some("its deadline passed"),
            _ => None,
        }
    }
}
