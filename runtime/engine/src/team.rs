//! The team: workers that run one program at a time, all at once.
//!
//! The caller's thread is worker 0; a pool that sleeps when idle has the others. Runs wait for their turn first come, first
//! served: two runs interleaved on one pool would wait for each other for ever.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use lathe_artifact::abi::SCRATCH_BYTES;

use crate::RuntimeError;
use crate::memory::Memory;
use crate::threads::{MAX_WORKERS, available_cores, default_workers};

/// How often a waiting run looks whether it was cancelled.
const POLL: Duration = Duration::from_millis(10);

/// Workers that run one program at a time. Clones are the same team.
#[derive(Clone)]
pub struct Team {
    inner: Arc<Inner>,
}

struct Inner {
    workers: usize,
    /// Whether every worker can have a core of its own.
    has_cores: bool,
    /// The workers but the first; `None` for a team of one.
    pool: Option<rayon::ThreadPool>,
    scratch: Vec<Memory>,
    queue: Mutex<Queue>,
    turn: Condvar,
}

/// The runs that wait or run, in order of arrival; the first runs.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<u64>,
    next: u64,
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Team({} workers)", self.inner.workers)
    }
}

impl Team {
    /// A team of `workers`, the calling thread of each run included.
    pub fn new(workers: usize) -> Result<Self, RuntimeError> {
        if workers == 0 || workers > MAX_WORKERS {
            let reason = format!("a team has 1 to {MAX_WORKERS} workers, not {workers}");
            return Err(RuntimeError::Unsupported(reason));
        }
        let scratch = (0..workers).map(|_| Memory::zeroed(SCRATCH_BYTES)).collect::<Option<Vec<_>>>();
        let scratch = scratch.ok_or_else(|| {
            RuntimeError::Resource(format!(
                "no memory for the scratch of {workers} workers of {SCRATCH_BYTES} bytes"
            ))
        })?;
        let pool = match workers {
            1 => None,
            _ => Some(
                rayon::ThreadPoolBuilder::new()
                    .num_threads(workers - 1)
                    .thread_name(|index| format!("lathe-worker-{}", index + 1))
                    .build()
                    .map_err(|error| {
                        RuntimeError::Resource(format!("cannot start {workers} workers: {error}"))
                    })?,
            ),
        };
        let has_cores = workers <= available_cores();
        let inner =
            Inner { workers, has_cores, pool, scratch, queue: Mutex::default(), turn: Condvar::new() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The process-wide team, made on first use with [`default_workers`](crate::default_workers).
    pub fn global() -> Result<Self, RuntimeError> {
        static TEAM: OnceLock<Team> = OnceLock::new();
        if let Some(team) = TEAM.get() {
            return Ok(team.clone());
        }
        let team = Self::new(default_workers())?;
        Ok(TEAM.get_or_init(|| team).clone())
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.inner.workers
    }

    /// Whether every worker can have a core of its own.
    pub(crate) fn has_cores(&self) -> bool {
        self.inner.has_cores
    }

    /// Waits for its turn; `None` where `stopped` says so first.
    pub(crate) fn turn(&self, stopped: impl Fn() -> bool) -> Option<Turn<'_>> {
        let mut queue = self.queue();
        let ticket = queue.next;
        queue.next += 1;
        queue.waiting.push_back(ticket);
        // From here on the ticket leaves the queue when the turn is dropped.
        let turn = Turn { team: self, ticket };
        while queue.waiting.front() != Some(&ticket) {
            if stopped() {
                drop(queue);
                return None;
            }
            let waited = self.inner.turn.wait_timeout(queue, POLL);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(turn)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to run on a team, until it is dropped.
pub(crate) struct Turn<'a> {
    team: &'a Team,
    ticket: u64,
}

impl Turn<'_> {
    /// Runs `work(index, scratch)` on all workers at once and waits for all of them.
    pub(crate) fn run(&self, work: impl Fn(usize, *mut u8) + Sync) {
        let inner = &*self.team.inner;
        let work = |index: usize| {
            if let Some(scratch) = inner.scratch.get(index) {
                work(index, scratch.address());
            }
        };
        match &inner.pool {
            None => work(0),
            Some(pool) => pool.in_place_scope(|scope| {
                scope.spawn_broadcast(|_, context| work(context.index() + 1));
                work(0);
            }),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.team.queue();
        queue.waiting.retain(|&ticket| ticket != self.ticket);
        let others = !queue.waiting.is_empty();
        drop(queue);
        if others {
            self.team.inner.turn.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

    use super::*;
    use crate::barrier::Barrier;

    #[test]
    fn every_worker_runs_once_with_its_own_scratch() {
        for workers in [1, 2, 3, 8] {
            let team = Team::new(workers).unwrap();
            let seen = Mutex::new(Vec::new());
            for _ in 0..20 {
                let barrier = Barrier::new(workers, team.has_cores());
                team.turn(|| false).unwrap().run(|index, scratch| {
                    barrier.wait(|| 0);
                    seen.lock().unwrap().push((index, scratch as usize));
                });
                let mut seen = std::mem::take(&mut *seen.lock().unwrap());
                seen.sort_unstable();
                assert_eq!(
                    seen.iter().map(|worker| worker.0).collect::<Vec<_>>(),
                    (0..workers).collect::<Vec<_>>()
                );
                seen.dedup_by_key(|worker| worker.1);
                assert_eq!(seen.len(), workers);
            }
        }
        assert!(Team::new(0).is_err());
        assert!(Team::new(MAX_WORKERS + 1).is_err());
    }

    #[test]
    fn one_run_at_a_time() {
        let team = Team::new(3).unwrap();
        let running = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let turn = team.turn(|| false).unwrap();
                        assert_eq!(running.fetch_add(1, SeqCst), 0);
                        let barrier = Barrier::new(3, false);
                        turn.run(|_, _| {
                            barrier.wait(|| 0);
                        });
                        running.fetch_sub(1, SeqCst);
                    }
                });
            }
        });
    }

    #[test]
    fn a_waiting_run_can_be_stopped() {
        let team = Team::new(1).unwrap();
        let stop = AtomicBool::new(false);
        let turn = team.turn(|| false).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| team.turn(|| stop.load(SeqCst)).is_none());
            std::thread::sleep(Duration::from_millis(5));
            stop.store(true, SeqCst);
            assert!(waiting.join().unwrap());
        });
        drop(turn);
        assert!(team.turn(|| true).is_some(), "nobody waits any more");
    }
}
