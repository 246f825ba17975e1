//! How many workers a team has, and how much memory a session may take.

/// Most workers that a team may have.
pub(crate) const MAX_WORKERS: usize = 512;

/// Cores that this process may use: affinity and cgroup quota respected.
pub fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get()).min(MAX_WORKERS)
}

/// Workers of the process-wide team: `LATHE_THREADS` where it is a positive number, else [`available_cores`].
pub fn default_workers() -> usize {
    let asked = std::env::var("LATHE_THREADS").ok().and_then(|value| value.trim().parse::<usize>().ok());
    asked.filter(|&workers| workers > 0).map_or_else(available_cores, |workers| workers.min(MAX_WORKERS))
}

/// Bytes of memory that this process may use: the machine's, or the limit of its cgroup where that is less.
pub fn available_memory() -> u64 {
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let of_group = limits
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .filter_map(|text| text.trim().parse::<u64>().ok())
        .min();
    physical_memory().min(of_group.unwrap_or(u64::MAX))
}

#[cfg(target_os = "linux")]
fn physical_memory() -> u64 {
    let info = rustix::system::sysinfo();
    #[allow(clippy::unnecessary_cast)] // the fields are 32 bits wide on some targets
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

#[cfg(not(target_os = "linux"))]
fn physical_memory() -> u64 {
    16 << 30
}
