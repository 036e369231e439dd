//! Figures of this process under the names that all scrapers know. Linux tells all of them; elsewhere some are missing.

use std::fs;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::exposition::{Exposition, Kind};
use crate::domain::moment::UnixMillis;

/// `started_at`: when the server started, which is moments after the process did.
pub(super) fn write(page: &mut Exposition, started_at: UnixMillis) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let nanos = f64::from(i32::try_from(cpu.tv_nsec).unwrap_or(0));
    page.family("process_cpu_seconds", Kind::Counter, "CPU time that the process has used")
        .sample(&[], seconds(cpu.tv_sec) + nanos / 1e9);
    let help = "When the server started, in seconds since 1970";
    page.family("process_start_time_seconds", Kind::Gauge, help).sample(&[], seconds(started_at.0) / 1e3);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = [
        ("process_resident_memory_bytes", "VmRSS:", "Memory of the process that is in RAM"),
        ("process_virtual_memory_bytes", "VmSize:", "Address space of the process"),
    ];
    for (name, field, help) in memory {
        if let Some(bytes) = bytes_in(&status, field) {
            page.family(name, Kind::Gauge, help).sample(&[], bytes);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them reads the folder.
        page.family("process_open_fds", Kind::Gauge, "Open files and sockets")
            .sample(&[], open.count().saturating_sub(1));
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        page.family("process_max_fds", Kind::Gauge, "Files and sockets that may be open").sample(&[], most);
    }
}

/// A field of `/proc/self/status`, which is in KiB.
fn bytes_in(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[allow(clippy::cast_precision_loss, reason = "a clock has far fewer digits than a float")]
fn seconds(count: i64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tposthaste\nVmSize:\t  204800 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(bytes_in(status, "VmRSS:"), Some(1024 * 1024));
        assert_eq!(bytes_in(status, "VmSize:"), Some(200 * 1024 * 1024));
        assert_eq!(bytes_in("VmRSS:\tlots", "VmRSS:"), None);
    }
}
