//! What the process uses, under the names that every Prometheus client gives these figures.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use super::{Metric, Value};

/// Reads `/proc/self`. A figure that can't be read is left out.
#[derive(Debug)]
pub(super) struct Process {
    /// When the process started, since the Unix epoch.
    pub(super) started: Duration,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let seconds = || Some(Unit::Seconds);
        let start =
            Metric::gauge("process_start_time", seconds(), "When the process started, since the Unix epoch");
        start.encode(&mut encoder, &Value::Seconds(self.started))?;
        if let Some(bytes) = resident_bytes() {
            let memory = Metric::gauge("process_resident_memory", Some(Unit::Bytes), "Memory in use");
            memory.encode(&mut encoder, &Value::Whole(bytes))?;
        }
        if let Some(time) = cpu_time() {
            let cpu = Metric::counter("process_cpu", seconds(), "Processor time, user and system");
            cpu.encode(&mut encoder, &Value::Seconds(time))?;
        }
        Ok(())
    }
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
