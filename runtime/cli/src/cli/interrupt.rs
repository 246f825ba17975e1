//! Ctrl-C.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::{CancelToken, RunOptions};

/// How often the flag that the signal sets is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Options of runs that Ctrl-C stops.
pub fn run_options() -> RunOptions {
    let cancel = CancelToken::new();
    watch(cancel.clone());
    RunOptions { cancel: Some(cancel), ..RunOptions::default() }
}

/// Ctrl-C asks the run to stop; the second one ends the process.
fn watch(cancel: CancelToken) {
    let flag = Arc::new(AtomicBool::new(false));
    let interrupt = signal_hook::consts::SIGINT;
    let signals = signal_hook::flag::register_conditional_shutdown(interrupt, 130, flag.clone())
        .and_then(|_| signal_hook::flag::register(interrupt, flag.clone()));
    if signals.is_err() {
        return;
    }
    std::thread::spawn(move || {
        while !flag.load(Ordering::Relaxed) {
            std::thread::sleep(INTERVAL);
        }
        cancel.cancel();
    });
}
