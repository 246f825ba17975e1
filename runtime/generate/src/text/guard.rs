//! Panics in libraries that read outside data become errors.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread, now, becomes an error: a panic hook need not print it.
pub fn panics_are_caught() -> bool {
    GUARDED.get()
}

/// Runs `work`; the message of a panic is the error.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        text.unwrap_or_else(|| "it gave up without a reason".to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_errors() {
        assert_eq!(guarded(panics_are_caught), Ok(true));
        assert!(!panics_are_caught());
        assert_eq!(guarded(|| std::panic::panic_any("why")), Err::<(), _>("why".to_string()));
        assert!(!panics_are_caught());
    }
}
