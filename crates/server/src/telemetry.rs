//! What `/metrics` answers.
//!
//! The parts of the server keep their figures in atomics; nothing is copied until somebody asks.
//! Then one [`Reading`] is taken and written in Prometheus' text format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>): every
//! Prometheus, and most of what else collects metrics, reads it, whatever it says that it accepts.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

mod process;

/// The figures of one moment. What counts something counts since the start of the process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// Keys that changed and are not in the store yet.
    pub(crate) pending_updates: u64,
    /// Increments that are not in the store yet; left out where nobody counts them.
    pub(crate) pending_increments: Option<u64>,
    /// How long ago the oldest of them was accepted; zero where there is none.
    pub(crate) lag: Duration,
    /// Segments of the journal that hold what the store lacks.
    pub(crate) journal_bytes: u64,
    /// Those that the store has wholly.
    pub(crate) journal_kept_bytes: u64,
    /// The seq of the newest record.
    pub(crate) last_seq: u64,
    /// The seq up to which records are durable.
    pub(crate) durable_seq: u64,
    /// The seq up to which the store holds records.
    pub(crate) applied_seq: u64,
    /// Commits of the journal.
    pub(crate) commits: u64,
    /// Requests that were counted; divided by `commits` it is the size of a group.
    pub(crate) counted_requests: u64,
    /// Requests that the engine refused.
    pub(crate) refused_requests: u64,
    /// Time spent in fdatasync.
    pub(crate) sync_time: Duration,
    /// Batches that the store has.
    pub(crate) flushes: u64,
    /// Attempts to apply a batch that failed.
    pub(crate) flush_failures: u64,
    /// Updates, one per key of a batch, in the table `set_aside` instead of a total.
    pub(crate) set_aside: u64,
    /// Counters in memory.
    pub(crate) counters: u64,
    /// Idempotency keys in memory.
    pub(crate) ids: u64,
    /// Idempotency keys that have left the store by this server's doing.
    pub(crate) purged_ids: u64,
    /// Age of the oldest in the store, as last seen; zero where there was none.
    pub(crate) oldest_id: Duration,
    /// Open connections.
    pub(crate) connections: u64,
    /// Connections that were served.
    pub(crate) accepted_connections: u64,
    /// Connections that were turned away because too many were open.
    pub(crate) refused_connections: u64,
    /// Whether increments are taken: not while starting, stopping or full.
    pub(crate) ready: bool,
    /// Answers, by route and status.
    pub(crate) requests: Vec<Requests>,
}

/// How often a route gave a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Requests {
    /// The route as in the documentation, such as `/counters/{key}`; never what a client sent.
    pub(crate) route: &'static str,
    /// The status of the answer.
    pub(crate) status: u16,
    /// How often.
    pub(crate) count: u64,
}

/// Writes the answer to `/metrics`.
pub(crate) struct Telemetry {
    read: Box<dyn Fn() -> Reading + Send + Sync>,
    /// When it began, since the Unix epoch.
    started: Duration,
}

impl Telemetry {
    /// `read` is called for each answer, on the thread that asks.
    pub(crate) fn new(read: impl Fn() -> Reading + Send + Sync + 'static) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { read: Box::new(read), started }
    }

    /// Appends all metrics.
    pub(crate) fn write(&self, out: &mut String) {
        // A String takes everything.
        let _ = write_all(out, &(self.read)(), self.started);
    }
}

