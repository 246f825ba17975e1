//! A barrier that all workers leave with the same word.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::sync::{Condvar, Mutex, PoisonError};

/// Looks at the barrier, about a microsecond, before a worker that has a core of its own gives it away: where other programs
/// want the core, the worker that is waited for may be waiting for this very one.
const LOOKS: u32 = 64;
/// Times that a worker gives its core away before it parks.
const YIELDS: u32 = 64;

#[repr(align(128))]
#[derive(Debug)]
struct Line<T>(T);

/// A barrier for a fixed number of workers: spins and yields in turn, then parks.
#[derive(Debug)]
pub(crate) struct Barrier {
    workers: u32,
    /// Whether every worker has a core of its own; spinning for one that waits for this core is waste.
    spin: bool,
    arrived: Line<AtomicU32>,
    /// How often the barrier opened, above the word of the last time.
    opened: Line<AtomicU64>,
    parked: AtomicU32,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Barrier {
    pub(crate) fn new(workers: usize, spin: bool) -> Self {
        Self {
            workers: workers as u32,
            spin,
            arrived: Line(AtomicU32::new(0)),
            opened: Line(AtomicU64::new(0)),
            parked: AtomicU32::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Waits for all workers. The last to arrive makes the word, which all return.
    pub(crate) fn wait(&self, word: impl FnOnce() -> u32) -> u32 {
        let before = self.opened.0.load(Relaxed) >> 32;
        if self.arrived.0.fetch_add(1, AcqRel) + 1 < self.workers {
            return self.wait_for(before);
        }
        let word = word();
        self.arrived.0.store(0, Relaxed);
        // Sequentially consistent, like `park`: either this sees the parked worker, or that one sees the open barrier.
        self.opened.0.store((before + 1) << 32 | u64::from(word), SeqCst);
        if self.parked.load(SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
        word
    }

    /// How often the barrier has opened.
    pub(crate) fn count(&self) -> u64 {
        self.opened.0.load(Acquire) >> 32
    }

    fn look(&self, before: u64) -> Option<u32> {
        let opened = self.opened.0.load(SeqCst);
        (opened >> 32 != before).then_some(opened as u32)
    }

    fn wait_for(&self, before: u64) -> u32 {
        let looks = if self.spin { LOOKS } else { 1 };
        for _ in 0..YIELDS {
            for _ in 0..looks {
                if let Some(word) = self.look(before) {
                    return word;
                }
                std::hint::spin_loop();
            }
            std::thread::yield_now();
        }
        self.park(before)
    }

    fn park(&self, before: u64) -> u32 {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.parked.fetch_add(1, SeqCst);
        let word = loop {
            match self.look(before) {
                Some(word) => break word,
                None => guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner),
            }
        };
        self.parked.fetch_sub(1, SeqCst);
        word
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Each round every worker adds its share; nobody may see a sum of another round.
    fn rounds(workers: usize, spin: bool, rounds: u64) {
        let barrier = Barrier::new(workers, spin);
        let sum = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for index in 0..workers {
                let (barrier, sum) = (&barrier, &sum);
                scope.spawn(move || {
                    for round in 0..rounds {
                        sum.fetch_add(1, Relaxed);
                        if index == 0 && round % 50 == 49 {
                            // Long enough that the others park.
                            std::thread::sleep(Duration::from_micros(300));
                        }
                        let word = barrier.wait(|| sum.load(Relaxed) as u32);
                        assert_eq!(u64::from(word), (round + 1) * workers as u64);
                        assert_eq!(barrier.wait(|| 7), 7);
                    }
                });
            }
        });
        assert_eq!(barrier.count(), 2 * rounds);
    }

    #[test]
    fn all_leave_with_the_word_of_the_last() {
        for workers in [1, 2, 3, 8] {
            rounds(workers, workers <= 2, 400);
        }
    }

    #[test]
    fn a_parked_worker_uses_no_time() {
        let barrier = Barrier::new(2, true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let before = cpu_time();
                barrier.wait(|| 0);
                assert!(cpu_time() - before < Duration::from_millis(20));
            });
            std::thread::sleep(Duration::from_millis(100));
            barrier.wait(|| 0);
        });
    }

    fn cpu_time() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}
