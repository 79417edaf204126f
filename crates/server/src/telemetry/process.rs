//! What the process uses, under the names that every Prometheus client gives these figures.

use std::fmt;
use std::time::Duration;

use super::Page;

/// From `/proc/self`; a figure that can't be read is left out.
pub(super) fn write(page: &mut Page<'_>, started: Duration) -> fmt::Result {
    page.gauge("process_start_time_seconds", "Start, since the Unix epoch.", started.as_secs_f64())?;
    if let Some(bytes) = resident_bytes() {
        page.gauge("process_resident_memory_bytes", "Memory in use.", bytes)?;
    }
    if let Some(time) = cpu_time() {
        page.counter("process_cpu_seconds_total", "Processor time, user and system.", time.as_secs_f64())?;
    }
    Ok(())
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn cpu_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the name, may hold blanks and ends at the last bracket; utime and stime
    // are the fields 14 and 15.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_secs_f64((user + system) as f64 / ticks_per_second as f64))
}