fn write_all(out: &mut String, reading: &Reading, started: Duration) -> fmt::Result {
    let r = reading;
    let mut page = Page { out };
    page.labelled("incrementer_build_info", "gauge", "What runs here, by its labels.")?;
    writeln!(page.out, "incrementer_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))?;
    page.gauge("incrementer_ready", "1 while increments are taken.", u8::from(r.ready))?;

    page.gauge("incrementer_pending_updates", "Changed keys that the store lacks.", r.pending_updates)?;
    if let Some(pending) = r.pending_increments {
        page.gauge("incrementer_pending_increments", "Increments that the store lacks.", pending)?;
    }
    page.gauge("incrementer_lag_seconds", "Age of the oldest pending increment.", r.lag.as_secs_f64())?;
    page.counter("incrementer_flushes_total", "Batches that the store has.", r.flushes)?;
    page.counter("incrementer_flush_failures_total", "Failed attempts to apply one.", r.flush_failures)?;
    page.counter("incrementer_set_aside_total", "Updates put into the table set_aside.", r.set_aside)?;

    page.gauge("incrementer_journal_bytes", "Segments with what the store lacks.", r.journal_bytes)?;
    page.gauge("incrementer_journal_kept_bytes", "Segments the store has wholly.", r.journal_kept_bytes)?;
    page.gauge("incrementer_last_seq", "Newest record of the journal.", r.last_seq)?;
    page.gauge("incrementer_durable_seq", "Newest record that is durable.", r.durable_seq)?;
    page.gauge("incrementer_applied_seq", "Newest record that the store has.", r.applied_seq)?;
    page.counter("incrementer_commits_total", "Group commits of the journal.", r.commits)?;
    page.counter("incrementer_sync_seconds_total", "Time in fdatasync.", r.sync_time.as_secs_f64())?;

    page.gauge("incrementer_counters", "Counters in memory.", r.counters)?;
    page.gauge("incrementer_idempotency_keys", "Idempotency keys in memory.", r.ids)?;
    page.counter("incrementer_idempotency_keys_purged_total", "Those removed from the store.", r.purged_ids)?;
    let (oldest, help) = (r.oldest_id.as_secs_f64(), "Age of the oldest idempotency key in the store.");
    page.gauge("incrementer_idempotency_keys_oldest_seconds", help, oldest)?;
    page.counter("incrementer_counted_requests_total", "Requests that were counted.", r.counted_requests)?;
    page.counter("incrementer_refused_requests_total", "Requests the engine refused.", r.refused_requests)?;
    page.labelled("incrementer_http_requests_total", "counter", "HTTP answers, by route and status.")?;
    for Requests { route, status, count } in &r.requests {
        let labels = format_args!("route=\"{route}\",status=\"{status}\"");
        writeln!(page.out, "incrementer_http_requests_total{{{labels}}} {count}")?;
    }
    page.gauge("incrementer_connections", "Open connections.", r.connections)?;
    page.counter("incrementer_connections_accepted_total", "Connections served.", r.accepted_connections)?;
    page.counter("incrementer_connections_refused_total", "Connections too many.", r.refused_connections)?;

    process::write(&mut page, started)
}

/// A page of metrics in the making.
struct Page<'a> {
    out: &'a mut String,
}

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: impl fmt::Display) -> fmt::Result {
        self.labelled(name, "gauge", help)?;
        writeln!(self.out, "{name} {value}")
    }

    fn counter(&mut self, name: &str, help: &str, value: impl fmt::Display) -> fmt::Result {
        self.labelled(name, "counter", help)?;
        writeln!(self.out, "{name} {value}")
    }

    /// What stands before the lines of a metric; the lines with their labels follow.
    fn labelled(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn text() -> String {
        let requests = vec![
            Requests { route: "/increment", status: 202, count: 30 },
            Requests { route: "/counters/{key}", status: 404, count: 31 },
        ];
        let reading = Reading {
            pending_updates: 11,
            pending_increments: Some(12),
            lag: Duration::from_millis(1_250),
            journal_bytes: 14,
            journal_kept_bytes: 21,
            last_seq: 15,
            durable_seq: 16,
            applied_seq: 17,
            commits: 18,
            counted_requests: 19,
            refused_requests: 20,
            sync_time: Duration::from_micros(21),
            flushes: 22,
            flush_failures: 23,
            set_aside: 24,
            counters: 25,
            ids: 32,
            purged_ids: 33,
            oldest_id: Duration::from_millis(34_500),
            connections: 26,
            accepted_connections: 27,
            refused_connections: 28,
            ready: true,
            requests,
        };
        let mut text = String::new();
        Telemetry::new(move || reading.clone()).write(&mut text);
        text
    }

    #[test]
    fn every_figure_of_a_reading_is_written_under_its_name() {
        let text = text();
        let lines: HashSet<&str> = text.lines().collect();
        for line in [
            concat!("incrementer_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "incrementer_ready 1",
            "incrementer_pending_updates 11",
            "incrementer_pending_increments 12",
            "incrementer_lag_seconds 1.25",
            "incrementer_journal_bytes 14",
            "incrementer_journal_kept_bytes 21",
            "incrementer_last_seq 15",
            "incrementer_durable_seq 16",
            "incrementer_applied_seq 17",
            "incrementer_commits_total 18",
            "incrementer_counted_requests_total 19",
            "incrementer_refused_requests_total 20",
            "incrementer_sync_seconds_total 0.000021",
            "incrementer_flushes_total 22",
            "incrementer_flush_failures_total 23",
            "incrementer_set_aside_total 24",
            "incrementer_counters 25",
            "incrementer_idempotency_keys 32",
            "incrementer_idempotency_keys_purged_total 33",
            "incrementer_idempotency_keys_oldest_seconds 34.5",
            "incrementer_connections 26",
            "incrementer_connections_accepted_total 27",
            "incrementer_connections_refused_total 28",
            "incrementer_http_requests_total{route=\"/increment\",status=\"202\"} 30",
            "incrementer_http_requests_total{route=\"/counters/{key}\",status=\"404\"} 31",
        ] {
            assert!(lines.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn every_line_belongs_to_a_metric_that_was_introduced_once() {
        let mut kinds = Vec::new();
        for line in text().lines() {
            if let Some(introduced) = line.strip_prefix("# TYPE ") {
                let (name, kind) = introduced.split_once(' ').unwrap();
                assert!(!kinds.iter().any(|(known, _)| known == name), "{name} twice");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                kinds.push((name.to_owned(), kind.to_owned()));
            } else if !line.starts_with("# HELP ") {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let name = name.split('{').next();
                assert_eq!(name, kinds.last().map(|(name, _)| name.as_str()), "{line}");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert!(kinds.len() > 20);
    }

    #[test]
    fn the_process_tells_its_memory_and_its_start() {
        let text = text();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse::<f64>().ok()).unwrap()
        };
        assert!(value("process_resident_memory_bytes ") > 100_000.0);
        assert!(value("process_start_time_seconds ") > 1e9);
        assert!(value("process_cpu_seconds_total ") >= 0.0);
    }
}
