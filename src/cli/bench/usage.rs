//! Reads the resource usage and counters of the server, from /proc and its metrics page, and how busy the machine was.

use crate::cli::CliError;

/// Kernel clock ticks per second in /proc, the same on every Linux that Rust runs on (proc_pid_stat(5)).
const TICKS: f64 = 100.0;

/// Usage of the server since it started.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    pub(super) peak_memory_mib: f64,
    pub(super) attempts: u64,
    pub(super) statements: u64,
    pub(super) rows: u64,
    pub(super) commits: u64,
    /// Bytes of write-ahead log; PostgreSQL only.
    pub(super) wal_bytes: Option<u64>,
    /// At this moment.
    pub(super) live_endpoints: u64,
}

impl Usage {
    pub(super) fn of(pid: u32, metrics: &str) -> Result<Self, CliError> {
        Ok(Self {
            cpu_seconds: cpu_seconds(pid)?,
            peak_memory_mib: memory_bytes(pid, "VmHWM:")? / (1024.0 * 1024.0),
            attempts: metric(metrics, "posthaste_journal_attempts_total"),
            statements: metric(metrics, "posthaste_journal_statements_total"),
            rows: metric(metrics, "posthaste_journal_rows_total"),
            commits: metric(metrics, "posthaste_journal_commits_total"),
            wal_bytes: None,
            live_endpoints: metric(metrics, "posthaste_endpoints_live"),
        })
    }

    /// The difference to `before`; peak memory stays the peak since the start.
    pub(super) fn since(self, before: &Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            attempts: self.attempts - before.attempts,
            statements: self.statements - before.statements,
            rows: self.rows - before.rows,
            commits: self.commits - before.commits,
            wal_bytes: self.wal_bytes.zip(before.wal_bytes).map(|(now, before)| now.saturating_sub(before)),
            ..self
        }
    }
}

/// Resident memory of a process in bytes.
pub(super) fn resident_bytes(pid: u32) -> Result<f64, CliError> {
    memory_bytes(pid, "VmRSS:")
}

/// The sum of a counter over its labels.
fn metric(text: &str, name: &str) -> u64 {
    let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
    values.filter_map(|value| value.parse::<u64>().ok()).sum()
}

fn cpu_seconds(pid: u32) -> Result<f64, CliError> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(CliError::failed)?;
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / TICKS)
}

fn memory_bytes(pid: u32, field: &str) -> Result<f64, CliError> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(CliError::failed)?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap_or(0.0);
    Ok(kib * 1024.0)
}

/// Time that all cores have spent, idle or on any process.
#[derive(Debug, Clone, Copy)]
pub(super) struct MachineTime {
    idle: u64,
    all: u64,
}

impl MachineTime {
    pub(super) fn now() -> Result<Self, CliError> {
        let stat = std::fs::read_to_string("/proc/stat").map_err(CliError::failed)?;
        // user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5))
        let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
        let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
        let idle = ticks.iter().skip(3).take(2).sum();
        Ok(Self { idle, all: ticks.iter().sum() })
    }

    /// The share of time since `before` that was not idle.
    pub(super) fn busy_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        1.0 - self.idle.saturating_sub(before.idle) as f64 / all as f64
    }
}
