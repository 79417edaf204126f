//! What `/metrics` answers.
//!
//! The parts of the server keep their figures in atomics; nothing is copied until somebody asks.
//! Then one [`Reading`] is taken and written in the OpenMetrics text format 1.0
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>), which Prometheus reads by
//! [`CONTENT_TYPE`]. There is one format whatever the client accepts: it is also what people read.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use self::Value::{Seconds, Whole};

mod process;

/// The `Content-Type` of [`Telemetry::text`].
#[cfg_attr(test, expect(dead_code, reason = "still to be wired in"))]
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The figures of one moment. What counts something counts since the start of the process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// Keys that changed and are not in the store yet.
    pub(crate) pending_updates: u64,
    /// Increments that are not in the store yet.
    pub(crate) pending_increments: u64,
    /// How long ago the oldest of them was accepted; zero where there is none.
    pub(crate) lag: Duration,
    /// What the journal holds on disk.
    pub(crate) journal_bytes: u64,
    /// The seq of the newest record.
    pub(crate) last_seq: u64,
    /// The seq up to which records are durable.
    pub(crate) durable_seq: u64,
    /// The seq up to which the store holds records.
    pub(crate) applied_seq: u64,
    /// Commits of the journal.
    pub(crate) commits: u64,
    /// Requests in them; divided by `commits` it is the size of a group.
    pub(crate) committed_requests: u64,
    /// Batches that the store has.
    pub(crate) flushes: u64,
    /// Attempts to apply a batch that failed.
    pub(crate) flush_failures: u64,
    /// Increments in the table `set_aside` instead of a total.
    pub(crate) set_aside: u64,
    /// Counters in memory.
    pub(crate) counters: u64,
    /// Open connections.
    pub(crate) connections: u64,
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

/// Writes the answer to `/metrics`. A clone writes the same.
#[derive(Clone)]
pub(crate) struct Telemetry {
    registry: Arc<Registry>,
}

impl Telemetry {
    /// `read` is called for each answer, on the thread that asks.
    pub(crate) fn new(read: impl Fn() -> Reading + Send + Sync + 'static) -> Self {
        let mut registry = Registry::default();
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        registry.register_collector(Box::new(process::Process { started }));
        let own = registry.sub_registry_with_prefix("incrementer");
        own.register("build", "What runs here", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        own.register_collector(Box::new(Server { read: Box::new(read) }));
        Self { registry: Arc::new(registry) }
    }

    /// All metrics as text, of the type [`CONTENT_TYPE`].
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // A String takes everything, and the metrics below write nothing that can't be encoded.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// A metric without labels.
struct Metric {
    name: &'static str,
    unit: Option<Unit>,
    help: &'static str,
    kind: MetricType,
}

enum Value {
    Whole(u64),
    Seconds(Duration),
}

impl Metric {
    const fn gauge(name: &'static str, unit: Option<Unit>, help: &'static str) -> Self {
        Self { name, unit, help, kind: MetricType::Gauge }
    }

    const fn counter(name: &'static str, unit: Option<Unit>, help: &'static str) -> Self {
        Self { name, unit, help, kind: MetricType::Counter }
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>, value: &Value) -> fmt::Result {
        let into = encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), self.kind)?;
        match (self.kind, value) {
            (MetricType::Counter, Whole(value)) => ConstCounter::new(*value).encode(into),
            (MetricType::Counter, Seconds(value)) => ConstCounter::new(value.as_secs_f64()).encode(into),
            (_, Whole(value)) => ConstGauge::new(*value).encode(into),
            (_, Seconds(value)) => ConstGauge::new(value.as_secs_f64()).encode(into),
        }
    }
}

/// The metrics of a reading, with their values.
fn metrics(reading: &Reading) -> [(Metric, Value); 14] {
    let gauge = |name, help, value| (Metric::gauge(name, None, help), Whole(value));
    let counter = |name, help, value| (Metric::counter(name, None, help), Whole(value));
    let r = reading;
    [
        gauge("pending_updates", "Keys that changed and are not in the store yet", r.pending_updates),
        gauge("pending_increments", "Increments that are not in the store yet", r.pending_increments),
        (
            Metric::gauge("lag", Some(Unit::Seconds), "Age of the oldest pending increment, or 0"),
            Seconds(r.lag),
        ),
        (
            Metric::gauge("journal", Some(Unit::Bytes), "What the journal holds on disk"),
            Whole(r.journal_bytes),
        ),
        gauge("last_seq", "Sequence number of the newest record of the journal", r.last_seq),
        gauge("durable_seq", "Sequence number up to which the journal is durable", r.durable_seq),
        gauge("applied_seq", "Sequence number up to which the store holds it", r.applied_seq),
        counter("commits", "Group commits of the journal", r.commits),
        counter("committed_requests", "Requests in these group commits", r.committed_requests),
        counter("flushes", "Batches that the store has", r.flushes),
        counter("flush_failures", "Attempts to apply a batch that failed", r.flush_failures),
        counter("set_aside", "Increments in the table set_aside instead of a total", r.set_aside),
        gauge("counters", "Counters in memory", r.counters),
        gauge("connections", "Open HTTP connections", r.connections),
    ]
}

struct Server {
    read: Box<dyn Fn() -> Reading + Send + Sync>,
}

impl Collector for Server {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let reading = (self.read)();
        for (metric, value) in metrics(&reading) {
            metric.encode(&mut encoder, &value)?;
        }
        if reading.requests.is_empty() {
            return Ok(());
        }
        let (help, kind) = ("Answers, by route and status", MetricType::Counter);
        let mut family = encoder.encode_descriptor("requests", help, None, kind)?;
        for Requests { route, status, count } in &reading.requests {
            let labels = [("route", *route), ("status", &status.to_string())];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server")
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
            pending_increments: 12,
            lag: Duration::from_millis(1_250),
            journal_bytes: 14,
            last_seq: 15,
            durable_seq: 16,
            applied_seq: 17,
            commits: 18,
            committed_requests: 19,
            flushes: 20,
            flush_failures: 21,
            set_aside: 22,
            counters: 23,
            connections: 24,
            requests,
        };
        Telemetry::new(move || reading.clone()).text()
    }

    #[test]
    fn every_figure_of_a_reading_is_written_under_its_name() {
        let text = text();
        let lines: HashSet<&str> = text.lines().collect();
        for line in [
            "incrementer_pending_updates 11",
            "incrementer_pending_increments 12",
            "incrementer_lag_seconds 1.25",
            "incrementer_journal_bytes 14",
            "incrementer_last_seq 15",
            "incrementer_durable_seq 16",
            "incrementer_applied_seq 17",
            "incrementer_commits_total 18",
            "incrementer_committed_requests_total 19",
            "incrementer_flushes_total 20",
            "incrementer_flush_failures_total 21",
            "incrementer_set_aside_total 22",
            "incrementer_counters 23",
            "incrementer_connections 24",
            "incrementer_requests_total{route=\"/increment\",status=\"202\"} 30",
            "incrementer_requests_total{route=\"/counters/{key}\",status=\"404\"} 31",
            concat!("incrementer_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(lines.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_text_has_the_form_that_openmetrics_asks_for() {
        let text = text();
        assert!(text.ends_with("# EOF\n"));
        let mut named = HashSet::new();
        for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            assert!(named.insert(name), "{name} twice");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
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
